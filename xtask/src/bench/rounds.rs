//! Every observer watches every load, again and again.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use serde::Serialize;

use super::{
    Options, bpf,
    load::{self, Kind, Load},
    mode::Mode,
    observer::{Observer, Seen},
    yardstick::Beside,
};
use crate::process::say;

/// How often an observer is watched that has nothing to see.
const IDLE_RUNS: usize = 3;

/// How often each observer's programs are timed.
const BPF_RUNS: usize = 3;

/// One load that was watched once.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Measurement {
    pub(super) load: Kind,
    pub(super) observer: &'static str,
    /// With BPF statistics, which cost something themselves: only `bpf` counts.
    pub(super) with_bpf_stats: bool,
    pub(super) connections: u64,
    pub(super) seconds: f64,
    /// For a connection, as what follows.
    pub(super) load_cpu_us: f64,
    pub(super) observer_cpu_us: f64,
    /// Nanoseconds by program.
    pub(super) bpf_ns: BTreeMap<String, f64>,
    pub(super) resident_mib: f64,
    pub(super) lines: u64,
    pub(super) expected_lines: Option<u64>,
    /// Events, as it says itself; `None`: it does not.
    pub(super) lost: Option<u64>,
    /// How slow the CPU was, as in [`Load`]; 0: not known.
    pub(super) yardstick_us: f64,
    /// The same of the observer's CPU.
    pub(super) observer_yardstick_us: f64,
}

pub(super) struct Rounds<'a> {
    pub(super) options: &'a Options,
    pub(super) tracer: &'a Path,
    pub(super) scratch: &'a Path,
}

impl Rounds<'_> {
    pub(super) fn all(&self, modes: &[&'static Mode]) -> Result<Vec<Measurement>> {
        let idle = self.idle(modes)?;
        let mut measurements = Vec::new();
        for kind in &self.options.loads {
            for repetition in 0..self.options.repetitions {
                for mode in shuffled(modes, repetition) {
                    tell(*kind, mode, &format!("({})", repetition + 1));
                    measurements.push(self.measure(*kind, mode, &idle, false)?);
                }
            }
            let observers = modes.iter().filter(|mode| mode.name != "none");
            for mode in observers.flat_map(|mode| [mode; BPF_RUNS]) {
                tell(*kind, mode, "with BPF statistics");
                measurements.push(self.measure(*kind, mode, &idle, true)?);
            }
        }
        Ok(measurements)
    }

    /// CPU seconds of each observer that sees nothing, from when it watches to its end: not the load's fault. The least, as
    /// others may have connections.
    fn idle(&self, modes: &[&'static Mode]) -> Result<BTreeMap<&'static str, f64>> {
        let mut idle = BTreeMap::new();
        for mode in modes {
            say(&format!("{} without a load", mode.name));
            let mut least = f64::INFINITY;
            for _ in 0..IDLE_RUNS {
                let seen = self.observer(mode)?.map(Observer::stop).transpose()?;
                least = least.min(seen.unwrap_or_default().cpu_seconds);
            }
            idle.insert(mode.name, least);
        }
        Ok(idle)
    }

    fn observer(&self, mode: &'static Mode) -> Result<Option<Observer<'static>>> {
        Observer::start(mode, self.tracer, self.scratch, self.options.pin(1))
    }

    fn measure(
        &self,
        kind: Kind,
        mode: &'static Mode,
        idle: &BTreeMap<&'static str, f64>,
        with_bpf_stats: bool,
    ) -> Result<Measurement> {
        let observer = self.observer(mode)?;
        let stats = with_bpf_stats.then(bpf::Statistics::enable).transpose()?;
        let processes = self.options.processes()?;
        let order = load::Order {
            kind,
            connections: self.options.connections / processes,
            rate: self.options.rate / processes,
            cpu: self.options.pin(0),
        };
        let beside = self.options.pin(1).map(Beside::start);
        let load = load::measure(&order, processes)?;
        let yardstick = beside.map(Beside::stop).transpose()?;
        let seen = observer.map(Observer::stop).transpose()?;
        drop(stats);
        let mut seen = seen.unwrap_or_default();
        seen.cpu_seconds -= idle.get(mode.name).copied().unwrap_or_default();
        seen.yardstick_us = yardstick.unwrap_or_default();
        Ok(measurement(kind, mode, &load, seen, with_bpf_stats))
    }
}

fn tell(kind: Kind, mode: &Mode, how: &str) {
    say(&format!("{}: {} {how}", kind.name(), mode.name));
}

fn measurement(
    kind: Kind,
    mode: &'static Mode,
    load: &Load,
    seen: Seen,
    with_bpf_stats: bool,
) -> Measurement {
    let each = |seconds: f64, count: u64| seconds * 1e6 / count as f64;
    let bpf = seen.bpf.into_iter();
    Measurement {
        load: kind,
        observer: mode.name,
        with_bpf_stats,
        connections: load.connections,
        seconds: load.seconds,
        load_cpu_us: each(load.cpu_seconds, load.connections),
        observer_cpu_us: each(seen.cpu_seconds, load.in_all),
        bpf_ns: bpf
            .filter(|(_, ns)| *ns > 0)
            .map(|(name, ns)| (name, ns as f64 / load.in_all as f64))
            .collect(),
        resident_mib: seen.resident_mib,
        lines: seen.lines,
        expected_lines: mode.lines.expected(kind).map(|each| load.in_all * each),
        lost: seen.lost,
        yardstick_us: load.yardstick_us,
        observer_yardstick_us: seen.yardstick_us,
    }
}

/// Each repetition in another order, the same in every run.
fn shuffled(modes: &[&'static Mode], repetition: u32) -> Vec<&'static Mode> {
    let mut order: BTreeMap<u64, &'static Mode> = BTreeMap::new();
    for (number, mode) in (1..).zip(modes) {
        // Multiplying by an odd constant permutes; SplitMix64's spreads well.
        let key = (number + u64::from(repetition) * 977).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        order.insert(
            key.rotate_left(31).wrapping_mul(0xBF58_476D_1CE4_E5B9),
            mode,
        );
    }
    order.into_values().collect()
}
