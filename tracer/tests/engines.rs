//! The queries under `docs/engines`, asked of the real engines about simulated lines: both answer what the simulation
//! knows of itself, and the same.
//!
//! The engines are Python packages that `cargo xtask test` installs under `target/engines`; without them the trials are
//! skipped. `TRACER_ENGINES_PYTHON` names another Python that has them.

#[path = "engines/answers.rs"]
mod answers;
#[path = "engines/ask.rs"]
mod ask;
#[path = "../examples/simulate/fleet/mod.rs"]
mod fleet;
#[path = "engines/truths.rs"]
mod truths;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use answers::{Answers, Row};
use ask::{Data, Engine, python};
use truths::TRUTHS;

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let mut trials = Vec::new();
    for engine in [Engine::ClickHouse, Engine::DuckDb] {
        for (question, check) in TRUTHS {
            let name = format!("{}::{question}", engine.name());
            trials.push(trial(name, move || {
                let answers = engine.answers()?;
                check(&answers.rows(question)?, Data::get()?)
            }));
        }
    }
    trials.push(trial("both::every_question_is_checked".into(), all_checked));
    trials.push(trial("both::agree".into(), agree));
    libtest_mimic::run(&args, trials).exit_code()
}

fn trial(name: String, body: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::ignorable_test(name, move || match python() {
        Err(missing) => Ok(Completion::ignored_with(missing.clone())),
        Ok(_) => match body() {
            Ok(()) => Ok(Completion::Completed),
            Err(error) => Err(Failed::from(format!("{error:#}"))),
        },
    })
}

fn all_checked() -> Result<()> {
    let mut checked: Vec<&str> = TRUTHS.iter().map(|(question, _)| *question).collect();
    checked.sort_unstable();
    for engine in [Engine::ClickHouse, Engine::DuckDb] {
        let asked = engine.answers()?.questions();
        ensure!(asked == checked, "{}: {asked:?}", engine.name());
    }
    Ok(())
}

fn agree() -> Result<()> {
    let both: [&Answers; 2] = [Engine::ClickHouse.answers()?, Engine::DuckDb.answers()?];
    for (question, _) in TRUTHS {
        let [one, other]: [Vec<Row>; 2] = [both[0].rows(question)?, both[1].rows(question)?];
        ensure!(!one.is_empty(), "{question}: no rows");
        ensure!(
            one.len() == other.len(),
            "{question}: {} rows and {}",
            one.len(),
            other.len()
        );
        for (row, same) in one.iter().zip(&other) {
            ensure!(row == same, "{question}: {row:?}, but {same:?}");
        }
    }
    Ok(())
}
