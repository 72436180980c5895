//! Calls that failed for want of a local address or port, and why.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::{KnownSocket, Process, Socket, WholeProcess, units::is_false, units::rfc3339_or_null};
use crate::{
    diagnosis::advice::Advice,
    event::{Endpoint, Family, Owner, Reason, State},
    ledger,
};

/// A `connect()` that failed because of its local address or port.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ConnectFailed<'a> {
    #[serde(flatten)]
    pub socket: Socket,
    pub errno: i32,
    pub error: &'static str,
    pub reason: Reason,
    pub process: Option<Process<'a>>,
    pub owner: Owner,
    /// IP_LOCAL_PORT_RANGE of the socket: first and last port. Left out when it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_range: Option<[u16; 2]>,
    #[serde(flatten)]
    pub told: Told<'a>,
}

/// A `bind()`, or a `listen()` without it, that failed because its port is taken, or every port is.
#[derive(Debug, Serialize, JsonSchema)]
pub struct BindFailed<'a> {
    /// Inode number of the network namespace.
    pub netns: u32,
    pub family: Family,
    /// The address that was asked for; port null: any.
    pub local: Endpoint,
    pub errno: i32,
    pub error: &'static str,
    pub reason: BindReason,
    /// `listen()` called for a port.
    pub listen: bool,
    pub process: Option<Process<'a>>,
    pub owner: Owner,
    /// IP_LOCAL_PORT_RANGE of the socket: first and last port. Left out when it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_range: Option<[u16; 2]>,
    #[serde(flatten)]
    pub told: Told<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BindReason {
    /// No port of the range is left for this address.
    PortsExhausted,
    /// Somebody has the port that was asked for.
    AddressInUse,
}

/// What is told of a failure: all, or which line tells it.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Told<'a> {
    /// How often this process has failed with this so far, this time included.
    pub failures_so_far: u64,
    /// Only with `--coalesce-failures`: so many failures this line stands for, its own included. Left out: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeats: Option<u64>,
    /// `seq` of the line that explains this failure too; such a line comes with the first failure of a process, and
    /// then at most once a second. Left out of that line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explained_by: Option<u64>,
    /// What it was about ports. Left out with `explained_by`, where that is not what failed, and where the settings of
    /// the network namespace can't be read.
    #[serde(flatten)]
    pub shortage: Option<Shortage<'a>>,
    /// The socket that has the port or 4-tuple that was asked for. Left out when it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_by: Option<Box<KnownSocket<'a>>>,
    /// What to change, best first, and last what not to. Left out with `explained_by`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<Vec<Advice>>,
}

/// The ports at that moment.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Shortage<'a> {
    pub budget: Budget,
    /// Who has the ports, most first: ten processes, and the others in one more.
    pub holders: Vec<Holder<'a>>,
    /// When less than half of the ports was last taken for this destination; null: that was before the run began, or never since.
    #[serde(serialize_with = "rfc3339_or_null")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub since: Option<Timestamp>,
    /// True: events were lost, or the first comparison with the kernel's sockets is not over, so some may be missing
    /// here. Left out else.
    #[serde(skip_serializing_if = "is_false", default)]
    pub incomplete: bool,
}

/// The ports of a range, from the view of one destination (for `bind()`: of one local address). `range` is the
/// sum of `reserved`, `bound`, `in_use` and `free`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Budget {
    /// First and last port that are tried.
    pub ports: [u16; 2],
    /// How many those are.
    pub range: u32,
    /// In `ip_local_reserved_ports`.
    pub reserved: u32,
    /// Bound by somebody: closed to every destination.
    pub bound: u32,
    /// Their 4-tuple to this destination is taken.
    pub in_use: u32,
    /// Of `in_use`: in TIME_WAIT.
    pub time_wait: u32,
    /// Of `free`: TIME_WAIT that gives way to a new connection (`tcp_tw_reuse`).
    pub reusable: u32,
    /// So many connects will succeed.
    pub free: u32,
    /// True: the range has an odd number of ports, and the kernel, which looks at pairs, may never try the last
    /// free one: then one connect fewer succeeds. Left out else.
    #[serde(skip_serializing_if = "is_false", default)]
    pub uncertain: bool,
}

/// Who has ports of a budget. All of them add up to `in_use` and `bound`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Holder<'a> {
    /// Null: sockets that nobody can be named for truthfully, or several processes.
    pub process: Option<WholeProcess<'a>>,
    /// Whether the process has ended; its ports in TIME_WAIT stay taken. Left out without a process, and
    /// where tracer is in a pid namespace that hides it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exited: Option<bool>,
    /// This row is for so many processes, those with the fewest ports. Left out of the other rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub others: Option<u32>,
    pub ports: u32,
    /// By the state of the socket that has the port.
    pub states: BTreeMap<State, u32>,
    /// By sockets that only hold the port, listeners included.
    pub bound: u32,
}

impl From<ledger::Budget> for Budget {
    fn from(budget: ledger::Budget) -> Self {
        Self {
            ports: budget.ports.into(),
            range: budget.range,
            reserved: budget.reserved,
            bound: budget.bound,
            in_use: budget.in_use,
            time_wait: budget.time_wait,
            reusable: budget.reusable,
            free: budget.free,
            uncertain: budget.uncertain,
        }
    }
}
