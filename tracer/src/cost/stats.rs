//! When `stats` lines are due, and what they say.

use std::time::Duration;

use crate::{
    record::{Bpf, Stats, Table, Waiting, seconds, tenths},
    stream::Counts,
};

/// Runs of BPF programs are counted for so long before a line is due.
const SAMPLE: u64 = Duration::from_secs(1).as_nanos() as u64;

/// Everything that is known at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub at: u64,
    pub counts: Counts,
    /// CPU time of this process, nanoseconds.
    pub cpu: u64,
}

/// The period of `stats` lines.
#[derive(Debug)]
pub struct Report {
    every: u64,
    last: Now,
    /// Most bytes that waited in the ring buffer since then.
    ring: u64,
}

/// What is asked for only when a line is written.
#[derive(Debug)]
pub struct Fills {
    pub rss: Option<u64>,
    /// Size of the ring buffer.
    pub ring: u64,
    pub table: Table,
    /// Memory of lines that wait.
    pub output: Table,
    pub bpf: Option<Bpf>,
}

impl Report {
    /// The first line comes after the period.
    pub fn new(every: Duration, begin: Now) -> Self {
        Self {
            every: u64::try_from(every.as_nanos()).unwrap_or(u64::MAX),
            last: begin,
            ring: 0,
        }
    }

    pub fn ring(&mut self, waiting: u64) {
        self.ring = self.ring.max(waiting);
    }

    /// Whether a line is due at this or a later moment, `ahead` nanoseconds from now.
    fn is_due_in(&self, now: u64, ahead: u64) -> bool {
        // Half a second too early is nearer than half a second too late.
        let about = SAMPLE / 2;
        now.saturating_add(ahead + about) >= self.last.at.saturating_add(self.every)
    }

    pub fn is_due(&self, now: u64) -> bool {
        self.is_due_in(now, 0)
    }

    /// Whether it is time to count runs of BPF programs.
    pub fn samples(&self, now: u64) -> bool {
        self.is_due_in(now, SAMPLE)
    }

    /// The line; the next period begins.
    pub fn tell(&mut self, now: Now, fills: Fills) -> Stats {
        let before = std::mem::replace(&mut self.last, now);
        let peak = std::mem::take(&mut self.ring);
        let lasted = now.at.saturating_sub(before.at).max(1);
        let per_second = |count: u64| tenths(count as f64 * 1e9 / lasted as f64);
        let events = now.counts.events.saturating_sub(before.counts.events);
        let lines = now.counts.lines.saturating_sub(before.counts.lines);
        let cpu = now.cpu.saturating_sub(before.cpu);
        Stats {
            interval_s: seconds(lasted),
            events,
            events_per_s: per_second(events),
            lines,
            lines_per_s: per_second(lines),
            lost: now.counts.lost.saturating_sub(before.counts.lost),
            cpu_percent: tenths(cpu as f64 * 100.0 / lasted as f64),
            rss_bytes: fills.rss,
            ring: Some(Table {
                used: peak,
                size: fills.ring,
            }),
            table: fills.table,
            output: Waiting {
                used: fills.output.used,
                size: fills.output.size,
                dropped: now.counts.dropped.saturating_sub(before.counts.dropped),
            },
            bpf: fills.bpf,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn now(second: u64, events: u64, cpu: u64) -> Now {
        let counts = Counts {
            events,
            lines: 2 * events,
            ..Counts::default()
        };
        Now {
            at: second * SECOND,
            counts,
            cpu,
        }
    }

    fn fills() -> Fills {
        Fills {
            rss: Some(4096),
            ring: 8192,
            table: Table { used: 1, size: 2 },
            output: Table { used: 3, size: 4 },
            bpf: None,
        }
    }

    #[test]
    fn lines_tell_what_happened_since_the_last() {
        let mut report = Report::new(Duration::from_secs(10), now(100, 50, 7));
        report.ring(300);
        report.ring(200);
        let first = report.tell(now(110, 150, SECOND / 2 + 7), fills());
        assert_eq!((first.events, first.events_per_s), (100, 10.0));
        assert_eq!((first.lines, first.lines_per_s), (200, 20.0));
        assert_eq!((first.interval_s, first.cpu_percent), (10.0, 5.0));
        assert_eq!(
            first.ring,
            Some(Table {
                used: 300,
                size: 8192
            })
        );
        let second = report.tell(now(112, 150, SECOND), fills());
        assert_eq!((second.events, second.interval_s), (0, 2.0));
        assert_eq!(second.ring.map(|ring| ring.used), Some(0));
    }

    #[test]
    fn programs_are_watched_in_the_last_second() {
        let report = Report::new(Duration::from_secs(10), now(100, 0, 0));
        let at = |tenths: u64| tenths * SECOND / 10;
        assert!(!report.samples(at(1084)) && report.samples(at(1086)));
        assert!(!report.is_due(at(1094)) && report.is_due(at(1096)));
        let always = Report::new(Duration::from_secs(1), now(100, 0, 0));
        assert!(always.samples(at(1000)) && !always.is_due(at(1000)));
    }
}
