//! One moment, for whoever asks until the next.

use std::{collections::BTreeMap, sync::Arc};

use super::{Failed, Losses, Tally};
use crate::{ledger::Crowd, record::Level};

/// Everything that the page shows.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub about: Arc<About>,
    pub connects: Failures,
    pub binds: Failures,
    pub crowd: Arc<Crowd>,
    pub levels: Pressed,
    pub events: u64,
    pub lines: u64,
    pub losses: Losses,
    /// Lines that the CPU guard left out, by type, and how much it does.
    pub shed: BTreeMap<&'static str, u64>,
    pub shed_level: u8,
    /// Most bytes that waited in the ring buffer of late.
    pub ring: Fill,
    /// Sockets that the kernel side remembers.
    pub table: Fill,
    pub output: Output,
    pub resyncs: u64,
    pub corrected: u64,
    /// CPU time of this process, seconds.
    pub cpu: f64,
    /// Bytes of memory; `None`: not known.
    pub rss: Option<u64>,
}

/// What does not change during a run.
#[derive(Clone, Debug, Default)]
pub struct About {
    pub version: &'static str,
    pub kernel: String,
    pub coverage: Vec<Covered>,
    /// Unix time, seconds.
    pub started: f64,
}

/// How a capability is covered; without a hook it is not.
#[derive(Clone, Debug)]
pub struct Covered {
    /// As the `start` line names it.
    pub capability: String,
    pub backend: &'static str,
    pub hook: &'static str,
}

/// A copy of a [`Tally`].
#[derive(Clone, Debug, Default)]
pub struct Failures {
    pub all: Vec<(&'static str, u64)>,
    pub series: Vec<(Failed, u64)>,
    pub others: Vec<(&'static str, u64)>,
}

/// Levels of pressure: in the order of the [`Crowd`], and how many of all destinations are at each.
#[derive(Clone, Debug, Default)]
pub struct Pressed {
    pub ways: Vec<Level>,
    pub pools: Vec<Level>,
    pub warning: u64,
    pub critical: u64,
}

/// So much of something that has so much room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    pub used: u64,
    pub size: u64,
}

/// Lines that wait for whoever reads them.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Bytes.
    pub buffer: Fill,
    /// Lines that were dropped because there was no room, by type.
    pub dropped: BTreeMap<&'static str, u64>,
}

impl From<&Tally> for Failures {
    fn from(tally: &Tally) -> Self {
        let series = tally.series.iter();
        Self {
            all: tally
                .all
                .iter()
                .map(|(name, count)| (*name, *count))
                .collect(),
            series: series
                .map(|(failed, count)| (failed.clone(), count))
                .collect(),
            others: tally.series.others().collect(),
        }
    }
}
