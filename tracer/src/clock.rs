//! From the kernel's clock to the time of day.

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// The distance between the clocks, taken now and then: it changes when the time of day is set.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`, nanoseconds.
    monotonic: i128,
    /// `CLOCK_REALTIME` minus `CLOCK_BOOTTIME`, nanoseconds.
    boot: i128,
    /// It stands at this `CLOCK_MONOTONIC` instant; `None`: it goes with the kernel's.
    stands: Option<u64>,
}

impl Clock {
    pub fn read() -> Self {
        Self {
            monotonic: distance(ClockId::Monotonic),
            boot: distance(ClockId::Boottime),
            stands: None,
        }
    }

    /// For tests: the distances of one's choice, in nanoseconds.
    pub fn fixed(monotonic: i64, boot: i64) -> Self {
        Self {
            monotonic: monotonic.into(),
            boot: boot.into(),
            stands: None,
        }
    }

    /// For simulations: now is this `CLOCK_MONOTONIC` instant.
    pub fn standing_at(self, ns: u64) -> Self {
        Self {
            stands: Some(ns),
            ..self
        }
    }

    /// Time of day of a `CLOCK_MONOTONIC` instant.
    pub fn monotonic(&self, ns: u64) -> Timestamp {
        timestamp(i128::from(ns) + self.monotonic)
    }

    /// Time of day of a `CLOCK_BOOTTIME` instant.
    pub fn boot(&self, ns: u64) -> Timestamp {
        timestamp(i128::from(ns) + self.boot)
    }

    /// Now, by the same reckoning as the events, so that lines do not run backwards.
    pub fn now(&self) -> Timestamp {
        let now = self.stands.map(i128::from);
        timestamp(now.unwrap_or_else(|| read(ClockId::Monotonic)) + self.monotonic)
    }
}

/// `CLOCK_MONOTONIC` now, nanoseconds: the clock of the events.
pub fn now() -> u64 {
    u64::try_from(read(ClockId::Monotonic)).unwrap_or(0)
}

fn timestamp(ns: i128) -> Timestamp {
    Timestamp::from_nanosecond(ns).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn read(clock: ClockId) -> i128 {
    let now = clock_gettime(clock);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

/// Reads both clocks until no interruption came between: the closest of five readings.
fn distance(clock: ClockId) -> i128 {
    let reading = |_| {
        let before = read(clock);
        let real = read(ClockId::Realtime);
        let after = read(clock);
        (after - before, real - (before + after) / 2)
    };
    let best = (0..5).map(reading).min_by_key(|(width, _)| *width);
    best.map_or(0, |(_, distance)| distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_give_the_same_time_of_day() {
        let clock = Clock::read();
        let monotonic = clock.monotonic(now());
        let boot = clock.boot(read(ClockId::Boottime) as u64);
        let difference = (boot - monotonic).total(jiff::Unit::Second).unwrap();
        assert!(difference.abs() < 1.0, "{difference} s apart");
    }
}
