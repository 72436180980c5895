//! Parse, run, exit status.

use std::{env, process::ExitCode};

use tracer::{
    commands::{self, Outcome},
    options::{self, Refused},
};

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn"))
        .format_target(false)
        .format_timestamp(None)
        .init();
    let cli = match options::parse(env::args_os()) {
        Ok(cli) => cli,
        Err(Refused::Said(answer)) => {
            let _ = answer.print();
            return ExitCode::from(u8::from(answer.use_stderr()));
        }
        Err(Refused::Bad(sentences)) => {
            commands::say(sentences.join("\n"));
            return ExitCode::FAILURE;
        }
    };
    match commands::run(cli) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Lossy) => ExitCode::from(2),
        Err(error) => {
            commands::say(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
