//! What is remembered of each socket, and how much that is.
//!
//! Each socket has one place in `PLACES`, by its address, which takes a tenth of a hash table's time to find, take and
//! leave. Where another one has it already, the entry is in `SOCKETS`.
//!
//! A place is claimed by adding one to its claims, all that kernels before 5.12 have: whoever then sees one has it, and
//! whoever sees more gives up. Two that try at once may both give up.

use core::{arch::asm, ptr};

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use tracer_ebpf::{Place, Socket};

use crate::{
    emit::count,
    globals::LAST_PLACE,
    maps::{PLACES, SOCKETS},
    sock::{Common, Reader, Sock},
    words,
};

/// The entry of a socket. Not that of another one which had the same address and whose last transition was
/// missed: that goes.
#[inline(always)]
pub(crate) fn find<R: Reader>(sock: Sock<R>) -> Option<&'static mut Socket> {
    // SAFETY: the kernel serializes what happens to one socket, and only that writes its entry; user space
    // removes entries of sockets that are gone.
    let socket = unsafe { &mut *entry(sock)? };
    let is_ours = same(&mut socket.local_port, sock.local_port())
        & same(&mut socket.peer_port, sock.peer_port())
        & same(&mut socket.cookie, sock.cookie());
    if !is_ours {
        remove(sock);
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

#[inline(always)]
fn entry<R: Reader>(sock: Sock<R>) -> Option<*mut Socket> {
    if let Some(place) = own_place(sock) {
        // SAFETY: an element of the array, which is there as long as the program.
        return Some(unsafe { ptr::addr_of_mut!((*place).socket) });
    }
    SOCKETS.get_ptr_mut(sock.key())
}

/// There is no room.
pub(crate) struct Full;

/// Makes the entry of a socket that nobody else knows yet.
#[inline(always)]
pub(crate) fn insert<R: Reader>(sock: Sock<R>, socket: &Socket) -> Result<(), Full> {
    let Some(place) = take_place(sock) else {
        return insert_late(sock, socket);
    };
    // SAFETY: as in `entry`, and it is this socket's.
    words::copy(socket, unsafe { &mut (*place).socket });
    Ok(())
}

/// Makes an entry, in place of the one that a socket without an end may have left at that address. One that has
/// no room is counted. One that others know already gets no place: it may lose that again while it is still written to.
#[inline(always)]
pub(crate) fn insert_late<R: Reader>(sock: Sock<R>, socket: &Socket) -> Result<(), Full> {
    let key = sock.key();
    if SOCKETS.insert(key, socket, BPF_NOEXIST.into()).is_ok() {
        count_one_more();
        return Ok(());
    }
    // It exists, or there is no room.
    SOCKETS.insert(key, socket, BPF_ANY.into()).map_err(|_| {
        count(|counters| counters.table += 1);
        Full
    })
}

#[inline(always)]
pub(crate) fn remove<R: Reader>(sock: Sock<R>) {
    if let Some(place) = own_place(sock) {
        leave(place);
        count_one_less();
    } else if SOCKETS.remove(sock.key()).is_ok() {
        count_one_less();
    }
}

#[inline(always)]
fn count_one_more() {
    count(|counters| counters.entries = counters.entries.wrapping_add(1));
}

#[inline(always)]
fn count_one_less() {
    count(|counters| counters.entries = counters.entries.wrapping_sub(1));
}

/// Where the socket is, if it is in the array.
#[inline(always)]
fn own_place<R: Reader>(sock: Sock<R>) -> Option<*mut Place> {
    let address = sock.address();
    place(address).filter(|place| owner(*place) == address)
}

/// The socket's place, if nobody else has it. An earlier socket at that address, whose end was missed, may have left it.
#[inline(always)]
fn take_place<R: Reader>(sock: Sock<R>) -> Option<*mut Place> {
    let address = sock.address();
    let place = place(address)?;
    if owner(place) == address {
        return Some(place);
    }
    if claims(place) != 0 {
        return None;
    }
    claim(place, 1);
    if claims(place) != 1 {
        claim(place, -1);
        return None;
    }
    set_owner(place, address);
    count_one_more();
    Some(place)
}

#[inline(always)]
fn leave(place: *mut Place) {
    set_owner(place, 0);
    claim(place, -1);
}

#[inline(always)]
fn place(address: u64) -> Option<*mut Place> {
    /// 2^64 by the golden ratio: addresses are multiples of the size of a socket.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let hash = (address.wrapping_mul(SPREAD) >> 32) as u32;
    PLACES.get_ptr_mut(hash & LAST_PLACE.load())
}

#[inline(always)]
fn owner(place: *mut Place) -> u64 {
    // SAFETY: as in `entry`.
    unsafe { ptr::addr_of!((*place).sock).read_volatile() }
}

#[inline(always)]
fn set_owner(place: *mut Place, address: u64) {
    // SAFETY: as in `entry`.
    unsafe { ptr::addr_of_mut!((*place).sock).write_volatile(address) }
}

#[inline(always)]
fn claims(place: *mut Place) -> u64 {
    // SAFETY: as in `entry`.
    unsafe { ptr::addr_of!((*place).claims).read_volatile() }
}

/// Adds at once to the claims. Rust has no such operation for this target.
#[inline(always)]
fn claim(place: *mut Place, change: i64) {
    // SAFETY: the first word of an element of the array.
    unsafe {
        asm!(
            "lock *(u64 *)({place} + 0) += {change}",
            place = in(reg) place,
            change = in(reg) change,
        );
    }
}
