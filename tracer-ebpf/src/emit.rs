//! From a socket to a record in the ring buffer.

use aya_ebpf::{helpers::bpf_ktime_get_ns, maps::ring_buf::RingBufEntry};
use tracer_ebpf::{
    Counters, EADDRINUSE, EADDRNOTAVAIL, Event, FACT_GIVEN_UP, Head, KIND_BIND_FAILED, KIND_BOUND,
    KIND_PORT, KIND_STATE, OWNER_BIND, OWNER_CONNECT, ROLE_CLIENT, ROLE_LISTENER, ROLE_SERVER,
    Socket, Task, tcp,
};

use crate::{
    globals::{INET_SOCK_PORT_RANGE, ONLY_SOME_NETNS},
    hooks::{connect, timewait::Successor},
    maps::{COUNTERS, EVENTS, NAMESPACES},
    sock::{Common, Reader, Sock, TimeWait},
    words,
};

/// Emits the first transition of a socket with an owner, and all that is to be remembered of it.
#[inline(always)]
pub(crate) fn first<R: Reader>(sock: Sock<R>, old: u8, new: u8, socket: &Socket) {
    let Some(mut record) = Record::<Event>::reserve(sock) else {
        return;
    };
    let event = record.get();
    transition(event, sock, old, new);
    forget_past_port(event);
    remembered(event, Some(socket));
    record.submit();
}

/// Emits the first transition of a listener's child, which nobody owns yet.
#[inline(always)]
pub(crate) fn child<R: Reader>(sock: Sock<R>, old: u8, new: u8) {
    let Some(mut record) = Record::<Head>::reserve(sock) else {
        return;
    };
    let head = record.get();
    transition(head, sock, old, new);
    head.role = ROLE_SERVER;
    if new == tcp::SYN_RECV {
        // Before 6.18 it still has its listener's (`inet_csk_clone_lock`).
        head.cookie = 0;
    }
    record.submit();
}

/// Emits a transition in the midst of a connection.
#[inline(always)]
pub(crate) fn state<R: Reader>(sock: Sock<R>, old: u8, new: u8, role: u8) {
    let Some(mut record) = Record::<Head>::reserve(sock) else {
        return;
    };
    let head = record.get();
    transition(head, sock, old, new);
    head.role = role;
    record.submit();
}

/// Emits the transition to CLOSE, or to the timewait socket that takes over.
#[inline(always)]
pub(crate) fn end<R: Reader>(
    sock: Sock<R>,
    old: u8,
    socket: Option<&Socket>,
    successor: Successor,
) {
    let Some(mut record) = Record::<Event>::reserve(sock) else {
        return;
    };
    let event = record.get();
    transition(event, sock, old, tcp::CLOSE);
    if successor.key != 0 {
        event.timewait = successor.key;
        event.new = successor.substate as u8;
        // Its port, if it is its own, is told of with the transition to CLOSE.
        event.tuple.held = 0;
        event.facts = sock.timestamps();
    } else if successor.substate != 0 {
        event.facts = FACT_GIVEN_UP;
    }
    if matches!(old, tcp::SYN_SENT | tcp::LISTEN)
        && let Some(socket) = socket
    {
        event.tuple.local_port = connect::port_of_attempt(sock, socket);
    }
    event.errno = sock.err();
    event.sent = sock.bytes_sent();
    event.received = sock.bytes_received();
    remembered(event, socket);
    record.submit();
}

/// Emits a transition of a timewait socket.
#[inline(always)]
pub(crate) fn timewait<R: Reader>(tw: TimeWait<R>, old: u8, new: u8) {
    let Some(mut record) = Record::<Head>::reserve(tw) else {
        return;
    };
    transition(record.get(), tw, old, new);
    record.submit();
}

/// Emits that the socket, which connects, has a local port now.
#[inline(always)]
pub(crate) fn port<R: Reader>(sock: Sock<R>) {
    let Some(mut record) = Record::<Head>::reserve(sock) else {
        return;
    };
    let head = record.get();
    describe(head, sock);
    head.kind = KIND_PORT;
    record.submit();
}

/// Emits what `task` did to a socket.
#[inline(always)]
pub(crate) fn deed<R: Reader>(sock: Sock<R>, kind: u16, owner: u8, task: &Task) {
    let Some(mut record) = Record::<Event>::reserve(sock) else {
        return;
    };
    let event = record.get();
    describe(event, sock);
    event.kind = kind;
    if kind == KIND_BOUND {
        // `inet_sport` follows when the function has returned (`__inet_bind` and `inet_csk_listen_start`).
        forget_past_port(event);
    }
    event.new = sock.state();
    if event.new == tcp::LISTEN {
        event.role = ROLE_LISTENER;
    }
    event.owner = owner;
    words::copy(task, &mut event.task);
    record.submit();
}

/// Of a socket that has no port but the one that it holds: what else it shows is that of an earlier connection
/// (`__inet_put_port`, net/ipv4/inet_hashtables.c, leaves `inet_sport` as it is).
#[inline(always)]
pub(crate) fn forget_past_port(event: &mut Event) {
    event.tuple.local_port = event.tuple.held;
}

#[inline(always)]
fn transition<T: Body, C: Common>(record: &mut T, sock: C, old: u8, new: u8) {
    describe(record, sock);
    let head = record.head();
    head.kind = KIND_STATE;
    head.old = old;
    head.new = new;
}

#[inline(always)]
fn remembered(event: &mut Event, socket: Option<&Socket>) {
    if let Some(socket) = socket {
        words::copy(&socket.task, &mut event.task);
        event.role = socket.role;
        event.owner = socket.owner;
    }
}

/// Fills a zeroed record with a connection attempt of `task` that failed; `port`: its local one, 0: none.
#[inline(always)]
pub(crate) fn failure<R: Reader>(
    event: &mut Event,
    sock: Sock<R>,
    kind: u16,
    task: Task,
    port: u16,
) {
    describe(event, sock);
    event.tuple.local_port = port;
    event.kind = kind;
    event.errno = EADDRNOTAVAIL;
    event.role = ROLE_CLIENT;
    if task.pid != 0 {
        event.owner = OWNER_CONNECT;
    }
    event.task = task;
}

/// Fills a zeroed record with a call of `task` that got no port for `sock`.
#[inline(always)]
pub(crate) fn bind_failure<R: Reader>(
    event: &mut Event,
    sock: Sock<R>,
    listens: bool,
    task: &Task,
) {
    describe(event, sock);
    event.kind = KIND_BIND_FAILED;
    event.errno = EADDRINUSE;
    event.new = if listens { tcp::LISTEN } else { tcp::CLOSE };
    event.owner = OWNER_BIND;
    words::copy(task, &mut event.task);
    range(event, sock);
}

/// Notes the range that the socket's owner has set for its port.
#[inline(always)]
pub(crate) fn range<R: Reader>(event: &mut Event, sock: Sock<R>) {
    if INET_SOCK_PORT_RANGE.load() != 0 {
        event.range_low = sock.range_end(0);
        event.range_high = sock.range_end(1);
    }
}

#[inline(always)]
pub(crate) fn describe<T: Body, C: Common>(record: &mut T, sock: C) {
    let head = record.head();
    head.size = size_of::<T>() as u16;
    // SAFETY: the helper has no preconditions.
    head.ts = unsafe { bpf_ktime_get_ns() };
    head.sock = sock.key();
    head.cookie = sock.cookie();
    head.netns = sock.netns();
    sock.tuple(&mut head.tuple);
}

/// What a record is: made of integers, so that all bytes zero is one.
pub(crate) trait Body: Copy + 'static {
    fn head(&mut self) -> &mut Head;
}

impl Body for Head {
    #[inline(always)]
    fn head(&mut self) -> &mut Head {
        self
    }
}

impl Body for Event {
    #[inline(always)]
    fn head(&mut self) -> &mut Head {
        &mut self.head
    }
}

/// Room for one record in the ring buffer.
#[must_use = "the verifier wants every reservation submitted"]
pub(crate) struct Record<T: 'static>(RingBufEntry<T>);

impl<T: Body> Record<T> {
    /// A zeroed record, so that no old ring memory reaches user space. `None` when nobody wants to hear of that
    /// socket, or when the ring is full, which is counted.
    #[inline(always)]
    pub(crate) fn reserve<C: Common>(sock: C) -> Option<Self> {
        if !is_wanted(sock) {
            return None;
        }
        let Some(mut entry) = EVENTS.reserve::<T>(0) else {
            ring_full();
            return None;
        };
        // SAFETY: the entry is writable for the size of a `T`.
        unsafe { words::zero(entry.as_mut_ptr()) };
        Some(Self(entry))
    }

    #[inline(always)]
    pub(crate) fn get(&mut self) -> &mut T {
        // SAFETY: `reserve` zeroed it, and all bytes zero is a valid `T`.
        unsafe { self.0.assume_init_mut() }
    }

    /// No wakeup flag: the kernel wakes the reader only when it had caught up, and the reader naps
    /// before it drains, so wakeups are rare.
    #[inline(always)]
    pub(crate) fn submit(self) {
        self.0.submit(0);
    }
}

/// The socket table is kept for all sockets: what is in it leaves it in any case.
#[inline(always)]
fn is_wanted<C: Common>(sock: C) -> bool {
    // SAFETY: the value is not used, and nobody removes it.
    ONLY_SOME_NETNS.load() == 0 || unsafe { NAMESPACES.get(sock.netns()) }.is_some()
}

#[inline(always)]
fn ring_full() {
    count(|counters| counters.ring += 1);
}

/// Changes this CPU's counters. A program that interrupts this one may lose a change.
#[inline(always)]
pub(crate) fn count(change: impl FnOnce(&mut Counters)) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: this CPU's value, made of integers.
        change(unsafe { &mut *counters });
    }
}
