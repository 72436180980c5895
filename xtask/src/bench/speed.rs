//! What would have been measured, had the CPU been equally fast all the time.

use super::{rounds::Measurement, table::median};

/// Fewer runs without an observer show nothing.
const ENOUGH: usize = 5;

/// How the load's CPU time follows that of its yardstick: as a power of it, which the runs without an observer show.
pub(super) struct Speed {
    exponent: f64,
    /// What times are brought to: the median yardstick of all runs.
    reference: f64,
}

impl Speed {
    /// `bare`: without an observer.
    pub(super) fn of<'a>(
        all: impl Iterator<Item = &'a Measurement>,
        bare: impl Iterator<Item = &'a Measurement>,
    ) -> Self {
        let is_known = |each: &&Measurement| each.yardstick_us > 0.0;
        let points = bare.filter(is_known);
        let points: Vec<_> = points
            .map(|each| (each.yardstick_us.ln(), each.load_cpu_us.ln()))
            .collect();
        Self {
            exponent: match points.len() >= ENOUGH {
                true => slope(&points).clamp(0.0, 1.0),
                false => 0.0,
            },
            reference: median(all.filter(is_known).map(|each| each.yardstick_us).collect()),
        }
    }

    /// By how much times of a run are to be multiplied.
    pub(super) fn factor(&self, run: &Measurement) -> f64 {
        match run.yardstick_us > 0.0 {
            true => (self.reference / run.yardstick_us).powf(self.exponent),
            false => 1.0,
        }
    }
}

/// Of the line that fits best; 0 where nothing varies.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len().max(1) as f64;
    let mean = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let along: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let both: f64 = points
        .iter()
        .map(|point| (point.0 - x) * (point.1 - y))
        .sum();
    if along > 0.0 { both / along } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::bench::load::Kind;

    fn run(yardstick_us: f64, load_cpu_us: f64) -> Measurement {
        Measurement {
            load: Kind::FinClient,
            observer: "none",
            with_bpf_stats: false,
            connections: 1,
            seconds: 1.0,
            load_cpu_us,
            observer_cpu_us: 0.0,
            bpf_ns: BTreeMap::new(),
            resident_mib: 0.0,
            lines: 0,
            expected_lines: None,
            lost: None,
            yardstick_us,
        }
    }

    #[test]
    fn runs_on_a_slow_and_on_a_fast_cpu_become_alike() {
        let runs: Vec<_> = [100.0_f64, 125.0, 150.0, 175.0, 225.0]
            .map(|yardstick| run(yardstick, 2.0 * yardstick.sqrt()))
            .into();
        let speed = Speed::of(runs.iter(), runs.iter());
        for run in &runs {
            let alike = run.load_cpu_us * speed.factor(run);
            assert!((alike - 2.0 * 150.0_f64.sqrt()).abs() < 1e-9, "{alike}");
        }
    }

    #[test]
    fn what_is_not_known_stays() {
        let runs = [run(0.0, 20.0), run(0.0, 30.0)];
        let speed = Speed::of(runs.iter(), runs.iter());
        assert_eq!(speed.factor(&runs[0]), 1.0);
        let runs = [run(100.0, 20.0), run(100.0, 30.0)];
        let speed = Speed::of(runs.iter(), runs.iter());
        assert_eq!(speed.factor(&runs[1]), 1.0);
    }
}
