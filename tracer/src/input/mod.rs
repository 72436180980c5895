//! All that a [`Stream`](crate::stream::Stream) is made of: what goes into it, and what it asks the host for. Recorded
//! (`--replayable`), the same lines can be made again.

mod answers;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use serde::{Deserialize, Serialize};

pub use answers::{Answer, Answers, Recorded};

use crate::{
    clock::Clock,
    event::{Event, Row},
    pool::Settings,
    record::{Start, Table, Where},
    stream::Diagnosis,
};

/// The version of all of this. It is internal: another version can't be replayed, only its other lines can.
pub const FORMAT: u32 = 1;

/// One thing that goes into a stream. Times are `CLOCK_MONOTONIC` in nanoseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input<'a> {
    Start(Beginning<'a>),
    Diagnose(Diagnosis),
    /// The settings of network namespaces that the `start` line has told.
    Settings(Cow<'a, [(u32, Option<Settings>)]>),
    Clock(Clock),
    Table(Table),
    Overflow(u64),
    Event(Cow<'a, Event>),
    /// Something was lost.
    Lost,
    BeginResync(u64),
    Row(Cow<'a, Row>),
    EndResync {
        complete: Cow<'a, BTreeSet<u32>>,
        alive: Cow<'a, BTreeSet<u32>>,
        now: u64,
    },
    GiveUpResync,
    /// So many things were lost there; whether that has been made up for.
    Loss(u64, Where, bool),
    Watch(u64),
    Usage(u64),
    Snapshot(u64),
    /// So many lines of each type did not reach an output.
    Dropped(BTreeMap<String, u64>, Option<Cow<'a, str>>),
    ForgetIntroductions,
    /// The end, but for the `stop` line.
    WindUp(u64),
    End,
}

/// The first input of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Beginning<'a> {
    /// See [`FORMAT`].
    pub format: u32,
    pub clock: Clock,
    /// When the run began.
    pub began: u64,
    /// What every line carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Cow<'a, BTreeMap<String, String>>>,
    pub start: Cow<'a, Start>,
}

impl Input<'_> {
    /// When it was, where it has a time.
    pub fn at(&self) -> Option<u64> {
        match self {
            Self::Start(beginning) => Some(beginning.began),
            Self::Event(event) => Some(event.ts),
            Self::EndResync { now, .. } => Some(*now),
            Self::BeginResync(now)
            | Self::Watch(now)
            | Self::Usage(now)
            | Self::Snapshot(now)
            | Self::WindUp(now) => Some(*now),
            _ => None,
        }
    }
}
