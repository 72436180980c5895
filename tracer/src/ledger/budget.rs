//! How many more connects to a destination will succeed, and who has the other ports.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    event::{Endpoint, State, Task},
    pool::{Rules, Settings},
};

/// The ports of a range, from one destination's view. `range` is the sum of `reserved`, `bound`, `in_use` and `free`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// First and last port, both inclusive.
    pub ports: (u16, u16),
    /// How many those are.
    pub range: u32,
    /// In `ip_local_reserved_ports`.
    pub reserved: u32,
    /// Somebody has bound them: closed to every destination.
    pub bound: u32,
    /// Their 4-tuple to this destination is taken.
    pub in_use: u32,
    /// Of `in_use`: in TIME_WAIT.
    pub time_wait: u32,
    /// Of `free`: TIME_WAIT that gives way to a new connection (`tcp_tw_reuse`).
    pub reusable: u32,
    /// So many connects will succeed.
    pub free: u32,
    /// One of `free` may never be tried: the range has an odd number of ports, and the kernel looks at pairs.
    pub uncertain: bool,
}

/// Who has ports of a budget; [`Budget::in_use`] and [`Budget::bound`] are the sums of all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Holder<'a> {
    /// `None`: nobody can be named truthfully.
    pub task: Option<&'a Task>,
    pub ports: u32,
    /// By the state of the socket that has the port; bound ones that are not connected are in `bound`.
    pub states: BTreeMap<State, u32>,
    pub bound: u32,
}

/// What to look for.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    pub netns: u32,
    pub local_ip: IpAddr,
    pub peer: Endpoint,
    pub settings: &'a Settings,
    pub rules: Rules,
    /// IP_LOCAL_PORT_RANGE of the socket.
    pub socket_range: Option<(u16, u16)>,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub now: u64,
}
