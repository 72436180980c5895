//! What would have been measured, had the CPUs been equally fast all the time.

use std::collections::BTreeMap;

use super::{rounds::Measurement, table::median};

/// Fewer runs show nothing.
const ENOUGH: usize = 5;

/// What a yardstick took in a run, and what was measured beside it, both as CPU time; 0: not known.
type Run = (f64, f64);

/// By how much times of a run are to be multiplied.
pub(super) struct Speeds {
    load: Speed,
    observer: Speed,
}

impl Speeds {
    pub(super) fn of(measurements: &[&Measurement]) -> Self {
        let mut bare = Vec::new();
        let mut observers: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for each in measurements {
            if each.observer == "none" {
                bare.push((each.yardstick_us, each.load_cpu_us));
            }
            let own = (each.observer_yardstick_us, each.observer_cpu_us);
            observers.entry(each.observer).or_default().push(own);
        }
        let all = measurements.iter();
        Self {
            load: Speed::of([bare], all.clone().map(|each| each.yardstick_us)),
            observer: Speed::of(
                observers.into_values(),
                all.map(|each| each.observer_yardstick_us),
            ),
        }
    }

    pub(super) fn of_load(&self, run: &Measurement) -> f64 {
        self.load.factor(run.yardstick_us)
    }

    pub(super) fn of_observer(&self, run: &Measurement) -> f64 {
        self.observer.factor(run.observer_yardstick_us)
    }
}

/// How a CPU time follows that of its yardstick: as a power of it.
struct Speed {
    exponent: f64,
    /// What times are brought to: the median yardstick of all runs.
    reference: f64,
}

impl Speed {
    /// `groups`: runs that but for the CPU would have taken the same, by group; `yardsticks`: those of all runs.
    fn of(
        groups: impl IntoIterator<Item = Vec<Run>>,
        yardsticks: impl Iterator<Item = f64>,
    ) -> Self {
        let groups = groups.into_iter().map(|group| {
            let known = group.iter().filter(|(x, y)| *x > 0.0 && *y > 0.0);
            known.map(|(x, y)| (x.ln(), y.ln())).collect::<Vec<_>>()
        });
        let points: Vec<_> = groups.flat_map(|group| around_mean(&group)).collect();
        Self {
            exponent: match points.len() >= ENOUGH {
                true => slope(&points).clamp(0.0, 1.0),
                false => 0.0,
            },
            reference: median(yardsticks.filter(|each| *each > 0.0).collect()),
        }
    }

    fn factor(&self, yardstick: f64) -> f64 {
        match yardstick > 0.0 {
            true => (self.reference / yardstick).powf(self.exponent),
            false => 1.0,
        }
    }
}

fn around_mean(points: &[Run]) -> Vec<Run> {
    let count = points.len().max(1) as f64;
    let mean = |value: fn(&Run) -> f64| points.iter().map(value).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let moved = points.iter().map(|point| (point.0 - x, point.1 - y));
    moved.collect()
}

/// Of the line through the mean that fits best; 0 where nothing varies.
fn slope(points: &[Run]) -> f64 {
    let along: f64 = points.iter().map(|(x, _)| x * x).sum();
    let both: f64 = points.iter().map(|(x, y)| x * y).sum();
    if along > 0.0 { both / along } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speed(groups: &[Vec<Run>]) -> Speed {
        let all = groups.iter().flatten();
        Speed::of(groups.to_vec(), all.map(|(yardstick, _)| *yardstick))
    }

    #[test]
    fn runs_on_a_slow_and_on_a_fast_cpu_become_alike() {
        let group = |time: f64| {
            let yardsticks = [100.0_f64, 125.0, 150.0, 175.0, 225.0];
            yardsticks.map(|each| (each, time * each.sqrt())).to_vec()
        };
        // What they do is of no matter.
        let groups = [group(2.0), group(90.0)];
        let speed = speed(&groups);
        for (yardstick, time) in &groups[0] {
            let alike = time * speed.factor(*yardstick);
            assert!((alike - 2.0 * 150.0_f64.sqrt()).abs() < 1e-9, "{alike}");
        }
    }

    #[test]
    fn what_is_not_known_stays() {
        let unknown = speed(&[vec![(0.0, 20.0), (0.0, 30.0)]]);
        assert_eq!(unknown.factor(0.0), 1.0);
        let too_few = speed(&[vec![(100.0, 20.0), (150.0, 30.0)]]);
        assert_eq!(too_few.factor(100.0), 1.0);
    }
}
