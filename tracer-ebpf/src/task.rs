//! Tasks. Ask for the current one only where `current` is the task that asked for what happened;
//! in softirq it is whoever was interrupted.

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_get_smp_processor_id,
    generated::{
        bpf_get_current_cgroup_id, bpf_get_current_task, bpf_get_current_task_btf, bpf_task_pt_regs,
    },
};
use tracer_ebpf::Task;

use crate::{
    globals::*,
    sock::{Probe, Reader, Typed},
};

/// `task_struct.flags`: a kernel thread (include/linux/sched.h).
const PF_KTHREAD: u32 = 0x0020_0000;

/// Thread id in the initial pid namespace.
#[inline(always)]
pub(crate) fn tid() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

/// The CPU that this runs on.
#[inline(always)]
pub(crate) fn cpu() -> u32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_smp_processor_id() }
}

/// Process id in the initial pid namespace.
#[inline(always)]
pub(crate) fn pid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// `struct task_struct` of the current thread.
#[inline(always)]
fn address() -> *const u8 {
    // SAFETY: the helper has no preconditions.
    (unsafe { bpf_get_current_task() }) as *const u8
}

#[inline(always)]
pub(crate) fn is_kernel_thread() -> bool {
    let flags: u32 = if HAS_TASK_BTF.load() != 0 {
        Typed::ANY.read(typed(), TASK_FLAGS.load())
    } else {
        Probe.read(address(), TASK_FLAGS.load())
    };
    flags & PF_KTHREAD != 0
}

/// As [`address`], under its type. For branches on `HAS_TASK_BTF`.
#[inline(always)]
fn typed() -> *const u8 {
    // SAFETY: the helper has no preconditions.
    (unsafe { bpf_get_current_task_btf() }).cast()
}

/// A register of the current thread as it was when it entered the system call that it is in (x86-64: `entry_SYSCALL_64`,
/// arch/x86/entry/entry_64.S, keeps them until the return; the result has a place of its own). `at` is one of
/// `PT_REGS_*`. For branches on `HAS_TASK_REGISTERS`, and programs that need it.
#[inline(always)]
pub(crate) fn register(at: u32) -> u64 {
    // SAFETY: the helper takes the current task as it is.
    let registers = unsafe { bpf_task_pt_regs(typed().cast_mut().cast()) };
    Typed::ANY.read(registers as *const u8, at)
}

#[inline(always)]
pub(crate) fn current() -> Task {
    if HAS_TASK_BTF.load() != 0 {
        read_current(Typed::ANY, typed())
    } else {
        read_current(Probe, address())
    }
}

/// What no helper tells is read at `task`, the current one.
#[inline(always)]
fn read_current<R: Reader>(reader: R, task: *const u8) -> Task {
    let leader: u64 = reader.read(task, TASK_GROUP_LEADER.load());
    let leader = leader as *const u8;
    let thread = bpf_get_current_pid_tgid();
    let [low, high]: [u64; 2] = reader.read(leader, TASK_COMM.load());
    Task {
        start_ns: reader.read(leader, TASK_START_BOOTTIME.load()),
        // SAFETY: the helper has no preconditions.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        pid: (thread >> 32) as u32,
        tid: thread as u32,
        uid: current_uid(task),
        pad: 0,
        comm: (u128::from(high) << 64 | u128::from(low)).to_ne_bytes(),
    }
}

/// Typed loads take a tenth of the helper's time, other reads more than it. (`current_uid`, include/linux/cred.h.)
#[inline(always)]
fn current_uid(task: *const u8) -> u32 {
    if HAS_TASK_BTF.load() == 0 {
        return bpf_get_current_uid_gid() as u32;
    }
    let cred: u64 = Typed::ANY.read(task, TASK_CRED.load());
    Typed::ANY.read(cred as *const u8, CRED_UID.load())
}

/// Describes another task than the current one.
#[inline(always)]
pub(crate) fn describe(task: *const u8, to: &mut Task) {
    let leader: u64 = Probe.read(task, TASK_GROUP_LEADER.load());
    let leader = leader as *const u8;
    let cred: u64 = Probe.read(task, TASK_CRED.load());
    to.start_ns = Probe.read(leader, TASK_START_BOOTTIME.load());
    to.cgroup = cgroup(task);
    to.pid = Probe.read(task, TASK_TGID.load());
    to.tid = Probe.read(task, TASK_PID.load());
    to.uid = Probe.read(cred as *const u8, CRED_UID.load());
    to.comm = Probe.read(leader, TASK_COMM.load());
}

/// As `bpf_get_current_cgroup_id` has it: `task_dfl_cgroup` (include/linux/cgroup.h).
#[inline(always)]
fn cgroup(task: *const u8) -> u64 {
    let set: u64 = Probe.read(task, TASK_CGROUPS.load());
    let cgroup: u64 = Probe.read(set as *const u8, CSS_SET_DFL_CGRP.load());
    let node: u64 = Probe.read(cgroup as *const u8, CGROUP_KN.load());
    Probe.read(node as *const u8, KERNFS_ID.load())
}

/// The `struct sock` behind file descriptor `fd` of the current process: 0 if there is none.
#[inline(always)]
pub(crate) fn sock_of_fd(fd: u32) -> u64 {
    if HAS_TASK_BTF.load() != 0 {
        sock_in(Typed::ANY, typed(), fd)
    } else {
        sock_in(Probe, address(), fd)
    }
}

#[inline(always)]
fn sock_in<R: Reader>(reader: R, task: *const u8, fd: u32) -> u64 {
    let files: u64 = reader.read(task, TASK_FILES.load());
    let table: u64 = reader.read(files as *const u8, FILES_FDT.load());
    let table = table as *const u8;
    if fd >= reader.read::<u32>(table, FDTABLE_MAX_FDS.load()) {
        return 0;
    }
    let array: u64 = reader.read(table, FDTABLE_FD.load());
    sock_of_file(Probe.read((array + u64::from(fd) * 8) as *const u8, 0))
}

/// The `struct sock` behind a `struct file` that is known to be a socket.
#[inline(always)]
pub(crate) fn sock_of_file(file: u64) -> u64 {
    let socket: u64 = Probe.read(file as *const u8, FILE_PRIVATE_DATA.load());
    Probe.read(socket as *const u8, SOCKET_SK.load())
}
