//! What a program costs.

use std::{process::Command, time::Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::process::wait;

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Cost {
    /// Seconds.
    pub(super) wall: f64,
    /// Seconds, in the program and in the kernel for it.
    pub(super) cpu: f64,
    /// The most memory that it had at a time, bytes.
    pub(super) rss: u64,
}

/// Runs it to its end.
pub(super) fn measure(command: &mut Command) -> Result<Cost> {
    let began = Instant::now();
    let child = command.spawn().context("it can't be started")?;
    let (status, usage) = wait(child.id()).context("it can't be waited for")?;
    let wall = began.elapsed().as_secs_f64();
    ensure!(status.success(), "{status}");
    Ok(Cost {
        wall,
        cpu: usage.cpu_seconds(),
        rss: usage.most_memory(),
    })
}

/// Each figure's own.
pub(super) fn medians(costs: &[Cost]) -> Cost {
    Cost {
        wall: median(costs, |cost| cost.wall),
        cpu: median(costs, |cost| cost.cpu),
        rss: median(costs, |cost| cost.rss as f64) as u64,
    }
}

fn median(costs: &[Cost], figure: impl Fn(&Cost) -> f64) -> f64 {
    let mut figures: Vec<f64> = costs.iter().map(figure).collect();
    figures.sort_unstable_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => f64::NAN,
        length if length.is_multiple_of(2) => (figures[middle - 1] + figures[middle]) / 2.0,
        _ => figures[middle],
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{Cost, measure, medians};

    #[test]
    fn measures_what_a_program_uses() {
        let cost = measure(Command::new("sh").args(["-c", "sleep 0.1"])).unwrap();
        assert!(cost.wall >= 0.1, "{cost:?}");
        assert!(cost.rss > 0, "{cost:?}");
        let error = measure(&mut Command::new("false")).unwrap_err();
        assert!(error.to_string().contains("exit status: 1"), "{error}");
    }

    #[test]
    fn medians_are_of_each_figure() {
        let cost = |wall, cpu, rss| Cost { wall, cpu, rss };
        let odd = medians(&[cost(3.0, 1.0, 5), cost(1.0, 2.0, 9), cost(2.0, 9.0, 7)]);
        assert_eq!((odd.wall, odd.cpu, odd.rss), (2.0, 2.0, 7));
        let even = medians(&[cost(1.0, 1.0, 2), cost(2.0, 3.0, 4)]);
        assert_eq!((even.wall, even.cpu, even.rss), (1.5, 2.0, 3));
    }
}
