//! `cargo xtask run`: build the tracer with stable Rust, then become it, as root.

use std::{ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Result, anyhow};

use crate::{cargo, process::as_root};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Arguments of tracer
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub(crate) fn run(options: Options) -> Result<()> {
    let tracer = cargo::tracer()?;
    // exec, not spawn: signals reach the tracer itself and its exit code is ours.
    let error = as_root(&tracer, &[])?.args(options.arguments).exec();
    Err(anyhow!("cannot run {}: {error}", tracer.display()))
}
