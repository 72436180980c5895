//! Where the running kernel keeps the fields that the programs read.

use super::btf::{Btf, Error};

/// Value of a kernel-side global (`globals.rs` of tracer-ebpf).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Global {
    pub name: &'static str,
    pub value: u32,
}

/// A field that programs read.
struct Field {
    global: &'static str,
    structure: &'static str,
    path: &'static str,
    /// Bytes that are loaded at once.
    width: u32,
    /// Whether a kernel may lack it.
    optional: bool,
}

const fn field(
    global: &'static str,
    structure: &'static str,
    path: &'static str,
    width: u32,
) -> Field {
    Field {
        global,
        structure,
        path,
        width,
        optional: false,
    }
}

const fn optional(
    global: &'static str,
    structure: &'static str,
    path: &'static str,
    width: u32,
) -> Field {
    Field {
        optional: true,
        ..field(global, structure, path, width)
    }
}

const FIELDS: &[Field] = &[
    field("SOCK_COMMON_FAMILY", "sock_common", "skc_family", 2),
    field("SOCK_COMMON_DADDR", "sock_common", "skc_daddr", 4),
    field("SOCK_COMMON_RCV_SADDR", "sock_common", "skc_rcv_saddr", 4),
    field("SOCK_COMMON_V6_DADDR", "sock_common", "skc_v6_daddr", 16),
    field(
        "SOCK_COMMON_V6_RCV_SADDR",
        "sock_common",
        "skc_v6_rcv_saddr",
        16,
    ),
    field("SOCK_COMMON_DPORT", "sock_common", "skc_dport", 2),
    field("SOCK_COMMON_COOKIE", "sock_common", "skc_cookie", 8),
    field("SOCK_COMMON_NET", "sock_common", "skc_net.net", 8),
    field("SOCK_COMMON_NUM", "sock_common", "skc_num", 2),
    field("SOCK_COMMON_STATE", "sock_common", "skc_state", 1),
    field("SOCK_COMMON_FLAGS", "sock_common", "skc_flags", 8),
    field("SOCK_COMMON_HASH", "sock_common", "skc_hash", 4),
    field(
        "SOCK_COMMON_NULLS_NODE",
        "sock_common",
        "skc_nulls_node",
        16,
    ),
    field("NET_INUM", "net", "ns.inum", 4),
    field("SOCK_PROTOCOL", "sock", "sk_protocol", 2),
    field("SOCK_TYPE", "sock", "sk_type", 2),
    field("SOCK_LOCK_OWNED", "sock", "sk_lock.owned", 4),
    field("SOCK_ERR", "sock", "sk_err", 4),
    field("SOCK_SHUTDOWN", "sock", "sk_shutdown", 1),
    // A bitfield before 6.7; only what is there since 6.18 is looked for.
    optional("SOCK_USERLOCKS", "sock", "sk_userlocks", 1),
    field("INET_SOCK_SPORT", "inet_sock", "inet_sport", 2),
    // Since 6.3 and its backports.
    optional("INET_SOCK_PORT_RANGE", "inet_sock", "local_port_range", 4),
    field(
        "CONNECTION_SOCK_BIND_HASH",
        "inet_connection_sock",
        "icsk_bind_hash",
        8,
    ),
    field("BIND_BUCKET_PORT", "inet_bind_bucket", "port", 2),
    field("BIND_BUCKET_FASTREUSE", "inet_bind_bucket", "fastreuse", 1),
    field(
        "BIND_BUCKET_FASTREUSEPORT",
        "inet_bind_bucket",
        "fastreuseport",
        1,
    ),
    field("TCP_SOCK_PACKETS_OUT", "tcp_sock", "packets_out", 4),
    field("TCP_SOCK_WRITE_SEQ", "tcp_sock", "write_seq", 4),
    field("TCP_SOCK_MSS_CLAMP", "tcp_sock", "rx_opt.mss_clamp", 2),
    field("TCP_SOCK_LINGER2", "tcp_sock", "linger2", 4),
    field(
        "TCP_SOCK_TS_RECENT_STAMP",
        "tcp_sock",
        "rx_opt.ts_recent_stamp",
        4,
    ),
    field("TCP_SOCK_BYTES_SENT", "tcp_sock", "bytes_sent", 8),
    field("TCP_SOCK_BYTES_RETRANS", "tcp_sock", "bytes_retrans", 8),
    field("TCP_SOCK_BYTES_RECEIVED", "tcp_sock", "bytes_received", 8),
    field("TIMEWAIT_SUBSTATE", "inet_timewait_sock", "tw_substate", 1),
    field("TIMEWAIT_SPORT", "inet_timewait_sock", "tw_sport", 2),
    field("TIMEWAIT_TIMER", "inet_timewait_sock", "tw_timer.entry", 16),
    field("TIMEWAIT_BIND_BUCKET", "inet_timewait_sock", "tw_tb", 8),
    field(
        "TIMEWAIT_TS_RECENT_STAMP",
        "tcp_timewait_sock",
        "tw_ts_recent_stamp",
        4,
    ),
    field("TIMER_EXPIRES", "timer_list", "expires", 8),
    field("TIMER_FUNCTION", "timer_list", "function", 8),
    // Between 5.17 and 6.0 the death row is behind a pointer; only the tracepoint rung needs it.
    optional("NET_HASHINFO", "net", "ipv4.tcp_death_row.hashinfo", 8),
    // Since 6.0 one more than the count.
    optional(
        "NET_TIMEWAIT_COUNT",
        "net",
        "ipv4.tcp_death_row.tw_refcount",
        4,
    ),
    optional(
        "NET_TIMEWAIT_COUNT",
        "net",
        "ipv4.tcp_death_row.tw_count",
        4,
    ),
    optional(
        "NET_TIMEWAIT_MAX",
        "net",
        "ipv4.tcp_death_row.sysctl_max_tw_buckets",
        4,
    ),
    field("HASHINFO_EHASH", "inet_hashinfo", "ehash", 8),
    field("HASHINFO_EHASH_MASK", "inet_hashinfo", "ehash_mask", 4),
    field("TASK_GROUP_LEADER", "task_struct", "group_leader", 8),
    field("TASK_START_BOOTTIME", "task_struct", "start_boottime", 8),
    field("TASK_COMM", "task_struct", "comm", 16),
    field("TASK_FLAGS", "task_struct", "flags", 4),
    field("TASK_FILES", "task_struct", "files", 8),
    field("TASK_PID", "task_struct", "pid", 4),
    field("TASK_TGID", "task_struct", "tgid", 4),
    field("TASK_CRED", "task_struct", "cred", 8),
    field("TASK_CGROUPS", "task_struct", "cgroups", 8),
    field("CRED_UID", "cred", "uid", 4),
    field("CSS_SET_DFL_CGRP", "css_set", "dfl_cgrp", 8),
    field("CGROUP_KN", "cgroup", "kn", 8),
    field("KERNFS_ID", "kernfs_node", "id", 8),
    field("FILES_FDT", "files_struct", "fdt", 8),
    field("FDTABLE_FD", "fdtable", "fd", 8),
    field("FDTABLE_MAX_FDS", "fdtable", "max_fds", 4),
    field("FILE_PRIVATE_DATA", "file", "private_data", 8),
    field("FILE_INODE", "file", "f_inode", 8),
    field("INODE_MODE", "inode", "i_mode", 2),
    field("SOCKET_SK", "socket", "sk", 8),
    // As x86-64 has them.
    optional("PT_REGS_DI", "pt_regs", "di", 8),
    optional("PT_REGS_SI", "pt_regs", "si", 8),
    optional("PT_REGS_DX", "pt_regs", "dx", 8),
    optional("PT_REGS_R10", "pt_regs", "r10", 8),
    optional("PT_REGS_R8", "pt_regs", "r8", 8),
    optional("PT_REGS_ORIG_AX", "pt_regs", "orig_ax", 8),
    // Absent from a kernel without io_uring, which then has no such completions either.
    optional("IO_KIOCB_FILE", "io_kiocb", "file", 8),
    optional("IO_KIOCB_OPCODE", "io_kiocb", "opcode", 1),
    optional("IO_KIOCB_ASYNC_DATA", "io_kiocb", "async_data", 8),
    optional("IO_ASYNC_MSGHDR_ADDR", "io_async_msghdr", "addr", 128),
];

/// A bit, so that programs get its place in bits (since 6.18).
const CONNECT_BIND: &str = "tw_connect_bind";

/// Looks all fields up; the error names the first mandatory one that this kernel lacks.
pub fn read(btf: &Btf) -> Result<Vec<Global>, Error> {
    let mut globals = Vec::with_capacity(FIELDS.len());
    for field in FIELDS {
        match btf.offset(field.structure, field.path, field.width) {
            Ok(value) => globals.push(Global {
                name: field.global,
                value,
            }),
            Err(_) if field.optional => {}
            Err(error) => return Err(error),
        }
    }
    if let Ok(value) = btf.bit("inet_timewait_sock", CONNECT_BIND) {
        globals.push(Global {
            name: "TIMEWAIT_CONNECT_BIND",
            value,
        });
    }
    Ok(globals)
}
