//! The ABI between the kernel programs and user space.
//!
//! Both sides compile this file, so they cannot drift apart; sizes and offsets are asserted below.
//! Everything is `repr(C)`, made of integers only (bytes that the kernel side wrote are never
//! reinterpreted as a Rust `enum` or `bool`), with explicit padding, in native byte order unless a
//! field says otherwise.
#![cfg_attr(target_arch = "bpf", no_std)]

use core::mem::{offset_of, size_of};

/// Changes with every change of this file that old user space would misread. The object carries it
/// as the global `ABI`, and the loader compares.
pub const ABI_VERSION: u32 = 1;

/// `Event::kind`: a TCP state transition.
pub const KIND_STATE: u16 = 1;
/// `Event::kind`: `connect()` failed with `EADDRNOTAVAIL`, the kernel found no free port to choose.
pub const KIND_PORTS_EXHAUSTED: u16 = 2;
/// `Event::kind`: `connect()` failed with `EADDRNOTAVAIL`, the socket was bound to a source port
/// and its 4-tuple is taken.
pub const KIND_TUPLE_IN_USE: u16 = 3;
/// `Event::kind`: `connect()` failed with `EADDRNOTAVAIL` before a port was looked for: the host
/// has no source address for the destination.
pub const KIND_NO_SOURCE_ADDRESS: u16 = 4;

/// `Event::role`: not known, the socket is older than the tracer.
pub const ROLE_UNKNOWN: u8 = 0;
/// `Event::role`: called `connect()`.
pub const ROLE_CLIENT: u8 = 1;
/// `Event::role`: made by the kernel for an incoming connection.
pub const ROLE_SERVER: u8 = 2;
/// `Event::role`: called `listen()`.
pub const ROLE_LISTENER: u8 = 3;

/// `Event::owner`: nobody that the kernel side could name truthfully; `process` is all zero.
pub const OWNER_NONE: u8 = 0;
/// `Event::owner`: the task that called `connect()`.
pub const OWNER_CONNECT: u8 = 1;
/// `Event::owner`: the task that called `listen()`, which holds the bound port.
pub const OWNER_BIND: u8 = 2;

/// `TCP_*` of `include/net/tcp_states.h`; part of the kernel's ABI through `ss` and `/proc/net/tcp`.
pub mod tcp {
    pub const ESTABLISHED: u8 = 1;
    pub const SYN_SENT: u8 = 2;
    pub const SYN_RECV: u8 = 3;
    pub const FIN_WAIT1: u8 = 4;
    pub const FIN_WAIT2: u8 = 5;
    pub const TIME_WAIT: u8 = 6;
    pub const CLOSE: u8 = 7;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LAST_ACK: u8 = 9;
    pub const LISTEN: u8 = 10;
    pub const CLOSING: u8 = 11;
}

pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;
pub const IPPROTO_TCP: u16 = 6;
pub const EADDRNOTAVAIL: i32 = 99;

/// A 4-tuple. Aligned, so that the kernel side fills an address with two stores.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuple {
    /// Network byte order; IPv4 in the first four bytes, the rest zero.
    pub local: [u8; 16],
    /// As `local`.
    pub peer: [u8; 16],
    /// Host byte order; 0 when none was chosen.
    pub local_port: u16,
    /// Host byte order; 0 when unknown.
    pub peer_port: u16,
    /// `AF_INET` or `AF_INET6`, of the socket (IPv4-mapped addresses stay IPv6 here).
    pub family: u16,
    pub pad: u16,
}

/// The task that is accountable for a socket, as it was when it took the port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// Start of the process in nanoseconds since boot (`task_struct.start_boottime` of the thread
    /// group leader, since 5.5). With `pid` it identifies a process: a reused pid differs here.
    pub start_ns: u64,
    /// Id of the cgroup v2 directory.
    pub cgroup: u64,
    /// Process (thread group) id in the initial pid namespace; 0 with `OWNER_NONE`.
    pub pid: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// User id in the initial user namespace.
    pub uid: u32,
    pub pad: u32,
    /// Name of the process (of its main thread), NUL padded, any bytes.
    pub comm: [u8; 16],
}

/// One record in the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub kind: u16,
    /// `size_of::<Event>()`: tells a record of another ABI apart.
    pub size: u16,
    /// Positive errno of a failure, else 0.
    pub errno: i32,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub ts: u64,
    /// Address of the `struct sock`: an opaque key, unique among the sockets alive at one moment.
    pub sock: u64,
    /// The kernel's socket cookie, never reused; 0 where this kernel has not made one.
    pub cookie: u64,
    pub tuple: Tuple,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// State before, `tcp::*`.
    pub old: u8,
    /// State after, `tcp::*`.
    pub new: u8,
    pub role: u8,
    pub owner: u8,
    pub task: Task,
}

/// What the kernel side remembers of a socket between its events.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Socket {
    pub task: Task,
    pub role: u8,
    pub owner: u8,
    pub pad: u16,
    /// `tcp_sock.write_seq` at the transition to SYN_SENT.
    pub write_seq: u32,
}

/// Per-CPU counters of what could not be reported; `LOST` in the object.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Events for which the ring buffer had no room.
    pub ring: u64,
    /// Sockets for which the socket table had no room: their later events have no owner.
    pub table: u64,
}

const _: () = {
    assert!(size_of::<Tuple>() == 40);
    assert!(size_of::<Task>() == 48);
    assert!(size_of::<Event>() == 128);
    assert!(offset_of!(Event, tuple) == 32);
    assert!(offset_of!(Event, netns) == 72);
    assert!(offset_of!(Event, task) == 80);
    assert!(size_of::<Socket>() == 56);
    assert!(size_of::<Lost>() == 16);
};
