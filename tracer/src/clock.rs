//! From the kernel's clock to the time of day.

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// What time it is: live the kernel's clock, in replays what it said then.
pub trait Time {
    /// `CLOCK_MONOTONIC`, nanoseconds: the clock of the events.
    fn now(&self) -> u64;
}

/// The kernel's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Monotonic;

impl Time for Monotonic {
    fn now(&self) -> u64 {
        now()
    }
}

/// The distance between the clocks, taken now and then: it changes when the time of day is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`, nanoseconds.
    monotonic: i64,
    /// `CLOCK_REALTIME` minus `CLOCK_BOOTTIME`, nanoseconds.
    boot: i64,
}

impl Clock {
    /// Now. Nobody else has a clock that counts from boot and goes on in sleep under this name.
    #[cfg(target_os = "linux")]
    pub fn read() -> Self {
        Self {
            monotonic: distance(ClockId::Monotonic),
            boot: distance(ClockId::Boottime),
        }
    }

    /// For tests and replays: the distances of one's choice, in nanoseconds.
    pub fn fixed(monotonic: i64, boot: i64) -> Self {
        Self { monotonic, boot }
    }

    /// Time of day of a `CLOCK_MONOTONIC` instant.
    pub fn monotonic(&self, ns: u64) -> Timestamp {
        timestamp(ns, self.monotonic)
    }

    /// Time of day of a `CLOCK_BOOTTIME` instant.
    pub fn boot(&self, ns: u64) -> Timestamp {
        timestamp(ns, self.boot)
    }
}

/// `CLOCK_MONOTONIC` now, nanoseconds: the clock of the events.
pub fn now() -> u64 {
    u64::try_from(read(ClockId::Monotonic)).unwrap_or(0)
}

/// Time of day now, seconds since 1970.
pub fn unix() -> f64 {
    read(ClockId::Realtime) as f64 / 1e9
}

/// After 1970 by 64 bits, whose division is cheaper: each line has a time.
fn timestamp(ns: u64, distance: i64) -> Timestamp {
    const SECOND: u64 = 1_000_000_000;
    let ts = match ns.checked_add_signed(distance) {
        Some(ns) => Timestamp::new((ns / SECOND) as i64, (ns % SECOND) as i32),
        None => Timestamp::from_nanosecond(i128::from(ns) + i128::from(distance)),
    };
    ts.unwrap_or(Timestamp::UNIX_EPOCH)
}

fn read(clock: ClockId) -> i128 {
    let now = clock_gettime(clock);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

/// Reads both clocks until no interruption came between: the closest of five readings.
#[cfg(target_os = "linux")]
fn distance(clock: ClockId) -> i64 {
    let reading = |_| {
        let before = read(clock);
        let real = read(ClockId::Realtime);
        let after = read(clock);
        (after - before, real - (before + after) / 2)
    };
    let best = (0..5).map(reading).min_by_key(|(width, _)| *width);
    best.and_then(|(_, distance)| distance.try_into().ok())
        .unwrap_or(0)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn any_distance_gives_the_sum() {
        let times = [0, 1, 999_999_999, 1_795_669_287_323_836_345, u64::MAX];
        let distances = [0, 1, -1, -1_000_000_001, i64::MAX, i64::MIN];
        for (ns, distance) in times.iter().flat_map(|ns| distances.map(|far| (*ns, far))) {
            let sum = i128::from(ns) + i128::from(distance);
            let expected = Timestamp::from_nanosecond(sum).unwrap();
            assert_eq!(Clock::fixed(distance, 0).monotonic(ns), expected);
        }
    }

    #[test]
    fn both_clocks_give_the_same_time_of_day() {
        let clock = Clock::read();
        let monotonic = clock.monotonic(now());
        let boot = clock.boot(read(ClockId::Boottime) as u64);
        let difference = (boot - monotonic).total(jiff::Unit::Second).unwrap();
        assert!(difference.abs() < 1.0, "{difference} s apart");
    }
}
