//! Building the workspace's programs and learning from cargo where they lie.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::process::{output, run, workspace};

/// The test target that needs root, an idle machine and a while.
const LIVE: &str = "live";

/// The parts of one line of `--message-format=json` that say where a program was written.
#[derive(Deserialize)]
struct Message {
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

pub(crate) fn cargo() -> Command {
    // Cargo names itself to the programs it runs, which keeps the toolchain in use (`cargo +x`).
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// The tracer as users build it.
pub(crate) fn tracer() -> Result<PathBuf> {
    build(
        &["build", "--release", "--package", "tracer"],
        "tracer",
        "bin",
    )
}

/// What writes simulated lines.
pub(crate) fn simulate() -> Result<PathBuf> {
    build(
        &[
            "build",
            "--release",
            "--package",
            "tracer",
            "--example",
            "simulate",
        ],
        "simulate",
        "example",
    )
}

/// The live tests: one program that runs natively and in every VM.
pub(crate) fn live_test() -> Result<PathBuf> {
    build(
        &["test", "--workspace", "--test", LIVE, "--no-run"],
        "live",
        "test",
    )
}

/// The first process of the test VMs.
pub(crate) fn vm_init() -> Result<PathBuf> {
    build(
        &["build", "--package", "xtask", "--bin", "vm-init"],
        "vm-init",
        "bin",
    )
}

/// Builds all tests and runs those that need no privileges and no particular kernel: all but the live ones.
pub(crate) fn pure_tests() -> Result<()> {
    let targets = ["--workspace", "--lib", "--bins", "--tests"];
    run(cargo().arg("test").args(targets).arg("--no-run"))?;
    let metadata = output(cargo().args(["metadata", "--no-deps", "--format-version=1"]))?;
    let metadata: Metadata =
        serde_json::from_str(&metadata).context("cannot read cargo metadata")?;
    let integration = metadata.integration_tests().filter(|name| *name != LIVE);
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--lib", "--bins"]);
    run(tests.args(integration.flat_map(|name| ["--test", name])))?;
    // Cargo runs these only by themselves, or with everything.
    run(cargo().args(["test", "--workspace", "--doc"]))
}

/// The parts of `cargo metadata` that say which tests there are.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    targets: Vec<Target>,
}

impl Metadata {
    fn integration_tests(&self) -> impl Iterator<Item = &str> {
        let targets = self.packages.iter().flat_map(|package| &package.targets);
        targets
            .filter(|target| target.is("test"))
            .map(|target| target.name.as_str())
    }
}

impl Target {
    fn is(&self, kind: &str) -> bool {
        self.kind.iter().any(|each| each == kind)
    }
}

fn build(arguments: &[&str], name: &str, kind: &str) -> Result<PathBuf> {
    let mut command = cargo();
    command
        .args(arguments)
        .arg("--message-format=json-render-diagnostics");
    let messages = output(command.stdin(Stdio::null()))?;
    executable(&messages, name, kind)
        .with_context(|| format!("cargo {} built no program `{name}`", arguments.join(" ")))
}

fn executable(messages: &str, name: &str, kind: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter(|message| {
            let target = message.target.as_ref();
            target.is_some_and(|target| target.name == name && target.is(kind))
        })
        .find_map(|message| message.executable)
}

#[cfg(test)]
mod tests {
    use super::executable;

    #[test]
    fn the_executable_is_found_by_name_and_kind() {
        let messages = r#"
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"live"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"live"},"executable":"/a"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"live"},"executable":"/b"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "live", "test"), Some("/b".into()));
        assert_eq!(executable(messages, "other", "test"), None);
    }
}
