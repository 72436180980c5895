//! A tracer whose lines go somewhere else than to the test, and what is found there.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{self, Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    actor::{Actor, Op},
    lines::PATIENCE,
    netns::Netns,
    report::skip,
    scene::V4,
    tracer::binary,
};

/// A directory that goes with the test.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = env::temp_dir().join(format!("tracer-live-output-{}-{number}", process::id()));
        fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The paths whose names begin so, in their order.
    pub(crate) fn files(&self, prefix: &str) -> Result<Vec<PathBuf>> {
        self.files_of(&self.0, prefix)
    }

    /// The same of another directory.
    pub(crate) fn files_of(&self, dir: &Path, prefix: &str) -> Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                paths.push(entry.path());
            }
        }
        paths.sort();
        Ok(paths)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A tracer, with standard output and standard error in files of the directory.
pub(crate) struct Run {
    child: Child,
    stderr: PathBuf,
}

impl Run {
    pub(crate) fn start(dir: &Dir, args: &[&str]) -> Result<Self> {
        let stdout = File::create(dir.join("stdout"))?;
        Self::start_into(dir, args, stdout.into())
    }

    pub(crate) fn start_into(dir: &Dir, args: &[&str], stdout: Stdio) -> Result<Self> {
        let stderr = dir.join("stderr");
        let child = Command::new(binary())
            .args(args)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(File::create(&stderr)?)
            .spawn()?;
        Ok(Self { child, stderr })
    }

    /// Waits until a file has lines.
    pub(crate) fn wait_for(&mut self, file: &Path) -> Result<()> {
        self.wait_until("no line comes", || {
            Ok(fs::metadata(file).is_ok_and(|file| file.len() > 0))
        })
    }

    pub(crate) fn wait_until(
        &mut self,
        what: &str,
        mut is: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !is()? {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended, {status}: {}", self.stderr()?);
            }
            ensure!(Instant::now() < deadline, "{what}: {}", self.stderr()?);
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    pub(crate) fn stderr(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.stderr)?)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        send(self.pid(), signal)
    }

    /// Resident memory, bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kib.context("no VmRSS")?.trim().parse::<u64>()? << 10)
    }

    pub(crate) fn stop(&mut self, signal: Signal) -> Result<ExitStatus> {
        self.signal(signal)?;
        self.end()
    }

    /// Waits until it has ended.
    pub(crate) fn end(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "it does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn send(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("pid 0")?;
    Ok(kill_process(pid, signal)?)
}

/// A process that makes many lines: three for each refused connect.
pub(crate) struct Load {
    _netns: Netns,
    pub actor: Actor,
}

impl Load {
    pub(crate) fn new() -> Result<Self> {
        let netns = Netns::new()?;
        let actor = Actor::spawn(&netns.path(), "load")?;
        Ok(Self {
            _netns: netns,
            actor,
        })
    }

    pub(crate) fn begin(&mut self, connects: u64) -> Result<()> {
        self.actor.begin(&Op::Refused {
            to: SocketAddr::new(V4, 5999),
            times: connects,
        })
    }

    pub(crate) fn run(&mut self, connects: u64) -> Result<()> {
        self.begin(connects)?;
        self.actor.answer().map(drop)
    }
}

/// What lines say of themselves.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub lines: u64,
    /// Lines whose number is missing.
    pub missing: u64,
    /// What `loss` lines say did not reach the output, by type.
    pub dropped: BTreeMap<String, u64>,
    /// What they say was lost elsewhere.
    pub lost_elsewhere: u64,
    /// Introductions of processes, and who was named without one.
    pub unknown: Vec<String>,
    pub stop: Option<Value>,
}

impl Account {
    /// Of a whole run, in order; every line must be whole.
    pub(crate) fn of<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut account = Self::default();
        let (mut next, mut known) = (0, std::collections::HashSet::new());
        for raw in lines {
            let line: Value =
                serde_json::from_str(raw).with_context(|| format!("no line: {raw:?}"))?;
            let seq = line["seq"].as_u64().context("no seq")?;
            ensure!(seq >= next, "{seq} after {next}: {raw}");
            account.missing += seq - next;
            next = seq + 1;
            account.lines += 1;
            match line["type"].as_str() {
                Some("process") => drop(known.insert(line["id"].clone())),
                Some("loss") => account.loss(&line),
                Some("stop") => account.stop = Some(line),
                _ if !line["process"].is_null() && !known.contains(&line["process"]["id"]) => {
                    account.unknown.push(raw.to_owned());
                }
                _ => {}
            }
        }
        Ok(account)
    }

    fn loss(&mut self, line: &Value) {
        if line["where"] != "output" {
            self.lost_elsewhere += line["events"].as_u64().unwrap_or_default();
        }
        for (kind, count) in line["dropped"].as_object().into_iter().flatten() {
            *self.dropped.entry(kind.clone()).or_default() += count.as_u64().unwrap_or_default();
        }
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// Every line is there or counted, and `stop` knows it.
    pub(crate) fn adds_up(&self) -> Result<()> {
        let stop = self.stop.as_ref().context("no stop line")?;
        ensure!(
            self.missing == self.dropped()
                && stop["lines"] == self.lines + self.dropped()
                && stop["lost"] == self.dropped() + self.lost_elsewhere,
            "{self:?}"
        );
        ensure!(
            self.unknown.is_empty(),
            "not introduced: {}",
            self.unknown[0]
        );
        Ok(())
    }

    /// As [`adds_up`](Self::adds_up), and no line was lost.
    pub(crate) fn is_complete(&self) -> Result<()> {
        self.adds_up()?;
        ensure!(self.missing == 0, "lines are missing: {:?}", self.dropped);
        Ok(())
    }
}

/// The program, or the trial is skipped.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let dirs = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(Path::new);
    let found = dirs.map(|dir| dir.join(name));
    match found.into_iter().find(|program| program.is_file()) {
        Some(program) => Ok(program),
        None => skip(format!("{name} is not installed")),
    }
}

fn is_emulated() -> Result<bool> {
    Ok(fs::read_to_string("/proc/cpuinfo")?.contains("QEMU"))
}

/// Emulated machines are slow, and get less to do.
pub(crate) fn scaled(native: u64, emulated: u64) -> Result<u64> {
    Ok(if is_emulated()? { emulated } else { native })
}

/// Skips the trial on an emulated machine.
pub(crate) fn needs_no_kernel() -> Result<()> {
    match is_emulated()? {
        true => skip("does not depend on the kernel: runs natively"),
        false => Ok(()),
    }
}
