//! A server that does with each connection what the first byte on it says.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr},
    thread,
    time::Duration,
};

use socket2::Socket;

use super::act::tcp;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Read to the end, then close: the client closes first.
    CloseLast = 1,
    CloseFirst,
    Reset,
    /// Keep it open, for a while.
    Keep,
    /// Say that no more is to come, and keep it.
    KeepHalf,
    /// Close all that were kept.
    DropKept,
}

impl Order {
    const ALL: [Self; 6] = [
        Self::CloseLast,
        Self::CloseFirst,
        Self::Reset,
        Self::Keep,
        Self::KeepHalf,
        Self::DropKept,
    ];

    fn read(mut socket: &Socket) -> io::Result<Self> {
        let mut byte = [0];
        socket.read_exact(&mut byte)?;
        let order = Self::ALL.into_iter().find(|order| *order as u8 == byte[0]);
        order.ok_or_else(|| io::Error::from_raw_os_error(libc::EPROTO))
    }
}

/// A connection whose server has its order.
pub(super) fn open(socket: Socket, to: SocketAddr, order: Order) -> io::Result<Socket> {
    socket.connect(&to.into())?;
    (&socket).write_all(&[order as u8])?;
    Ok(socket)
}

pub(super) fn open_new(to: SocketAddr, order: Order) -> io::Result<Socket> {
    open(tcp(to.is_ipv6())?, to, order)
}

/// How many connections are kept at most; the oldest makes room.
pub(super) const KEPT: usize = 12;
/// A client that says nothing, or does not end, holds up the others this long.
const SILENCE: Duration = Duration::from_secs(5);

/// In the background, one connection at a time.
pub(super) fn serve(listener: Socket, keeps: usize) {
    thread::spawn(move || {
        let mut kept = Vec::new();
        loop {
            match listener.accept() {
                // A connection may have any end; the server goes on.
                Ok((socket, _)) => drop(obey(socket, &mut kept, keeps)),
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    });
}

fn obey(socket: Socket, kept: &mut Vec<Socket>, keeps: usize) -> io::Result<()> {
    socket.set_read_timeout(Some(SILENCE))?;
    match Order::read(&socket)? {
        Order::CloseLast => drop((&socket).read_to_end(&mut Vec::new())?),
        Order::CloseFirst => {}
        Order::Reset => socket.set_linger(Some(Duration::ZERO))?,
        Order::Keep => kept.push(socket),
        Order::KeepHalf => {
            socket.shutdown(Shutdown::Write)?;
            kept.push(socket);
        }
        Order::DropKept => kept.clear(),
    }
    if kept.len() > keeps {
        kept.remove(0);
    }
    Ok(())
}
