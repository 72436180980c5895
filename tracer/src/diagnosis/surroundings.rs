//! What a diagnosis asks the host for.

use std::time::Duration;

use super::case::Host;
use crate::{event::Task, pool::Settings};

/// Live, the host itself; for replays and tests, what was recorded.
pub trait Surroundings {
    /// The settings of a network namespace that a task is in, not older than that; `None`: they can't be read.
    /// `now` is `CLOCK_MONOTONIC` in nanoseconds.
    fn settings(
        &mut self,
        netns: u32,
        task: Option<&Task>,
        now: u64,
        max_age: Duration,
    ) -> Option<Settings>;

    /// What else there is to know about the namespace.
    fn host(&mut self, netns: u32, task: Option<&Task>, now: u64) -> Host;
}

/// Nothing is known.
impl Surroundings for () {
    fn settings(&mut self, _: u32, _: Option<&Task>, _: u64, _: Duration) -> Option<Settings> {
        None
    }

    fn host(&mut self, _: u32, _: Option<&Task>, _: u64) -> Host {
        Host::default()
    }
}
