//! What tracer itself costs, and what it leaves out to cost less.

use schemars::JsonSchema;
use serde::Serialize;

use super::Table;

/// What happened since the last such line, or the beginning of the run (`--stats`).
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Stats {
    /// Seconds.
    pub interval_s: f64,
    /// Events that the kernel side reported.
    pub events: u64,
    pub events_per_s: f64,
    /// Lines of the stream, this one not included.
    pub lines: u64,
    pub lines_per_s: f64,
    /// What the `loss` lines told.
    pub lost: u64,
    /// CPU time of this process, in percent of one core. BPF programs run in the processes that they watch: theirs is
    /// in `bpf`.
    pub cpu_percent: f64,
    /// Memory of this process; null: it can't be read.
    pub rss_bytes: Option<u64>,
    /// Most bytes of the ring buffer that were waiting; null: the kernel does not show it.
    pub ring: Option<Table>,
    /// Sockets in the kernel-side table.
    pub table: Table,
    /// Bytes of memory of the lines that wait for an output.
    pub output: Waiting,
    /// Null: nothing was counted, because the kernel can't (before 5.8) or does not permit it (without CAP_SYS_ADMIN), or
    /// the event loop came too late.
    pub bpf: Option<Bpf>,
}

/// The output buffer (`--buffer`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Waiting {
    pub used: u64,
    pub size: u64,
    /// Lines that were dropped because there was no room, as far as that was told.
    pub dropped: u64,
}

/// Runs of the BPF programs, counted during a part of the interval: counting costs time at each run.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Bpf {
    /// So long they were counted, seconds.
    pub sampled_s: f64,
    /// CPU time of all of them, in percent of one core.
    pub cpu_percent: f64,
    /// Those that ran, in no order.
    pub programs: Vec<Program>,
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Program {
    pub name: String,
    pub runs: u64,
    pub ns_per_run: f64,
}

/// The CPU guard (`--max-cpu`) leaves out more, or less, than before; or it still leaves out what it did.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Shed {
    /// What is left out from now on.
    pub level: Shedding,
    /// What was left out until now.
    pub before: Shedding,
    /// CPU time of this process of late, in percent of one core; null: it was not measured for long enough.
    pub cpu_percent: Option<f64>,
    /// `--max-cpu`.
    pub max_cpu_percent: f64,
    /// Since the last such line.
    pub left_out: LeftOut,
}

/// Each includes those before it. Failures, pressure and what is lost are always told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shedding {
    #[default]
    Nothing,
    /// `state` lines.
    State,
    /// `connection` lines.
    Connection,
    /// Five of six rounds of `usage` lines: the next covers their time too.
    Usage,
}

/// They have no `seq`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LeftOut {
    /// Lines.
    pub state: u64,
    /// Lines.
    pub connection: u64,
    pub usage_rounds: u64,
}
