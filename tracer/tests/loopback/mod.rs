//! The loopback interface of this thread's network namespace, which is down in a new one.

use std::os::fd::AsRawFd as _;

use anyhow::{Result, ensure};
use socket2::{Domain, Socket, Type};

pub(crate) fn up() -> Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // SAFETY: all zero bytes are a valid `ifreq`: integers, arrays and a null pointer.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP)?;
    // SAFETY: the request is one of SIOCSIFFLAGS' kind, and outlives the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) };
    ensure!(
        done == 0,
        "cannot bring up lo: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}
