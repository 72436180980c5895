//! What the tracer costs from time to time, and whether that grows.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::tracer::Tracer;

/// In /proc; the same on every architecture that it runs on.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Clone, Debug, Serialize)]
pub(super) struct Sample {
    second: u64,
    /// Resident, without the ring buffer and other mapped files, which fill up first: kB.
    anonymous_kb: u64,
    rss_kb: u64,
    /// Of the tracer, since it started.
    cpu_s: f64,
    lines: u64,
    failures: u64,
    lost: u64,
    /// By the latest `ledger` line.
    sockets: u64,
    namespaces: usize,
    threads: u64,
}

impl Sample {
    pub(super) const HEAD: &str =
        "second  rss kB  anon kB  cpu s    lines  failures  lost  sockets  namespaces";

    pub(super) fn take(
        tracer: &Tracer,
        at: Duration,
        namespaces: usize,
        sockets: u64,
    ) -> Result<Self> {
        let pid = tracer.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok());
            number.with_context(|| format!("no {name} in its status"))
        };
        let counts = tracer.lines.counts();
        Ok(Self {
            second: at.as_secs(),
            anonymous_kb: field("RssAnon:")?,
            rss_kb: field("VmRSS:")?,
            cpu_s: cpu(pid)?,
            lines: counts.lines,
            failures: counts.failures + counts.bind_failures,
            lost: tracer.losses().iter().map(|loss| loss.events).sum(),
            sockets,
            namespaces,
            threads: field("Threads:")?,
        })
    }

    pub(super) fn row(&self) -> String {
        format!(
            "{:6} {:7} {:8} {:6.1} {:8} {:9} {:5} {:8} {:11}",
            self.second,
            self.rss_kb,
            self.anonymous_kb,
            self.cpu_s,
            self.lines,
            self.failures,
            self.lost,
            self.sockets,
            self.namespaces
        )
    }
}

/// User and system time, in seconds.
fn cpu(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').context("no name in its stat")?;
    let fields = rest.split_ascii_whitespace().skip(11).take(2);
    let ticks = fields.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// The last third of a run beside the middle one; the first is for warming up.
#[derive(Debug, Serialize)]
pub(super) struct Growth {
    middle_kb: u64,
    last_kb: u64,
    /// The slope of the two thirds, by least squares: kB per minute.
    slope_kb_per_minute: f64,
}

/// So much is noise: tables that double, lines that once waited for a reader, and what an allocator keeps of both.
const NOISE_PERCENT: u64 = 10;
const NOISE_KB: u64 = 8192;

impl Growth {
    pub(super) fn of(samples: &[Sample]) -> Option<Self> {
        let third = samples.len() / 3;
        let (middle, last) = (samples.get(third..2 * third)?, &samples[2 * third..]);
        Some(Self {
            middle_kb: mean(middle)?,
            last_kb: mean(last)?,
            slope_kb_per_minute: slope(&samples[third..]),
        })
    }

    pub(super) fn is_flat(&self) -> bool {
        self.last_kb <= self.middle_kb + self.middle_kb * NOISE_PERCENT / 100 + NOISE_KB
    }

    pub(super) fn in_words(&self) -> String {
        format!(
            "{} kB of anonymous memory in the middle third, {} kB in the last ({:+.0} kB a minute)",
            self.middle_kb, self.last_kb, self.slope_kb_per_minute
        )
    }
}

fn mean(samples: &[Sample]) -> Option<u64> {
    let sum: u64 = samples.iter().map(|sample| sample.anonymous_kb).sum();
    sum.checked_div(samples.len() as u64)
}

fn slope(samples: &[Sample]) -> f64 {
    let points = samples
        .iter()
        .map(|sample| (sample.second as f64 / 60.0, sample.anonymous_kb as f64));
    let points: Vec<(f64, f64)> = points.collect();
    let count = points.len() as f64;
    let x = points.iter().map(|point| point.0).sum::<f64>() / count;
    let y = points.iter().map(|point| point.1).sum::<f64>() / count;
    let covariance: f64 = points
        .iter()
        .map(|point| (point.0 - x) * (point.1 - y))
        .sum();
    let variance: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    covariance / variance
}
