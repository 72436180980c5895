//! How a trial ends: for libtest's summary and for the report file.

use std::{
    cell::RefCell,
    env,
    fs::OpenOptions,
    io::Write as _,
    panic::{self, AssertUnwindSafe},
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow};
use libtest_mimic::{Completion, Failed, Trial};
use serde::Serialize;

/// The trial cannot run here. As an error, so that any depth of a scenario can end with it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Skip(pub String);

/// Ends the trial as skipped.
pub(crate) fn skip<T>(reason: impl Into<String>) -> Result<T> {
    Err(Skip(reason.into()).into())
}

/// A line of the report file.
#[derive(Serialize)]
struct Entry<'a> {
    trial: String,
    backend: &'a str,
    scenario: &'a str,
    result: &'a str,
    reason: Option<String>,
    /// What it found out, for the summary.
    note: Option<String>,
    seconds: f64,
}

thread_local! {
    static NOTE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Leaves a word in the report of the trial that runs in this thread.
pub(crate) fn note(text: String) {
    NOTE.set(Some(text));
}

pub(crate) fn trial(
    backend: &'static str,
    scenario: &'static str,
    body: impl FnOnce() -> Result<()> + Send + 'static,
) -> Trial {
    let name = format!("{backend}::{scenario}");
    Trial::ignorable_test(name.clone(), move || {
        let began = Instant::now();
        NOTE.take();
        let outcome = run(body);
        let (result, reason) = match &outcome {
            Ok(()) => ("passed", None),
            Err(error) if error.is::<Skip>() => ("skipped", Some(error.to_string())),
            Err(error) => ("failed", Some(format!("{error:#}"))),
        };
        append(&Entry {
            trial: name,
            backend,
            scenario,
            result,
            reason: reason.clone(),
            note: NOTE.take(),
            seconds: began.elapsed().as_secs_f64(),
        })
        .map_err(|error| format!("{error:#}"))?;
        match (result, reason) {
            ("passed", _) => Ok(Completion::Completed),
            ("skipped", reason) => Ok(Completion::ignored_with(reason.unwrap_or_default())),
            (_, reason) => Err(Failed::from(reason.unwrap_or_default())),
        }
    })
}

fn run(body: impl FnOnce() -> Result<()>) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return skip("needs root");
    }
    // A panic is a failure of this trial like any other, and belongs into the report too.
    panic::catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(anyhow!("panicked: {}", text.unwrap_or("no message")))
    })
}

fn append(entry: &Entry<'_>) -> Result<()> {
    let Some(path) = env::var_os("TRACER_LIVE_REPORT") else {
        return Ok(());
    };
    let mut line = serde_json::to_string(entry)?;
    line.push('\n');
    let file = OpenOptions::new().create(true).append(true).open(&path);
    file.and_then(|mut file| file.write_all(line.as_bytes()))
        .with_context(|| format!("cannot write the report {}", path.display()))
}
