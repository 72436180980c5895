//! Files that are rotated under load: no line is lost or torn.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::{Test, test};
use crate::{
    output::{Account, Dir, Load, Run, needs_no_kernel, program},
    report::note,
};

pub(super) const ALL: &[Test] = &[test("rotation", rotation), test("logrotate", logrotate)];

fn text(path: &Path) -> Result<String> {
    let mut file = File::open(path)?;
    let mut text = String::new();
    match path.extension().is_some_and(|end| end == "zst") {
        true => zstd::Decoder::new(file)?.read_to_string(&mut text)?,
        false => file.read_to_string(&mut text)?,
    };
    Ok(text)
}

fn rotation() -> Result<()> {
    needs_no_kernel()?;
    let dir = Dir::new()?;
    let out = dir.join("a.jsonl");
    let path = out.to_str().context("not UTF-8")?;
    let mut run = Run::start(
        &dir,
        &[
            "--output",
            path,
            "--rotate-size",
            "256K",
            "--rotate-keep",
            "10000",
            "--compress",
            "zstd",
            "--fsync",
            "interval",
            "--drain-timeout",
            "60s",
        ],
    )?;
    run.wait_for(&out)?;
    Load::new()?.run(10_000)?;
    let status = run.stop(Signal::TERM)?;
    let rotated = dir.files("a.jsonl.")?;
    let compressed = rotated
        .iter()
        .filter(|path| path.extension().is_some_and(|end| end == "zst"));
    ensure!(compressed.count() > 0 && rotated.len() > 3, "{rotated:?}");
    let mut all = String::new();
    for path in rotated.iter().chain([&out]) {
        let text = text(path)?;
        ensure!(
            text.len() <= 256 << 10,
            "{} has {} bytes",
            path.display(),
            text.len()
        );
        let mode = fs::metadata(path)?.permissions().mode() & 0o777;
        ensure!(mode & !0o640 == 0, "{} has mode {mode:o}", path.display());
        all += &text;
    }
    let account = Account::of(all.lines())?;
    account.is_complete()?;
    ensure!(
        status.code() == Some(if account.lost_elsewhere == 0 { 0 } else { 2 }),
        "{status}"
    );
    note(format!(
        "{} lines in {} files",
        account.lines,
        rotated.len() + 1
    ));
    Ok(())
}

/// As an administrator has it in `/etc/logrotate.d`.
fn logrotate() -> Result<()> {
    needs_no_kernel()?;
    const TIMES: usize = 20;
    let program = program("logrotate")?;
    let dir = Dir::new()?;
    let out = dir.join("a.jsonl");
    let path = out.to_str().context("not UTF-8")?;
    let mut run = Run::start(&dir, &["--output", path, "--drain-timeout", "60s"])?;
    run.wait_for(&out)?;
    let config = dir.join("config");
    let pid = run.pid();
    let text = format!(
        "{path} {{\n rotate 1000\n su root root\n postrotate\n  kill -HUP {pid}\n endscript\n}}\n"
    );
    fs::write(&config, text)?;
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644))?;
    let mut load = Load::new()?;
    let connects = 2000;
    for _ in 0..TIMES {
        load.begin(connects)?;
        let status = Command::new(&program)
            .args(["--force", "--state"])
            .arg(dir.join("state"))
            .arg(&config)
            .status()?;
        ensure!(status.success(), "logrotate: {status}");
        load.actor.answer()?;
        // Where the tracer has not opened a new file yet, there is nothing to rotate.
        run.wait_until("no new file", || Ok(out.exists()))?;
        load.run(10)?;
        run.wait_for(&out)?;
    }
    run.stop(Signal::TERM)?;
    // `a.jsonl.1` is the youngest.
    let number = |path: &Path| {
        path.extension()
            .and_then(|end| end.to_str()?.parse::<u32>().ok())
    };
    let mut files = dir.files("a.jsonl.")?;
    files.sort_by_key(|path| std::cmp::Reverse(number(path)));
    ensure!(files.len() == TIMES, "{files:?}");
    let mut all = String::new();
    for path in files.iter().chain([&out]) {
        all += &fs::read_to_string(path)?;
    }
    let account = Account::of(all.lines())?;
    account.is_complete()?;
    note(format!(
        "{} lines in {} files",
        account.lines,
        files.len() + 1
    ));
    Ok(())
}
