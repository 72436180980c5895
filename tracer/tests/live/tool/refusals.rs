//! What it cannot do, it says in a sentence.

use std::{
    env, fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{self, Command, Output, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::Signal,
    thread::{UnshareFlags, unshare_unsafe},
};

use super::{Test, test};
use crate::{
    lines::{Keep, Record, Start},
    tracer::{Started, Tracer, binary},
};

pub(super) const ALL: &[Test] = &[
    test("not_root", not_root),
    test("unknown_option", unknown_option),
    test("unknown_backend", unknown_backend),
    test("bad_sizes", bad_sizes),
    test("impossible_backend", impossible_backend),
    test("no_btf", no_btf),
    test("check", check),
];

const NOBODY: u32 = 65_534;

/// Exit 1, nothing on standard output, and at least a sentence on standard error.
pub(super) fn refused(output: &Output) -> Result<String> {
    let stderr = String::from_utf8(output.stderr.clone())?.trim().to_owned();
    ensure!(
        output.status.code() == Some(1) && output.stdout.is_empty(),
        "{}; stdout: {}; stderr: {stderr}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
    let words = stderr.split_whitespace().count();
    ensure!(
        words >= 4 && !stderr.contains("panicked"),
        "not a sentence: {stderr:?}"
    );
    Ok(stderr)
}

fn not_root() -> Result<()> {
    // The build directory may be closed to others.
    let dir = env::temp_dir().join(format!("tracer-live-{}", process::id()));
    let result = not_root_in(&dir);
    let _ = fs::remove_dir_all(&dir);
    result
}

fn not_root_in(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    let copy = dir.join("tracer");
    fs::copy(binary(), &copy).context("cannot copy the tracer")?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    let output = Command::new(copy)
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .output()?;
    let said = refused(&output)?;
    ensure!(said.lines().count() == 1, "more than a sentence: {said}");
    ensure!(
        ["root", "sudo", "CAP_BPF"]
            .iter()
            .any(|word| said.contains(word)),
        "no advice: {said}"
    );
    Ok(())
}

fn unknown_option() -> Result<()> {
    let output = Command::new(binary()).arg("--no-such-option").output()?;
    let said = refused(&output)?;
    ensure!(
        said.contains("--no-such-option"),
        "does not name the option: {said}"
    );
    Ok(())
}

fn unknown_backend() -> Result<()> {
    let output = Command::new(binary())
        .args(["--backend", "magic"])
        .output()?;
    let said = refused(&output)?;
    ensure!(
        said.contains("magic") && said.contains("kprobe"),
        "no advice: {said}"
    );
    Ok(())
}

fn bad_sizes() -> Result<()> {
    for option in ["--ring-size", "--max-sockets"] {
        for size in ["0", "-1", "many", "99999999999999999999"] {
            let output = Command::new(binary())
                .arg(format!("{option}={size}"))
                .output()?;
            let said = refused(&output)?;
            ensure!(
                said.contains(option),
                "does not name {option}={size}: {said}"
            );
        }
    }
    Ok(())
}

/// Each backend that this kernel does not have is refused with the kernel's reason; one is taken from it.
fn impossible_backend() -> Result<()> {
    for backend in ["fexit", "kprobe", "tracepoint"] {
        let Started::Refused(said) = Tracer::start(&["--backend", backend], Keep::All)? else {
            continue;
        };
        let words = said.split_whitespace().count();
        ensure!(said.contains(backend) && words >= 6, "no reason: {said}");
    }
    let said = hiding("/sys/bus/event_source/devices", &["--backend", "kprobe"])?;
    ensure!(said.contains("without kprobes"), "{said}");
    Ok(())
}

fn no_btf() -> Result<()> {
    let said = hiding("/sys/kernel/btf", &[])?;
    ensure!(said.contains("CONFIG_DEBUG_INFO_BTF"), "{said}");
    Ok(())
}

/// What the tracer says where a directory of this kernel is empty: it has a mount namespace of its own,
/// in which something else covers it.
fn hiding(directory: &'static str, arguments: &[&str]) -> Result<String> {
    let cover = move || {
        // SAFETY: the process is about to become another program; it has one thread.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private)?;
        mount("tmpfs", directory, "tmpfs", MountFlags::empty(), None)?;
        Ok(())
    };
    let mut command = Command::new(binary());
    command.args(arguments);
    // SAFETY: system calls only, on constant strings: nothing that another thread's locks could hold up.
    unsafe { command.pre_exec(cover) };
    refused(&command.output()?)
}

/// `tracer check` names what a run then uses.
fn check() -> Result<()> {
    let output = Command::new(binary())
        .arg("check")
        .stderr(Stdio::piped())
        .output()?;
    let said = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{}: {said}", output.status);
    let finished = Tracer::started(&[], Keep::All)?.stop(Signal::INT)?;
    finished.check_totals()?;
    let lines = finished.lines.all();
    let Some(Record::Start(Start { coverage })) = lines.first().map(|line| &line.record) else {
        anyhow::bail!("the first line is not `start`");
    };
    for row in coverage {
        let hook = row.hook.as_deref().unwrap_or_default();
        let backend = row.backend.as_deref().unwrap_or_default();
        ensure!(
            said.contains(hook) && said.contains(backend),
            "{row:?} is not in what check says: {said}"
        );
    }
    Ok(())
}
