//! Options from the environment and from a file.

use std::{
    env, fs,
    path::PathBuf,
    process::{self, Command},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::{Test, refusals::refused, test};
use crate::{
    lines::Keep,
    scenarios::filters,
    tracer::{Tracer, binary},
};

pub(super) const ALL: &[Test] = &[
    test("configuration", configuration),
    test("configuration_wrong", configuration_wrong),
    test("filters", filters::every_option),
    test("filters_wrong", filters_wrong),
    test("generate", generate),
];

/// Is removed with it.
struct File(PathBuf);

impl File {
    fn new(text: &str) -> Result<Self> {
        let path = env::temp_dir().join(format!("tracer-live-{}.toml", process::id()));
        fs::write(&path, text)?;
        Ok(Self(path))
    }

    fn path(&self) -> Result<&str> {
        self.0.to_str().context("not UTF-8")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The command line goes before the environment, and that before the file.
fn configuration() -> Result<()> {
    let file =
        File::new("emit = [\"usage\", \"ledger\"]\npid = 1\nuid = [1, 2]\nport = \"80-90\"\n")?;
    let args = ["--config", file.path()?, "--emit", "usage"];
    let tracer = Tracer::started_with(
        &[("TRACER_PID", "2,3"), ("TRACER_EMIT", "state")],
        &args,
        Keep::All,
    )?;
    let finished = tracer.stop(Signal::TERM)?;
    finished.check_totals()?;
    let lines = finished.lines.all();
    let start: Value = serde_json::from_str(&lines.first().context("no line")?.raw)?;
    let expected = serde_json::json!({"emit": ["usage"], "pid": ["2", "3"], "uid": ["1", "2"], "port": ["80-90"]});
    ensure!(start["filter"] == expected, "{}", start["filter"]);
    let output = Command::new(binary())
        .args(["check", "--config", file.path()?])
        .output()?;
    let said = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success() && said.contains("4 options"),
        "{said}"
    );
    Ok(())
}

fn configuration_wrong() -> Result<()> {
    let file = File::new("interval = 3\n\nintervall = 4\nwarn = \"x\"\n")?;
    let path = file.path()?;
    for args in [&["check", "--config", path][..], &["--config", path]] {
        let said = refused(&Command::new(binary()).args(args).output()?)?;
        ensure!(
            said.contains(&format!("{path}:3: there is no option intervall"))
                && said.contains(&format!("{path}:4: ")),
            "{said}"
        );
    }
    for (variable, value, advice) in [
        ("TRACER_INTERVAL", "x", "TRACER_INTERVAL: invalid value 'x'"),
        ("TRACER_PORT", "tcp://10.0.0.1:80", "enableServiceLinks"),
        ("TRACER_CONFIG", "/nonexistent.toml", "can't be read"),
        ("TRACER_WARN", "99", "warn is 99, above critical"),
    ] {
        let said = refused(&Command::new(binary()).env(variable, value).output()?)?;
        ensure!(
            said.contains(advice) && said.lines().count() == 1,
            "{variable}: {said}"
        );
        // Another command does not have these options.
        let output = Command::new(binary())
            .env(variable, value)
            .arg("schema")
            .output()?;
        ensure!(output.status.success(), "tracer schema with {variable}");
    }
    Ok(())
}

fn filters_wrong() -> Result<()> {
    for (option, value) in [
        ("--emit", "states"),
        ("--pid", "self"),
        ("--comm", "a-name-too-long-for-the-kernel"),
        ("--cgroup", "system.slice"),
        ("--container", ""),
        ("--uid", "root"),
        ("--netns", "no-such-namespace"),
        ("--port", "http"),
        ("--peer", "example.org"),
        ("--role", "peer"),
        ("--state", "OPEN"),
        ("--sample", "0"),
    ] {
        let output = Command::new(binary())
            .arg(format!("{option}={value}"))
            .output()?;
        let said = refused(&output)?;
        ensure!(
            said.contains(value) && said.contains(&option[2..]),
            "{option}: {said}"
        );
    }
    Ok(())
}

fn generate() -> Result<()> {
    for (page, holds) in [
        ("man", "\\-\\-sample"),
        ("bash", "--sample"),
        ("zsh", "--sample"),
        ("fish", "sample"),
    ] {
        let output = Command::new(binary()).args(["generate", page]).output()?;
        let text = String::from_utf8(output.stdout)?;
        ensure!(
            output.status.success() && text.contains(holds),
            "{page}: {text}"
        );
    }
    Ok(())
}
