//! Processes that live for one connection.

use std::{
    io::{self, PipeReader, Read as _, Write as _},
    net::SocketAddr,
};

use super::orders::{self, Order};

/// One process after the other, without exec: each is gone before anybody can look at it.
/// Answers pid and port of each.
pub(super) fn raise(to: SocketAddr, times: u32) -> io::Result<Vec<i64>> {
    let mut answer = Vec::new();
    for _ in 0..times {
        let (reader, mut writer) = io::pipe()?;
        // SAFETY: this process has one thread, so that the child may do what it could.
        match unsafe { libc::fork() } {
            -1 => return Err(io::Error::last_os_error()),
            0 => {
                let done = live(to).and_then(|port| writer.write_all(&port.to_ne_bytes()));
                // SAFETY: ends the child, without what the parent has registered for its own end.
                unsafe { libc::_exit(i32::from(done.is_err())) }
            }
            pid => {
                drop(writer);
                answer.push(pid.into());
                answer.push(port_from(reader)?.into());
                // SAFETY: null is for those who do not want to know how it ended.
                unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
            }
        }
    }
    Ok(answer)
}

fn live(to: SocketAddr) -> io::Result<u16> {
    let socket = orders::open_new(to, Order::CloseLast)?;
    let local = socket.local_addr()?.as_socket();
    Ok(local.map_or(0, |local| local.port()))
}

/// 0: it came to nothing.
fn port_from(mut reader: PipeReader) -> io::Result<u16> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    Ok(bytes.try_into().map_or(0, u16::from_ne_bytes))
}
