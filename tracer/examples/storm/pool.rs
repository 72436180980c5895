//! A network namespace with a destination, and no port for it.

use std::{
    fs,
    io::{self, Read as _},
    net::{Shutdown, SocketAddr},
    os::fd::AsRawFd as _,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use socket2::{Domain, Socket, Type};

use crate::loopback;

/// include/uapi/linux/in.h
const IP_LOCAL_PORT_RANGE: i32 = 51;

pub(crate) struct Pool {
    pub to: SocketAddr,
    /// Connects that have failed already, to see that it is as it should be.
    pub failed: i64,
    /// Sockets that have the ports.
    _held: Vec<Socket>,
}

impl Pool {
    /// All ports are free, and nobody listens.
    pub(crate) fn empty(to: SocketAddr) -> Result<Self> {
        enter("40000 40015")?;
        Ok(Self {
            to,
            failed: 0,
            _held: Vec::new(),
        })
    }

    /// All 16 ports are connected.
    pub(crate) fn small(to: SocketAddr) -> Result<Self> {
        enter("40000 40015")?;
        let mut held = vec![listen(to)?];
        for _ in 0..16 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.connect(&to.into())?;
            held.push(socket);
        }
        Ok(Self {
            to,
            failed: 0,
            _held: held,
        })
    }

    /// All ports of the usual range are in TIME_WAIT, for a minute.
    pub(crate) fn large(to: SocketAddr) -> Result<Self> {
        enter("32768 60999")?;
        let listener = listen(to)?;
        let server = listener.try_clone()?;
        thread::spawn(move || serve(&server));
        for port in 32_768..=60_999 {
            leave(to, port).with_context(|| format!("port {port}"))?;
        }
        let one_more = Socket::new(Domain::IPV4, Type::STREAM, None)?.connect(&to.into());
        let code = one_more.as_ref().err().and_then(io::Error::raw_os_error);
        ensure!(
            code == Some(libc::EADDRNOTAVAIL),
            "a port is free: {one_more:?}"
        );
        Ok(Self {
            to,
            failed: 1,
            _held: vec![listener],
        })
    }
}

fn enter(range: &str) -> Result<()> {
    // SAFETY: `NEWNET` touches no descriptor table.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("cannot make a namespace")?;
    loopback::up()?;
    for (name, value) in [
        ("ip_local_port_range", range),
        ("tcp_tw_reuse", "0"),
        ("tcp_max_tw_buckets", "100000"),
    ] {
        fs::write(format!("/proc/sys/net/ipv4/{name}"), value).context(name)?;
    }
    Ok(())
}

fn listen(at: SocketAddr) -> Result<Socket> {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    listener.set_reuse_address(true)?;
    listener.bind(&at.into())?;
    listener.listen(1024)?;
    Ok(listener)
}

/// The client closes first.
fn serve(listener: &Socket) -> io::Result<()> {
    loop {
        listener.accept()?.0.read_to_end(&mut Vec::new())?;
    }
}

/// A connection from this port that is over. It is the kernel that chooses it: a range of one port, which it looks
/// through much faster than the usual one.
fn leave(to: SocketAddr, port: u16) -> Result<()> {
    let mut socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let range = u32::from(port) << 16 | u32::from(port);
    let len = libc::socklen_t::try_from(size_of_val(&range))?;
    // SAFETY: the kernel reads `len` bytes of `range`, which outlives the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            IP_LOCAL_PORT_RANGE,
            (&raw const range).cast(),
            len,
        )
    };
    ensure!(done == 0, "this kernel has no IP_LOCAL_PORT_RANGE");
    socket.connect(&to.into())?;
    socket.shutdown(Shutdown::Write)?;
    socket.read_to_end(&mut Vec::new())?;
    Ok(())
}
