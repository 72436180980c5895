//! Processes, and the /proc that the tracer finds them in.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use tracer::event::{Comm, Task};

/// The host has been up for so long when the tracer starts: a day, nanoseconds.
pub(super) const UPTIME: u64 = 86_400_000_000_000;

/// Unit of times in /proc, nanoseconds.
const TICK: u64 = 10_000_000;

pub(super) struct Process {
    pub(super) task: Task,
    pub(super) exe: &'static str,
    pub(super) cgroup: String,
    /// When it begins and ends, nanoseconds since the tracer's start.
    pub(super) begin: u64,
    pub(super) end: Option<u64>,
}

impl Process {
    /// One that was there long before the tracer.
    pub(super) fn new(pid: u32, name: &str, exe: &'static str, cgroup: String) -> Self {
        let mut comm = [0; 16];
        let bytes = &name.as_bytes()[..name.len().min(15)];
        comm[..bytes.len()].copy_from_slice(bytes);
        Self {
            task: Task {
                pid,
                tid: pid,
                uid: 1000,
                start_ns: UPTIME - u64::from(pid) * TICK * 37,
                cgroup: 4000 + u64::from(pid % 100),
                comm: Comm(comm),
            },
            exe,
            cgroup,
            begin: 0,
            end: None,
        }
    }

    pub(super) fn from(mut self, begin: u64) -> Self {
        self.begin = begin;
        self.task.start_ns = UPTIME + begin;
        self
    }

    pub(super) fn until(mut self, end: u64) -> Self {
        self.end = Some(end);
        self
    }

    pub(super) fn id(&self) -> String {
        format!("{}-{}", self.task.pid, self.task.start_ns)
    }

    pub(super) fn name(&self) -> String {
        String::from_utf8_lossy(self.task.comm.bytes()).into_owned()
    }
}

/// As much of /proc as the tracer reads, in a directory of its own.
pub(super) struct Proc(TempDir);

impl Proc {
    pub(super) fn new() -> io::Result<Self> {
        tempfile::Builder::new()
            .prefix("tracer-simulate-")
            .tempdir()
            .map(Self)
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    fn of(&self, process: &Process) -> PathBuf {
        self.path().join(process.task.pid.to_string())
    }

    pub(super) fn begin(&self, process: &Process) -> io::Result<()> {
        let dir = self.of(process);
        fs::create_dir(&dir)?;
        symlink(process.exe, dir.join("exe"))?;
        fs::write(dir.join("cgroup"), format!("0::{}\n", process.cgroup))?;
        let (pid, name) = (process.task.pid, process.name());
        let start = process.task.start_ns / TICK;
        let stat =
            format!("{pid} ({name}) S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 {start} 1 1\n");
        fs::write(dir.join("stat"), stat)
    }

    pub(super) fn end(&self, process: &Process) -> io::Result<()> {
        fs::remove_dir_all(self.of(process))
    }
}
