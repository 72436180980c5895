//! Dumps: what the kernel has, for sockets that are older than the tracer and after a loss.
//!
//! BPF iterators rather than sock_diag, because they give the address of each socket, which is the key of
//! its events, need no module, and find sockets that are only bound.

use core::ptr::from_mut;

use aya_ebpf::{
    bindings::seq_file,
    helpers::generated::{bpf_jiffies64, bpf_seq_write},
};
use tracer_ebpf::{Event, KIND_HOLDER, KIND_SOCKET, tcp};

use crate::{
    emit,
    globals::*,
    hooks::{port, timewait},
    maps::ROW,
    sock::{Common, Probe, Reader, Sock, TimeWait},
    task, words,
};

/// `TCP_NEW_SYN_RECV`: a request, which holds no port of its own (include/net/tcp_states.h).
const NEW_SYN_RECV: u8 = 12;

/// `inode.i_mode`: the type of a file, and that of a socket (include/uapi/linux/stat.h).
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;

/// One socket of the table of established sockets or of listeners.
#[inline(always)]
pub(crate) fn socket(seq: *mut seq_file, sk: *const u8) {
    let Some(row) = blank() else { return };
    match Probe.read(sk, SOCK_COMMON_STATE.load()) {
        NEW_SYN_RECV => return,
        tcp::TIME_WAIT => describe_timewait(row, TimeWait::new(Probe, sk)),
        state => {
            let Some(sock) = Sock::new(Probe, sk) else {
                return;
            };
            describe(row, sock);
            row.new = state;
        }
    }
    row.kind = KIND_SOCKET;
    write(seq, row);
}

#[inline(always)]
fn describe(row: &mut Event, sock: Sock<Probe>) {
    emit::describe(row, sock);
    emit::forget_past_port(row);
    row.facts = sock.facts();
}

#[inline(always)]
fn describe_timewait(row: &mut Event, tw: TimeWait<Probe>) {
    timewait::learn_timer(tw);
    emit::describe(row, tw);
    row.new = tw.substate();
    row.timewait = tw.key();
    row.facts = tw.facts();
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_jiffies64() };
    // The timer's clock is the low word of it, which on 64 bits is all.
    row.sent = tw.expires().saturating_sub(now);
}

/// One descriptor of a process.
#[inline(always)]
pub(crate) fn descriptor(seq: *mut seq_file, holder: *const u8, file: *const u8) {
    let inode: u64 = Probe.read(file, FILE_INODE.load());
    let mode: u16 = Probe.read(inode as *const u8, INODE_MODE.load());
    if mode & S_IFMT != S_IFSOCK {
        return;
    }
    let Some(sock) = port::tcp_socket(task::sock_of_file(file.addr() as u64)) else {
        return;
    };
    let Some(row) = blank() else { return };
    describe(row, sock);
    row.kind = KIND_HOLDER;
    row.new = sock.state();
    task::describe(holder, &mut row.task);
    write(seq, row);
}

/// The row of this CPU, zeroed.
#[inline(always)]
fn blank() -> Option<&'static mut Event> {
    let row = ROW.get_ptr_mut(0)?;
    // SAFETY: the row is this CPU's, one dump runs at a time, and zeros are a valid `Event`.
    unsafe {
        words::zero(row);
        Some(&mut *row)
    }
}

#[inline(always)]
fn write(seq: *mut seq_file, row: &mut Event) {
    // SAFETY: the row is readable for its size. When there is no room the kernel calls again later.
    unsafe { bpf_seq_write(seq, from_mut(row).cast(), size_of::<Event>() as u32) };
}
