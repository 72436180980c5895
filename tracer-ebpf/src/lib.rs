//! The ABI between the kernel programs and user space.
//!
//! Both sides compile this file, so they cannot drift apart; sizes and offsets are asserted below.
//! Everything is `repr(C)`, made of integers only (bytes that the kernel side wrote are never
//! reinterpreted as a Rust `enum` or `bool`), with explicit padding, in native byte order unless a
//! field says otherwise.
#![cfg_attr(target_arch = "bpf", no_std)]

use core::{
    mem::{offset_of, size_of},
    ops::{Deref, DerefMut},
};

/// Changes with every change of this file that old user space would misread. The object carries it
/// as the global `ABI`, and the loader compares.
pub const ABI_VERSION: u32 = 6;

/// `Head::kind`: a TCP state transition.
pub const KIND_STATE: u16 = 1;
/// `Head::kind`: `connect()` failed with `EADDRNOTAVAIL`, the kernel found no free port to choose.
pub const KIND_PORTS_EXHAUSTED: u16 = 2;
/// `Head::kind`: `connect()` failed with `EADDRNOTAVAIL`, the socket was bound to a source port
/// and its 4-tuple is taken.
pub const KIND_TUPLE_IN_USE: u16 = 3;
/// `Head::kind`: `connect()` failed with `EADDRNOTAVAIL` before a port was looked for: the host
/// has no source address for the destination.
pub const KIND_NO_SOURCE_ADDRESS: u16 = 4;
/// `Head::kind`: `bind()`, or `listen()` without it, gave the socket the port `tuple.held`.
pub const KIND_BOUND: u16 = 5;
/// `Head::kind`: a socket that held a port of its own is destroyed; the port is free microseconds later.
pub const KIND_RELEASED: u16 = 6;
/// `Head::kind`: `task` accepted the connection, which is over if it holds no port.
pub const KIND_ACCEPTED: u16 = 7;
/// `Head::kind`: `task`, which is not the owner, closed the socket or shut down its sending side.
pub const KIND_CLOSED_BY: u16 = 8;
/// `Head::kind`: a socket that connects has got its local port, and waits for the answer.
pub const KIND_PORT: u16 = 11;
/// `Head::kind`, in a dump: a socket that the kernel has, with its state in `new`.
pub const KIND_SOCKET: u16 = 9;
/// `Head::kind`, in a dump: `task` has a descriptor of the socket.
pub const KIND_HOLDER: u16 = 10;

/// `Head::kind`: `bind()`, or `listen()` without it, failed with `EADDRINUSE`: `tuple.local_port` is the port that was
/// asked for, 0: any; with `new` LISTEN it was `listen()`.
pub const KIND_BIND_FAILED: u16 = 12;

/// `Event::facts`: the connection uses TCP timestamps, so that its timewait socket may be reused.
pub const FACT_TIMESTAMPS: u32 = 1;
/// `Event::facts`, in a dump: somebody has bound the port (`inet_bind_bucket`), and no `connect()` chooses it.
pub const FACT_BIND_MODE: u32 = 2;
/// `Event::facts`, in a dump: only `connect()` has chosen the port. With neither of both it has none, or it is not
/// known.
pub const FACT_CONNECT_MODE: u32 = 4;
/// `Event::facts`, in a dump: `connect()` chose the socket's port (SOCK_CONNECT_BIND, since 6.18).
pub const FACT_CONNECT_BIND: u32 = 8;
/// `Event::facts`, in a dump: this kernel has no SOCK_CONNECT_BIND.
pub const FACT_NO_CONNECT_BIND: u32 = 16;
/// `Event::facts`, of a transition to CLOSE: the peer's FIN was still to come, or to be waited for in TIME_WAIT, and the
/// kernel has given the connection up instead, without an error.
pub const FACT_GIVEN_UP: u32 = 32;

/// `Head::role`: not known, the socket is older than the tracer.
pub const ROLE_UNKNOWN: u8 = 0;
/// `Head::role`: called `connect()`.
pub const ROLE_CLIENT: u8 = 1;
/// `Head::role`: made by the kernel for an incoming connection.
pub const ROLE_SERVER: u8 = 2;
/// `Head::role`: called `listen()`.
pub const ROLE_LISTENER: u8 = 3;

/// `Head::owner`: nobody that the kernel side could name truthfully; `process` is all zero.
pub const OWNER_NONE: u8 = 0;
/// `Head::owner`: the task that called `connect()`.
pub const OWNER_CONNECT: u8 = 1;
/// `Head::owner`: the task that called `listen()`, which holds the bound port.
pub const OWNER_BIND: u8 = 2;
/// `Head::owner`: the task that called `accept()`.
pub const OWNER_ACCEPT: u8 = 3;

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

/// To so many network namespaces the events can be limited.
pub const MAX_NAMESPACES: u32 = 64;

pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;
pub const IPPROTO_TCP: u16 = 6;
pub const EADDRNOTAVAIL: i32 = 99;
pub const EADDRINUSE: i32 = 98;

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
    /// `skc_num`, host byte order: the port that the socket itself holds, 0 when none. After the
    /// transition to CLOSE only a socket bound to an explicit port still holds it (SOCK_BINDPORT_LOCK).
    pub held: u16,
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

/// What every record begins with. Most in the ring buffer are no more than that: a transition in the midst of a
/// connection tells nothing of its owner, which the first record and those of `KIND_ACCEPTED` and the end do.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub kind: u16,
    /// Of the record: `size_of` a `Head` or an `Event`, which also tells a record of another ABI apart.
    pub size: u16,
    /// Positive errno of a failure; of a transition to CLOSE `sk_err`; else 0.
    pub errno: i32,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub ts: u64,
    /// Address of the `struct sock`, or of the `struct inet_timewait_sock`: an opaque key, unique among those
    /// alive at one moment.
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
    /// How `Event::task` is known; `OWNER_NONE` in a record that has none.
    pub owner: u8,
}

/// A record with all that may be said.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub head: Head,
    /// Address of the timewait socket that takes the place of `sock` with this transition, `new` being
    /// FIN_WAIT2 or TIME_WAIT; of such a socket in a dump its own address; else 0.
    pub timewait: u64,
    /// Of a transition to CLOSE or to a timewait socket: bytes of payload sent, not counting what was
    /// sent again. Of a timewait socket in a dump: jiffies until it is due.
    pub sent: u64,
    /// Of a transition to CLOSE or to a timewait socket: bytes of payload received in order.
    pub received: u64,
    pub task: Task,
    /// Bits, `FACT_*`: in a dump, and with the transition to CLOSE or to a timewait socket; else 0.
    pub facts: u32,
    /// Of a failed attempt to get a port: IP_LOCAL_PORT_RANGE of the socket, both ends inclusive; 0: no such end.
    pub range_low: u16,
    pub range_high: u16,
}

impl Deref for Event {
    type Target = Head;

    #[inline(always)]
    fn deref(&self) -> &Head {
        &self.head
    }
}

impl DerefMut for Event {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Head {
        &mut self.head
    }
}

/// What the kernel side remembers of a socket between its events.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Socket {
    pub task: Task,
    pub role: u8,
    pub owner: u8,
    /// The port that it was bound to at the transition to SYN_SENT or LISTEN, in host byte order; 0: none.
    pub bound_port: u16,
    /// `tcp_sock.write_seq` at that transition.
    pub write_seq: u32,
    /// The timewait socket that takes its place, once it is made; else 0.
    pub timewait: u64,
    /// As `Head::cookie`; 0 while it is not known.
    pub cookie: u64,
    /// As in `Head::tuple`; 0 while they are not known. With the cookie they tell when the entry is that of a
    /// socket which had this address before, and whose end was missed.
    pub local_port: u16,
    pub peer_port: u16,
    /// What it showed as its local port at that transition, in host byte order: the one of an earlier connection,
    /// unless it was bound to it.
    pub past_port: u16,
    pub pad: u16,
}

/// At most so many are in the map `PLACES`: more than most hosts have connections, TIME_WAIT aside, that are open at
/// once. A power of two.
pub const PLACES: u32 = 1 << 14;

/// Where a socket's entry is, if nobody else was there before.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// 1: somebody has this place; more: and others try to.
    pub claims: u64,
    /// Who has it, as `Head::sock`; else 0.
    pub sock: u64,
    pub socket: Socket,
}

/// So many are in the map `STEPS`.
pub const STEPS: u32 = 1 << 16;

/// Where a connection is whose transitions are not told one by one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// As `Head::sock`; 0: nobody has this place.
    pub sock: u64,
    /// Of the socket, which tell whether it is still the same one at that address.
    pub ports: u32,
    /// `tcp::*`.
    pub state: u32,
}

impl Step {
    /// `ports`, from both in host byte order.
    #[inline(always)]
    pub const fn ports(local: u16, peer: u16) -> u32 {
        (local as u32) << 16 | peer as u32
    }
}

/// Per-CPU counters; `COUNTERS` in the object.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Lost: events for which the ring buffer had no room.
    pub ring: u64,
    /// Sockets for which the socket table had no room: their later events have no owner.
    pub table: u64,
    /// Timewait sockets that must be there and were not found: their ends will not be understood.
    pub timewait: u64,
    /// Connections that got no TIME_WAIT, because the kernel has `tcp_max_tw_buckets` already.
    pub overflow: u64,
    /// Not lost: transitions in the midst of another one on that CPU, for which the kernel skipped the program that
    /// sees to that one, and a second program stood in.
    pub nested: u64,
    /// Entries made in the socket table less those removed, modulo 2^64: only the sum over the CPUs means
    /// something.
    pub entries: u64,
}

const _: () = {
    assert!(size_of::<Tuple>() == 40);
    assert!(size_of::<Task>() == 48);
    assert!(size_of::<Head>() == 80);
    assert!(offset_of!(Head, tuple) == 32);
    assert!(offset_of!(Head, netns) == 72);
    assert!(size_of::<Event>() == 160);
    assert!(offset_of!(Event, task) == 104);
    assert!(offset_of!(Event, facts) == 152);
    assert!(size_of::<Socket>() == 80);
    assert!(size_of::<Place>() == 96);
    assert!(size_of::<Counters>() == 48);
    assert!(size_of::<Step>() == 16);
};
