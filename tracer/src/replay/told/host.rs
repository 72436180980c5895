//! The host, as far as the lines of a recording tell of it.

use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

use super::line::{Process, ProcessLine};
use crate::{
    clock::Time,
    diagnosis::{case::Host as Case, surroundings::Surroundings},
    event::{Comm, Task},
    host::process::{Found, ProcessTable},
    pool::{PortSet, Settings},
    record::Netns,
};

/// So many processes are remembered, and as many before them.
const GENERATION: usize = 1 << 18;

/// What was told until now; clones share it.
#[derive(Clone, Default)]
pub(super) struct Host(Rc<RefCell<Told>>);

#[derive(Default)]
struct Told {
    now: u64,
    processes: HashMap<(u32, u64), Identity>,
    /// Those that were introduced before them.
    earlier: HashMap<(u32, u64), Identity>,
    settings: HashMap<u32, Settings>,
}

#[derive(Default)]
struct Identity {
    found: Found,
    uid: u32,
    cgroup: u64,
    exited: bool,
}

impl Told {
    fn identity(&self, key: (u32, u64)) -> Option<&Identity> {
        let earlier = || self.earlier.get(&key);
        self.processes.get(&key).or_else(earlier)
    }
}

impl Host {
    pub(super) fn set_time(&self, now: u64) {
        self.0.borrow_mut().now = now;
    }

    /// Returns when it started, nanoseconds since boot.
    pub(super) fn introduce(&self, line: ProcessLine) -> Option<u64> {
        let key = parse_id(&line.id)?;
        let identity = Identity {
            found: Found {
                exe: line.exe,
                cgroup: line.cgroup,
            },
            uid: line.uid,
            cgroup: line.cgroup_id.unwrap_or(0),
            exited: false,
        };
        let told = &mut *self.0.borrow_mut();
        if told.processes.len() >= GENERATION {
            told.earlier = std::mem::take(&mut told.processes);
        }
        told.processes.insert(key, identity);
        Some(key.1)
    }

    pub(super) fn set_exited(&self, id: &str, exited: bool) {
        let told = &mut *self.0.borrow_mut();
        let identity = parse_id(id).and_then(|key| {
            let earlier = &mut told.earlier;
            let current = told.processes.get_mut(&key);
            current.or_else(|| earlier.get_mut(&key))
        });
        if let Some(identity) = identity {
            identity.exited = exited;
        }
    }

    /// False: the line does not tell them.
    pub(super) fn set_settings(&self, netns: &Netns) -> bool {
        let Some([low, high]) = netns.range.filter(|[low, high]| low <= high) else {
            return false;
        };
        let settings = Settings {
            range: (low, high),
            reserved: PortSet::new(),
            tw_reuse: netns.tw_reuse.unwrap_or(0),
            tw_reuse_delay: netns.tw_reuse_delay_ms,
            timestamps: netns.timestamps.unwrap_or(true),
            max_tw_buckets: netns.max_tw_buckets,
        };
        self.0.borrow_mut().settings.insert(netns.netns, settings);
        true
    }

    pub(super) fn all_settings(&self) -> Vec<(u32, Option<Settings>)> {
        let told = self.0.borrow();
        let all = told.settings.iter();
        all.map(|(netns, settings)| (*netns, Some(settings.clone())))
            .collect()
    }

    /// Whether connections of the namespace have TCP timestamps, as far as its setting goes.
    pub(super) fn has_timestamps(&self, netns: u32) -> bool {
        let told = self.0.borrow();
        told.settings
            .get(&netns)
            .is_none_or(|settings| settings.timestamps)
    }

    pub(super) fn task(&self, process: &Process) -> Option<Task> {
        let (pid, start_ns) = parse_id(&process.id)?;
        let told = self.0.borrow();
        let identity = told.identity((pid, start_ns));
        let mut comm = [0; 16];
        for (to, from) in comm.iter_mut().take(15).zip(process.comm.bytes()) {
            *to = from;
        }
        Some(Task {
            pid: process.pid,
            tid: process.tid,
            uid: identity.map_or(0, |identity| identity.uid),
            start_ns,
            cgroup: identity.map_or(0, |identity| identity.cgroup),
            comm: Comm(comm),
        })
    }
}

/// Pid, and nanoseconds since boot.
fn parse_id(id: &str) -> Option<(u32, u64)> {
    let (pid, start) = id.split_once('-')?;
    Some((pid.parse().ok()?, start.parse().ok()?))
}

impl Time for Host {
    fn now(&self) -> u64 {
        self.0.borrow().now
    }
}

impl ProcessTable for Host {
    fn look_up(&self, task: &Task) -> Found {
        let told = self.0.borrow();
        let identity = told.identity((task.pid, task.start_ns));
        identity.map_or_else(Found::default, |identity| identity.found.clone())
    }

    fn is_alive(&self, task: &Task) -> Option<bool> {
        let told = self.0.borrow();
        let identity = told.identity((task.pid, task.start_ns));
        Some(identity.is_some_and(|identity| !identity.exited))
    }
}

impl Surroundings for Host {
    fn settings(&mut self, netns: u32, _: Option<&Task>, _: u64, _: Duration) -> Option<Settings> {
        self.0.borrow().settings.get(&netns).cloned()
    }

    fn host(&mut self, _: u32, _: Option<&Task>, _: u64) -> Case {
        Case::default()
    }
}
