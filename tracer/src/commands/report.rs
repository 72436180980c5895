//! `tracer report`: after the incident.

use anyhow::{Result, bail};

use super::Outcome;
use crate::cli;

pub fn run(args: &cli::Report) -> Result<Outcome> {
    bail!("{}: can't be read yet", args.files[0].display());
}
