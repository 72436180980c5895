//! What the stream can say about itself in numbers, for metrics and `stats` lines.

use super::{Shed, Stream};
use crate::{
    ledger::Crowd,
    metrics::{Pressed, Tallies},
    record,
};

/// Counts since the beginning of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub events: u64,
    pub lines: u64,
    pub lost: u64,
    /// Of those, lines that outputs did not take.
    pub dropped: u64,
    /// Comparisons with the kernel's sockets, and differences that they found.
    pub resyncs: u64,
    pub corrected: u64,
}

impl Stream {
    /// Counts failures and losses for metrics from now on.
    pub fn set_tallies(&mut self, tallies: Tallies) {
        self.tallies = Some(Box::new(tallies));
    }

    pub fn tallies(&self) -> Option<&Tallies> {
        self.tallies.as_deref()
    }

    pub fn counts(&self) -> Counts {
        Counts {
            resyncs: self.resyncs.ended,
            corrected: self.resyncs.corrected,
            ..self.lines.counts()
        }
    }

    /// See [`Ledger::crowd`](crate::ledger::Ledger::crowd).
    pub fn crowd(&self, most: usize, now: u64) -> Crowd {
        let settings = |netns| self.known.get(&netns)?.as_ref();
        self.ledger.crowd(most, settings, now)
    }

    pub fn pressed(&self, crowd: &Crowd) -> Pressed {
        self.pressure.pressed(crowd)
    }

    /// What is left out.
    pub fn shed(&mut self) -> &mut Shed {
        &mut self.lines.shed
    }

    pub fn tell_stats(&mut self, stats: &record::Stats, now: u64) {
        self.lines.stats(stats, now);
    }

    pub fn tell_shed(&mut self, shed: &record::Shed, now: u64) {
        self.lines.tell_shed(shed, now);
    }
}
