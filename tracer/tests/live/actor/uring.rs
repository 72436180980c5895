//! Connects through io_uring.

use std::{io, net::SocketAddr, os::fd::AsRawFd as _};

use io_uring::{IoUring, opcode, squeue::Flags, types::Fd};
use socket2::{SockAddr, Socket};

/// Submits all at once and answers the results in their order.
/// Without io_uring the error is `ENOSYS` or `EPERM`.
pub(super) fn connect(connects: &[(&Socket, SocketAddr)], punt: bool) -> io::Result<Vec<i64>> {
    let mut ring = IoUring::new(64)?;
    let addrs: Vec<SockAddr> = connects.iter().map(|(_, to)| (*to).into()).collect();
    let flags = if punt { Flags::ASYNC } else { Flags::empty() };
    for (index, ((socket, _), addr)) in connects.iter().zip(&addrs).enumerate() {
        let fd = Fd(socket.as_raw_fd());
        let entry = opcode::Connect::new(fd, addr.as_ptr().cast(), addr.len())
            .build()
            .flags(flags)
            .user_data(u64::try_from(index).map_err(io::Error::other)?);
        // SAFETY: socket and address live until all completions have come, below.
        unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    }
    complete(&mut ring, connects.len())
}

/// As `bind()`; the kernels before 6.11 do not know it (`EINVAL`).
pub(super) fn bind(socket: &Socket, to: SocketAddr) -> io::Result<()> {
    let mut ring = IoUring::new(1)?;
    let addr: SockAddr = to.into();
    let fd = Fd(socket.as_raw_fd());
    let entry = opcode::Bind::new(fd, addr.as_ptr().cast(), addr.len()).build();
    // SAFETY: socket and address live until the completion has come, below.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    match complete(&mut ring, 1)?[0] {
        0.. => Ok(()),
        error => Err(io::Error::from_raw_os_error(
            i32::try_from(-error).map_err(io::Error::other)?,
        )),
    }
}

/// Waits for so many results, and gives each its place.
fn complete(ring: &mut IoUring, wanted: usize) -> io::Result<Vec<i64>> {
    let mut results = vec![0; wanted];
    let mut missing = wanted;
    while missing > 0 {
        ring.submit_and_wait(1)?;
        for completion in ring.completion() {
            let index = usize::try_from(completion.user_data()).map_err(io::Error::other)?;
            results[index] = completion.result().into();
            missing -= 1;
        }
    }
    Ok(results)
}
