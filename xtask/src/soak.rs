//! `cargo xtask soak`: the live test that goes on for as long as one likes, with its figures.

use std::{ffi::OsStr, path::PathBuf};

use anyhow::Result;

use crate::{
    live::{self, Programs},
    process::{as_root, run as run_command, say, target_directory},
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long
    #[arg(long, value_name = "N", default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(1..=10_080))]
    minutes: u32,
    /// Where the figures go [default: soak.json in the target directory]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Programs { tracer, live_test } = live::build()?;
    let json = options.json.clone();
    let json = json.unwrap_or_else(|| target_directory().join("soak.json"));
    let minutes = options.minutes.to_string();
    let variables = [
        ("TRACER_BIN", tracer.as_os_str()),
        ("TRACER_SOAK_MINUTES", OsStr::new(&minutes)),
        ("TRACER_SOAK_JSON", json.as_os_str()),
    ];
    run_command(as_root(&live_test, &variables)?.args(["--exact", live::SOAK, "--color=never"]))?;
    say(&format!("the figures are in {}", json.display()));
    Ok(())
}
