//! How a run begins and ends, and what it lost.

use std::{borrow::Cow, collections::BTreeMap};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    kernel::plan::{Backend, Capability},
    pool::Settings,
};

/// The first line: what is watched, and how.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Start {
    /// Version of tracer.
    pub tracer: String,
    /// Release of the kernel, as `uname -r` prints it.
    pub kernel: String,
    pub coverage: Vec<Coverage>,
    /// The network namespaces of the host, first the one that tracer runs in.
    pub netns: Vec<Netns>,
    /// The options that choose lines, with their values: other lines are left out. Left out when there are none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub filter: BTreeMap<String, Vec<String>>,
}

/// How one capability is covered.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Coverage {
    pub capability: Capability,
    /// The function or tracepoint in use; null: this capability is not to be had here.
    pub hook: Option<Cow<'static, str>>,
    pub backend: Option<Backend>,
    /// Better hooks that were not used, and why.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub refused: Vec<Refused>,
    /// What this hook does not see.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub limits: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Refused {
    pub hook: Cow<'static, str>,
    pub backend: Backend,
    pub reason: String,
}

/// The settings of a network namespace that govern its ports; null where the kernel has none, or they
/// could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Netns {
    /// Inode number.
    pub netns: u32,
    /// `ip_local_port_range`: first and last ephemeral port, both inclusive.
    pub range: Option<[u16; 2]>,
    /// Number of ports in `ip_local_reserved_ports`.
    pub reserved: Option<u32>,
    /// `tcp_tw_reuse`.
    pub tw_reuse: Option<u8>,
    /// `tcp_tw_reuse_delay`, milliseconds (since Linux 6.13).
    pub tw_reuse_delay_ms: Option<u32>,
    /// Whether `tcp_timestamps` is not 0: without timestamps, no TIME_WAIT is reused.
    pub timestamps: Option<bool>,
    /// `tcp_max_tw_buckets`: TIME_WAIT entries above this number are not kept.
    pub max_tw_buckets: Option<u32>,
}

impl Netns {
    /// `None`: they could not be read.
    pub fn new(netns: u32, settings: Option<&Settings>) -> Self {
        Self {
            netns,
            range: settings.map(|settings| settings.range.into()),
            reserved: settings.map(|settings| settings.reserved.len()),
            tw_reuse: settings.map(|settings| settings.tw_reuse),
            tw_reuse_delay_ms: settings.and_then(|settings| settings.tw_reuse_delay),
            timestamps: settings.map(|settings| settings.timestamps),
            max_tw_buckets: settings.and_then(|settings| settings.max_tw_buckets),
        }
    }
}

/// A network namespace that was not there at the start, or whose settings have changed.
#[derive(Debug, Serialize, JsonSchema)]
pub struct NetnsSettings {
    #[serde(flatten)]
    pub now: Netns,
    /// Null: it was not known.
    pub before: Option<Netns>,
}

/// Something was lost; it is counted where it was.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Loss<'a> {
    /// How many, since the last such line. Where lines were lost, how many lines.
    pub events: u64,
    pub r#where: Where,
    /// Whether the picture has been made whole again. Lines that were lost never spoil it.
    pub resynced: bool,
    /// The lines that were lost, by `type`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub dropped: BTreeMap<&'static str, u64>,
    /// Which output, as `--output` names it, where there are several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub output: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Where {
    /// The ring buffer was full: events are missing.
    Ring,
    /// The kernel skipped a run of a program, because one was running on that CPU already, or did not call a
    /// probe: events are missing.
    Program,
    /// A record of the ring buffer was not understood: an event is missing.
    Decode,
    /// The output took lines more slowly than they came: lines are missing.
    Output,
    /// The kernel-side socket table was full: the later lines of so many sockets lack their owner.
    Table,
}

impl Where {
    pub const ALL: [Self; 5] = [
        Self::Ring,
        Self::Program,
        Self::Decode,
        Self::Output,
        Self::Table,
    ];

    /// As the lines name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Program => "program",
            Self::Decode => "decode",
            Self::Output => "output",
            Self::Table => "table",
        }
    }
}

/// The last line.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Stop {
    /// Lines of this run, this one and those that were dropped included.
    pub lines: u64,
    /// Events that the kernel side reported.
    pub events: u64,
    /// The sum of all `loss` lines.
    pub lost: u64,
    /// Connects that failed: lines of type `connect_failed`, each for its `repeats`.
    pub failures: u64,
    /// As `failures`, of type `bind_failed`.
    pub bind_failures: u64,
}
