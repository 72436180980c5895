//! Where connections are, for a user side that does not want each of their transitions (`NO_STEPS`): a place in
//! `STEPS` costs a tenth of a record, and is looked at when somebody asks.
//!
//! A place belongs to one socket from ESTABLISHED to CLOSE. Where two sockets have the same one, the first keeps it,
//! and the other's transitions are told. A socket that is older than the tracer has none.

use core::ptr;

use tracer_ebpf::{STEPS as LENGTH, Step, tcp};

use crate::{
    globals::{NO_STEPS, SOCK_COMMON_HASH},
    maps::STEPS,
    sock::{Common, Reader, Sock},
    table,
};

/// [`pass`]: the transition is not told.
pub(crate) const UNTOLD: u8 = 0;

/// The state that a transition is told to come from, or [`UNTOLD`]. (Not an `Option`: see `hooks/timewait.rs`.)
///
/// A listener's child is first told of once it is established, as one step from LISTEN: before, it has no life of its
/// own, unless TCP Fast Open gives it one.
#[inline(always)]
pub(crate) fn pass<R: Reader>(sock: Sock<R>, old: u8, new: u8) -> u8 {
    if NO_STEPS.load() == 0 {
        return old;
    }
    match (old, new) {
        (tcp::LISTEN, tcp::SYN_RECV) => UNTOLD,
        (_, tcp::ESTABLISHED) => {
            begin(sock, new);
            let is_child = old == tcp::SYN_RECV && table::find(sock).is_none();
            if is_child { tcp::LISTEN } else { old }
        }
        (_, tcp::CLOSE) => {
            end(sock);
            old
        }
        _ if follow(sock, new) => UNTOLD,
        _ => old,
    }
}

#[inline(always)]
fn begin<R: Reader>(sock: Sock<R>, state: u8) {
    let Some(place) = place(sock) else { return };
    if owner(place) == 0 || owner(place) == sock.key() {
        set_ports(place, Step::ports(sock.local_port(), sock.peer_port()));
        set_state(place, state);
        // Comes last: whoever sees the socket sees the rest of it.
        set_owner(place, sock.key());
    }
}

/// Whether the socket has a place, which says its state now.
#[inline(always)]
fn follow<R: Reader>(sock: Sock<R>, state: u8) -> bool {
    let Some(place) = place(sock) else {
        return false;
    };
    let is_ours = owner(place) == sock.key();
    if is_ours {
        set_state(place, state);
    }
    is_ours
}

#[inline(always)]
fn end<R: Reader>(sock: Sock<R>) {
    if let Some(place) = place(sock)
        && owner(place) == sock.key()
    {
        set_owner(place, 0);
    }
}

/// By the hash of the 4-tuple, which the socket has from before ESTABLISHED on (`inet_ehash_insert` and
/// `__inet_check_established`, net/ipv4/inet_hashtables.c): the verifier wants no arithmetic with addresses.
#[inline(always)]
fn place<R: Reader>(sock: Sock<R>) -> Option<*mut Step> {
    let hash: u32 = sock.field(SOCK_COMMON_HASH.load());
    STEPS.get_ptr_mut(hash % LENGTH)
}

// Only the socket that has a place changes it, and the kernel serializes what happens to that. Should two take a free
// one at the same moment, one of them has it afterwards, and the other one's transitions are told.

#[inline(always)]
fn owner(place: *mut Step) -> u64 {
    // SAFETY: an element of the array, which is there as long as the program.
    unsafe { ptr::addr_of!((*place).sock).read_volatile() }
}

#[inline(always)]
fn set_owner(place: *mut Step, sock: u64) {
    // SAFETY: as in `owner`.
    unsafe { ptr::addr_of_mut!((*place).sock).write_volatile(sock) }
}

#[inline(always)]
fn set_ports(place: *mut Step, ports: u32) {
    // SAFETY: as in `owner`.
    unsafe { ptr::addr_of_mut!((*place).ports).write_volatile(ports) }
}

#[inline(always)]
fn set_state(place: *mut Step, state: u8) {
    // SAFETY: as in `owner`.
    unsafe { ptr::addr_of_mut!((*place).state).write_volatile(state.into()) }
}
