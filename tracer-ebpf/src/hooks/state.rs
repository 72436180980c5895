//! TCP state transitions, and who is accountable for the socket.

use aya_ebpf::EbpfContext;
use aya_log_ebpf::warn;
use tracer_ebpf::{
    OWNER_BIND, OWNER_CONNECT, OWNER_NONE, ROLE_CLIENT, ROLE_LISTENER, ROLE_SERVER, Socket, Task,
    tcp,
};

use crate::{
    emit,
    globals::*,
    hooks::{connect, port, timewait},
    sock::{Common, Reader, Sock},
    steps, table, task,
};

/// One transition. Failed connection attempts are recognized here as well: where no hook sees the result of
/// `inet_hash_connect`, and where the kernel skipped the one that does.
///
/// The tracepoint fires before `sk_state` is written (`inet_sk_set_state`, net/ipv4/af_inet.c).
#[inline(always)]
pub(crate) fn transition<C: EbpfContext, R: Reader>(ctx: &C, sock: Sock<R>, old: u8, new: u8) {
    let old = steps::pass(sock, old, new);
    if old == steps::UNTOLD {
        untold(sock, new);
        return;
    }
    if let Some(mut socket) = first_seen(old, new) {
        if new == tcp::SYN_SENT {
            socket.write_seq = sock.write_seq();
            connect::begins(sock);
        }
        if table::insert(sock.key(), &socket).is_err() {
            table_full(ctx);
        }
        if socket.owner == OWNER_NONE {
            emit::child(sock, old, new);
        } else {
            emit::first(sock, old, new, &socket);
        }
        return;
    }
    let socket = table::find(sock);
    let socket = socket.as_deref();
    match new {
        tcp::CLOSE => {
            closed(sock, old, socket);
            table::remove(sock.key());
        }
        tcp::FIN_WAIT1 | tcp::LAST_ACK => {
            port::closing(sock, socket);
            emit::state(sock, old, new, socket);
        }
        _ => emit::state(sock, old, new, socket),
    }
}

/// One that `STEPS` has. Who closes is told all the same.
#[inline(always)]
fn untold<R: Reader>(sock: Sock<R>, new: u8) {
    if NO_CLOSERS.load() == 0 && matches!(new, tcp::FIN_WAIT1 | tcp::LAST_ACK) {
        port::closing(sock, table::find(sock).as_deref());
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

/// What to remember of a socket from its first transition on. These, those from LISTEN apart, are
/// made by the task that calls `connect()` or `listen()`; any later one may run in softirq, where
/// `current` is a stranger.
#[inline(always)]
fn first_seen(old: u8, new: u8) -> Option<Socket> {
    let (role, owner) = match (old, new) {
        (tcp::CLOSE, tcp::SYN_SENT) => (ROLE_CLIENT, OWNER_CONNECT),
        (tcp::CLOSE, tcp::LISTEN) => (ROLE_LISTENER, OWNER_BIND),
        (tcp::LISTEN, tcp::SYN_RECV | tcp::ESTABLISHED) => (ROLE_SERVER, OWNER_NONE),
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
        ..Socket::default()
    })
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
