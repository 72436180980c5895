//! One file per command.

pub mod budget;
pub mod check;
pub mod report;
mod resync;
pub mod schema;
pub mod trace;

use anyhow::Result;

use crate::{
    cli::{Cli, Command},
    config::Config,
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
        None => trace::run(Config::try_from(cli.trace)?),
        Some(Command::Check(args)) => check::run(&args),
        Some(Command::Budget(args)) => budget::run(&args),
        Some(Command::Report(args)) => report::run(&args),
        Some(Command::Schema) => schema::run(),
    }
}
