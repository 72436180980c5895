//! Connection attempts that fail with EADDRNOTAVAIL.
//!
//! `connect()` chooses its port in `inet_hash_connect`, before any packet and without setting
//! `sk_err`. Where that function can be hooked its result is the truth. On every rung the failure is recognized
//! from the transitions that surround it as well: a hook may be missing, or its run skipped.

use tracer_ebpf::{
    AF_INET, EADDRNOTAVAIL, Event, KIND_NO_SOURCE_ADDRESS, KIND_PORTS_EXHAUSTED, KIND_TUPLE_IN_USE,
    Socket, Task, tcp,
};

use crate::{
    emit::{self, Record},
    hooks::{
        address::{self, Address},
        syscall,
    },
    maps::{FAILED, HAS_FAILED},
    sock::{Common, Reader, Sock},
    task, words,
};

/// `Event::kind` of an entry of `FAILED` whose record has been emitted already.
const REPORTED: u16 = 0;

/// The same of one whose call has returned: since then the socket has not looked for a port.
const PAST: u16 = u16::MAX;

/// A new attempt, or the end of the socket: what is remembered of an attempt is not of the next one, nor of the next socket
/// at this address. At both, since the kernel may skip either.
#[inline(always)]
pub(crate) fn forget<R: Reader>(sock: Sock<R>) {
    if HAS_FAILED.get(0).is_some_and(|has_failed| *has_failed != 0) {
        let _ = FAILED.remove(sock.key());
    }
}

/// `inet_hash_connect` or `inet6_hash_connect` returned `result`.
#[inline(always)]
pub(crate) fn hashed<R: Reader>(sock: Option<Sock<R>>, result: i32) {
    if result != -EADDRNOTAVAIL {
        return;
    }
    let Some(sock) = sock else { return };
    report(sock, task::current(), sock.held());
}

/// `tcp_v4_connect` or `tcp_v6_connect` returned `result` for an attempt to reach `address`.
#[inline(always)]
pub(crate) fn returned<R: Reader>(sock: Option<Sock<R>>, address: u64, result: i32) {
    let Some(sock) = sock else { return };
    match result {
        0 => under_way(sock),
        EADDRNOTAVAIL_RESULT => ended(sock, task::current(), Address::kernel(address)),
        _ => {}
    }
}

const EADDRNOTAVAIL_RESULT: i32 = -EADDRNOTAVAIL;

/// An attempt goes on after the call that began it: no transition has told its port yet.
#[inline(always)]
pub(crate) fn under_way<R: Reader>(sock: Sock<R>) {
    if sock.state() == tcp::SYN_SENT && sock.held() != 0 {
        emit::port(sock);
    }
}

/// Whether this call of `tcp_v4_connect` is one that `tcp_v6_connect` made for a mapped address: then
/// the outer function reports.
#[inline(always)]
pub(crate) fn is_mapped<R: Reader>(sock: Option<Sock<R>>) -> bool {
    sock.is_some_and(|sock| sock.family() != AF_INET)
}

/// SYN_SENT -> CLOSE. With tracepoints only, nothing else tells of a failure; a kretprobe misses returns while
/// too many threads are inside (as few as there are CPUs; the search for a port may sleep), and any program
/// is skipped while it is running on that CPU, interrupted or preempted.
///
/// In the thread that called `connect()`, with no error on the socket, neither end shut down, no SYN
/// under way and no sequence number chosen (which tells a deferred connect, TCP_FASTOPEN_CONNECT, that
/// is given up), the attempt failed inside that call. No port chosen: none was free. A port that was
/// there before (`bind()`): its tuple is taken, if the system call then returns EADDRNOTAVAIL. A port
/// that was chosen: it failed for another reason.
#[inline(always)]
pub(crate) fn closed_in_syn_sent<R: Reader>(sock: Sock<R>, socket: Option<&Socket>) {
    if sock.err() != 0 || sock.shutdown() != 0 || sock.packets_out() != 0 {
        return;
    }
    let Some(socket) = socket else { return };
    if socket.task.tid != task::tid() || socket.write_seq != sock.write_seq() {
        return;
    }
    if is_reported(sock) {
        return;
    }
    let port = port_of_attempt(sock, socket);
    if port != 0 && port != socket.bound_port {
        return;
    }
    if port == 0 || !syscall::in_progress() {
        report(sock, socket.task, port);
    } else {
        remember(sock, socket.task, KIND_TUPLE_IN_USE, port);
    }
}

/// The local port of an attempt to connect or listen, once it is over, in host byte order; 0: it got none. A socket shows
/// its past port until it gets one, which may be the same; if it connects, a SYN with a new sequence number follows then
/// (`tcp_connect_queue_skb`, net/ipv4/tcp_output.c).
#[inline(always)]
pub(crate) fn port_of_attempt<R: Reader>(sock: Sock<R>, socket: &Socket) -> u16 {
    let port = sock.local_port();
    let is_past =
        socket.bound_port == 0 && port == socket.past_port && sock.write_seq() == socket.write_seq;
    if is_past { 0 } else { port }
}

/// Whether the hook on `inet_hash_connect` has told of this attempt already.
#[inline(always)]
fn is_reported<R: Reader>(sock: Sock<R>) -> bool {
    // SAFETY: entries are written and removed by the thread that makes the call.
    let failed = unsafe { FAILED.get(sock.key()) };
    failed.is_some_and(|event| event.kind == REPORTED && event.task.tid == task::tid())
}

/// What kind of failure it was that left no record. Not always a missing source address: the kernel skips
/// a program while the same one is running, interrupted or preempted, on that CPU.
#[inline(always)]
fn kind_of_unseen<R: Reader>(sock: Sock<R>) -> u16 {
    if sock.mss_clamp() == 0 {
        KIND_NO_SOURCE_ADDRESS
    } else {
        kind_by_port(sock.held())
    }
}

/// What kind of failure it was to look for a port, with this one.
#[inline(always)]
fn kind_by_port(port: u16) -> u16 {
    if port == 0 {
        KIND_PORTS_EXHAUSTED
    } else {
        KIND_TUPLE_IN_USE
    }
}

/// Emits the failure and remembers that it was.
#[inline(always)]
fn report<R: Reader>(sock: Sock<R>, task: Task, port: u16) {
    if let Some(mut record) = Record::<Event>::reserve(sock) {
        emit::failure(record.get(), sock, kind_by_port(port), task, port);
        emit::range(record.get(), sock);
        record.submit();
    }
    remember(sock, task, REPORTED, port);
}

/// Leaves a record for [`ended`], which adds what the socket still tells then.
#[inline(always)]
fn remember<R: Reader>(sock: Sock<R>, task: Task, kind: u16, port: u16) {
    let mut event = Event::default();
    emit::failure(&mut event, sock, kind, task, port);
    let _ = FAILED.insert(sock.key(), event, 0);
    if let Some(has_failed) = HAS_FAILED.get_ptr_mut(0) {
        // SAFETY: one word, and everybody writes the same.
        unsafe { has_failed.write_volatile(1) };
    }
}

/// A call that connects returned EADDRNOTAVAIL. If the attempt got as far as looking for a port, it
/// left its record in `FAILED`, unless the hooks on that were skipped; if not, the host has no source address
/// for the destination (`ip6_dst_lookup_flow` in `tcp_v6_connect`, net/ipv6/tcp_ipv6.c).
#[inline(always)]
pub(crate) fn ended<R: Reader>(sock: Sock<R>, task: Task, address: Address) {
    let mut kind = kind_of_unseen(sock);
    if let Some(event) = FAILED.get_ptr_mut(sock.key()) {
        // SAFETY: entries are written and removed by the thread that makes the call.
        let event = unsafe { &mut *event };
        // Else another process's: the address of an earlier socket, whose return was not seen.
        if event.task.pid == task::pid() {
            let known = event.kind;
            if known != REPORTED && known != PAST {
                emit(event, sock);
            }
            event.kind = PAST;
            if known != PAST {
                return;
            }
            kind = KIND_NO_SOURCE_ADDRESS;
        }
    }
    if let Some(mut record) = Record::<Event>::reserve(sock) {
        emit::failure(record.get(), sock, kind, task, sock.held());
        emit::range(record.get(), sock);
        address::destination(record.get(), address);
        record.submit();
    }
}

#[inline(always)]
fn emit<R: Reader>(event: &Event, sock: Sock<R>) {
    if let Some(mut record) = Record::<Event>::reserve(sock) {
        words::copy(event, record.get());
        emit::range(record.get(), sock);
        record.submit();
    }
}
