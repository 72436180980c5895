//! What is to happen, in the order of time.

use std::{cmp::Reverse, collections::BinaryHeap};

/// What happens at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// The next call of a flow.
    Call(usize),
    /// The next state of a connection.
    Next(usize),
    /// A process begins, or ends.
    Begin(usize),
    End(usize),
    /// A TIME_WAIT that is older than the tracer is over.
    Older(usize),
    /// The tracer looks for destinations under pressure, or tells the usage.
    Watch,
    Usage,
    /// A program of the tracer was skipped.
    Skipped,
}

#[derive(Default)]
pub(super) struct Agenda {
    steps: BinaryHeap<Reverse<(u64, u64, Step)>>,
    /// Steps of one moment happen in the order in which they were entered.
    entered: u64,
}

impl Agenda {
    pub(super) fn enter(&mut self, at: u64, step: Step) {
        self.entered += 1;
        self.steps.push(Reverse((at, self.entered, step)));
    }

    /// The next step before `end`, and when it happens.
    pub(super) fn next(&mut self, end: u64) -> Option<(u64, Step)> {
        let Reverse((at, ..)) = self.steps.peek()?;
        if *at >= end {
            return None;
        }
        let Reverse((at, _, step)) = self.steps.pop()?;
        Some((at, step))
    }
}
