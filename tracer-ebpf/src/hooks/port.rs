//! Ports and connections that are taken other than by `connect()`: bind, listen, accept.

use tracer_ebpf::{
    AF_INET, AF_INET6, EADDRINUSE, Event, IPPROTO_TCP, KIND_ACCEPTED, KIND_BOUND, KIND_CLOSED_BY,
    KIND_RELEASED, OWNER_ACCEPT, OWNER_BIND, OWNER_NONE, ROLE_SERVER, Socket, Task, tcp,
};

use crate::{
    emit::{self, Record},
    globals::*,
    hooks::{
        address::{self, Address},
        connect,
    },
    sock::{Beginning, Common, Copied, Probe, Reader, Sock},
    table, task, words,
};

/// The socket behind an address that a walk through a process's descriptors gave; `None` if it is no TCP
/// socket.
#[inline(always)]
pub(crate) fn tcp_socket(sk: u64) -> Option<Sock<Probe>> {
    let sk = sk as *const u8;
    // A raw socket may have the protocol, too.
    if Probe.read::<u16>(sk, SOCK_PROTOCOL.load()) != IPPROTO_TCP
        || Probe.read::<u16>(sk, SOCK_TYPE.load()) != SOCK_STREAM
    {
        return None;
    }
    let sock = Sock::new(Probe, sk)?;
    matches!(sock.family(), AF_INET | AF_INET6).then_some(sock)
}

/// `bind()` or `listen()` succeeded in the current task.
#[inline(always)]
pub(crate) fn bound<R: Reader>(sock: Option<Sock<R>>) {
    if let Some(sock) = sock
        && sock.held() != 0
    {
        emit::deed(sock, KIND_BOUND, OWNER_BIND, &task::current());
    }
}

/// Whether `inet_csk_get_port` returned that it has no such port: 1 before 6.1.
#[inline(always)]
pub(crate) fn is_refusal(result: i32) -> bool {
    result == 1 || result == -EADDRINUSE
}

/// The current task asked for `port`, or any with 0, and does not get it. The socket has its address until the call
/// returns (`__inet_bind`, net/ipv4/af_inet.c), and is a listener already if `listen()` asks
/// (`inet_csk_listen_start`, net/ipv4/inet_connection_sock.c).
#[inline(always)]
pub(crate) fn refused<R: Reader>(sock: Option<Sock<R>>, port: u16) {
    let Some(sock) = sock else { return };
    let task = task::current();
    if let Some(mut record) = Record::<Event>::reserve(sock) {
        let event = record.get();
        emit::bind_failure(event, sock, sock.state() == tcp::LISTEN, &task);
        event.tuple.local_port = port;
        record.submit();
    }
}

/// A call for `address` returned EADDRINUSE; one without was `listen()`, for the port that the socket has, or any.
#[inline(always)]
pub(crate) fn returned_refused(sock: Option<Sock<Probe>>, address: Address) {
    let Some(sock) = sock else { return };
    let task = task::current();
    if let Some(mut record) = Record::<Event>::reserve(sock) {
        let event = record.get();
        emit::bind_failure(event, sock, address.is_of_socket(), &task);
        emit::forget_past_port(event);
        address::source(event, address);
        record.submit();
    }
}

/// A socket whose connection a timewait socket has taken over is closed. One bound to an explicit port keeps that,
/// beside the timewait socket, until it is destroyed (SOCK_BINDPORT_LOCK, `tcp_set_state` in net/ipv4/tcp.c).
#[inline(always)]
pub(crate) fn keeps<R: Reader>(sock: Sock<R>, socket: Option<&Socket>) {
    if sock.held() == 0 {
        return;
    }
    match socket {
        Some(socket) => emit::deed(sock, KIND_BOUND, socket.owner, &socket.task),
        None => emit::deed(sock, KIND_BOUND, OWNER_NONE, &Task::default()),
    }
}

/// A socket is destroyed. If it still holds a port, that is free once `inet_put_port` has run, which
/// comes next (`inet_csk_destroy_sock`, net/ipv4/inet_connection_sock.c).
#[inline(always)]
pub(crate) fn destroyed<R: Reader>(sock: Sock<R>) {
    connect::forget(sock);
    // Hardly any does, and the rest is for those.
    if sock.held() != 0
        && let Some(sock) = sock.whole()
    {
        emit::deed(sock, KIND_RELEASED, OWNER_NONE, &Task::default());
    }
}

/// `enum sock_type`, include/linux/net.h.
const SOCK_STREAM: u16 = 1;

/// Words of a whole `struct sock_common`.
const WHOLE: usize = 17;

/// The current task accepted the connection of the socket at `sk`, if it is a TCP socket, as all in the table are.
///
/// Nothing keeps it from being closed at the same time, on another CPU. By its port that is known for certain: the kernel
/// gives it back, then tells the transition to CLOSE, and only then writes the state (`tcp_set_state`, net/ipv4/tcp.c).
#[inline(always)]
pub(crate) fn accepted(sk: u64) {
    let copied = Copied::<WHOLE>::of(sk);
    let Some(sock) = Sock::new(Beginning(&copied), sk as *const u8) else {
        return;
    };
    if !matches!(sock.family(), AF_INET | AF_INET6) {
        return;
    }
    let socket = table::find(sock);
    if socket.is_some() || Probe.read::<u16>(sk as *const u8, SOCK_PROTOCOL.load()) == IPPROTO_TCP {
        owned_by_current(sock, socket);
    }
}

#[inline(always)]
fn owned_by_current<R: Reader>(sock: Sock<R>, socket: Option<&mut Socket>) {
    let task = task::current();
    emit::deed(sock, KIND_ACCEPTED, OWNER_ACCEPT, &task);
    if let Some(socket) = socket {
        // A transition in softirq may see the task half written, which the record of this call then mends.
        words::copy(&task, &mut socket.task);
        socket.owner = OWNER_ACCEPT;
        return;
    }
    if sock.held() == 0 {
        return;
    }
    // Older than us.
    let socket = Socket {
        task,
        role: ROLE_SERVER,
        owner: OWNER_ACCEPT,
        ..Socket::default()
    };
    let _ = table::insert_late(sock, &socket);
    // It may have been closed in between, and nobody would ever remove the entry.
    if sock.held() == 0 {
        table::remove(sock);
    }
}

/// `shutdown()` or `close()` in the current task sends the FIN. Only a task that is not the owner is told of. The FIN of a
/// `shutdown()` in SYN_RECV waits for the ACK, whose softirq interrupts anybody; only a call has the socket locked, its
/// task then (`tcp_rcv_state_process`, net/ipv4/tcp_input.c, and `release_sock`).
#[inline(always)]
pub(crate) fn closing<R: Reader>(sock: Sock<R>, socket: Option<&Socket>) {
    if socket.is_none_or(|socket| socket.task.pid != task::pid()) && sock.is_locked() {
        emit::deed(sock, KIND_CLOSED_BY, OWNER_NONE, &task::current());
    }
}
