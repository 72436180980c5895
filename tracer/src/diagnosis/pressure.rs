//! Which destinations run out of ports: watched from the moment that they take a considerable part of them.

use std::{collections::HashMap, time::Duration};

use super::forecast::{Counts, Rates, TIME_WAIT_HOLD, Window};
use crate::{
    ledger::{Budget, Crowd, Ledger, Traffic, Way},
    metrics::Pressed,
    pool::Settings,
    record::Level,
};

/// A destination is looked at port by port once in so long for each port that it may have: the usual range once a
/// second, and a small one each time.
const EVERY_PER_PORT: u64 = Duration::from_micros(35).as_nanos() as u64;

/// Falling back takes so many percent less than coming there, or half as many at low levels, which nothing could fall
/// below otherwise: no line for every port around a level.
const SLACK: f64 = 5.0;

/// From which percentage of the usable ports on a destination is at a level.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Levels {
    pub warning: f64,
    pub critical: f64,
}

impl Default for Levels {
    fn default() -> Self {
        Self {
            warning: 70.0,
            critical: 90.0,
        }
    }
}

impl Levels {
    /// That of a destination which was at `before`.
    pub fn of(&self, used: f64, before: Level) -> Level {
        let left = |level: f64| (level - SLACK).max(level / 2.0);
        let least = |level: f64, reached: bool| if reached { left(level) } else { level };
        if used >= least(self.critical, before >= Level::Critical) {
            Level::Critical
        } else if used >= least(self.warning, before >= Level::Warning) {
            Level::Warning
        } else {
            Level::Ok
        }
    }
}

#[derive(Default)]
pub struct Pressure {
    levels: Levels,
    watched: HashMap<Way, Watched>,
    /// Network namespaces by the ports that are closed to every destination.
    pools: HashMap<u32, Level>,
}

#[derive(Default)]
struct Watched {
    window: Window,
    level: Level,
    /// When it was last looked at port by port.
    looked: u64,
    /// It is a busy one still.
    is_busy: bool,
}

impl Pressure {
    pub fn new(levels: Levels) -> Self {
        Self {
            levels,
            ..Self::default()
        }
    }

    /// Whether there is anything to tick for.
    pub fn is_idle(&self) -> bool {
        self.watched.is_empty()
    }

    /// Counts what has happened, and names the ways that should be looked at now, in an order that is always the same.
    pub fn tick(&mut self, ledger: &Ledger, now: u64) -> Vec<Way> {
        for watched in self.watched.values_mut() {
            watched.is_busy = false;
        }
        let mut due = Vec::new();
        for (way, traffic) in ledger.busy() {
            let watched = self.watched.entry(*way).or_default();
            watched.is_busy = true;
            watched.sample(traffic, now);
            let taken = f64::from(traffic.ports + ledger.bound_ports(way.netns));
            // Nothing to measure by.
            let Some(usable) = ledger.usable_ports(way.netns) else {
                continue;
            };
            let may_be_full = taken * 100.0 >= self.levels.warning * f64::from(usable);
            let every = EVERY_PER_PORT.saturating_mul(u64::from(usable));
            let is_time = now.saturating_sub(watched.looked) >= every;
            if is_time && (may_be_full || watched.level != Level::Ok) {
                due.push(*way);
            }
        }
        let levels = &mut self.watched;
        due.extend(levels.iter().filter_map(|(way, watched)| {
            (!watched.is_busy && watched.level != Level::Ok).then_some(*way)
        }));
        levels.retain(|_, watched| watched.is_busy || watched.level != Level::Ok);
        due.sort_unstable();
        due
    }

    /// The way has been looked at; returned are the levels before and now, if they differ.
    pub fn looked(&mut self, way: &Way, budget: &Budget, now: u64) -> Option<(Level, Level)> {
        let watched = self.watched.entry(*way).or_default();
        watched.looked = now;
        let level = self.levels.of(used_percent(budget), watched.level);
        let before = std::mem::replace(&mut watched.level, level);
        (before != level).then_some((before, level))
    }

    /// So many of the usable ports of a network namespace are closed to every destination.
    pub fn look_at_pool(&mut self, netns: u32, bound: u32, usable: u32) -> Option<(Level, Level)> {
        let before = self.pools.get(&netns).copied().unwrap_or_default();
        let used = f64::from(bound) * 100.0 / f64::from(usable.max(1));
        let level = self.levels.of(used, before);
        if level == Level::Ok {
            self.pools.remove(&netns);
        } else {
            self.pools.insert(netns, level);
        }
        (before != level).then_some((before, level))
    }

    /// The levels of those in the crowd, and how many of all are at each.
    pub fn pressed(&self, crowd: &Crowd) -> Pressed {
        let of_way = |way: &Way| self.watched.get(way).map(|watched| watched.level);
        let of_pool = |netns: &u32| self.pools.get(netns).copied();
        let ways = crowd
            .ways
            .iter()
            .map(|row| row.way.as_ref().and_then(of_way));
        let pools = crowd.pools.iter().map(|pool| of_pool(&pool.netns));
        let at = |level| {
            let watched = self.watched.values();
            watched.filter(|watched| watched.level == level).count() as u64
        };
        Pressed {
            ways: ways.map(Option::unwrap_or_default).collect(),
            pools: pools.map(Option::unwrap_or_default).collect(),
            warning: at(Level::Warning),
            critical: at(Level::Critical),
        }
    }

    /// New connections per second.
    pub fn open_rate(&self, way: &Way) -> Option<f64> {
        self.rates(way).map(|rates| rates.opened)
    }

    pub fn rates(&self, way: &Way) -> Option<Rates> {
        self.watched.get(way)?.window.rates()
    }
}

impl Watched {
    fn sample(&mut self, traffic: &Traffic, now: u64) {
        let counts = Counts {
            opened: traffic.opened,
            to_time_wait: traffic.handed_over,
            freed: traffic.closed,
            time_wait_ended: traffic.waited,
        };
        self.window.push(now, counts);
    }
}

/// Of the ports that may be chosen, so many percent are not free.
pub fn used_percent(budget: &Budget) -> f64 {
    let usable = budget.range - budget.reserved;
    let used = usable - budget.free;
    if usable == 0 {
        return 100.0;
    }
    f64::from(used) * 100.0 / f64::from(usable)
}

/// Seconds that TIME_WAIT holds a port of this way: until it ends, or is reusable.
pub fn hold(way: &Way, settings: &Settings) -> f64 {
    let is_local = way.local_ip.is_loopback() || way.peer.ip.is_loopback();
    let gives_way = match settings.tw_reuse {
        1 => true,
        2 => is_local,
        _ => false,
    };
    if gives_way && settings.timestamps {
        settings
            .tw_reuse_delay
            .map_or(1.0, |ms| f64::from(ms) / 1000.0)
    } else {
        TIME_WAIT_HOLD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_left_later_than_they_are_reached() {
        let levels = Levels::default();
        assert_eq!(levels.of(69.9, Level::Ok), Level::Ok);
        assert_eq!(levels.of(70.0, Level::Ok), Level::Warning);
        assert_eq!(levels.of(66.0, Level::Warning), Level::Warning);
        assert_eq!(levels.of(64.9, Level::Warning), Level::Ok);
        assert_eq!(levels.of(86.0, Level::Critical), Level::Critical);
        assert_eq!(levels.of(80.0, Level::Critical), Level::Warning);
        assert_eq!(levels.of(100.0, Level::Ok), Level::Critical);
    }

    #[test]
    fn low_levels_are_left_too() {
        for warning in [1.0, 5.0, 8.0] {
            let levels = Levels {
                warning,
                ..Levels::default()
            };
            assert_eq!(levels.of(warning, Level::Ok), Level::Warning, "{warning}");
            let half = warning / 2.0;
            assert_eq!(levels.of(half, Level::Warning), Level::Warning, "{warning}");
            assert_eq!(
                levels.of(half - 0.1, Level::Warning),
                Level::Ok,
                "{warning}"
            );
        }
    }

    #[test]
    fn a_range_that_is_all_reserved_is_full() {
        let budget = Budget {
            range: 2,
            reserved: 2,
            ..Budget::default()
        };
        assert_eq!(used_percent(&budget), 100.0);
    }
}
