//! The CPU guard (`--max-cpu`): past the limit, more and more detail is left out, and comes back when the load falls.

use std::{collections::VecDeque, time::Duration};

use crate::record::Shedding;

const SECOND: u64 = Duration::from_secs(1).as_nanos() as u64;

/// The load is measured over so long.
const WINDOW: u64 = 5 * SECOND;

/// What was measured for a shorter time says nothing.
const LEAST: u64 = 3 * SECOND;

/// Detail comes back below such a part of the limit.
const LOW: f64 = 0.75;

/// It stays away for so long at least. Whether there is room for it only shows when it is back: each time there was
/// not, the next attempt takes twice as long to come.
const PATIENCE: u64 = 10 * SECOND;
const MOST_PATIENCE: u64 = 300 * SECOND;

/// Pure: time and CPU time are arguments, nanoseconds.
#[derive(Debug)]
pub struct Guard {
    /// Percent of one core.
    max: f64,
    level: Shedding,
    samples: VecDeque<(u64, u64)>,
    changed: u64,
    /// When detail came back the last time.
    restored: Option<u64>,
    patience: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    pub level: Shedding,
    pub before: Shedding,
    /// The load that was the reason.
    pub percent: f64,
}

impl Guard {
    pub fn new(max: f64) -> Self {
        Self {
            max,
            level: Shedding::Nothing,
            samples: VecDeque::new(),
            changed: 0,
            restored: None,
            patience: PATIENCE,
        }
    }

    pub fn max(&self) -> f64 {
        self.max
    }

    pub fn level(&self) -> Shedding {
        self.level
    }

    /// To be called about once a second, with the CPU time of the process until `now`.
    pub fn look(&mut self, now: u64, cpu: u64) -> Option<Change> {
        self.sample(now, cpu);
        let percent = self.percent()?;
        let level = if percent > self.max {
            self.more(now)
        } else if percent < self.max * LOW {
            self.less(now)
        } else {
            self.level
        };
        let before = std::mem::replace(&mut self.level, level);
        (level != before).then(|| {
            self.changed = now;
            // The load of before says nothing about the new level.
            self.samples.clear();
            self.samples.push_back((now, cpu));
            Change {
                level,
                before,
                percent,
            }
        })
    }

    fn sample(&mut self, now: u64, cpu: u64) {
        self.samples.push_back((now, cpu));
        // The oldest one that is kept began the window.
        while self
            .samples
            .get(1)
            .is_some_and(|(at, _)| now.saturating_sub(*at) >= WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// The load over the window; `None`: it is too short.
    pub fn percent(&self) -> Option<f64> {
        let ((began, before), (now, cpu)) = (*self.samples.front()?, *self.samples.back()?);
        let lasted = now.saturating_sub(began);
        (lasted >= LEAST).then(|| cpu.saturating_sub(before) as f64 * 100.0 / lasted as f64)
    }

    fn more(&mut self, now: u64) -> Shedding {
        let in_vain = |restored| now.saturating_sub(restored) < self.patience.max(WINDOW);
        self.patience = match self.restored.take() {
            Some(restored) if in_vain(restored) => (2 * self.patience).min(MOST_PATIENCE),
            Some(_) => PATIENCE,
            None => self.patience,
        };
        match self.level {
            Shedding::Nothing => Shedding::State,
            Shedding::State => Shedding::Connection,
            Shedding::Connection | Shedding::Usage => Shedding::Usage,
        }
    }

    fn less(&mut self, now: u64) -> Shedding {
        if self.level == Shedding::Nothing || now.saturating_sub(self.changed) < self.patience {
            return self.level;
        }
        self.restored = Some(now);
        match self.level {
            Shedding::Usage => Shedding::Connection,
            Shedding::Connection => Shedding::State,
            Shedding::State | Shedding::Nothing => Shedding::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds and the levels that came then, while the load is `load(second, level)` percent.
    fn changes(
        max: f64,
        seconds: u64,
        load: impl Fn(u64, Shedding) -> u64,
    ) -> Vec<(u64, Shedding)> {
        let mut guard = Guard::new(max);
        let (mut cpu, mut changes) = (0, Vec::new());
        for second in 0..seconds {
            if let Some(change) = guard.look(second * SECOND, cpu) {
                assert_eq!(change.level, guard.level());
                changes.push((second, change.level));
            }
            cpu += load(second, guard.level()) * SECOND / 100;
        }
        changes
    }

    #[test]
    fn a_light_load_and_a_short_burst_change_nothing() {
        assert!(changes(50.0, 100, |_, _| 49).is_empty());
        assert!(
            changes(50.0, 100, |second, _| if second % 20 == 10 {
                100
            } else {
                10
            })
            .is_empty()
        );
    }

    #[test]
    fn what_costs_most_goes_first_and_all_comes_back() {
        let changes = changes(50.0, 100, |second, _| if second < 30 { 90 } else { 5 });
        use Shedding::{Connection, Nothing, State, Usage};
        let levels: Vec<_> = changes.iter().map(|(_, level)| *level).collect();
        assert_eq!(
            levels,
            [State, Connection, Usage, Connection, State, Nothing]
        );
        let seconds: Vec<_> = changes.iter().map(|(second, _)| *second).collect();
        assert_eq!(seconds[..3], [3, 6, 9]);
        // The window is full of the burst for a while; then one level at a time.
        assert!((32..=36).contains(&seconds[3]), "{seconds:?}");
        assert_eq!((seconds[4], seconds[5]), (seconds[3] + 10, seconds[3] + 20));
    }

    #[test]
    fn it_stops_where_the_load_is_bearable() {
        let changes = changes(50.0, 60, |_, level| match level {
            Shedding::Nothing => 100,
            _ => 45,
        });
        assert_eq!(changes, [(3, Shedding::State)]);
    }

    #[test]
    fn attempts_in_vain_become_rare() {
        let load = |_, level| if level == Shedding::Nothing { 100 } else { 10 };
        let changes = changes(50.0, 3600, load);
        assert!((20..=40).contains(&changes.len()), "{changes:?}");
        let pauses: Vec<_> = changes
            .windows(2)
            .map(|pair| pair[1].0 - pair[0].0)
            .collect();
        assert!(pauses.iter().any(|pause| *pause >= 300), "{pauses:?}");
    }
}
