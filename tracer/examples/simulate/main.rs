//! Writes the lines of a fleet that never was, for tests, benchmarks and trials: large, and the same for the same
//! options. The tracer's own code makes them, from the events of simulated kernels.
//!
//!     cargo run --release -p tracer --example simulate -- --size 1G --truth truth.json > trace.jsonl

mod fleet;

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use clap::Parser;

use self::fleet::{Plan, Scenario, simulate};

/// Writes the lines of simulated hosts to standard output.
#[derive(Parser)]
struct Options {
    /// What happens.
    #[arg(long, value_enum, default_value = "time-wait")]
    scenario: Scenario,

    /// The same number gives the same lines.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// The first one and each third one has the trouble; the others are healthy.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    hosts: u16,

    /// Simulated seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..))]
    duration: u32,

    /// Stop at this size instead: bytes, or with a suffix K, M or G.
    #[arg(long, value_name = "BYTES", value_parser = size, conflicts_with = "duration")]
    size: Option<u64>,

    /// Calls per second of the busiest process of a host.
    #[arg(long, value_name = "N", default_value_t = 800, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,

    /// Ephemeral ports of each network namespace.
    #[arg(long, value_name = "N", default_value_t = 28_232, value_parser = clap::value_parser!(u16).range(16..=28_232))]
    ports: u16,

    /// Write what the simulation knows of itself, as JSON.
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
}

impl From<&Options> for Plan {
    fn from(options: &Options) -> Self {
        Self {
            scenario: options.scenario,
            seed: options.seed,
            hosts: options.hosts.into(),
            seconds: match options.size {
                Some(_) => u64::from(u32::MAX),
                None => options.duration.into(),
            },
            bytes: options.size.unwrap_or(u64::MAX),
            rate: options.rate.into(),
            ports: options.ports,
        }
    }
}

fn size(text: &str) -> Result<u64, String> {
    let units = [('K', 10), ('M', 20), ('G', 30)];
    let unit = units
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(*unit)?, *shift)));
    let (digits, shift) = unit.unwrap_or((text, 0));
    let bytes = digits.parse::<u64>().ok();
    bytes
        .and_then(|bytes| bytes.checked_mul(1 << shift))
        .ok_or_else(|| "give a number of bytes, such as 100000, 64K, 8M or 1G".into())
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mut output = BufWriter::with_capacity(1 << 20, io::stdout().lock());
    let truth = simulate(&Plan::from(&options), &mut |lines| output.write_all(lines))?;
    output.flush()?;
    if let Some(path) = &options.truth {
        let shown = path.display();
        let file = File::create(path).with_context(|| format!("{shown} can't be created"))?;
        let mut file = BufWriter::new(file);
        serde_json::to_writer(&mut file, &truth)
            .map_err(io::Error::from)
            .and_then(|()| file.flush())
            .with_context(|| format!("{shown} can't be written"))?;
    }
    Ok(())
}
