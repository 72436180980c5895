//! What the simulation knows of itself, counted apart from the tracer's code. Times are nanoseconds of Unix time.

use std::collections::BTreeMap;

use serde::Serialize;
use tracer::event::Endpoint;

use super::people::Process;

/// Begin of every simulation: 2026-01-01T00:00:00Z, nanoseconds.
pub(crate) const EPOCH: i64 = 1_767_225_600_000_000_000;
pub(super) const SECOND: u64 = 1_000_000_000;

#[derive(Debug, Default, Serialize)]
pub(crate) struct Truth {
    pub(crate) bytes: u64,
    pub(crate) lines: u64,
    pub(crate) hosts: Vec<HostTruth>,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct HostTruth {
    pub(crate) host: String,
    pub(crate) lines: u64,
    pub(crate) connect_failures: u64,
    pub(crate) bind_failures: u64,
    /// Of `loss` lines.
    pub(crate) lost: u64,
    /// When the new version came.
    pub(crate) deploy: Option<i64>,
    pub(crate) processes: Vec<ProcessTruth>,
    pub(crate) failures: Vec<Failure>,
    pub(crate) pools: Vec<Pool>,
    pub(crate) seconds: Vec<Second>,
    pub(crate) rounds: Vec<Round>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ProcessTruth {
    pub(crate) id: String,
    pub(crate) pid: u32,
    pub(crate) comm: String,
    pub(crate) exe: &'static str,
    /// Null: before the tracer.
    pub(crate) begin: Option<i64>,
    /// Null: it goes on.
    pub(crate) end: Option<i64>,
}

impl From<&Process> for ProcessTruth {
    fn from(process: &Process) -> Self {
        Self {
            id: process.id(),
            pid: process.task.pid,
            comm: process.name(),
            exe: process.exe,
            begin: (process.begin > 0).then(|| timestamp(process.begin)),
            end: process.end.map(timestamp),
        }
    }
}

/// Calls that failed, by everything that tells them apart.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    pub(crate) netns: u32,
    pub(crate) process: String,
    /// `connect` or `bind`.
    pub(crate) call: &'static str,
    pub(crate) reason: &'static str,
    /// As `10.0.0.9:9000`; null of `bind()`.
    pub(crate) peer: Option<String>,
    pub(crate) count: u64,
    pub(crate) first: i64,
    pub(crate) last: i64,
}

/// The most ports that were taken at one moment in a network namespace, and who had most of them then.
#[derive(Debug, Serialize)]
pub(crate) struct Pool {
    pub(crate) netns: u32,
    pub(crate) peak: u64,
    pub(crate) ts: i64,
    pub(crate) owner: Option<String>,
    pub(crate) owner_ports: u64,
    /// By process, the most that it ever had.
    pub(crate) peaks: BTreeMap<String, u64>,
}

/// One second of one process and destination in which something changed there.
#[derive(Debug, Serialize)]
pub(crate) struct Second {
    /// Of Unix time.
    pub(crate) second: i64,
    pub(crate) netns: u32,
    pub(crate) process: String,
    pub(crate) peer: String,
    /// Connections that came to ESTABLISHED.
    pub(crate) opened: u64,
    /// Connects that failed.
    pub(crate) failed: u64,
    /// Ports at the end of the second.
    pub(crate) ports: i64,
}

/// The ports of a process at a moment when the usage was told.
#[derive(Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) ts: i64,
    pub(crate) netns: u32,
    /// Null: TIME_WAIT from before the start.
    pub(crate) process: Option<String>,
    pub(crate) ports: u64,
    pub(crate) time_wait: u64,
}

/// Nanoseconds since the tracer's start, as of Unix time.
pub(super) fn timestamp(ns: u64) -> i64 {
    EPOCH.saturating_add_unsigned(ns)
}

pub(super) fn shown(peer: Endpoint) -> Option<String> {
    let port = peer.port?;
    Some(std::net::SocketAddr::new(peer.ip, port).to_string())
}
