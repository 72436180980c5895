//! `cargo xtask record-instructions`: how many instructions the verifiers go through, recorded anew.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};

use crate::{ebpf, process::say, vm::Machine};

/// Kernels of the matrix that tell how many, and do not change much any more.
const KERNELS: [&str; 2] = ["6.1", "6.12"];

const TRIAL: &str = "tool::instructions";

/// With it the trial notes the counts instead of comparing them.
const VARIABLE: &str = "TRACER_LIVE_COUNT_INSTRUCTIONS";

pub(crate) fn run(machine: &Machine) -> Result<()> {
    let mut verified = BTreeMap::new();
    for note in machine.notes(&KERNELS, TRIAL, VARIABLE)? {
        let counts: BTreeMap<String, _> =
            serde_json::from_str(&note).context("the trial's note can't be read")?;
        verified.extend(counts);
    }
    ensure!(!verified.is_empty(), "no kernel told anything");
    let series: Vec<_> = verified.keys().cloned().collect();
    ebpf::record(verified)?;
    say(&format!("recorded those of {}", series.join(" and ")));
    Ok(())
}
