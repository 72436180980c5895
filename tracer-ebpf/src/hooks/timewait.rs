//! Timewait sockets: what holds a 4-tuple when its socket is gone.
//!
//! `tcp_time_wait` (net/ipv4/tcp_minisocks.c) allocates one, puts it into the place of the socket and closes
//! that. A hook on the allocation tells it at once; without one the socket's transition to CLOSE does, which
//! comes last.

use tracer_ebpf::{AF_INET6, Socket, tcp};

use crate::{
    emit,
    globals::*,
    maps::TIMER_HANDLER,
    sock::{Beginning, Common, Copied, Probe, Reader, SOCK_DEAD, SOCK_DONE, Sock, TimeWait},
    table,
};

/// The timewait socket that takes a socket's place. Not in an `Option`: kernels before 6.3 refuse to read the
/// part that `None` leaves unset.
#[derive(Clone, Copy)]
pub(crate) struct Successor {
    /// 0: there is none.
    pub(crate) key: u64,
    /// FIN_WAIT2 or TIME_WAIT. If there is none, CLOSE: both sides could still have closed the connection; else 0.
    pub(crate) substate: u64,
}

const NO_SUCCESSOR: Successor = Successor {
    key: 0,
    substate: 0,
};

/// The kernel has given the connection up.
const GIVEN_UP: Successor = Successor {
    key: 0,
    substate: tcp::CLOSE as u64,
};

/// `inet_twsk_alloc` made `tw` for `sock`; null if the kernel has as many as it may. Told at once: `tw` may get the
/// peer's FIN, or end, before the transition of `sock` to CLOSE.
#[inline(always)]
pub(crate) fn allocated<R: Reader>(sock: Option<Sock<R>>, tw: u64, substate: u8) {
    let Some(sock) = sock else { return };
    if tw == 0 {
        return;
    }
    let successor = Successor {
        key: tw,
        substate: substate.into(),
    };
    if let Some(socket) = table::find(sock) {
        socket.timewait = tw;
        emit::end(sock, sock.state(), Some(socket), successor);
        return;
    }
    emit::end(sock, sock.state(), None, successor);
    // Older than us. The entry is for [`is_told`].
    let socket = Socket {
        timewait: tw,
        ..Socket::default()
    };
    let _ = table::insert_late(sock, &socket);
}

/// Whether [`allocated`] has told of the end of a socket.
#[inline(always)]
pub(crate) fn is_told(socket: Option<&Socket>) -> bool {
    socket.is_some_and(|socket| socket.timewait != 0)
}

/// What takes the place of a socket that is being closed in state `old`, if no hook on the allocation has told of
/// it.
///
/// The rule (measured on 5.10 to 7.2): a timewait socket follows on FIN_WAIT2 and CLOSING without an error, if the socket
/// has got the peer's FIN (`tcp_fin`, net/ipv4/tcp_input.c), or is orphaned and TCP_LINGER2 is not negative, unless
/// `tcp_max_tw_buckets` is reached, or data has come for the orphan (`tcp_rcv_state_process`). Whether there is one, and
/// which, the hash table tells: it is there before its socket is closed.
#[inline(always)]
pub(crate) fn successor<R: Reader>(sock: Sock<R>, old: u8) -> Successor {
    if !matches!(old, tcp::FIN_WAIT2 | tcp::CLOSING) || sock.err() != 0 {
        return NO_SUCCESSOR;
    }
    let flags = sock.flags();
    if flags & SOCK_DONE == 0 && (flags & SOCK_DEAD == 0 || sock.linger2() < 0) {
        return GIVEN_UP;
    }
    if NET_HASHINFO.load() == 0 {
        return NO_SUCCESSOR;
    }
    let found = in_hash_table(sock);
    match found.key {
        NONE => without(sock),
        DISTURBED => {
            emit::count(|counters| counters.timewait += 1);
            NO_SUCCESSOR
        }
        _ => found,
    }
}

/// There is no timewait socket where there could be one.
#[inline(always)]
fn without<R: Reader>(sock: Sock<R>) -> Successor {
    if is_full(sock.net()) {
        emit::count(|counters| counters.overflow += 1);
        NO_SUCCESSOR
    } else {
        GIVEN_UP
    }
}

/// In place of an address: there is nothing, or the list was changed meanwhile and nobody knows.
const NONE: u64 = 0;
const DISTURBED: u64 = 1;

/// Whether a network namespace has as many timewait sockets as it may (`inet_twsk_alloc`,
/// net/ipv4/inet_timewait_sock.c): a moment later some may have gone.
#[inline(always)]
fn is_full(net: u64) -> bool {
    const GONE_MEANWHILE: u32 = 16;
    let net = net as *const u8;
    let count: u32 = Probe.read(net, NET_TIMEWAIT_COUNT.load());
    let most: u32 = Probe.read(net, NET_TIMEWAIT_MAX.load());
    NET_TIMEWAIT_COUNT.load() == 0 || count.wrapping_add(GONE_MEANWHILE) >= most
}

/// Longer chains hardly occur: the kernel sizes the table for more sockets than it has.
const CHAIN: u32 = 32;

/// Words of a `struct sock_common` that have what tells most sockets apart: IPv4 addresses, hash, ports and state.
const START: usize = 3;
type Start = Copied<START>;

/// Looks for the timewait socket with the tuple of `sock` in the table of established sockets
/// (`inet_ehash_bucket`, include/net/inet_hashtables.h). The list may change meanwhile. Without one its key is `NONE` or
/// `DISTURBED`.
#[inline(always)]
fn in_hash_table<R: Reader>(sock: Sock<R>) -> Successor {
    let hash: u32 = sock.field(SOCK_COMMON_HASH.load());
    let mut copied = Copied::of(0);
    let found = first_with(sock, hash, &mut copied);
    let nothing = |key| Successor { key, substate: 0 };
    if found == NONE || found == DISTURBED {
        return nothing(found);
    }
    let tw = TimeWait::new(Beginning(&copied), found as *const u8);
    let (substate, port) = tw.substate_and_port();
    if port != sock.local_port() || !takes_place_of(tw, sock) {
        return nothing(DISTURBED);
    }
    learn_timer(TimeWait::new(Probe, found as *const u8));
    Successor {
        key: found,
        substate: substate.into(),
    }
}

/// The bucket's address, and its number.
#[inline(always)]
fn bucket<R: Reader>(sock: Sock<R>, hash: u32) -> (u64, u64) {
    let reader = sock.reader();
    let info: u64 = reader.read(sock.net() as *const u8, NET_HASHINFO.load());
    let info = info as *const u8;
    let mask: u32 = reader.read(info, HASHINFO_EHASH_MASK.load());
    let table: u64 = reader.read(info, HASHINFO_EHASH.load());
    let number = u64::from(hash & mask);
    let start = reader.address(table as *const u8);
    (start + number * size_of::<u64>() as u64, number)
}

/// The first timewait socket with this hash in the bucket of `sock`, and the beginning of it; `NONE`, or `DISTURBED`. A
/// loop of few branches: 5.10 verifies each way through it.
#[inline(always)]
fn first_with<R: Reader>(sock: Sock<R>, hash: u32, copied: &mut Start) -> u64 {
    let (bucket, number) = bucket(sock, hash);
    let mut node: u64 = Probe.read(bucket as *const u8, 0);
    for _ in 0..CHAIN {
        // The end of a list says of which (`INIT_HLIST_NULLS_HEAD`, include/linux/list_nulls.h). 0: a bad address.
        if node & 1 != 0 || node == 0 {
            return u64::from(node >> 1 != number);
        }
        let address = node - u64::from(SOCK_COMMON_NULLS_NODE.load());
        copied.update(address);
        let found: u32 = copied.get(SOCK_COMMON_HASH.load());
        let state: u8 = copied.get(SOCK_COMMON_STATE.load());
        if (found ^ hash) | u32::from(state ^ tcp::TIME_WAIT) == 0 {
            return address;
        }
        node = Probe.read(node as *const u8, 0);
    }
    DISTURBED
}

/// By what is left, their own ports being the same.
#[inline(always)]
fn takes_place_of<R: Reader>(tw: TimeWait<Beginning<START>>, sock: Sock<R>) -> bool {
    same::<u16, R>(tw, sock, SOCK_COMMON_DPORT.load())
        && tw.net() == sock.net()
        && if sock.family() == AF_INET6 {
            same::<u64, R>(tw, sock, SOCK_COMMON_V6_DADDR.load())
                && same::<u64, R>(tw, sock, SOCK_COMMON_V6_DADDR.load() + 8)
        } else {
            same::<u32, R>(tw, sock, SOCK_COMMON_DADDR.load())
                && same::<u32, R>(tw, sock, SOCK_COMMON_RCV_SADDR.load())
        }
}

#[inline(always)]
fn same<T: Copy + Default + PartialEq, R: Reader>(
    tw: TimeWait<Beginning<START>>,
    sock: Sock<R>,
    offset: u32,
) -> bool {
    tw.field::<T>(offset) == sock.field::<T>(offset)
}

/// Notes the function behind the timers of timewait sockets, by which [`timer_expires`] knows them: its
/// name is static (`tw_timer_handler`), and its address hidden on many hosts.
#[inline(always)]
pub(crate) fn learn_timer(tw: TimeWait<Probe>) {
    if let Some(handler) = TIMER_HANDLER.get_ptr_mut(0)
        // SAFETY: one word, and everybody writes the same.
        && unsafe { handler.read_volatile() } == 0
    {
        // SAFETY: as above.
        unsafe { *handler = tw.timer_function() };
    }
}

/// `__inet_twsk_schedule` sets the timer of `tw`; `again`: it was set before, as when the peer's FIN
/// ends FIN_WAIT2 (`tcp_timewait_state_process`, net/ipv4/tcp_minisocks.c).
#[inline(always)]
pub(crate) fn scheduled<R: Reader>(tw: TimeWait<R>, again: bool) {
    if again && tw.substate() == tcp::TIME_WAIT {
        emit::timewait(tw, tcp::FIN_WAIT2, tcp::TIME_WAIT);
    }
}

/// `inet_twsk_kill` takes `tw` out of the tables.
#[inline(always)]
pub(crate) fn killed<R: Reader>(tw: TimeWait<R>) {
    emit::timewait(tw, tw.substate(), tcp::CLOSE);
}

/// The function of `timer` is about to run.
#[inline(always)]
pub(crate) fn timer_expires(timer: *const u8) {
    let Some(handler) = TIMER_HANDLER.get(0) else {
        return;
    };
    let function: u64 = Probe.read(timer, TIMER_FUNCTION.load());
    if function == *handler && function != 0 {
        let tw = timer.wrapping_sub(TIMEWAIT_TIMER.load() as usize);
        killed(TimeWait::new(Probe, tw));
    }
}
