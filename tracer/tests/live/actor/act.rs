//! The actor's side: one answer per operation, until standard input ends.

use std::{
    collections::HashMap,
    env,
    ffi::CString,
    io::{self, BufRead as _, Read as _, Write as _},
    net::SocketAddr,
    os::fd::{AsRawFd as _, OwnedFd},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Op, brood, bulk, churn::Churn, mix, orders, storm, uring};
use crate::netns;

/// Reads and accepts give up after this long, so that a failing scenario ends.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) fn serve() -> Result<()> {
    let mut sockets = Sockets::default();
    reply(&[0])?;
    for line in io::stdin().lock().lines() {
        let op: Op = serde_json::from_str(&line?)?;
        let answer = sockets.act(op);
        reply(&answer.unwrap_or_else(|error| vec![code(&error)]))?;
    }
    Ok(())
}

fn reply(numbers: &[i64]) -> Result<()> {
    let mut line = serde_json::to_vec(numbers)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    Ok(stdout.flush()?)
}

/// An error as the kernel returns it: its negative number.
pub(super) fn code(error: &io::Error) -> i64 {
    -i64::from(error.raw_os_error().unwrap_or(libc::EIO))
}

/// 0 or the error's code.
pub(super) fn result(done: io::Result<()>) -> i64 {
    done.map_or_else(|error| code(&error), |()| 0)
}

pub(super) fn tcp(v6: bool) -> io::Result<Socket> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.set_read_timeout(Some(READ_TIMEOUT))?;
    Ok(socket)
}

#[derive(Default)]
struct Sockets {
    open: HashMap<i64, Socket>,
    churn: Churn,
    held: mix::Held,
}

impl Sockets {
    fn act(&mut self, op: Op) -> io::Result<Vec<i64>> {
        match op {
            Op::ConnectMany { v6, to, times } => self.connect_many(v6, to, times),
            Op::ConnectInThread { fd, to, name } => connect_in_thread(self.get(fd)?, to, &name),
            Op::Uring { connects, punt } => {
                let found = connects.iter().map(|(fd, to)| Ok((self.get(*fd)?, *to)));
                uring::connect(&found.collect::<io::Result<Vec<_>>>()?, punt)
            }
            Op::Held => Ok(self.churn.held()),
            Op::Heirs => Ok(self.churn.heirs()),
            Op::Brood { to, times } => brood::raise(to, times),
            Op::Hold { steps, dies } => self.held.hold(&steps, dies.as_deref()),
            Op::Fill(fill) => self.held.fill(&fill),
            Op::LetGo => {
                self.held.let_go();
                Ok(vec![0])
            }
            Op::Storm {
                to,
                threads,
                rate,
                millis,
            } => {
                let time = Duration::from_millis(millis);
                Ok(storm::storm(to, threads, rate, time))
            }
            single => self.act_single(&single).map(|value| vec![value]),
        }
    }

    fn act_single(&mut self, op: &Op) -> io::Result<i64> {
        match *op {
            Op::Socket { v6 } => Ok(self.add(tcp(v6)?)),
            Op::UdpSocket { v6 } => {
                let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
                Ok(self.add(Socket::new(domain, Type::DGRAM, None)?))
            }
            Op::RawSocket => {
                let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
                Ok(self.add(socket))
            }
            Op::Accept { fd } => {
                let accepted = self.get(fd)?.accept()?.0;
                accepted.set_read_timeout(Some(READ_TIMEOUT))?;
                Ok(self.add(accepted))
            }
            Op::Close { fd } => self.remove(fd).map(|_| 0),
            Op::ReadToEnd { fd } => read_to_end(self.get(fd)?),
            Op::HandOver { fd } => hand_over(self.remove(fd)?),
            Op::LocalPort { fd } => local_port(self.get(fd)?),
            Op::Refused { to, times } => bulk::refused(to, times),
            Op::Exchange { to, times } => bulk::exchange(to, times),
            Op::ServeExchange { fd, times } => bulk::serve_exchange(self.get(fd)?, times),
            Op::Spin { threads } => Ok(bulk::spin(threads)),
            Op::ServeHttp { fd } => bulk::serve_http(self.get(fd)?),
            Op::Get { to } => bulk::get(to),
            Op::Taker => Ok(self.churn.taker()?.pid()),
            Op::Churn {
                ref ground,
                seed,
                steps,
            } => Ok(self.churn.run(ground, seed, steps)),
            Op::Give { fd, serve } => {
                let socket = self.get(fd)?.try_clone()?;
                self.churn.taker()?.give(&socket, serve).map(|()| 0)
            }
            ref other => self.act_quiet(other).map(|()| 0),
        }
    }

    /// Operations that only succeed or fail.
    fn act_quiet(&self, op: &Op) -> io::Result<()> {
        match *op {
            Op::Rename { ref name } => {
                let name = CString::new(name.as_slice())?;
                Ok(rustix::thread::set_name(&name)?)
            }
            Op::ReuseAddress { fd } => self.get(fd)?.set_reuse_address(true),
            Op::Nonblocking { fd } => self.get(fd)?.set_nonblocking(true),
            Op::LingerZero { fd } => self.get(fd)?.set_linger(Some(Duration::ZERO)),
            Op::Bind { fd, addr } => self.get(fd)?.bind(&addr.into()),
            Op::Option {
                fd,
                level,
                name,
                value,
            } => set_option(self.get(fd)?, level, name, value),
            Op::UringBind { fd, addr } => uring::bind(self.get(fd)?, addr),
            Op::Listen { fd, backlog } => self.get(fd)?.listen(backlog),
            Op::Connect { fd, to } => self.get(fd)?.connect(&to.into()),
            Op::Disconnect { fd } => Ok(rustix::net::connect_unspec(self.get(fd)?)?),
            Op::Finish { fd } => finish(self.get(fd)?),
            Op::FastOpen { fd, to } => {
                let socket = self.get(fd)?;
                socket
                    .send_to_with_flags(b"x", &to.into(), libc::MSG_FASTOPEN)
                    .map(drop)
            }
            Op::Enter { ref netns } => netns::enter(netns).map_err(io::Error::other),
            Op::ShutdownWrite { fd } => self.get(fd)?.shutdown(std::net::Shutdown::Write),
            Op::Send { fd } => self.get(fd)?.send(b"x").map(drop),
            Op::Write { fd, bytes } => write(self.get(fd)?, bytes),
            Op::Read { fd, bytes } => read(self.get(fd)?, bytes),
            Op::ServeOrders { fd } => {
                let socket = self.get(fd)?.try_clone()?;
                orders::serve(socket, orders::KEPT);
                Ok(())
            }
            Op::ServeAndKeep { fd } => {
                let socket = self.get(fd)?.try_clone()?;
                orders::serve(socket, usize::MAX);
                Ok(())
            }
            _ => Err(io::Error::from_raw_os_error(libc::ENOSYS)),
        }
    }

    fn add(&mut self, socket: Socket) -> i64 {
        let fd = socket.as_raw_fd().into();
        self.open.insert(fd, socket);
        fd
    }

    fn get(&self, fd: i64) -> io::Result<&Socket> {
        self.open
            .get(&fd)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    fn remove(&mut self, fd: i64) -> io::Result<Socket> {
        self.open
            .remove(&fd)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    fn connect_many(&mut self, v6: bool, to: SocketAddr, times: u32) -> io::Result<Vec<i64>> {
        let mut codes = Vec::new();
        for _ in 0..times {
            let socket = tcp(v6)?;
            let done = socket.connect(&to.into());
            if done.is_ok() {
                self.add(socket);
            }
            codes.push(result(done));
        }
        Ok(codes)
    }
}

pub(super) fn set_option(socket: &Socket, level: i32, name: i32, value: u32) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `len` bytes of `value`, which outlives the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            len,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn hand_over(socket: Socket) -> io::Result<i64> {
    let heir = Command::new(env::current_exe()?)
        .arg("--heir")
        .stdin(OwnedFd::from(socket))
        .spawn()?;
    Ok(heir.id().into())
}

fn connect_in_thread(socket: &Socket, to: SocketAddr, name: &str) -> io::Result<Vec<i64>> {
    thread::scope(|scope| {
        let connect = || {
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            vec![tid.into(), result(socket.connect(&to.into()))]
        };
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn_scoped(scope, connect)?;
        thread
            .join()
            .map_err(|_| io::Error::other("the thread panicked"))
    })
}

fn finish(socket: &Socket) -> io::Result<()> {
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    let timeout = READ_TIMEOUT.try_into().map_err(io::Error::other)?;
    if poll(&mut fds, Some(&timeout))? == 0 {
        return Err(io::Error::from_raw_os_error(libc::ETIME));
    }
    socket.take_error()?.map_or(Ok(()), Err)
}

fn write(mut socket: &Socket, bytes: usize) -> io::Result<()> {
    socket.write_all(&vec![b'x'; bytes])
}

fn read(mut socket: &Socket, bytes: usize) -> io::Result<()> {
    socket.read_exact(&mut vec![0; bytes])
}

fn read_to_end(mut socket: &Socket) -> io::Result<i64> {
    let mut bytes = Vec::new();
    let len = socket.read_to_end(&mut bytes)?;
    i64::try_from(len).map_err(io::Error::other)
}

fn local_port(socket: &Socket) -> io::Result<i64> {
    let addr = socket.local_addr()?.as_socket();
    addr.map(|addr| addr.port().into())
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}
