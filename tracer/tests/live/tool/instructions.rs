//! What the verifier goes through to accept each program must not grow unnoticed: it is recorded by series of kernels, in
//! `bpf/instructions.json`.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use tracer::kernel::{
    facts::Facts,
    load::{self, Needs, Sizes},
    plan::Rung,
};

use super::{Test, test};
use crate::report::{note, skip};

pub(super) const ALL: &[Test] = &[test("instructions", instructions)];

const RECORDED: &str = include_str!("../../../bpf/instructions.json");

/// Percent. A distribution's kernel of one series changes, too.
const ALLOWANCE: u64 = 5;

/// Instructions by program.
type Counts = BTreeMap<String, u64>;

#[derive(Deserialize)]
struct Recorded {
    verified: BTreeMap<String, Counts>,
}

fn instructions() -> Result<()> {
    let series = series()?;
    if env::var_os("TRACER_LIVE_COUNT_INSTRUCTIONS").is_some() {
        let counts = BTreeMap::from([(series, verified()?)]);
        note(serde_json::to_string(&counts)?);
        return Ok(());
    }
    let recorded: Recorded = serde_json::from_str(RECORDED)?;
    let Some(recorded) = recorded.verified.get(&series) else {
        return skip(format!("nothing is recorded of kernels {series}"));
    };
    let differences = differences(recorded, &verified()?);
    ensure!(
        differences.is_empty(),
        "{}; see why, and if it has to be: run `cargo xtask record-instructions` and commit tracer/bpf/instructions.json",
        differences.join(", ")
    );
    Ok(())
}

/// 6.12 of 6.12.48+deb13-cloud-amd64.
fn series() -> Result<String> {
    let name = rustix::system::uname();
    let release = name.release().to_str()?;
    let (major, rest) = release.split_once('.').context("a release without a dot")?;
    let minor = rest.split(|one: char| !one.is_ascii_digit()).next();
    Ok(format!("{major}.{}", minor.unwrap_or_default()))
}

/// Of all programs that load on this kernel.
fn verified() -> Result<Counts> {
    const SIZES: Sizes = Sizes {
        ring: 4096,
        sockets: 1024,
    };
    let facts = Facts::read()?;
    let mut counts = Counts::new();
    for rung in [Rung::Fexit, Rung::Kprobe, Rung::Tracepoint] {
        // Where a rung does not load, its programs are missing.
        let Ok(loaded) = load::load(&facts, SIZES, &Needs::default(), Some(rung)) else {
            continue;
        };
        for (name, program) in loaded.ebpf.programs() {
            let info = program.info().ok();
            if let Some(count) = info.and_then(|info| info.verified_instruction_count()) {
                let most = counts.entry(name.to_owned()).or_default();
                *most = u64::from(count).max(*most);
            }
        }
    }
    ensure!(!counts.is_empty(), "no program tells its instructions");
    Ok(counts)
}

fn differences(recorded: &Counts, now: &Counts) -> Vec<String> {
    let programs: BTreeSet<_> = recorded.keys().chain(now.keys()).collect();
    let differences = programs.into_iter().filter_map(|program| {
        match (recorded.get(program), now.get(program)) {
            (None, Some(count)) => Some(format!("{program} is new ({count} instructions)")),
            (Some(_), None) => Some(format!("{program} is not loaded")),
            (Some(before), Some(count)) => (count * 100 > before * (100 + ALLOWANCE))
                .then(|| format!("{program} has grown from {before} to {count} instructions")),
            (None, None) => None,
        }
    });
    differences.collect()
}
