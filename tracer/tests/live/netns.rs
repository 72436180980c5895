//! A network namespace of a scenario.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::Path,
    process, thread,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::{lines, loopback};

/// The destination of [`Netns::mark`]: nobody listens there, and no scenario connects to it.
pub(crate) const MARK_PORT: u16 = 1;
/// Bound explicitly, so that a mark works when no port is free.
const MARK_SOURCE_PORT: u16 = 64_999;

/// Lives as long as this descriptor or a process in it.
pub(crate) struct Netns {
    fd: OwnedFd,
    pub inode: u64,
}

impl Netns {
    /// With loopback up, connects that give up after three seconds, and TIME_WAIT that no reset ends: on a slow
    /// machine the peer's FIN is sent again and crosses the answer to the first; the answer to the second one finds no
    /// socket, and a reset comes back (RFC 1337).
    pub(crate) fn new() -> Result<Self> {
        // Namespaces belong to threads: this one ends with the namespace entered.
        let fd = in_thread(|| {
            // SAFETY: `NEWNET` touches no descriptor table.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("cannot make a namespace")?;
            loopback::up()?;
            open("/proc/thread-self/ns/net")
        })?;
        let inode = rustix::fs::fstat(&fd)?.st_ino;
        lines::watch(inode);
        let netns = Self { fd, inode };
        netns.sysctl("ipv4/tcp_syn_retries", "1")?;
        netns.sysctl("ipv4/tcp_rfc1337", "1")?;
        Ok(netns)
    }

    /// A path by which other processes can enter it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.fd.as_raw_fd())
    }

    /// Runs `body` inside.
    pub(crate) fn run<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        in_thread(|| {
            move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))?;
            body()
        })
    }

    /// Sets a value below `/proc/sys/net`.
    pub(crate) fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.run(|| {
            fs::write(Path::new("/proc/sys/net").join(name), value)
                .with_context(|| format!("cannot set net/{name} to {value}"))
        })
    }

    /// Whether there is such a value below `/proc/sys/net`.
    pub(crate) fn has_sysctl(&self, name: &str) -> bool {
        let path = Path::new("/proc/sys/net").join(name);
        self.run(|| Ok(path.exists())).unwrap_or_default()
    }

    /// Gives the loopback interface one more address.
    pub(crate) fn add_address(&self, ip: Ipv4Addr) -> Result<()> {
        self.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            // SAFETY: all zero bytes are a valid `ifreq`: integers, arrays and a null pointer.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            for (to, from) in request.ifr_name.iter_mut().zip(*b"lo:1") {
                *to = from.cast_signed();
            }
            let addr = SockAddr::from(SocketAddrV4::new(ip, 0));
            // SAFETY: the kind of SIOCSIFADDR has an address here, and that of IPv4 is as long.
            request.ifr_ifru.ifru_addr = unsafe { addr.as_ptr().cast::<libc::sockaddr>().read() };
            // SAFETY: the request is one of SIOCSIFADDR's kind, and outlives the call.
            let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR, &request) };
            ensure!(
                done == 0,
                "cannot add {ip}: {}",
                std::io::Error::last_os_error()
            );
            Ok(())
        })
    }

    /// Leaves a mark in the stream: the two transitions of a refused connect to [`MARK_PORT`].
    /// Events of one machine come in order, so after it everything before it has been printed.
    pub(crate) fn mark(&self) -> Result<()> {
        self.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            let local = SocketAddrV4::new(Ipv4Addr::LOCALHOST, MARK_SOURCE_PORT);
            let peer = SocketAddrV4::new(Ipv4Addr::LOCALHOST, MARK_PORT);
            socket.bind(&local.into())?;
            let refused = socket
                .connect(&peer.into())
                .map_err(|error| error.raw_os_error());
            ensure!(
                refused == Err(Some(Errno::CONNREFUSED.raw_os_error())),
                "the mark's connect gave {refused:?}"
            );
            Ok(())
        })
    }
}

/// Moves the calling process into the namespace at `path`.
pub(crate) fn enter(path: &str) -> Result<()> {
    let fd = open(path)?;
    move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("cannot enter {path}"))
}

fn open(path: &str) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("cannot open {path}"))
}

fn in_thread<T: Send>(body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(body).join())
        .unwrap_or_else(|_| Err(anyhow!("a thread in the namespace panicked")))
}
