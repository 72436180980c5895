//! The entries: each unpacks its arguments and calls a body in `hooks`, so that the variants of one
//! hook cannot diverge. The kernel prototype stands above each.

use core::ffi::c_void;

use aya_ebpf::{
    Argument, EbpfContext,
    bindings::seq_file,
    helpers::bpf_probe_read_user,
    macros::{btf_tracepoint, fentry, fexit, kprobe, kretprobe, raw_tracepoint, tracepoint},
    programs::{
        BtfTracePointContext, FEntryContext, FExitContext, ProbeContext, RawTracePointContext,
        RetProbeContext, TracePointContext,
    },
};
use tracer_ebpf::IPPROTO_TCP;

use crate::{
    globals::*,
    hooks::{connect, dump, nested, port, state, syscall, timewait},
    maps::{CALLS, Call},
    sock::{Probe, Reader, Sock, TimeWait, Typed},
    task,
};

// ---- transitions -------------------------------------------------------------------------------

// TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)
#[btf_tracepoint(function = "inet_sock_set_state")]
fn state_btf(ctx: BtfTracePointContext) -> i32 {
    nested::outer(|| transition_btf(&ctx, Typed::OUTER));
    0
}

#[btf_tracepoint(function = "inet_sock_set_state")]
fn state_btf_nested(ctx: BtfTracePointContext) -> i32 {
    nested::inner(|| transition_btf(&ctx, Typed::INNER));
    0
}

#[inline(always)]
fn transition_btf(ctx: &BtfTracePointContext, reader: Typed) {
    transition(ctx, reader, ctx.arg(0), [ctx.arg(1), ctx.arg(2)]);
}

/// SCTP and MPTCP sockets have such transitions, too.
#[inline(always)]
fn transition<C: EbpfContext, R: Reader>(ctx: &C, reader: R, sk: *const u8, states: [i32; 2]) {
    if reader.read::<u16>(sk, SOCK_PROTOCOL.load()) == IPPROTO_TCP {
        let [old, new] = states;
        state::transition(ctx, Sock::brief(reader, sk), old as u8, new as u8);
    }
}

/// The same with plain addresses. Not a classic tracepoint: the kernel runs none of those while any other
/// program is running on that CPU (`trace_call_bpf`, kernel/trace/bpf_trace.c), and before 6.7 does not even
/// count that.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn state_raw(ctx: RawTracePointContext) -> i32 {
    nested::outer(|| transition_raw(&ctx));
    0
}

#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn state_raw_nested(ctx: RawTracePointContext) -> i32 {
    nested::inner(|| transition_raw(&ctx));
    0
}

#[inline(always)]
fn transition_raw(ctx: &RawTracePointContext) {
    transition(ctx, Probe, ctx.arg(0), [ctx.arg(1), ctx.arg(2)]);
}

// ---- timewait sockets ----------------------------------------------------------------------------

// struct inet_timewait_sock *inet_twsk_alloc(const struct sock *sk, struct inet_timewait_death_row *dr,
//                                            const int state)
#[fexit(function = "inet_twsk_alloc")]
fn twsk_alloc_fexit(ctx: FExitContext) -> i32 {
    let state: i32 = ctx.arg(2);
    timewait::allocated(Sock::new(Typed::ANY, ctx.arg(0)), ctx.arg(3), state as u8);
    0
}

// void __inet_twsk_schedule(struct inet_timewait_sock *tw, int timeo, bool rearm)
#[fentry(function = "__inet_twsk_schedule")]
fn twsk_schedule_fentry(ctx: FEntryContext) -> i32 {
    timewait::scheduled(TimeWait::new(Typed::ANY, ctx.arg(0)), is_true(ctx.arg(2)));
    0
}

// static void inet_twsk_kill(struct inet_timewait_sock *tw)
#[fentry(function = "inet_twsk_kill")]
fn twsk_kill_fentry(ctx: FEntryContext) -> i32 {
    timewait::killed(TimeWait::new(Typed::ANY, ctx.arg(0)));
    0
}

#[kprobe]
fn twsk_alloc_kprobe(ctx: ProbeContext) -> u32 {
    entered(TWSK_ALLOC, argument(&ctx, 0), argument(&ctx, 2))
}

#[kretprobe]
fn twsk_alloc_kretprobe(ctx: RetProbeContext) -> u32 {
    if let Some(call) = left(TWSK_ALLOC) {
        let sock = Sock::new(Probe, call.target as *const u8);
        timewait::allocated(sock, ctx.ret(), call.address as u8);
    }
    0
}

#[kprobe]
fn twsk_schedule_kprobe(ctx: ProbeContext) -> u32 {
    let tw: u64 = argument(&ctx, 0);
    timewait::scheduled(
        TimeWait::new(Probe, tw as *const u8),
        is_true(argument(&ctx, 2)),
    );
    0
}

#[kprobe]
fn twsk_kill_kprobe(ctx: ProbeContext) -> u32 {
    let tw: u64 = argument(&ctx, 0);
    timewait::killed(TimeWait::new(Probe, tw as *const u8));
    0
}

/// Of a `bool` only the low byte is set.
#[inline(always)]
fn is_true(argument: u64) -> bool {
    argument & 0xff != 0
}

// TP_PROTO(struct timer_list *timer, unsigned long baseclk)
#[raw_tracepoint(tracepoint = "timer_expire_entry")]
fn timer_expires_raw(ctx: RawTracePointContext) -> i32 {
    timewait::timer_expires(ctx.arg(0));
    0
}

// ---- ports taken by bind and listen, connections taken by accept ---------------------------------

// int inet_csk_get_port(struct sock *sk, unsigned short snum)
#[fexit(function = "inet_csk_get_port")]
fn get_port_fexit(ctx: FExitContext) -> i32 {
    let result: i32 = ctx.arg(2);
    if result == 0 {
        port::bound(Sock::new(Typed::ANY, ctx.arg(0)));
    } else if port::is_refusal(result) {
        port::refused(Sock::new(Typed::ANY, ctx.arg(0)), ctx.arg::<u64>(1) as u16);
    }
    0
}

#[kprobe]
fn get_port_kprobe(ctx: ProbeContext) -> u32 {
    entered(GET_PORT, argument(&ctx, 0), argument(&ctx, 1))
}

#[kretprobe]
fn get_port_kretprobe(ctx: RetProbeContext) -> u32 {
    let Some(call) = left(GET_PORT) else { return 0 };
    let result: i32 = ctx.ret();
    if result == 0 {
        port::bound(port::tcp_socket(call.target));
    } else if port::is_refusal(result) {
        port::refused(port::tcp_socket(call.target), call.address as u16);
    }
    0
}

// TP_PROTO(struct sock *sk)
#[btf_tracepoint(function = "tcp_destroy_sock")]
fn destroy_btf(ctx: BtfTracePointContext) -> i32 {
    port::destroyed(Sock::brief(Typed::ANY, ctx.arg(0)));
    0
}

#[raw_tracepoint(tracepoint = "tcp_destroy_sock")]
fn destroy_raw(ctx: RawTracePointContext) -> i32 {
    port::destroyed(Sock::brief(Probe, ctx.arg(0)));
    0
}

// struct sock *inet_csk_accept(struct sock *sk, int flags, int *err, bool kern), before 6.10
#[fexit(function = "inet_csk_accept")]
fn accept4_fexit(ctx: FExitContext) -> i32 {
    accept_exited(ctx.arg(4))
}

// struct sock *inet_csk_accept(struct sock *sk, struct proto_accept_arg *arg), since 6.10
#[fexit(function = "inet_csk_accept")]
fn accept2_fexit(ctx: FExitContext) -> i32 {
    accept_exited(ctx.arg(2))
}

#[inline(always)]
fn accept_exited(sk: u64) -> i32 {
    port::accepted(sk);
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
    connect::hashed(Sock::new(Typed::ANY, ctx.arg(1)), ctx.arg(2));
    0
}

// int tcp_v4_connect(struct sock *sk, struct sockaddr *uaddr, int addr_len)
#[fexit(function = "tcp_v4_connect")]
fn v4_fexit(ctx: FExitContext) -> i32 {
    let sock = Sock::new(Typed::ANY, ctx.arg(0));
    if !connect::is_mapped(sock) {
        connect::returned(sock, ctx.arg(1), ctx.arg(3));
    }
    0
}

// int tcp_v6_connect(struct sock *sk, struct sockaddr *uaddr, int addr_len)
#[fexit(function = "tcp_v6_connect")]
fn v6_fexit(ctx: FExitContext) -> i32 {
    connect::returned(Sock::new(Typed::ANY, ctx.arg(0)), ctx.arg(1), ctx.arg(3));
    0
}

/// Which function a thread is in: `tcp_v6_connect` calls `tcp_v4_connect`, and both call the first. 0 is
/// a system call's.
const HASH: u64 = 1;
const V4: u64 = 2;
const V6: u64 = 3;
const TWSK_ALLOC: u64 = 4;
const GET_PORT: u64 = 5;
/// Of a system call, as 0.
const BIND: u64 = 6;

// inet_hash_connect, inet6_hash_connect as above
#[kprobe]
fn hash_kprobe(ctx: ProbeContext) -> u32 {
    entered(HASH, argument(&ctx, 1), 0)
}

#[kretprobe]
fn hash_kretprobe(ctx: RetProbeContext) -> u32 {
    if let Some(call) = left(HASH) {
        connect::hashed(Sock::new(Probe, call.target as *const u8), ctx.ret());
    }
    0
}

// tcp_v4_connect as above
#[kprobe]
fn v4_kprobe(ctx: ProbeContext) -> u32 {
    entered(V4, argument(&ctx, 0), argument(&ctx, 1))
}

#[kretprobe]
fn v4_kretprobe(ctx: RetProbeContext) -> u32 {
    if let Some(call) = left(V4) {
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
    entered(V6, argument(&ctx, 0), argument(&ctx, 1))
}

#[kretprobe]
fn v6_kretprobe(ctx: RetProbeContext) -> u32 {
    if let Some(call) = left(V6) {
        let sock = Sock::new(Probe, call.target as *const u8);
        connect::returned(sock, call.address, ctx.ret());
    }
    0
}

#[inline(always)]
fn entered(function: u64, target: u64, address: u64) -> u32 {
    let _ = CALLS.insert(call_key(function), Call { target, address }, 0);
    0
}

#[inline(always)]
fn left(function: u64) -> Option<Call> {
    let key = call_key(function);
    // SAFETY: only the thread itself writes its entry.
    let call = unsafe { CALLS.get(key) }.copied();
    let _ = CALLS.remove(key);
    call
}

/// A thread id is below 2^22 (`PID_MAX_LIMIT`). The idle tasks, which softirqs interrupt, all have 0: there is one on each
/// CPU.
#[inline(always)]
fn call_key(function: u64) -> u64 {
    let thread = match task::tid() {
        0 => IDLE | task::cpu(),
        tid => tid,
    };
    function << 32 | u64::from(thread)
}

const IDLE: u32 = 1 << 31;

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

// sendmsg(int fd, struct user_msghdr *msg, unsigned flags)
#[tracepoint]
fn enter_sendmsg(ctx: TracePointContext) -> u32 {
    syscall::enter_send(field(&ctx, 16), field(&ctx, 32), || {
        destination(field(&ctx, 24))
    });
    0
}

#[tracepoint]
fn exit_call(ctx: TracePointContext) -> u32 {
    syscall::exit(field(&ctx, 16));
    0
}

// The same three without their entries: the arguments are in di, si, dx, r10, r8.

#[tracepoint]
fn exit_connect(ctx: TracePointContext) -> u32 {
    syscall::exit_by_registers(field(&ctx, 16), || task::register(PT_REGS_SI.load()));
    0
}

#[tracepoint]
fn exit_sendto(ctx: TracePointContext) -> u32 {
    syscall::exit_by_registers(field(&ctx, 16), || task::register(PT_REGS_R8.load()));
    0
}

#[tracepoint]
fn exit_sendmsg(ctx: TracePointContext) -> u32 {
    syscall::exit_by_registers(field(&ctx, 16), || {
        destination(task::register(PT_REGS_SI.load()))
    });
    0
}

/// That of a `struct user_msghdr`, whose first member it is.
#[inline(always)]
fn destination(message: u64) -> u64 {
    // SAFETY: the helper checks the address and fails on a bad one.
    unsafe { bpf_probe_read_user(message as *const u64) }.unwrap_or_default()
}

// bind(int fd, struct sockaddr *umyaddr, int addrlen)
#[tracepoint]
fn enter_bind(ctx: TracePointContext) -> u32 {
    entered(BIND, field(&ctx, 16), field(&ctx, 24))
}

// listen(int fd, int backlog)
#[tracepoint]
fn enter_listen(ctx: TracePointContext) -> u32 {
    entered(BIND, field(&ctx, 16), 0)
}

#[tracepoint]
fn exit_bind(ctx: TracePointContext) -> u32 {
    if let Some(call) = left(BIND) {
        syscall::bound(call.target, call.address, field(&ctx, 16));
    }
    0
}

// accept(int fd, struct sockaddr *upeer_sockaddr, int *upeer_addrlen), accept4 with flags
#[tracepoint]
fn exit_accept(ctx: TracePointContext) -> u32 {
    syscall::accepted(field(&ctx, 16));
    0
}

#[tracepoint]
fn io_uring_complete_well(ctx: TracePointContext) -> u32 {
    syscall::completed_well(
        field(&ctx, COMPLETE_REQ.load()),
        field(&ctx, COMPLETE_RES.load()),
    );
    0
}

#[tracepoint]
fn io_uring_complete_refused(ctx: TracePointContext) -> u32 {
    syscall::completed_refused(
        field(&ctx, COMPLETE_REQ.load()),
        field(&ctx, COMPLETE_RES.load()),
    );
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

// ---- dumps ---------------------------------------------------------------------------------------

/// `struct bpf_iter__tcp` (net/ipv4/tcp_ipv4.c, since 5.9), whose uid we leave.
#[repr(C)]
struct TcpContext {
    meta: *const IterMeta,
    /// Null at the end.
    sk_common: *const u8,
}

/// `struct bpf_iter__task_file` (kernel/bpf/task_iter.c, since 5.8).
#[repr(C)]
struct TaskFileContext {
    meta: *const IterMeta,
    task: *const u8,
    fd: u64,
    /// Null at the end.
    file: *const u8,
}

/// `struct bpf_iter_meta` (include/linux/bpf.h).
#[repr(C)]
struct IterMeta {
    seq: *mut seq_file,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
extern "C" fn dump_tcp(ctx: *mut c_void) -> i32 {
    let ctx = ctx.cast::<TcpContext>();
    // SAFETY: the kernel passes a context of this type, and the verifier checks each load.
    let (seq, sk) = unsafe { ((*(*ctx).meta).seq, (*ctx).sk_common) };
    if !sk.is_null() {
        dump::socket(seq, sk);
    }
    0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn dump_files(ctx: *mut c_void) -> i32 {
    let ctx = ctx.cast::<TaskFileContext>();
    // SAFETY: as in `dump_tcp`.
    let (seq, task, file) = unsafe { ((*(*ctx).meta).seq, (*ctx).task, (*ctx).file) };
    if !file.is_null() && !task.is_null() {
        dump::descriptor(seq, task, file);
    }
    0
}
