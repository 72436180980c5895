//! Running other programs: with errors that name the command, and as root where that is needed.

mod usage;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

pub(crate) use self::usage::wait;

/// Directories that hold system programs but are missing from an ordinary user's PATH on Debian.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Tells the user what happens next. Everything of ours goes to stderr, so that
/// `cargo xtask run | jq` sees JSON lines only.
pub(crate) fn say(message: &str) {
    eprintln!("xtask: {message}");
}

/// The root of the workspace, where cargo commands run.
pub(crate) fn workspace() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Where build products and caches go; honours CARGO_TARGET_DIR as cargo does.
pub(crate) fn target_directory() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => workspace().join(directory),
        None => workspace().join("target"),
    }
}

/// Runs a command to its end; anything but success is an error that shows the command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command
        .status()
        .with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// Runs a command and returns what it printed; its errors stay visible on stderr.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}` failed ({})", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` printed invalid UTF-8"))
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Looks a program up as a shell would, and in the system directories besides.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_DIRECTORIES.map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// SIGINT, as from a terminal.
pub(crate) fn interrupt(pid: u32) -> Result<()> {
    let process = Pid::from_raw(i32::try_from(pid)?).context("pid 0")?;
    Ok(kill_process(process, Signal::INT)?)
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command that runs as root with these variables set: directly when we are root, else by sudo.
pub(crate) fn as_root<P: AsRef<OsStr>>(
    program: P,
    variables: &[(&str, &OsStr)],
) -> Result<Command> {
    if is_root() {
        let mut command = Command::new(program);
        command.envs(variables.iter().copied());
        return Ok(command);
    }
    if find("sudo").is_none() {
        bail!("this needs root and `sudo` is not installed: run the same command as root");
    }
    // Not `sudo -E`: a common sudoers policy refuses it, while `env` always works.
    let mut command = Command::new("sudo");
    command.arg("env");
    for (name, value) in variables {
        let mut assignment = std::ffi::OsString::from(format!("{name}="));
        assignment.push(value);
        command.arg(assignment);
    }
    command.arg(program);
    Ok(command)
}
