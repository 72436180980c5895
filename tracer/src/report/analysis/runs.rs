//! Runs of tracer: what their own numbers say about what is missing.

use std::collections::HashMap;

use super::{
    holes::{At, Holes},
    names::HostId,
};
use crate::report::line::Settings;

/// A time that lies so far from the one before is a step of the clock (nanoseconds).
const STEP_BACK: i64 = 5_000_000_000;
/// So many runs are told apart; further ones of a host go with its last.
const RUNS: usize = 4096;
/// Numbers that fall by so much are of another run.
const RESTART: u64 = 100_000;

/// One run.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub host: HostId,
    pub from: i64,
    pub to: i64,
    pub tracer: Option<String>,
    pub kernel: Option<String>,
    pub lines: u64,
    /// Those that `stop` counts: not the flight recorder's own lines, and its copies.
    numbered: u64,
    pub stopped: bool,
    next: Option<u64>,
    /// Lines that are missing, less those that came late.
    missing: i64,
    first_gap: Option<(At, u64, u64)>,
    late: u64,
    first_late: Option<At>,
    first_seq: Option<u64>,
    /// As numbered lines told them, each for its `repeats`.
    pub failures: u64,
    pub bind_failures: u64,
    told: Option<(u64, u64, u64)>,
    pub settings: HashMap<u32, Settings>,
    pub states: u64,
    /// See [`crate::report::digest::Start::is_sampled`].
    pub is_sampled: bool,
    pub usages: u64,
    pub overflow: u64,
    /// A line lay in the time that counts.
    pub counts: bool,
    /// There have only been copies of lines, which are as old as the run may be.
    is_untimed: bool,
}

/// What tells which run a line is of.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    pub ts: i64,
    /// It is a copy of a line that came before.
    pub is_copy: bool,
    pub seq: Option<u64>,
    pub starts: bool,
}

#[derive(Debug, Default)]
pub(super) struct Runs {
    pub all: Vec<Run>,
    current: HashMap<HostId, usize>,
}

impl Runs {
    /// The run that a line belongs to, and whether it is a new one.
    pub(super) fn follow(
        &mut self,
        host: HostId,
        mark: Mark,
        at: impl Fn() -> At,
        holes: &mut Holes,
    ) -> (usize, bool) {
        let Mark {
            ts, seq, starts, ..
        } = mark;
        let current = self.current.get(&host).copied();
        let full = self.all.len() >= RUNS;
        let current = current.filter(|run| full || !self.all[*run].is_over(seq, starts));
        let number = current.unwrap_or_else(|| self.begin(host, seq));
        let run = &mut self.all[number];
        run.lines += 1;
        if run.is_untimed {
            (run.from, run.to) = (ts, ts);
        }
        if mark.is_copy {
            return (number, current.is_none());
        }
        run.is_untimed = false;
        if ts < run.to.saturating_sub(STEP_BACK) {
            let back = run.to.saturating_sub(ts) / 1_000_000_000;
            holes.add("clock_step", at(), 1, || {
                format!("its time lies {back} s before that of a line above it: the clock was set, or lines are out of order")
            });
        }
        if let Some(seq) = seq {
            run.numbered += 1;
            run.first_seq.get_or_insert(seq);
            run.count(seq, at);
        }
        run.from = run.from.min(ts);
        run.to = run.to.max(ts);
        (number, current.is_none())
    }

    /// First and last time of all runs.
    pub(super) fn span(&self) -> Option<(i64, i64)> {
        let from = self.all.iter().map(|run| run.from).min()?;
        let to = self.all.iter().map(|run| run.to).max()?;
        Some((from, to))
    }

    /// The one that a host's lines are of now.
    pub(super) fn last_of(&self, host: HostId) -> Option<usize> {
        self.current.get(&host).copied()
    }

    fn begin(&mut self, host: HostId, seq: Option<u64>) -> usize {
        self.all.push(Run {
            host,
            next: seq,
            is_untimed: true,
            ..Run::default()
        });
        self.current.insert(host, self.all.len() - 1);
        self.all.len() - 1
    }

    /// Of the run before this one of the same host.
    pub(super) fn settings_before(&self, run: usize) -> Option<&HashMap<u32, Settings>> {
        let host = self.all[run].host;
        let before = self.all[..run]
            .iter()
            .rev()
            .find(|before| before.host == host);
        before.map(|before| &before.settings)
    }

    pub(super) fn finish(
        &self,
        host_name: impl Fn(HostId) -> String,
        cut_before: bool,
        holes: &mut Holes,
    ) {
        for run in &self.all {
            run.finish(host_name(run.host), cut_before, holes);
        }
    }
}

impl Run {
    /// Whether a line is of another run. Copies come before the start line that they are of.
    fn is_over(&self, seq: Option<u64>, starts: bool) -> bool {
        let Some((seq, next)) = seq.zip(self.next) else {
            return starts && self.next.is_some();
        };
        starts || seq.saturating_add(RESTART) < next || (seq == 0 && next > 0)
    }

    fn count(&mut self, seq: u64, at: impl Fn() -> At) {
        let next = self.next.unwrap_or(seq);
        if seq < next {
            self.late += 1;
            self.missing -= 1;
            self.first_late.get_or_insert_with(at);
            return;
        }
        if seq > next {
            self.missing = self.missing.saturating_add_unsigned(seq - next);
            self.first_gap.get_or_insert_with(|| (at(), next, seq));
        }
        self.next = Some(seq.saturating_add(1));
    }

    pub(super) fn stop(&mut self, lines: u64, failures: u64, bind_failures: u64) {
        self.stopped = true;
        self.told = Some((lines, failures, bind_failures));
    }

    fn finish(&self, host: String, cut_before: bool, holes: &mut Holes) {
        let whole = || At {
            host: Some(host.clone()),
            ts: Some(self.from),
            ..At::default()
        };
        if let (Some((at, next, seq)), 1..) = (&self.first_gap, self.missing) {
            let missing = self.missing;
            holes.add("gap", at.clone(), missing.unsigned_abs(), || {
                format!("{missing} lines of this run are missing, first between seq {next} and {seq}: what they told is not in this report")
            });
        }
        if let Some(at) = &self.first_late {
            let late = self.late;
            holes.add("out_of_order", at.clone(), late, || {
                format!("{late} lines come after later ones of the same run, this one first: their order in time may be lost in levels")
            });
        }
        if self.tracer.is_none() && self.lines > 0 {
            let first = self.first_seq.filter(|seq| *seq > 0);
            holes.add("no_start", whole(), first.unwrap_or(1), || match first {
                Some(seq) => format!("the first {seq} lines of this run are not in the input: it begins in the middle, and what was there before shows from the first usage line on"),
                None => "there is no start line of this run: its kernel and port settings are not known from it".into(),
            });
        }
        if !self.stopped {
            let at = At {
                ts: Some(self.to),
                ..whole()
            };
            holes.add("no_stop", at, 1, || {
                "there is no stop line: tracer went on, was killed, or the end is not in the input; its totals can't be checked".into()
            });
        }
        self.compare(&whole(), cut_before, holes);
    }

    /// The totals of `stop` with what was read.
    fn compare(&self, at: &At, cut_before: bool, holes: &mut Holes) {
        let Some((lines, failures, bind_failures)) = self.told else {
            return;
        };
        // A copy of the start line may be there although the first lines are not.
        let is_cut = self.tracer.is_none() || self.first_seq > Some(0);
        let known = self.missing > 0 || is_cut || cut_before;
        let pairs = [
            ("lines", lines, self.numbered, known),
            ("failed connects", failures, self.failures, known),
            ("failed binds", bind_failures, self.bind_failures, known),
        ];
        for (what, told, read, known) in pairs {
            if told != read && !known {
                holes.add("totals", at.clone(), told.abs_diff(read), || {
                    format!("the stop line says {told} {what}, {read} were read: lines are missing, doubled or were left out on purpose")
                });
            }
        }
    }
}
