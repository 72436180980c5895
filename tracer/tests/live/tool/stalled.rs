//! Readers that take nothing, and disks that are full: nobody waits for them, and what they miss is counted.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::Signal,
};

use super::{Test, test};
use crate::{
    output::{Account, Dir, Load, Run, needs_no_kernel, send},
    report::note,
};

pub(super) const ALL: &[Test] = &[
    test("stalled_reader", stalled_reader),
    test("stalled_for_ever", stalled_for_ever),
    test("disk_full", disk_full),
];

const MIB: u64 = 1 << 20;

/// `cat`, which copies its input to a file.
fn reader(to: &Path) -> Result<(Child, Stdio)> {
    let mut cat = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(File::create(to)?)
        .spawn()
        .context("cannot start cat")?;
    let pipe = cat.stdin.take().context("no pipe")?;
    Ok((cat, pipe.into()))
}

/// Under full load for so long that what is told is a multiple of the memory that there is for it.
fn stalled_reader() -> Result<()> {
    needs_no_kernel()?;
    let dir = Dir::new()?;
    let out = dir.join("out");
    let (mut cat, pipe) = reader(&out)?;
    let args = [
        "--buffer",
        "4M",
        "--drain-timeout",
        "60s",
        "--interval",
        "1",
    ];
    let mut run = Run::start_into(&dir, &args, pipe)?;
    run.wait_for(&out)?;
    let mut load = Load::new()?;
    load.run(1000)?;
    let before = run.memory()?;
    send(cat.id(), Signal::STOP)?;
    let stall = Duration::from_secs(10);
    let began = Instant::now();
    let (mut connects, mut most) = (0, 0);
    while began.elapsed() < stall {
        load.run(1000)?;
        connects += 1000;
        most = most.max(run.memory()?);
    }
    send(cat.id(), Signal::CONT)?;
    load.run(1000)?;
    thread::sleep(Duration::from_millis(1500));
    let status = run.stop(Signal::TERM)?;
    cat.wait()?;
    let text = fs::read_to_string(&out)?;
    let account = Account::of(text.lines())?;
    account.adds_up()?;
    ensure!(status.code() == Some(2), "{status}: {account:?}");
    ensure!(
        most < before + 16 * MIB,
        "memory went from {before} to {most} bytes"
    );
    let failures = ["connect_failed", "process", "start", "loss"];
    ensure!(
        account.dropped() > connects
            && !failures
                .iter()
                .any(|kind| account.dropped.contains_key(*kind)),
        "dropped was {:?} of {connects} connects",
        account.dropped
    );
    note(format!(
        "{connects} connects in {stall:?} without a reader: dropped {:?}, lost elsewhere {}, memory {} to {} MiB",
        account.dropped,
        account.lost_elsewhere,
        before / MIB,
        most / MIB
    ));
    Ok(())
}

/// It ends when it is told to, and says what the reader did not take.
fn stalled_for_ever() -> Result<()> {
    needs_no_kernel()?;
    let dir = Dir::new()?;
    let out = dir.join("out");
    let (mut cat, pipe) = reader(&out)?;
    let mut run = Run::start_into(&dir, &["--drain-timeout", "100ms"], pipe)?;
    run.wait_for(&out)?;
    send(cat.id(), Signal::STOP)?;
    Load::new()?.run(2000)?;
    let status = run.stop(Signal::TERM)?;
    send(cat.id(), Signal::CONT)?;
    cat.wait()?;
    ensure!(status.code() == Some(2), "{status}");
    let said = run.stderr()?;
    ensure!(said.contains("--drain-timeout"), "it said {said:?}");
    Ok(())
}

/// A small file system, unmounted with the test.
pub(super) struct Disk(pub PathBuf);

impl Disk {
    pub(super) fn new(dir: &Dir) -> Result<Self> {
        let path = dir.join("disk");
        fs::create_dir(&path)?;
        mount(
            "tmpfs",
            &path,
            "tmpfs",
            MountFlags::empty(),
            Some(c"size=4m"),
        )?;
        Ok(Self(path))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// What there is no room for on the disk waits in memory; then it is dropped, and when there is room it goes on where it
/// stopped.
fn disk_full() -> Result<()> {
    needs_no_kernel()?;
    let dir = Dir::new()?;
    let disk = Disk::new(&dir)?;
    let ballast = disk.0.join("ballast");
    fs::write(&ballast, vec![0; 3 << 20])?;
    let out = disk.0.join("out");
    let path = out.to_str().context("not UTF-8")?;
    let mut run = Run::start(
        &dir,
        &["--output", path, "--buffer", "1M", "--interval", "1"],
    )?;
    run.wait_for(&out)?;
    let mut load = Load::new()?;
    while !run.stderr()?.contains("No space left") {
        load.run(500)?;
    }
    load.run(5000)?;
    fs::remove_file(&ballast)?;
    let stderr = dir.join("stderr");
    run.wait_until("it does not go on", || {
        Ok(fs::read_to_string(&stderr)?.contains("takes lines again"))
    })?;
    load.run(10)?;
    let status = run.stop(Signal::TERM)?;
    let said = fs::read_to_string(&stderr)?;
    ensure!(said.lines().count() == 2, "not one sentence each: {said}");
    let text = fs::read_to_string(&out)?;
    let account = Account::of(text.lines())?;
    account.adds_up()?;
    ensure!(
        status.code() == Some(2) && account.dropped() > 0,
        "{status}: {account:?}"
    );
    note(format!("dropped {:?}", account.dropped));
    Ok(())
}
