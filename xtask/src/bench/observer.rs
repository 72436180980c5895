//! Who watches the load: nobody, tracer in its modes, or a peer that is installed here.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::{bpf, cpu};
use crate::process::find;

const PATIENCE: Duration = Duration::from_secs(60);
/// What an observer has to catch up with.
const REST: Duration = Duration::from_millis(1500);

/// A way to watch.
pub(crate) struct Mode {
    pub(crate) name: &'static str,
    program: Program,
    arguments: &'static [&'static str],
    /// Its lines that count hold all of these.
    counts: &'static [&'static str],
    /// How many of those a connection should give; none: not known.
    pub(crate) lines: Lines,
}

enum Program {
    Nobody,
    Tracer,
    /// The first of these that is installed.
    Peer(&'static [&'static str]),
}

#[derive(Clone, Copy)]
pub(crate) enum Lines {
    Unknown,
    Transitions,
    /// So many for a connection that comes about.
    Each(u64),
}

const BPFTRACE: &str = "tracepoint:sock:inet_sock_set_state /args.protocol == 6/ { printf(\"%llu %s %d %d %d %d %d\\n\", \
                        nsecs, comm, pid, args.sport, args.dport, args.oldstate, args.newstate); }";

/// Nobody comes first: the others are measured against that.
pub(crate) const MODES: [Mode; 6] = [
    Mode {
        name: "none",
        program: Program::Nobody,
        arguments: &[],
        counts: &[],
        lines: Lines::Unknown,
    },
    Mode {
        name: "tracer",
        program: Program::Tracer,
        arguments: &[],
        counts: &["\"type\":\"state\"", "\"old\":\""],
        lines: Lines::Transitions,
    },
    Mode {
        name: "tracer-coalesced",
        program: Program::Tracer,
        arguments: &["--coalesce-failures"],
        counts: &["\"type\":\"state\"", "\"old\":\""],
        lines: Lines::Transitions,
    },
    Mode {
        name: "tcpstates",
        program: Program::Peer(&["tcpstates", "tcpstates-bpfcc"]),
        arguments: &[],
        counts: &["->"],
        lines: Lines::Transitions,
    },
    Mode {
        name: "tcplife",
        program: Program::Peer(&["tcplife", "tcplife-bpfcc"]),
        arguments: &[],
        counts: &["127.0.0.1"],
        lines: Lines::Each(2),
    },
    Mode {
        name: "bpftrace",
        program: Program::Peer(&["bpftrace"]),
        arguments: &["-e", BPFTRACE],
        counts: &[" "],
        lines: Lines::Transitions,
    },
];

impl Mode {
    /// `None`: it is not installed here.
    fn command(&self, tracer: &Path) -> Option<Command> {
        let program = match self.program {
            Program::Nobody => return None,
            Program::Tracer => tracer.to_owned(),
            Program::Peer(names) => names.iter().find_map(|name| find(name))?,
        };
        let mut command = Command::new(program);
        command.args(self.arguments);
        Some(command)
    }

    pub(crate) fn is_here(&self, tracer: &Path) -> bool {
        matches!(self.program, Program::Nobody) || self.command(tracer).is_some()
    }
}

/// One that runs.
pub(crate) struct Observer<'a> {
    mode: &'a Mode,
    child: Child,
    output: PathBuf,
    used: Duration,
}

/// What it cost and said.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_mib: f64,
    pub(crate) lines: u64,
    /// Runs of all its programs, and nanoseconds in them; 0 unless `kernel.bpf_stats_enabled` is set.
    pub(crate) bpf: bpf::Stats,
}

impl<'a> Observer<'a> {
    /// Answers once it watches; `None` for nobody.
    pub(crate) fn start(
        mode: &'a Mode,
        tracer: &Path,
        scratch: &Path,
        cpu: Option<usize>,
    ) -> Result<Option<Self>> {
        let Some(mut command) = mode.command(tracer) else {
            return Ok(None);
        };
        let output = scratch.join("output");
        command.stdout(File::create(&output)?).stderr(Stdio::null());
        if let Some(cpu) = cpu {
            use std::os::unix::process::CommandExt as _;
            // SAFETY: between fork and exec only a system call is made.
            unsafe { command.pre_exec(move || cpu::pin(cpu).map_err(std::io::Error::other)) };
        }
        let child = command.stdin(Stdio::null()).spawn();
        let child = child.with_context(|| format!("{} can't be started", mode.name))?;
        let mut observer = Self {
            mode,
            child,
            output,
            used: Duration::ZERO,
        };
        observer.wait_until_attached()?;
        observer.used = cpu::of(observer.child.id())?;
        Ok(Some(observer))
    }

    /// It watches once the number of its loaded programs has not changed for a second.
    fn wait_until_attached(&mut self) -> Result<()> {
        let begin = Instant::now();
        let mut before = (0, Instant::now());
        loop {
            ensure!(
                self.child.try_wait()?.is_none(),
                "{} ended by itself",
                self.mode.name
            );
            let programs = bpf::programs(self.child.id());
            if programs != before.0 {
                before = (programs, Instant::now());
            }
            if programs > 0 && before.1.elapsed() > Duration::from_secs(1) {
                return Ok(());
            }
            ensure!(
                begin.elapsed() < PATIENCE,
                "{} loads no program",
                self.mode.name
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The load is over.
    pub(crate) fn stop(mut self) -> Result<Seen> {
        thread::sleep(REST);
        let pid = self.child.id();
        let seen = Seen {
            cpu_seconds: cpu::of(pid)?.saturating_sub(self.used).as_secs_f64(),
            resident_mib: cpu::resident(pid)?,
            bpf: bpf::stats(pid),
            lines: 0,
        };
        let process = Pid::from_raw(i32::try_from(pid)?).context("pid 0")?;
        kill_process(process, Signal::INT)?;
        self.child.wait()?;
        let lines = self.count_lines()?;
        fs::remove_file(&self.output)?;
        Ok(Seen { lines, ..seen })
    }

    fn count_lines(&self) -> Result<u64> {
        let mut reader = BufReader::with_capacity(1 << 20, File::open(&self.output)?);
        let (mut line, mut count) = (Vec::new(), 0);
        while reader.by_ref().read_until(b'\n', &mut line)? > 0 {
            let text = String::from_utf8_lossy(&line);
            count += u64::from(self.mode.counts.iter().all(|part| text.contains(part)));
            line.clear();
        }
        Ok(count)
    }
}
