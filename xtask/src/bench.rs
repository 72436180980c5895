//! `cargo xtask bench`: what watching costs, tracer beside its peers, in one run.
//!
//! The load's own CPU time grows by what is done in it (the kernel runs BPF programs in the context that has the event),
//! and the observer uses its own: their sum for a connection is what watching costs. Repetitions are shuffled, so that a
//! machine that drifts does so for all; medians are shown.

mod bpf;
mod cpu;
pub(crate) mod load;
#[path = "../../tracer/tests/loopback/mod.rs"]
mod loopback;
mod observer;
mod table;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use self::{
    load::{Kind, Load},
    observer::{Lines, MODES, Mode, Observer, Seen},
};
use crate::{
    cargo,
    process::{is_root, say, target_directory},
};

const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How often each observer watches each load
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    repetitions: u32,
    /// Connections of each load
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(100..=10_000_000))]
    connections: u64,
    /// Connections per second; 0: as fast as it goes
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// How the connections end
    #[arg(long, value_delimiter = ',', default_value = "fin-client")]
    loads: Vec<Kind>,
    /// Only these observers; default: all that are installed
    #[arg(long, value_delimiter = ',')]
    observers: Vec<String>,
    /// Measure this tracer instead of building one
    #[arg(long, value_name = "PROGRAM")]
    tracer: Option<PathBuf>,
    /// Let load and observer run where the kernel wants, instead of on CPU 0 and 1
    #[arg(long)]
    no_pin: bool,
    /// Also write every measurement there
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One load that was watched once.
#[derive(Clone, Copy, Debug, Serialize)]
struct Measurement {
    load: Kind,
    observer: &'static str,
    /// With `kernel.bpf_stats_enabled`, which costs something itself: only `bpf_ns` counts.
    with_bpf_stats: bool,
    connections: u64,
    seconds: f64,
    load_cpu_us: f64,
    observer_cpu_us: f64,
    resident_mib: f64,
    bpf_ns: f64,
    lines: u64,
    expected_lines: Option<u64>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(
        is_root(),
        "network namespaces and tracing need root: run this as root"
    );
    let tracer = match &options.tracer {
        Some(program) => program.clone(),
        None => cargo::tracer()?,
    };
    let modes = options.modes(&tracer)?;
    let scratch = target_directory().join("bench");
    fs::create_dir_all(&scratch).with_context(|| format!("{} can't be made", scratch.display()))?;
    let bench = Bench {
        options,
        tracer: &tracer,
        scratch: &scratch,
    };
    let measurements = bench.all(&modes)?;
    table::print(&measurements);
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&measurements)?;
        fs::write(file, text).with_context(|| format!("{} can't be written", file.display()))?;
    }
    Ok(())
}

impl Options {
    fn modes(&self, tracer: &Path) -> Result<Vec<&'static Mode>> {
        for name in &self.observers {
            let names: Vec<_> = MODES.iter().map(|mode| mode.name).collect();
            ensure!(
                names.contains(&name.as_str()),
                "--observers {name}: there are {}",
                names.join(", ")
            );
        }
        let wanted = |mode: &&Mode| {
            mode.name == "none"
                || self.observers.is_empty()
                || self.observers.iter().any(|name| name == mode.name)
        };
        let (here, missing): (Vec<_>, Vec<_>) = MODES
            .iter()
            .filter(wanted)
            .partition(|mode| mode.is_here(tracer));
        for mode in missing {
            say(&format!("{} is not installed here: left out", mode.name));
        }
        Ok(here)
    }
}

struct Bench<'a> {
    options: &'a Options,
    tracer: &'a Path,
    scratch: &'a Path,
}

impl Bench<'_> {
    fn all(&self, modes: &[&'static Mode]) -> Result<Vec<Measurement>> {
        let mut measurements = Vec::new();
        for kind in &self.options.loads {
            for repetition in 0..self.options.repetitions {
                for mode in shuffled(modes, repetition) {
                    say(&format!(
                        "{}: {} ({})",
                        kind.name(),
                        mode.name,
                        repetition + 1
                    ));
                    measurements.push(self.measure(*kind, mode, false)?);
                }
            }
            for mode in modes.iter().filter(|mode| mode.name != "none") {
                say(&format!(
                    "{}: {}, with BPF statistics",
                    kind.name(),
                    mode.name
                ));
                measurements.push(self.measure(*kind, mode, true)?);
            }
        }
        Ok(measurements)
    }

    fn measure(
        &self,
        kind: Kind,
        mode: &'static Mode,
        with_bpf_stats: bool,
    ) -> Result<Measurement> {
        let pin = |cpu| (!self.options.no_pin).then_some(cpu);
        let observer = Observer::start(mode, self.tracer, self.scratch, pin(1))?;
        let _stats = with_bpf_stats.then(Statistics::enable).transpose()?;
        let Options {
            connections, rate, ..
        } = *self.options;
        let load = load::measure(kind, connections, rate, pin(0))?;
        let seen = observer
            .map(Observer::stop)
            .transpose()?
            .unwrap_or_default();
        Ok(measurement(kind, mode, &load, &seen, with_bpf_stats))
    }
}

fn measurement(
    kind: Kind,
    mode: &'static Mode,
    load: &Load,
    seen: &Seen,
    with_bpf_stats: bool,
) -> Measurement {
    let each = |seconds: f64, count: u64| seconds * 1e6 / count as f64;
    Measurement {
        load: kind,
        observer: mode.name,
        with_bpf_stats,
        connections: load.connections,
        seconds: load.seconds,
        load_cpu_us: each(load.cpu_seconds, load.connections),
        observer_cpu_us: each(seen.cpu_seconds, load.in_all),
        resident_mib: seen.resident_mib,
        bpf_ns: seen.bpf.ns as f64 / load.in_all as f64,
        lines: seen.lines,
        expected_lines: match mode.lines {
            Lines::Unknown => None,
            Lines::Transitions => Some(load.in_all * kind.transitions()),
            Lines::Each(lines) => Some(load.in_all * lines),
        },
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

/// `kernel.bpf_stats_enabled`, as long as this lives.
struct Statistics {
    before: String,
}

impl Statistics {
    fn enable() -> Result<Self> {
        let before = fs::read_to_string(STATS).context("BPF statistics can't be read")?;
        fs::write(STATS, "1").context("BPF statistics can't be enabled")?;
        Ok(Self { before })
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        if let Err(error) = fs::write(STATS, &self.before) {
            say(&format!("{STATS} can't be set back: {error}"));
        }
    }
}
