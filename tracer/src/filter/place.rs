//! Where processes are: their cgroups and containers, looked up once for each process.

use std::{collections::HashMap, path::PathBuf};

use super::Cgroup;
use crate::{
    event::Task,
    host::{cgroup, container, process},
};

/// So much is remembered of processes, and of cgroups; then anew.
const MOST: usize = 16_384;

/// The cgroups and containers that are asked for.
#[derive(Debug)]
pub(super) struct Places {
    cgroups: Vec<Cgroup>,
    /// Beginnings of ids.
    containers: Vec<String>,
    proc: PathBuf,
    /// By pid and start.
    processes: HashMap<(u32, u64), bool>,
    /// By the id of the cgroup, for processes that are gone.
    ended: HashMap<u64, bool>,
}

impl Default for Places {
    fn default() -> Self {
        Self::new(&[], &[])
    }
}

impl Places {
    pub(super) fn new(cgroups: &[Cgroup], containers: &[String]) -> Self {
        Self {
            cgroups: cgroups.into(),
            containers: containers.into(),
            proc: "/proc".into(),
            processes: HashMap::new(),
            ended: HashMap::new(),
        }
    }

    /// Whether the process is in one of the cgroups, and in one of the containers, as far as any are asked for.
    pub(super) fn fit(&mut self, task: Option<&Task>) -> bool {
        if self.cgroups.is_empty() && self.containers.is_empty() {
            return true;
        }
        task.is_some_and(|task| self.has(task))
    }

    fn has(&mut self, task: &Task) -> bool {
        let key = (task.pid, task.start_ns);
        if let Some(known) = self.processes.get(&key) {
            return *known;
        }
        let fits = match process::cgroup(&self.proc, task) {
            Some(path) => self.is_in(&path),
            None => self.had(task.cgroup),
        };
        remember(&mut self.processes, key, fits)
    }

    /// Of a process that is gone, whose cgroup may still be there.
    fn had(&mut self, id: u64) -> bool {
        if let Some(known) = self.ended.get(&id) {
            return *known;
        }
        let fits = cgroup::path(id).is_some_and(|path| self.is_in(&path));
        remember(&mut self.ended, id, fits)
    }

    fn is_in(&self, path: &str) -> bool {
        let cgroup = self.cgroups.is_empty() || self.cgroups.iter().any(|one| one.contains(path));
        let is_container = |id: &str| self.containers.iter().any(|start| id.starts_with(start));
        let container = self.containers.is_empty()
            || container::of_cgroup(path).is_some_and(|found| is_container(&found.id));
        cgroup && container
    }
}

fn remember<K: Eq + std::hash::Hash>(known: &mut HashMap<K, bool>, key: K, value: bool) -> bool {
    if known.len() >= MOST {
        known.clear();
    }
    known.insert(key, value);
    value
}
