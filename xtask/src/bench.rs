//! `cargo xtask bench`: what watching costs, tracer beside its peers, in one run.
//!
//! The load's own CPU time grows by what is done in it (the kernel runs BPF programs in the context that has the event),
//! and the observer uses its own: their sum for a connection is what watching costs. Repetitions are shuffled, so that a
//! machine that drifts does so for all; medians are shown. docs/performance.md says it all in plain words.

mod bpf;
mod cpu;
mod figures;
pub(crate) mod load;
#[path = "../../tracer/tests/loopback/mod.rs"]
mod loopback;
mod markdown;
mod mode;
mod observer;
mod output;
mod rounds;
mod speed;
mod table;
mod tracefs;
mod yardstick;

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result, ensure};

use self::{
    figures::Figure,
    load::Kind,
    mode::{MODES, Mode},
    rounds::Rounds,
    table::Table,
};
use crate::{
    cargo,
    process::{is_root, say, target_directory},
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How often each observer watches each load
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    repetitions: u32,
    /// Connections of each load
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(100..=10_000_000))]
    connections: u64,
    /// Connections per second, whether or not the last one was slow (open loop); 0: as fast as it goes (closed loop)
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
    /// Keep every CPU busy: as many loads as there are CPUs, which make the connections and the rate together; nothing is pinned
    #[arg(long)]
    saturate: bool,
    /// Figures of tracer alone, instead of the comparison
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    figures: Vec<Figure>,
    /// Also write every measurement there
    #[arg(long, value_name = "FILE", conflicts_with = "figures")]
    json: Option<PathBuf>,
    /// Also put the tables into this page: each replaces the one of its name, or comes last
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(
        is_root(),
        "network namespaces and tracing need root: run this as root"
    );
    tracefs::ensure()?;
    bpf::Statistics::refuse()?;
    let tracer = match &options.tracer {
        Some(program) => program.clone(),
        None => cargo::tracer()?,
    };
    if !options.figures.is_empty() {
        return figures::measure(&options.figures, &tracer, &mut |table| options.show(table));
    }
    // Of its own: another run may measure something else meanwhile, if not well.
    let scratch = target_directory().join(format!("bench-{}", std::process::id()));
    fs::create_dir_all(&scratch).with_context(|| format!("{} can't be made", scratch.display()))?;
    let done = options.compare(&tracer, &scratch);
    fs::remove_dir_all(&scratch)?;
    done
}

impl Options {
    /// tracer's modes and the peers, load by load.
    fn compare(&self, tracer: &Path, scratch: &Path) -> Result<()> {
        let modes = self.modes(tracer)?;
        let rounds = Rounds {
            options: self,
            tracer,
            scratch,
        };
        let measurements = rounds.all(&modes)?;
        if let Some(file) = &self.json {
            let text = serde_json::to_string_pretty(&measurements)?;
            fs::write(file, text)
                .with_context(|| format!("{} can't be written", file.display()))?;
        }
        let tables = table::of(&measurements, &self.circumstances());
        tables.iter().try_for_each(|table| self.show(table))
    }

    fn show(&self, table: &Table) -> Result<()> {
        println!("\n{}", table.text());
        match &self.markdown {
            Some(page) => markdown::put(page, &table.name, &table.markdown()),
            None => Ok(()),
        }
    }

    /// What a table's name says beside its load.
    fn circumstances(&self) -> String {
        let saturated = if self.saturate {
            ", every CPU busy"
        } else {
            ""
        };
        match self.rate {
            0 => saturated.to_owned(),
            rate => format!("{saturated}, {rate} per second"),
        }
    }

    /// The CPU for the load (0) or the observer (1); `None`: any.
    fn pin(&self, cpu: usize) -> Option<usize> {
        (!self.no_pin && !self.saturate).then_some(cpu)
    }

    /// How many loads there are at a time.
    fn processes(&self) -> Result<u64> {
        match self.saturate {
            true => Ok(u64::try_from(thread::available_parallelism()?.get())?),
            false => Ok(1),
        }
    }

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
