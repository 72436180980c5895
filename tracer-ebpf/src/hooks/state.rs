//! TCP state transitions, and who is accountable for the socket.

use aya_ebpf::EbpfContext;
use aya_log_ebpf::warn;
use tracer_ebpf::{
    OWNER_BIND, OWNER_CONNECT, OWNER_NONE, ROLE_CLIENT, ROLE_LISTENER, ROLE_SERVER, Socket, Task,
    tcp,
};

use crate::{
    emit,
    hooks::connect,
    maps::SOCKETS,
    sock::{Reader, Sock},
    task,
};

/// One transition. Failed connection attempts are recognized here as well: where no hook sees the result of
/// `inet_hash_connect`, and where the kernel skipped the one that does.
///
/// The tracepoint fires before `sk_state` is written (`inet_sk_set_state`, net/ipv4/af_inet.c).
#[inline(always)]
pub(crate) fn transition<C: EbpfContext, R: Reader>(ctx: &C, sock: Sock<R>, old: u8, new: u8) {
    if let Some(mut socket) = first_seen(old, new) {
        if new == tcp::SYN_SENT {
            socket.write_seq = sock.write_seq();
            connect::begins(sock);
        }
        if SOCKETS.insert(sock.key(), socket, 0).is_err() {
            table_full(ctx);
        }
        emit::state(sock, old, new, Some(&socket));
        return;
    }
    // SAFETY: the kernel serializes the transitions of one socket, and only they write its entry.
    let socket = unsafe { SOCKETS.get(sock.key()) };
    emit::state(sock, old, new, socket);
    if new != tcp::CLOSE {
        return;
    }
    if old == tcp::SYN_SENT {
        connect::closed_in_syn_sent(sock, socket);
    }
    let _ = SOCKETS.remove(sock.key());
}

/// What to remember of a socket from its first transition on. These, `LISTEN -> SYN_RECV` apart, are
/// made by the task that calls `connect()` or `listen()`; any later one may run in softirq, where
/// `current` is a stranger.
#[inline(always)]
fn first_seen(old: u8, new: u8) -> Option<Socket> {
    let (role, owner) = match (old, new) {
        (tcp::CLOSE, tcp::SYN_SENT) => (ROLE_CLIENT, OWNER_CONNECT),
        (tcp::CLOSE, tcp::LISTEN) => (ROLE_LISTENER, OWNER_BIND),
        (tcp::LISTEN, tcp::SYN_RECV) => (ROLE_SERVER, OWNER_NONE),
        _ => return None,
    };
    let task = if owner == OWNER_NONE {
        Task::default()
    } else {
        task::current()
    };
    Some(Socket {
        task,
        role,
        owner,
        pad: 0,
        write_seq: 0,
    })
}

/// Logged once per CPU; each further one is in the counter.
#[inline(always)]
fn table_full<C: EbpfContext>(ctx: &C) {
    if emit::table_full() {
        warn!(ctx, "the socket table is full: see --max-sockets");
    }
}
