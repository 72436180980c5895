//! The entries: each unpacks its arguments and calls a body in `hooks`, so that the variants of one
//! hook cannot diverge. The kernel prototype stands above each.

use aya_ebpf::{
    Argument,
    helpers::bpf_probe_read_user,
    macros::{btf_tracepoint, fexit, kprobe, kretprobe, raw_tracepoint, tracepoint},
    programs::{
        BtfTracePointContext, FExitContext, ProbeContext, RawTracePointContext, RetProbeContext,
        TracePointContext,
    },
};
use tracer_ebpf::IPPROTO_TCP;

use crate::{
    globals::*,
    hooks::{connect, state, syscall},
    maps::{CALLS, Call},
    sock::{Probe, Reader, Sock, Typed},
    task,
};

// ---- transitions -------------------------------------------------------------------------------

// TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)
#[btf_tracepoint(function = "inet_sock_set_state")]
fn state_btf(ctx: BtfTracePointContext) -> i32 {
    if let Some(sock) = Sock::new(Typed, ctx.arg(0)) {
        let (old, new) = (ctx.arg::<i32>(1), ctx.arg::<i32>(2));
        state::transition(&ctx, sock, old as u8, new as u8);
    }
    0
}

/// The same with plain addresses. Not a classic tracepoint: the kernel runs none of those while any other
/// program is running on that CPU (`trace_call_bpf`, kernel/trace/bpf_trace.c), and before 6.7 does not even
/// count that.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn state_raw(ctx: RawTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    if Probe.read::<u16>(sk, SOCK_PROTOCOL.load()) != IPPROTO_TCP {
        return 0;
    }
    if let Some(sock) = Sock::new(Probe, sk) {
        let (old, new) = (ctx.arg::<i32>(1), ctx.arg::<i32>(2));
        state::transition(&ctx, sock, old as u8, new as u8);
    }
    0
}

// ---- connect, by the functions that do it --------------------------------------------------------

// int inet_hash_connect(struct inet_timewait_death_row *death_row, struct sock *sk)
#[fexit(function = "inet_hash_connect")]
fn hash_fexit(ctx: FExitContext) -> i32 {
    hash_exited(&ctx)
}

// int inet6_hash_connect(struct inet_timewait_death_row *death_row, struct sock *sk)
#[fexit(function = "inet6_hash_connect")]
fn hash6_fexit(ctx: FExitContext) -> i32 {
    hash_exited(&ctx)
}

/// The slot behind the arguments holds the result (`bpf_get_func_ret` only since 5.17).
#[inline(always)]
fn hash_exited(ctx: &FExitContext) -> i32 {
    connect::hashed(Sock::new(Typed, ctx.arg(1)), ctx.arg(2));
    0
}

// int tcp_v4_connect(struct sock *sk, struct sockaddr *uaddr, int addr_len)
#[fexit(function = "tcp_v4_connect")]
fn v4_fexit(ctx: FExitContext) -> i32 {
    let sock = Sock::new(Typed, ctx.arg(0));
    if !connect::is_mapped(sock) {
        connect::returned(sock, ctx.arg(1), ctx.arg(3));
    }
    0
}

// int tcp_v6_connect(struct sock *sk, struct sockaddr *uaddr, int addr_len)
#[fexit(function = "tcp_v6_connect")]
fn v6_fexit(ctx: FExitContext) -> i32 {
    connect::returned(Sock::new(Typed, ctx.arg(0)), ctx.arg(1), ctx.arg(3));
    0
}

/// Which function a thread is in: `tcp_v6_connect` calls `tcp_v4_connect`, and both call the first. 0 is
/// a system call's.
const HASH: u64 = 1;
const V4: u64 = 2;
const V6: u64 = 3;

// inet_hash_connect, inet6_hash_connect as above
#[kprobe]
fn hash_kprobe(ctx: ProbeContext) -> u32 {
    kprobe_entered(HASH, argument(&ctx, 1), 0)
}

#[kretprobe]
fn hash_kretprobe(ctx: RetProbeContext) -> u32 {
    if let Some(call) = kprobe_left(HASH) {
        connect::hashed(Sock::new(Probe, call.target as *const u8), ctx.ret());
    }
    0
}

// tcp_v4_connect as above
#[kprobe]
fn v4_kprobe(ctx: ProbeContext) -> u32 {
    kprobe_entered(V4, argument(&ctx, 0), argument(&ctx, 1))
}

#[kretprobe]
fn v4_kretprobe(ctx: RetProbeContext) -> u32 {
    if let Some(call) = kprobe_left(V4) {
        let sock = Sock::new(Probe, call.target as *const u8);
        if !connect::is_mapped(sock) {
            connect::returned(sock, call.address, ctx.ret());
        }
    }
    0
}

// tcp_v6_connect as above
#[kprobe]
fn v6_kprobe(ctx: ProbeContext) -> u32 {
    kprobe_entered(V6, argument(&ctx, 0), argument(&ctx, 1))
}

#[kretprobe]
fn v6_kretprobe(ctx: RetProbeContext) -> u32 {
    if let Some(call) = kprobe_left(V6) {
        let sock = Sock::new(Probe, call.target as *const u8);
        connect::returned(sock, call.address, ctx.ret());
    }
    0
}

#[inline(always)]
fn kprobe_entered(function: u64, target: u64, address: u64) -> u32 {
    let _ = CALLS.insert(kprobe_key(function), Call { target, address }, 0);
    0
}

#[inline(always)]
fn kprobe_left(function: u64) -> Option<Call> {
    let key = kprobe_key(function);
    // SAFETY: only the thread itself writes its entry.
    let call = unsafe { CALLS.get(key) }.copied();
    let _ = CALLS.remove(key);
    call
}

/// A thread id is below 2^22 (`PID_MAX_LIMIT`).
#[inline(always)]
fn kprobe_key(function: u64) -> u64 {
    function << 32 | u64::from(task::tid())
}

// ---- connect, by system calls --------------------------------------------------------------------

// syscalls:*: the first argument is at 16, each is 8 bytes wide; so is the result
// (struct syscall_trace_enter and syscall_trace_exit, include/trace/syscall.h)

// connect(int fd, struct sockaddr *uservaddr, int addrlen)
#[tracepoint]
fn enter_connect(ctx: TracePointContext) -> u32 {
    syscall::enter(field(&ctx, 16), field(&ctx, 24));
    0
}

// sendto(int fd, void *buff, size_t len, unsigned flags, struct sockaddr *addr, int addr_len)
#[tracepoint]
fn enter_sendto(ctx: TracePointContext) -> u32 {
    syscall::enter_send(field(&ctx, 16), field(&ctx, 40), || field(&ctx, 48));
    0
}

// sendmsg(int fd, struct user_msghdr *msg, unsigned flags), whose first member is the address
#[tracepoint]
fn enter_sendmsg(ctx: TracePointContext) -> u32 {
    syscall::enter_send(field(&ctx, 16), field(&ctx, 32), || {
        let message: u64 = field(&ctx, 24);
        // SAFETY: the helper checks the address and fails on a bad one.
        unsafe { bpf_probe_read_user(message as *const u64) }.unwrap_or_default()
    });
    0
}

#[tracepoint]
fn exit_call(ctx: TracePointContext) -> u32 {
    syscall::exit(field(&ctx, 16));
    0
}

// io_uring:io_uring_complete
#[tracepoint]
fn io_uring_complete(ctx: TracePointContext) -> u32 {
    syscall::completed(
        field(&ctx, COMPLETE_REQ.load()),
        field(&ctx, COMPLETE_RES.load()),
    );
    0
}

/// A field of a tracepoint's record.
#[inline(always)]
fn field<T: Copy + Default>(ctx: &TracePointContext, offset: u32) -> T {
    // SAFETY: the record is at least as long as its `format` says.
    unsafe { ctx.read_at(offset as usize) }.unwrap_or_default()
}

/// An argument of a probed function.
#[inline(always)]
fn argument<T: Argument + Default>(ctx: &ProbeContext, n: usize) -> T {
    ctx.arg(n).unwrap_or_default()
}
