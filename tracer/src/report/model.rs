//! What a report says. The terminal, `--json` and the page show the same.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The version of this object.
pub const VERSION: u32 = 1;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    pub v: u32,
    /// Version of tracer that made it.
    pub tracer: String,
    /// What happened, and why, in two sentences.
    pub verdict: Vec<String>,
    /// First and last line that counted; null: none did.
    pub span: Option<Span>,
    /// What `--since`, `--until`, `--process`, `--peer` and `--netns` left in, in words.
    pub narrowed: Vec<String>,
    pub input: Input,
    /// Runs of tracer, by host and time.
    pub runs: Vec<Run>,
    pub failures: Failures,
    /// What happened, in the order of time.
    pub timeline: Vec<Moment>,
    /// What led to it.
    pub causes: Vec<Moment>,
    /// What to change, best first, and last what not to: as in the live lines.
    pub advice: Vec<Advice>,
    /// What is missing or in doubt.
    pub holes: Vec<Hole>,
    /// The time axis of every series below: a value for each of these bins.
    pub axis: Axis,
    /// The port pools, the fullest first: one for each host and network namespace with ports in use.
    pub pools: Vec<Pool>,
    /// The destinations with most ports or failures, most first; the rest is in the pools.
    pub destinations: Vec<Destination>,
}

/// A process that no line names, as a row of it is called.
pub(super) const NOBODY: &str = "not known";

/// Who, within a sentence.
pub(super) fn who(process: &str) -> &str {
    match process {
        NOBODY => "a process that is not known",
        named => named,
    }
}

impl Report {
    /// Whether a host has several network namespaces with ports in use.
    pub fn has_namespaces(&self) -> bool {
        has_twice(self.pools.iter().map(|pool| &pool.host))
    }
}

/// Whether any of them comes more than once.
pub(super) fn has_twice<T: Ord>(mut all: impl Iterator<Item = T>) -> bool {
    let mut seen = BTreeSet::new();
    all.any(|one| !seen.insert(one))
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Span {
    pub from: Timestamp,
    pub to: Timestamp,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    pub files: Vec<File>,
    pub bytes: u64,
    pub lines: u64,
    /// Lines that could not be used; each is named in `holes` or counted there.
    pub skipped: u64,
    /// False: it was interrupted (Ctrl-C), and this is what was read until then.
    pub complete: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct File {
    pub name: String,
    /// Uncompressed.
    pub bytes: u64,
    pub lines: u64,
    pub skipped: u64,
}

/// One run of tracer.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    pub host: String,
    pub from: Timestamp,
    pub to: Timestamp,
    /// Null: its `start` line is not in the input.
    pub tracer: Option<String>,
    pub kernel: Option<String>,
    pub lines: u64,
    /// Its `stop` line is there.
    pub stopped: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Failures {
    /// Of `connect()`; `repeats` counted.
    pub connect: u64,
    /// Of `bind()` and `listen()`.
    pub bind: u64,
    pub first: Option<Timestamp>,
    pub last: Option<Timestamp>,
    pub by_reason: Vec<Count>,
    pub by_process: Vec<Count>,
    pub by_destination: Vec<Count>,
}

/// So many failures of one kind. The last row of a list may be `others`: then all of a list add up.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Count {
    /// As it is shown: `ports_exhausted`, `nginx (812)`, `10.0.0.9:5774`.
    pub name: String,
    /// Null: on several.
    pub host: Option<String>,
    /// Inode number of the network namespace; null: in several.
    pub netns: Option<u32>,
    pub failures: u64,
    pub first: Timestamp,
    pub last: Timestamp,
}

/// Something that happened.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Moment {
    pub ts: Timestamp,
    pub host: String,
    /// Inode number of the network namespace; null: it is of the whole host.
    pub netns: Option<u32>,
    /// Stable name: `first_failure`, `pressure_warning`, `new_process`, `rate_rose`, `closes_late`, `range_changed`…
    pub id: String,
    /// With the numbers of this case.
    pub text: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Advice {
    pub id: String,
    pub why: String,
    pub how: String,
    /// Host, network namespace and destination (or pool) that it was given for most often.
    pub host: String,
    pub netns: u32,
    pub about: String,
    /// So many explained failures or pressure lines gave it.
    pub given: u64,
}

/// Something that is missing or in doubt.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Hole {
    /// Stable name: `loss`, `truncated`, `garbage`, `version`, `clock_step`, `gap`, `no_start`, `no_stop`…
    pub id: String,
    pub host: Option<String>,
    pub ts: Option<Timestamp>,
    /// File and line where one can be named.
    pub file: Option<String>,
    pub line: Option<u64>,
    /// How often.
    pub count: u64,
    /// What is wrong, and what that means for this report.
    pub text: String,
}

/// Bins of equal length.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Axis {
    /// Begin of the first bin, milliseconds since 1970 (UTC).
    pub start_ms: i64,
    /// Length of a bin, milliseconds.
    pub step_ms: i64,
    /// Number of bins: the length of every series.
    pub bins: usize,
}

/// The ports of one network namespace of one host. Series have one value for each bin: of levels the highest of the
/// bin, of counts their sum. Null: not known.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Pool {
    pub host: String,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Ports that one destination can have at most (range without reserved ones), as it changed.
    pub limit: Vec<Option<u32>>,
    /// Ports that are taken: all of `stacks`.
    pub ports: Vec<Option<u32>>,
    /// Of them in TIME_WAIT.
    pub time_wait: Vec<Option<u32>>,
    /// Connections opened and closed, and failed calls, each a sum per bin.
    pub opened: Vec<u64>,
    pub closed: Vec<u64>,
    pub failed: Vec<u64>,
    pub peak: Option<Peak>,
    /// Who has the ports, most first; the last may stand for all others.
    pub stacks: Vec<Stack>,
}

/// The highest level.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Peak {
    pub ts: Timestamp,
    pub ports: u32,
    /// Who had most of them then.
    pub owner: String,
    pub owner_ports: u32,
}

/// The ports of one process over time, by state, at the end of each bin: there, all stacks add up.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Stack {
    /// As it is shown: `nginx (812)`, `not known`, `12 others`.
    pub process: String,
    /// Id of the process in the lines; null: not one process.
    pub id: Option<String>,
    /// Since when it is known to have ended.
    pub exited: Option<Timestamp>,
    /// By state (`TIME_WAIT`, `ESTABLISHED`, …, and `bound`): a value for each bin; states that never occur are left out.
    pub states: BTreeMap<String, Vec<u32>>,
}

/// One destination over time.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Destination {
    pub host: String,
    pub netns: u32,
    /// Null: several.
    pub local_ip: Option<String>,
    /// `10.0.0.9:5774`.
    pub peer: String,
    /// As [`Pool::limit`], less what is bound there, where lines tell it.
    pub limit: Vec<Option<u32>>,
    pub ports: Vec<Option<u32>>,
    pub time_wait: Vec<Option<u32>>,
    pub opened: Vec<u64>,
    pub failed: Vec<u64>,
    pub peak: Option<Peak>,
    /// Who has ports of it at the end of each bin, as in [`Pool::stacks`], without states.
    pub owners: BTreeMap<String, Vec<u32>>,
}
