//! The socket table, `SOCKETS`, and its counters.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use tracer_ebpf::Socket;

use crate::{
    emit::count,
    maps::SOCKETS,
    sock::{Common, Reader, Sock},
};

/// The entry of a socket. Not that of another one which had the same address and whose last transition was
/// missed: that goes.
#[inline(always)]
pub(crate) fn find<R: Reader>(sock: Sock<R>) -> Option<&'static mut Socket> {
    let key = sock.key();
    // SAFETY: the kernel serializes what happens to one socket, and only that writes its entry; user space
    // removes entries of sockets that are gone.
    let socket = unsafe { &mut *SOCKETS.get_ptr_mut(key)? };
    let is_ours = same(&mut socket.local_port, sock.local_port())
        & same(&mut socket.peer_port, sock.peer_port())
        & same(&mut socket.cookie, sock.cookie());
    if !is_ours {
        remove(key);
        return None;
    }
    Some(socket)
}

/// Whether a fact about a socket is as it was, or was not known until now; 0 is not known.
#[inline(always)]
fn same<T: Copy + Default + PartialEq>(known: &mut T, now: T) -> bool {
    if *known == T::default() {
        *known = now;
        return true;
    }
    now == T::default() || now == *known
}

/// There is no room.
pub(crate) struct Full;

/// Makes an entry, in place of the one that a socket without an end may have left at that address. One that has
/// no room is counted.
#[inline(always)]
pub(crate) fn insert(key: u64, socket: &Socket) -> Result<(), Full> {
    if SOCKETS.insert(key, socket, BPF_NOEXIST.into()).is_ok() {
        count(|counters| counters.entries = counters.entries.wrapping_add(1));
        return Ok(());
    }
    // It exists, or there is no room.
    SOCKETS.insert(key, socket, BPF_ANY.into()).map_err(|_| {
        count(|counters| counters.table += 1);
        Full
    })
}

#[inline(always)]
pub(crate) fn remove(key: u64) {
    if SOCKETS.remove(key).is_ok() {
        count(|counters| counters.entries = counters.entries.wrapping_sub(1));
    }
}
