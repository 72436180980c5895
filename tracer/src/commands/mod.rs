//! One file per command.

#[cfg(target_os = "linux")]
pub mod budget;
#[cfg(target_os = "linux")]
pub mod check;
pub mod generate;
pub mod replay;
pub mod report;
#[cfg(target_os = "linux")]
mod resync;
pub mod schema;
#[cfg(target_os = "linux")]
pub mod trace;
#[cfg(target_os = "linux")]
mod upkeep;

use std::{
    fmt,
    io::{self, Write as _},
};

use anyhow::{Context as _, Result};

use crate::{
    cli::{Cli, Command},
    sink::{Sink as _, Stdout},
};

/// How a command ended, other than by an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// It ran, but data was lost, and it said so.
    Lossy,
}

pub fn run(cli: Cli) -> Result<Outcome> {
    match cli.command {
        #[cfg(target_os = "linux")]
        None => trace::run(cli.trace.try_into()?),
        #[cfg(target_os = "linux")]
        Some(Command::Check(args)) => check::run(&args),
        #[cfg(target_os = "linux")]
        Some(Command::Budget(args)) => budget::run(&args),
        #[cfg(not(target_os = "linux"))]
        None | Some(Command::Check(_) | Command::Budget(_)) => {
            anyhow::bail!(
                "this needs a Linux kernel: elsewhere tracer only reads what was recorded"
            )
        }
        Some(Command::Replay(args)) => replay::run(&args),
        Some(Command::Report(args)) => report::run(&args),
        Some(Command::Schema) => schema::run(),
        Some(Command::Generate { page }) => generate::run(page),
    }
}

/// A sentence on standard error; where nobody reads that any more, there is nobody to tell.
pub fn say(sentence: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "tracer: {sentence}");
}

/// Writes all of it to standard output. That nobody reads any more is a normal end.
fn print(mut text: &[u8]) -> Result<()> {
    while !text.is_empty() {
        match Stdout.write(text) {
            Ok(count) => text = &text[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error).context("standard output can't be written"),
        }
    }
    Ok(())
}
