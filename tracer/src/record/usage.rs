//! Who has how many ports, and the whole in numbers.

use std::{collections::BTreeMap, net::IpAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::WholeProcess;
use crate::{
    event::{Endpoint, State},
    ledger::{self, Totals},
};

/// What one process has in one network namespace, and what it did there since its last such line.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Usage<'a> {
    /// Seconds that `opened`, `closed` and `failed` are counted over.
    pub interval_s: f64,
    /// Null: sockets that nobody can be named for truthfully. There is one such line for a namespace.
    pub process: Option<WholeProcess<'a>>,
    /// Whether the process has ended; its ports in TIME_WAIT stay taken. Left out without a process, and
    /// where tracer is in a pid namespace that hides it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exited: Option<bool>,
    /// Inode number of the network namespace.
    pub netns: u32,
    pub ports: Ports,
    /// Accepted connections: they share their listener's port, and take none. Left out when there are none.
    #[serde(skip_serializing_if = "Serving::is_empty", default)]
    pub serving: Serving,
    /// Connections that came to ESTABLISHED.
    pub opened: u64,
    /// Connections that had, and were closed (TIME_WAIT not waited for).
    pub closed: u64,
    /// Connects that failed for want of a local address or port.
    pub failed: u64,
    /// The destinations with most ports, most first.
    pub top: Vec<Destination>,
    /// Without a process: seconds until the last TIME_WAIT that is older than the tracer is due. Who
    /// opened those can't be known; after that none is left. Left out when there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_in_s: Option<f64>,
}

/// Ports that are taken, by the state of their sockets.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Ports {
    /// The sum of the others.
    pub total: u64,
    /// By state; those that are 0 are left out.
    #[serde(flatten)]
    pub states: BTreeMap<State, u64>,
    /// Held by a bound socket that is not connected, listeners included.
    pub bound: u64,
}

/// Connections by state; those that are 0 are left out.
#[derive(Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Serving {
    /// The sum of the others.
    pub total: u64,
    #[serde(flatten)]
    pub states: BTreeMap<State, u64>,
}

/// Where ports lead.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Destination {
    pub local_ip: IpAddr,
    pub peer: Endpoint,
    pub ports: u64,
    /// How many of them are in TIME_WAIT.
    pub time_wait: u64,
}

/// What tracer knows, in numbers. Follows each round of `usage` lines.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Ledger {
    /// All that is known, timewait sockets and bound ones included.
    pub sockets: u64,
    pub timewait: u64,
    /// Those that only hold a bound port.
    pub bound: u64,
    /// Those that nobody can be named for truthfully.
    pub unowned: u64,
    /// Processes that have a socket, or had one that is in TIME_WAIT.
    pub processes: u64,
    /// Network namespaces with a socket.
    pub netns: u64,
    /// How often this was compared with the kernel's sockets, after the first time.
    pub resyncs: u64,
    /// Differences that these comparisons found, and corrected.
    pub corrected: u64,
    /// Connections of this run that got no TIME_WAIT, because `tcp_max_tw_buckets` was reached.
    pub overflow: u64,
    /// The kernel-side socket table. Left out when it can't be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<Table>,
    /// On the first such line only: what was there when tracer started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seeded: Option<Seeded>,
}

/// Sockets in the kernel-side table, and how many fit (`--max-sockets`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Table {
    pub used: u64,
    pub size: u64,
}

/// The first reading of the kernel's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Seeded {
    pub sockets: u64,
    pub timewait: u64,
    /// Those whose process is known.
    pub owned: u64,
    /// Network namespaces that were read.
    pub netns: u64,
    /// Milliseconds that it took.
    pub ms: f64,
}

impl Ports {
    pub fn new(mut states: BTreeMap<State, u64>, bound: u64) -> Self {
        states.retain(|_, count| *count > 0);
        Self {
            total: states.values().sum::<u64>() + bound,
            states,
            bound,
        }
    }
}

impl Serving {
    pub fn new(mut states: BTreeMap<State, u64>) -> Self {
        states.retain(|_, count| *count > 0);
        Self {
            total: states.values().sum(),
            states,
        }
    }

    fn is_empty(&self) -> bool {
        self.states.is_empty()
    }
}

impl From<ledger::Destination> for Destination {
    fn from(destination: ledger::Destination) -> Self {
        Self {
            local_ip: destination.local_ip,
            peer: destination.peer,
            ports: destination.ports,
            time_wait: destination.time_wait,
        }
    }
}

impl From<Totals> for Ledger {
    /// The rest as for a run that has just begun.
    fn from(totals: Totals) -> Self {
        Self {
            sockets: totals.sockets,
            timewait: totals.timewait,
            bound: totals.bound,
            unowned: totals.unowned,
            processes: totals.processes,
            netns: totals.netns,
            resyncs: 0,
            corrected: 0,
            overflow: 0,
            table: None,
            seeded: None,
        }
    }
}
