//! A process that takes sockets from another one (`SCM_RIGHTS`).

use std::{
    env,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Child, Command},
};

use anyhow::Result;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use socket2::Socket;

use super::orders;

/// What it is to do with a socket.
const HOLD: u8 = b'h';
const SERVE: u8 = b's';

/// How many it holds; the oldest makes room.
const HELD: usize = 3;

/// The side that gives. The process ends with it.
pub(super) struct Taker {
    child: Child,
    to: UnixStream,
}

impl Taker {
    pub(super) fn spawn() -> io::Result<Self> {
        let (to, from) = UnixStream::pair()?;
        let child = Command::new(env::current_exe()?)
            .arg("--taker")
            .stdin(OwnedFd::from(from))
            .spawn()?;
        Ok(Self { child, to })
    }

    pub(super) fn pid(&self) -> i64 {
        self.child.id().into()
    }

    pub(super) fn give(&self, socket: &Socket, serve: bool) -> io::Result<()> {
        let what = [if serve { SERVE } else { HOLD }];
        let fds = [socket.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let what = [IoSlice::new(&what)];
        sendmsg(&self.to, &what, &mut control, SendFlags::empty())?;
        Ok(())
    }
}

/// The side that takes, until the other one is gone.
pub(super) fn take() -> Result<()> {
    let stdin = io::stdin();
    let mut held = Vec::new();
    while let Some((what, socket)) = receive(stdin.as_fd())? {
        match what {
            SERVE => orders::serve(socket, orders::KEPT),
            _ => held.push(socket),
        }
        if held.len() > HELD {
            held.remove(0);
        }
    }
    Ok(())
}

fn receive(from: BorrowedFd<'_>) -> io::Result<Option<(u8, Socket)>> {
    let mut what = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut what)];
    let received = recvmsg(from, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let fd = fds.last();
    Ok(fd.map(|fd| (what[0], Socket::from(fd))))
}
