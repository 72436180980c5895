//! System calls that connect, bind and accept, and io_uring: how kernels without fentry and kprobes tell the
//! errno of a failed attempt, and who takes a port or a connection. Called for TCP and everything else; a call
//! that connects is cheap until it fails with EADDRNOTAVAIL.

use tracer_ebpf::{AF_INET, AF_INET6, EADDRINUSE, EADDRNOTAVAIL, Task};

use crate::{
    globals::*,
    hooks::{address::Address, connect, port},
    maps::{BY_REGISTERS, CALLS, Call},
    sock::{Probe, Reader},
    task,
};

/// `send*()` flag: connect and send the data with the SYN (include/linux/socket.h).
const MSG_FASTOPEN: u64 = 0x2000_0000;

/// The current thread enters `connect()`, or a `send*()` with MSG_FASTOPEN, on `fd`.
#[inline(always)]
pub(crate) fn enter(fd: u64, address: u64) {
    let call = Call {
        target: fd,
        address,
    };
    let _ = CALLS.insert(u64::from(task::tid()), call, 0);
}

/// The current thread enters `sendto()` or `sendmsg()`.
#[inline(always)]
pub(crate) fn enter_send(fd: u64, flags: u64, address: impl FnOnce() -> u64) {
    if flags & MSG_FASTOPEN != 0 {
        enter(fd, address());
    }
}

/// Whether the current thread is inside a call whose return will be seen.
#[inline(always)]
pub(crate) fn in_progress() -> bool {
    if HAS_TASK_REGISTERS.load() != 0 && BY_REGISTERS.get(0).is_some_and(|are_read| *are_read != 0)
    {
        return is_connecting();
    }
    CALLS.get_ptr(u64::from(task::tid())).is_some()
}

/// Numbers of system calls (arch/x86/entry/syscalls/syscall_64.tbl).
const CONNECT: u64 = 42;
const SENDTO: u64 = 44;
const SENDMSG: u64 = 46;

#[inline(always)]
fn is_connecting() -> bool {
    match task::register(PT_REGS_ORIG_AX.load()) {
        CONNECT => true,
        SENDTO => task::register(PT_REGS_R10.load()) & MSG_FASTOPEN != 0,
        SENDMSG => task::register(PT_REGS_DX.load()) & MSG_FASTOPEN != 0,
        _ => false,
    }
}

/// The current thread leaves `connect()`, `sendto()` or `sendmsg()`, whose arguments are still in its registers. Most
/// calls end here at once.
#[inline(always)]
pub(crate) fn exit_by_registers(result: i64, address: impl FnOnce() -> u64) {
    if matches!(result, FAILED | PENDING) && is_connecting() {
        left(task::register(PT_REGS_DI.load()), address(), result);
    }
}

/// The current thread leaves such a call.
#[inline(always)]
pub(crate) fn exit(result: i64) {
    let thread = u64::from(task::tid());
    if !matches!(result, FAILED | PENDING) {
        let _ = CALLS.remove(thread);
        return;
    }
    // SAFETY: only the thread itself writes its entry.
    let Some(call) = (unsafe { CALLS.get(thread) }) else {
        return;
    };
    let Call { target, address } = *call;
    let _ = CALLS.remove(thread);
    left(target, address, result);
}

/// The current thread leaves a call that connects `fd`, with one of the results that count.
#[inline(always)]
fn left(fd: u64, address: u64, result: i64) {
    let sk = task::sock_of_fd(fd as u32);
    if result == FAILED {
        attempt_failed(sk, task::current(), Address::user(address));
    } else if let Some(sock) = port::tcp_socket(sk) {
        connect::under_way(sock);
    }
}

/// Results of a system call that connects.
const FAILED: i64 = -(EADDRNOTAVAIL as i64);
const PENDING: i64 = -115; // EINPROGRESS

/// The io_uring operations that connect (`enum io_uring_op`, include/uapi/linux/io_uring.h): CONNECT, and
/// with MSG_FASTOPEN the SEND family. BIND, too, can end with EADDRNOTAVAIL.
const CONNECTING: [u8; 5] = [16, 9, 26, 47, 48];

/// io_uring completed `request` with `result`, in a task of the process that submitted it, or, when
/// that is exiting, in a kernel thread.
#[inline(always)]
pub(crate) fn completed(request: u64, result: i32) {
    if result != -EADDRNOTAVAIL {
        return;
    }
    let request = request as *const u8;
    if !CONNECTING.contains(&Probe.read(request, IO_KIOCB_OPCODE.load())) {
        return;
    }
    let file: u64 = Probe.read(request, IO_KIOCB_FILE.load());
    let task = if task::is_kernel_thread() {
        Task::default()
    } else {
        task::current()
    };
    attempt_failed(task::sock_of_file(file), task, Address::OF_SOCKET);
}

#[inline(always)]
fn attempt_failed(sk: u64, task: Task, address: Address) {
    if let Some(sock) = port::tcp_socket(sk) {
        connect::ended(sock, task, address);
    }
}

/// The current thread leaves `bind()` to `address`, or `listen()`, which has none, on `fd`.
#[inline(always)]
pub(crate) fn bound(fd: u64, address: u64, result: i64) {
    if result == 0 {
        port::bound(port::tcp_socket(task::sock_of_fd(fd as u32)));
    }
    if result == IN_USE {
        let sock = port::tcp_socket(task::sock_of_fd(fd as u32));
        port::returned_refused(sock, Address::user(address));
    }
}

const IN_USE: i64 = -(EADDRINUSE as i64);

/// The current thread leaves `accept()` or `accept4()` with `result`, a descriptor or an error.
#[inline(always)]
pub(crate) fn accepted(result: i64) {
    if result < 0 {
        return;
    }
    port::accepted(task::sock_of_fd(result as u32));
}

/// `enum io_uring_op`, include/uapi/linux/io_uring.h.
const ACCEPT: u8 = 13;
const BIND: u8 = 56;
const LISTEN: u8 = 57;

/// io_uring completed `request` with `result`, as in [`completed`]. An accept that gives a direct descriptor, or
/// is one of many that one request makes, is not seen.
#[inline(always)]
pub(crate) fn completed_well(request: u64, result: i32) {
    if result < 0 || request == 0 || task::is_kernel_thread() {
        return;
    }
    let request = request as *const u8;
    match Probe.read(request, IO_KIOCB_OPCODE.load()) {
        ACCEPT => accepted(result.into()),
        BIND | LISTEN => {
            let file: u64 = Probe.read(request, IO_KIOCB_FILE.load());
            port::bound(port::tcp_socket(task::sock_of_file(file)));
        }
        _ => {}
    }
}

/// The kernel's copy of the address (`io_bind_prep`, io_uring/net.c), which is there until the request is freed, after
/// its completion. It is in a `struct io_async_msghdr`, or, in newer kernels, alone: that begins with a pointer, this
/// with an address family, which no aligned pointer ends like. 0 if it is neither.
#[inline(always)]
fn address_of_bind(request: *const u8) -> u64 {
    let data: u64 = Probe.read(request, IO_KIOCB_ASYNC_DATA.load());
    let inside = data + u64::from(IO_ASYNC_MSGHDR_ADDR.load());
    if is_address(data) {
        data
    } else if is_address(inside) {
        inside
    } else {
        0
    }
}

#[inline(always)]
fn is_address(at: u64) -> bool {
    matches!(Probe.read(at as *const u8, 0), AF_INET | AF_INET6)
}

/// io_uring completed `request` with `result`: BIND and LISTEN that fail.
#[inline(always)]
pub(crate) fn completed_refused(request: u64, result: i32) {
    if result != -EADDRINUSE || request == 0 || task::is_kernel_thread() {
        return;
    }
    let request = request as *const u8;
    let address = match Probe.read(request, IO_KIOCB_OPCODE.load()) {
        LISTEN => Address::OF_SOCKET,
        BIND => match address_of_bind(request) {
            0 => return,
            found => Address::kernel(found),
        },
        _ => return,
    };
    let file: u64 = Probe.read(request, IO_KIOCB_FILE.load());
    port::returned_refused(port::tcp_socket(task::sock_of_file(file)), address);
}
