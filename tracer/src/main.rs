//! Parse, run, exit status.

use std::process::ExitCode;

use clap::Parser;
use tracer::{
    cli::Cli,
    commands::{self, Outcome},
};

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn"))
        .format_target(false)
        .format_timestamp(None)
        .init();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => {
            let _ = answer.print();
            return ExitCode::from(u8::from(answer.use_stderr()));
        }
    };
    match commands::run(cli) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Lossy) => ExitCode::from(2),
        Err(error) => {
            eprintln!("tracer: {error:#}");
            ExitCode::FAILURE
        }
    }
}
