//! One that watches the load: it is started, left alone, stopped, and asked what it cost.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{bpf, cpu, mode::Mode, output};
use crate::process::{interrupt, wait};

const PATIENCE: Duration = Duration::from_secs(60);
/// What an observer has to catch up with.
const REST: Duration = Duration::from_millis(1500);

pub(super) struct Observer<'a> {
    mode: &'a Mode,
    child: Child,
    output: PathBuf,
    errors: PathBuf,
    used: Duration,
    has_ended: bool,
}

/// What it cost and said.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Of its own, from when it watched to its end: some lines come last.
    pub(super) cpu_seconds: f64,
    /// Before its end.
    pub(super) resident_mib: f64,
    pub(super) lines: u64,
    pub(super) lost: Option<u64>,
    /// How slow its CPU was; 0: not known.
    pub(super) yardstick_us: f64,
    /// Nanoseconds by program; 0 without BPF statistics.
    pub(super) bpf: BTreeMap<String, u64>,
}

impl<'a> Observer<'a> {
    /// Answers once it watches; `None` for nobody.
    pub(super) fn start(
        mode: &'a Mode,
        tracer: &Path,
        scratch: &Path,
        cpu: Option<usize>,
    ) -> Result<Option<Self>> {
        let Some(mut command) = mode.command(tracer) else {
            return Ok(None);
        };
        let (output, errors) = (scratch.join("output"), scratch.join("errors"));
        command.stdout(File::create(&output)?);
        command.stderr(File::create(&errors)?);
        if let Some(cpu) = cpu {
            // SAFETY: between fork and exec only a system call is made.
            unsafe { command.pre_exec(move || cpu::pin(cpu).map_err(std::io::Error::other)) };
        }
        let child = command.stdin(Stdio::null()).spawn();
        let child = child.with_context(|| format!("{} can't be started", mode.name))?;
        let mut observer = Self {
            mode,
            child,
            output,
            errors,
            used: Duration::ZERO,
            has_ended: false,
        };
        wait_until_attached(&mut observer.child, mode.name)
            .with_context(|| fs::read_to_string(&observer.errors).unwrap_or_default())?;
        observer.used = cpu::of(observer.child.id())?;
        Ok(Some(observer))
    }

    /// The load is over.
    pub(super) fn stop(mut self) -> Result<Seen> {
        thread::sleep(REST);
        let pid = self.child.id();
        let (resident_mib, bpf) = (cpu::resident(pid)?, bpf::programs(pid)?);
        interrupt(pid)?;
        let (_, used) = wait(pid).with_context(|| format!("{} has gone", self.mode.name))?;
        self.has_ended = true;
        let told = output::read(self.mode, &self.output, &self.errors)?;
        fs::remove_file(&self.output)?;
        Ok(Seen {
            cpu_seconds: used.cpu_seconds() - self.used.as_secs_f64(),
            resident_mib,
            lines: told.lines,
            lost: told.lost,
            yardstick_us: 0.0,
            bpf,
        })
    }
}

impl Drop for Observer<'_> {
    /// When something else has failed.
    fn drop(&mut self) {
        if !self.has_ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A process watches once the number of its loaded programs has not changed for a second.
pub(super) fn wait_until_attached(child: &mut Child, name: &str) -> Result<()> {
    let begin = Instant::now();
    let mut before = (0, Instant::now());
    loop {
        ensure!(child.try_wait()?.is_none(), "{name} ended by itself");
        let programs = bpf::ids(child.id()).len();
        if programs != before.0 {
            before = (programs, Instant::now());
        }
        if programs > 0 && before.1.elapsed() > Duration::from_secs(1) {
            return Ok(());
        }
        ensure!(begin.elapsed() < PATIENCE, "{name} loads no program");
        thread::sleep(Duration::from_millis(50));
    }
}
