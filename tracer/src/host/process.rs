//! Identity of processes: what the kernel side cannot carry is read from /proc at first sight.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use foldhash::{HashMap, HashMapExt};
use serde::{Deserialize, Serialize};

#[cfg(target_os = "linux")]
use crate::host::home;
use crate::{clock::Clock, event::Task, host::container, record::ProcessIdentity};

/// Pid and start time.
type Key = (u32, u64);

/// So many processes are remembered, and as many before them; one that comes back later is
/// introduced again.
const GENERATION: usize = 16_384;

/// `USER_HZ`, the unit of times in /proc: 100 on every architecture that tracer runs on.
const NS_PER_TICK: u64 = 10_000_000;

/// What there is to learn about processes: live from /proc, in replays what was learned then.
pub trait ProcessTable {
    /// Nothing, if the process is gone.
    fn look_up(&self, task: &Task) -> Found;

    /// Whether the task's process has not ended yet; `None`: processes may be hidden.
    fn is_alive(&self, task: &Task) -> Option<bool>;
}

/// What the kernel side does not carry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub exe: Option<String>,
    /// Path in the cgroup hierarchy.
    pub cgroup: Option<String>,
}

/// The processes that have been introduced.
pub struct Processes {
    table: Box<dyn ProcessTable>,
    current: HashMap<Key, Known>,
    previous: HashMap<Key, Known>,
}

#[derive(Clone)]
struct Known {
    id: Arc<str>,
    /// To the flight recorder only.
    detail: bool,
}

impl Default for Processes {
    fn default() -> Self {
        Self::at(Path::new("/proc"))
    }
}

impl Processes {
    pub fn at(proc: &Path) -> Self {
        Self::of(Box::new(Proc::at(proc)))
    }

    pub fn of(table: Box<dyn ProcessTable>) -> Self {
        Self {
            table,
            current: HashMap::new(),
            previous: HashMap::new(),
        }
    }

    /// Asks somebody else from now on, who may ask whom was asked before.
    pub fn ask(&mut self, other: impl FnOnce(Box<dyn ProcessTable>) -> Box<dyn ProcessTable>) {
        let nobody: Box<dyn ProcessTable> = Box::new(Proc::at(Path::new("")));
        self.table = other(std::mem::replace(&mut self.table, nobody));
    }

    /// The id of a task's process, and its identity if this is the first sight of it. `detail`: of the flight recorder,
    /// which hears every introduction.
    pub fn meet(
        &mut self,
        task: &Task,
        detail: bool,
        clock: &Clock,
    ) -> (Arc<str>, Option<ProcessIdentity>) {
        let key = (task.pid, task.start_ns);
        let enough = |known: &&Known| detail || !known.detail;
        if let Some(known) = self.current.get(&key).filter(enough) {
            return (known.id.clone(), None);
        }
        if let Some(known) = self.previous.remove(&key).filter(|known| enough(&known)) {
            let id = known.id.clone();
            self.remember(key, known);
            return (id, None);
        }
        let id: Arc<str> = format!("{}-{}", task.pid, task.start_ns).into();
        let known = Known {
            id: id.clone(),
            detail,
        };
        self.remember(key, known);
        let identity = self.look_up(task, &id, clock);
        (id, Some(identity))
    }

    /// Nobody has been introduced.
    pub fn forget(&mut self) {
        self.current.clear();
        self.previous.clear();
    }

    /// Whether the task's process has ended, if that can be told.
    pub fn has_exited(&self, task: &Task) -> Option<bool> {
        self.table.is_alive(task).map(|alive| !alive)
    }

    fn remember(&mut self, key: Key, known: Known) {
        if self.current.len() >= GENERATION {
            self.previous = std::mem::take(&mut self.current);
        }
        self.current.insert(key, known);
    }

    fn look_up(&self, task: &Task, id: &str, clock: &Clock) -> ProcessIdentity {
        let Found { exe, cgroup } = self.table.look_up(task);
        ProcessIdentity {
            id: id.into(),
            pid: task.pid,
            comm: String::from_utf8_lossy(task.comm.bytes()).into_owned(),
            exe,
            start: clock.boot(task.start_ns),
            uid: task.uid,
            container: cgroup.as_deref().and_then(container::of_cgroup),
            cgroup,
            cgroup_id: Some(task.cgroup),
        }
    }
}

/// The running host's.
struct Proc {
    /// Where its /proc is.
    path: PathBuf,
    shows_all: bool,
}

impl Proc {
    fn at(path: &Path) -> Self {
        Self {
            path: path.into(),
            #[cfg(target_os = "linux")]
            shows_all: home::shows_all_processes(),
            #[cfg(not(target_os = "linux"))]
            shows_all: true,
        }
    }
}

impl ProcessTable for Proc {
    fn look_up(&self, task: &Task) -> Found {
        let dir = self.path.join(task.pid.to_string());
        let exe = fs::read_link(dir.join("exe")).ok();
        let cgroup = fs::read_to_string(dir.join("cgroup")).ok();
        // Read last: if it is still the same process now, it was when the others were read.
        if !Stat::read(&dir).is_some_and(|stat| stat.is_start(task.start_ns)) {
            return Found::default();
        }
        Found {
            exe: exe.map(|path| path.to_string_lossy().into_owned()),
            cgroup: cgroup.and_then(|text| cgroup_path(&text)),
        }
    }

    fn is_alive(&self, task: &Task) -> Option<bool> {
        let stat = Stat::read(&self.path.join(task.pid.to_string()));
        let is_alive = stat.is_some_and(|stat| stat.is_start(task.start_ns) && stat.is_running());
        self.shows_all.then_some(is_alive)
    }
}

/// The path of the task's cgroup, as `process` lines show it; `None` if the process is gone.
pub fn cgroup(proc: &Path, task: &Task) -> Option<String> {
    let dir = proc.join(task.pid.to_string());
    let text = fs::read_to_string(dir.join("cgroup")).ok()?;
    // As in `look_up`, read last.
    let same = Stat::read(&dir)?.is_start(task.start_ns);
    cgroup_path(&text).filter(|_| same)
}

/// What `/proc/PID/stat` says that matters here.
struct Stat {
    /// One letter.
    state: u8,
    /// Threads that have not ended, and the first one even if it has.
    threads: u64,
    /// Start, in ticks since boot.
    start: u64,
}

impl Stat {
    fn read(dir: &Path) -> Option<Self> {
        let stat = fs::read(dir.join("stat")).ok()?;
        // The name before the fields may hold anything.
        let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(stat.get(end_of_name + 1..)?).ok()?;
        // The first of these is the file's third field.
        let fields: Vec<&str> = rest.split_ascii_whitespace().take(20).collect();
        Some(Self {
            state: *fields.first()?.as_bytes().first()?,
            threads: fields.get(17)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
        })
    }

    fn is_start(&self, start_ns: u64) -> bool {
        self.start == start_ns / NS_PER_TICK
    }

    /// A zombie has ended, unless it is only the first of several threads.
    fn is_running(&self) -> bool {
        !matches!(self.state, b'Z' | b'X') || self.threads > 1
    }
}

/// The cgroup v2 path (`0::`), or on a host with v1 only that of systemd's own hierarchy.
fn cgroup_path(text: &str) -> Option<String> {
    let v2 = text.lines().find_map(|line| line.strip_prefix("0::"));
    let systemd = || {
        text.lines()
            .find_map(|line| line.split_once(":name=systemd:").map(|(_, path)| path))
    };
    match v2 {
        // On a hybrid host v2 is often unused, and everything is in its root.
        Some("/") | None => systemd().or(v2),
        path => path,
    }
    .map(Into::into)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::event::Comm;

    fn task(pid: u32, start_ns: u64) -> Task {
        let mut comm = [0; 16];
        comm[..3].copy_from_slice(b"a\xffb");
        Task {
            pid,
            tid: pid,
            uid: 0,
            start_ns,
            cgroup: 1,
            comm: Comm(comm),
        }
    }

    fn start_of(pid: u32) -> u64 {
        let dir = Path::new("/proc").join(pid.to_string());
        Stat::read(&dir).map_or(0, |stat| stat.start) * NS_PER_TICK + 5
    }

    #[test]
    fn a_zombie_is_not_alive_and_neither_is_another_of_that_pid() {
        let processes = Processes::default();
        let own = std::process::id();
        assert_eq!(processes.has_exited(&task(own, start_of(own))), Some(false));
        assert_eq!(processes.has_exited(&task(own, 1)), Some(true));
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let task = task(child.id(), start_of(child.id()));
        assert_eq!(processes.has_exited(&task), Some(false));
        drop(child.stdin.take());
        let dir = Path::new("/proc").join(child.id().to_string());
        while Stat::read(&dir).unwrap().state != b'Z' {
            std::thread::yield_now();
        }
        assert_eq!(processes.has_exited(&task), Some(true));
        child.wait().unwrap();
        assert_eq!(processes.has_exited(&task), Some(true));
    }

    #[test]
    fn nobody_is_told_to_have_ended_where_processes_are_hidden() {
        let hidden = Proc {
            path: "/proc".into(),
            shows_all: false,
        };
        let processes = Processes::of(Box::new(hidden));
        assert_eq!(processes.has_exited(&task(std::process::id(), 1)), None);
    }

    #[test]
    fn a_process_lives_on_when_its_first_thread_has_ended() {
        let stat = |state, threads| Stat {
            state,
            threads,
            start: 0,
        };
        assert!(stat(b'Z', 2).is_running());
        assert!(!stat(b'Z', 1).is_running());
        assert!(!stat(b'X', 1).is_running());
        assert!(stat(b'S', 1).is_running());
    }

    #[test]
    fn a_process_is_introduced_once() {
        let mut processes = Processes::default();
        let pid = std::process::id();
        let task = task(pid, start_of(pid));
        let (id, identity) = processes.meet(&task, false, &Clock::read());
        let identity = identity.unwrap();
        assert_eq!(*id, *identity.id);
        assert_eq!(
            identity.exe,
            std::env::current_exe().unwrap().to_str().map(Into::into)
        );
        assert_eq!(identity.comm, "a\u{fffd}b");
        assert!(processes.meet(&task, false, &Clock::read()).1.is_none());
    }

    #[test]
    fn a_reused_pid_is_another_process_and_tells_nothing_of_the_first() {
        let mut processes = Processes::default();
        let pid = std::process::id();
        let (first, _) = processes.meet(&task(pid, 1), false, &Clock::read());
        let (second, identity) = processes.meet(&task(pid, 2), false, &Clock::read());
        assert_ne!(first, second);
        let identity = identity.unwrap();
        assert_eq!((identity.exe, identity.cgroup), (None, None));
    }

    #[test]
    fn memory_is_bounded_and_the_recent_are_kept() {
        let mut processes = Processes::at(Path::new("/nonexistent"));
        let clock = Clock::read();
        for pid in 0..3 * GENERATION as u32 {
            processes.meet(&task(pid, 0), false, &clock);
        }
        assert!(processes.current.len() + processes.previous.len() <= 2 * GENERATION);
        let recent = 3 * GENERATION as u32 - 1;
        assert!(processes.meet(&task(recent, 0), false, &clock).1.is_none());
    }

    #[test]
    fn reads_the_cgroup_of_v2_hybrid_and_v1_hosts() {
        let v2 = "0::/system.slice/nginx.service\n";
        let hybrid = "2:cpu:/\n1:name=systemd:/init.scope\n0::/\n";
        assert_eq!(
            cgroup_path(v2).as_deref(),
            Some("/system.slice/nginx.service")
        );
        assert_eq!(cgroup_path(hybrid).as_deref(), Some("/init.scope"));
        assert_eq!(cgroup_path("1:name=systemd:/a\n").as_deref(), Some("/a"));
        assert_eq!(cgroup_path("0::/\n").as_deref(), Some("/"));
    }
}
