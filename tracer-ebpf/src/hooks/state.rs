//! TCP state transitions, and who is accountable for the socket.

use aya_ebpf::EbpfContext;
use aya_log_ebpf::warn;
use tracer_ebpf::{
    OWNER_BIND, OWNER_CONNECT, OWNER_NONE, ROLE_CLIENT, ROLE_LISTENER, ROLE_SERVER, ROLE_UNKNOWN,
    Socket, Task, tcp,
};

use crate::{
    emit,
    globals::*,
    hooks::{connect, port, timewait},
    sock::{Common, Reader, Sock},
    steps, table, task,
};

/// One transition of a socket, which is brief: most need no more. Failed connection attempts are recognized here as well:
/// where no hook sees the result of `inet_hash_connect`, and where the kernel skipped the one that does.
///
/// The tracepoint fires before `sk_state` is written (`inet_sk_set_state`, net/ipv4/af_inet.c).
#[inline(always)]
pub(crate) fn transition<C: EbpfContext, R: Reader>(ctx: &C, sock: Sock<R>, old: u8, new: u8) {
    // `tcp_close_state` (net/ipv4/tcp.c), when the socket was shut down before.
    if old == new {
        return;
    }
    let old = steps::pass(sock, old, new);
    if old == steps::UNTOLD {
        if is_closing(new) {
            port::closing(sock, table::find(sock).as_deref());
        }
        return;
    }
    let first = first_seen(old, new);
    if first.is_none() && new != tcp::CLOSE {
        let socket = table::find(sock);
        let socket = socket.as_deref();
        if is_closing(new) {
            port::closing(sock, socket);
        }
        // After a loss the role may be all that tells a socket from an earlier one at its address.
        let role = socket.map_or(ROLE_UNKNOWN, |socket| socket.role);
        emit::state(sock, old, new, role);
        return;
    }
    let Some(sock) = sock.whole() else { return };
    match first {
        Some((role, owner)) => begun(ctx, sock, old, new, role, owner),
        None => {
            closed(sock, old, table::find(sock).as_deref());
            table::remove(sock);
        }
    }
}

/// Whether this side sends its FIN, and who does is to be told, if it is not the owner.
#[inline(always)]
fn is_closing(new: u8) -> bool {
    NO_CLOSERS.load() == 0 && matches!(new, tcp::FIN_WAIT1 | tcp::LAST_ACK)
}

/// The first transition of a socket: it is remembered.
#[inline(always)]
fn begun<C: EbpfContext, R: Reader>(ctx: &C, sock: Sock<R>, old: u8, new: u8, role: u8, owner: u8) {
    if role == ROLE_CLIENT {
        connect::forget(sock);
    }
    // MPTCP, for one, has a worker connect for a process that nobody can tell.
    let owner = if owner != OWNER_NONE && task::is_kernel_thread() {
        OWNER_NONE
    } else {
        owner
    };
    let socket = remembered(sock, role, owner);
    if table::insert(sock, &socket).is_err() {
        table_full(ctx);
    }
    if role == ROLE_SERVER {
        emit::child(sock, old, new);
    } else {
        emit::first(sock, old, new, &socket);
    }
}

/// All fields have a value of their own: a rest that is left to `Default` becomes a call of `memset`, byte by byte.
#[inline(always)]
fn remembered<R: Reader>(sock: Sock<R>, role: u8, owner: u8) -> Socket {
    let is_client = role == ROLE_CLIENT;
    let is_child = role == ROLE_SERVER;
    Socket {
        task: if owner == OWNER_NONE {
            Task::default()
        } else {
            task::current()
        },
        role,
        owner,
        bound_port: if is_child { 0 } else { sock.held() },
        write_seq: if is_child { 0 } else { sock.write_seq() },
        timewait: 0,
        // A child still has its listener's (`inet_csk_clone_lock`, net/ipv4/inet_connection_sock.c).
        cookie: if is_client { sock.cookie() } else { 0 },
        local_port: 0,
        peer_port: if is_client { sock.peer_port() } else { 0 },
        past_port: if is_child { 0 } else { sock.local_port() },
        pad: 0,
    }
}

#[inline(always)]
fn closed<R: Reader>(sock: Sock<R>, old: u8, socket: Option<&Socket>) {
    if timewait::is_told(socket) {
        port::keeps(sock, socket);
        return;
    }
    let successor = timewait::successor(sock, old);
    emit::end(sock, old, socket, successor);
    if successor.key != 0 {
        port::keeps(sock, socket);
    }
    if old == tcp::SYN_SENT {
        connect::closed_in_syn_sent(sock, socket);
    }
}

/// Role and owner of a socket whose first transition it is. These, those from LISTEN apart, are
/// made by the task that calls `connect()` or `listen()`; any later one may run in softirq, where
/// `current` is a stranger.
#[inline(always)]
fn first_seen(old: u8, new: u8) -> Option<(u8, u8)> {
    match (old, new) {
        (tcp::CLOSE, tcp::SYN_SENT) => Some((ROLE_CLIENT, OWNER_CONNECT)),
        (tcp::CLOSE, tcp::LISTEN) => Some((ROLE_LISTENER, OWNER_BIND)),
        (tcp::LISTEN, tcp::SYN_RECV | tcp::ESTABLISHED) => Some((ROLE_SERVER, OWNER_NONE)),
        _ => None,
    }
}

/// Logged once per CPU; each further one is in the counter.
#[inline(always)]
fn table_full<C: EbpfContext>(ctx: &C) {
    emit::count(|counters| {
        if counters.table == 1 {
            warn!(ctx, "the socket table is full: see --max-sockets");
        }
    });
}
