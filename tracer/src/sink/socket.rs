//! A reader that listens on a Unix or TCP socket.
//!
//! What it has not acknowledged when a connection breaks is sent again on the next one, from the beginning of a line: it
//! may see lines twice (with the same `seq`), but never half of one at the beginning.

use std::{
    io::{self, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd},
        unix::net::UnixStream,
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{Shutdown, shutdown, sockopt},
};

use super::{Address, Sink};

const CONNECTING: Duration = Duration::from_secs(5);

/// A TCP reader that takes nothing for so long is given up: it may be a host that has gone without a word.
#[cfg(target_os = "linux")]
const SILENCE: Duration = Duration::from_secs(60);

/// So many bytes at once, and so many in the kernel: those are kept here too until they are acknowledged.
const PIECE: usize = 64 << 10;
const IN_KERNEL: usize = 256 << 10;

pub struct Socket {
    address: Address,
    connection: Option<Connection>,
    /// What was taken, and may not have arrived: from the beginning of a line.
    tail: Vec<u8>,
}

struct Connection {
    stream: Stream,
    /// How much of the tail has been written here.
    written: usize,
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    /// Connects when there is something to write.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            connection: None,
            tail: Vec::new(),
        }
    }

    /// Writes what is in the tail. On an error it is kept for the next connection.
    fn flush(&mut self) -> io::Result<()> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(Connection {
                stream: Stream::connect(&self.address)?,
                written: 0,
            }),
        };
        let flushed = connection.flush(&self.tail);
        match &flushed {
            Ok(()) => self.forget_arrived(),
            Err(_) => self.connection = None,
        }
        flushed
    }

    /// Forgets whole lines that the peer's kernel has acknowledged.
    fn forget_arrived(&mut self) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        let waiting = unacknowledged(connection.stream.as_fd()).unwrap_or(usize::MAX);
        let arrived = connection.written.saturating_sub(waiting);
        let lines = self.tail[..arrived].iter().rposition(|byte| *byte == b'\n');
        let gone = lines.map_or(0, |at| at + 1);
        self.tail.drain(..gone);
        connection.written -= gone;
    }

    /// What has become of the connection shows without writing.
    fn look(&mut self) {
        let broken = |connection: &Connection| {
            let fd = connection.stream.as_fd();
            let mut fds = [PollFd::new(&fd, PollFlags::empty())];
            let polled = poll(&mut fds, Some(&Timespec::default()));
            polled.is_ok() && fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
        };
        if self.connection.as_ref().is_some_and(broken) {
            self.connection = None;
        }
    }
}

impl Sink for Socket {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let piece = &lines[..lines.len().min(PIECE)];
        self.tail.extend_from_slice(piece);
        // It is taken: should this connection break, the next one gets it.
        if let Err(error) = self.flush() {
            log::debug!("{error}");
        }
        Ok(piece.len())
    }

    fn tick(&mut self) -> io::Result<()> {
        self.look();
        match self.tail.is_empty() {
            true => Ok(()),
            false => self.flush(),
        }
    }

    fn finish(&mut self, until: Instant) -> io::Result<()> {
        let mut done = Ok(());
        while !self.tail.is_empty() && Instant::now() < until {
            self.look();
            done = self.flush();
            thread::sleep(Duration::from_millis(if done.is_ok() { 2 } else { 50 }));
        }
        if let Some(connection) = &self.connection {
            let _ = shutdown(connection.stream.as_fd(), Shutdown::Write);
        }
        match self.tail.is_empty() {
            true => Ok(()),
            false => done.and(Err(io::Error::other(
                "the reader has not acknowledged the last lines",
            ))),
        }
    }
}

impl Connection {
    fn flush(&mut self, tail: &[u8]) -> io::Result<()> {
        while self.written < tail.len() {
            match self.stream.write(&tail[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(lost(&error)),
            }
        }
        Ok(())
    }
}

/// A reader that has gone may come back: no `BrokenPipe`, which would be the end.
fn lost(error: &io::Error) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotConnected,
        format!("the connection is lost: {error}"),
    )
}

impl Stream {
    fn connect(address: &Address) -> io::Result<Self> {
        let stream = match address {
            Address::Unix(path) => Self::Unix(UnixStream::connect(path).map_err(unreached)?),
            Address::Tcp(address) => Self::Tcp(connect(address).map_err(unreached)?),
        };
        sockopt::set_socket_send_buffer_size(stream.as_fd(), IN_KERNEL / 2)?;
        Ok(stream)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

fn unreached(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("it can't be connected to: {error}"))
}

/// Tries all addresses of the name.
fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECTING) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                #[cfg(target_os = "linux")]
                sockopt::set_tcp_user_timeout(&stream, SILENCE.as_millis() as u32)?;
                sockopt::set_socket_keepalive(&stream, true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Bytes that were written and not acknowledged (TCP), or not read (Unix, where the kernel counts its own memory, which
/// is more).
fn unacknowledged(fd: BorrowedFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (SIOCOUTQ) writes one int there.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &mut bytes) };
    match done {
        0 => Ok(usize::try_from(bytes).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests;
