//! Facts of the running kernel, set by the loader before the programs are verified.
//!
//! The map behind them is frozen, so the verifier knows each value: a typed load at such an offset
//! is checked against the kernel's own BTF, and a branch on a flag that is off is removed.
//! The names are `STRUCT_FIELD`; the loader derives them from its table of BTF fields.

use aya_ebpf::Global;
use tracer_ebpf::ABI_VERSION;

macro_rules! globals {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr;)*) => {
        $($(#[$doc])* #[unsafe(no_mangle)] pub(crate) static $name: Global<$type> = Global::new($default);)*
    };
}

globals! {
    SOCK_COMMON_FAMILY: u32 = 0;
    SOCK_COMMON_DADDR: u32 = 0;
    SOCK_COMMON_RCV_SADDR: u32 = 0;
    SOCK_COMMON_V6_DADDR: u32 = 0;
    SOCK_COMMON_V6_RCV_SADDR: u32 = 0;
    SOCK_COMMON_DPORT: u32 = 0;
    SOCK_COMMON_COOKIE: u32 = 0;
    SOCK_COMMON_NET: u32 = 0;
    SOCK_COMMON_NUM: u32 = 0;
    SOCK_COMMON_STATE: u32 = 0;
    SOCK_COMMON_FLAGS: u32 = 0;
    SOCK_COMMON_HASH: u32 = 0;
    SOCK_COMMON_NULLS_NODE: u32 = 0;
    NET_INUM: u32 = 0;
    SOCK_PROTOCOL: u32 = 0;
    SOCK_TYPE: u32 = 0;
    SOCK_LOCK_OWNED: u32 = 0;
    SOCK_ERR: u32 = 0;
    SOCK_SHUTDOWN: u32 = 0;
    SOCK_USERLOCKS: u32 = 0;
    INET_SOCK_SPORT: u32 = 0;
    INET_SOCK_PORT_RANGE: u32 = 0;
    CONNECTION_SOCK_BIND_HASH: u32 = 0;
    BIND_BUCKET_PORT: u32 = 0;
    BIND_BUCKET_FASTREUSE: u32 = 0;
    BIND_BUCKET_FASTREUSEPORT: u32 = 0;
    TCP_SOCK_PACKETS_OUT: u32 = 0;
    TCP_SOCK_WRITE_SEQ: u32 = 0;
    TCP_SOCK_MSS_CLAMP: u32 = 0;
    TCP_SOCK_LINGER2: u32 = 0;
    TCP_SOCK_TS_RECENT_STAMP: u32 = 0;
    TCP_SOCK_BYTES_SENT: u32 = 0;
    TCP_SOCK_BYTES_RETRANS: u32 = 0;
    TCP_SOCK_BYTES_RECEIVED: u32 = 0;

    TIMEWAIT_SUBSTATE: u32 = 0;
    TIMEWAIT_SPORT: u32 = 0;
    TIMEWAIT_TIMER: u32 = 0;
    TIMEWAIT_BIND_BUCKET: u32 = 0;
    TIMEWAIT_TS_RECENT_STAMP: u32 = 0;
    /// Its place in bits: a bitfield.
    TIMEWAIT_CONNECT_BIND: u32 = 0;
    TIMER_EXPIRES: u32 = 0;
    TIMER_FUNCTION: u32 = 0;
    NET_HASHINFO: u32 = 0;
    NET_TIMEWAIT_COUNT: u32 = 0;
    NET_TIMEWAIT_MAX: u32 = 0;
    HASHINFO_EHASH: u32 = 0;
    HASHINFO_EHASH_MASK: u32 = 0;

    TASK_GROUP_LEADER: u32 = 0;
    TASK_START_BOOTTIME: u32 = 0;
    TASK_COMM: u32 = 0;
    TASK_FLAGS: u32 = 0;
    TASK_FILES: u32 = 0;
    TASK_PID: u32 = 0;
    TASK_TGID: u32 = 0;
    TASK_CRED: u32 = 0;
    TASK_CGROUPS: u32 = 0;
    CRED_UID: u32 = 0;
    CSS_SET_DFL_CGRP: u32 = 0;
    CGROUP_KN: u32 = 0;
    KERNFS_ID: u32 = 0;
    FILES_FDT: u32 = 0;
    FDTABLE_FD: u32 = 0;
    FDTABLE_MAX_FDS: u32 = 0;
    FILE_PRIVATE_DATA: u32 = 0;
    FILE_INODE: u32 = 0;
    INODE_MODE: u32 = 0;
    SOCKET_SK: u32 = 0;
    PT_REGS_DI: u32 = 0;
    PT_REGS_SI: u32 = 0;
    PT_REGS_DX: u32 = 0;
    PT_REGS_R10: u32 = 0;
    PT_REGS_R8: u32 = 0;
    PT_REGS_ORIG_AX: u32 = 0;
    IO_KIOCB_FILE: u32 = 0;
    IO_KIOCB_OPCODE: u32 = 0;
    IO_KIOCB_ASYNC_DATA: u32 = 0;
    IO_ASYNC_MSGHDR_ADDR: u32 = 0;

    /// Fields of the record of tracepoint io_uring:io_uring_complete, from its `format`.
    COMPLETE_REQ: u32 = 0;
    COMPLETE_RES: u32 = 0;

    /// 1 where tracing programs may call `bpf_get_socket_cookie` (since 5.12).
    HAS_SOCKET_COOKIE: u32 = 0;
    /// 1 where tracing programs get the current task under its type: `bpf_get_current_task_btf` (since 5.11).
    HAS_TASK_BTF: u32 = 0;
    /// 1 where they get its registers: `bpf_task_pt_regs` (since 5.15), on x86-64.
    HAS_TASK_REGISTERS: u32 = 0;
    /// The number of places in `PLACES` less one.
    LAST_PLACE: u32 = 0;

    /// 1: only sockets of the network namespaces in `NAMESPACES` are told of.
    ONLY_SOME_NETNS: u32 = 0;
    /// 1: who closed a socket, if not its owner, is not told.
    NO_CLOSERS: u32 = 0;
    /// 1: transitions in the midst of a connection are not told, `STEPS` has its state.
    NO_STEPS: u32 = 0;
}

/// In a section, and so in a map, of its own: the loader compares it, no program reads it.
#[used]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata.abi")]
static ABI: u32 = ABI_VERSION;
