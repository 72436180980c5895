//! Processes that sockets refer to, each kept once, and only as long as somebody refers to it.

use std::{hash::BuildHasher, num::NonZeroU32};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::event::Task;

/// A reference to a process: whoever keeps one releases it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id(NonZeroU32);

#[derive(Default)]
pub(super) struct Owners {
    slots: Vec<Option<Process>>,
    free: Vec<Id>,
    by_identity: HashTable<Id>,
    hasher: RandomState,
}

struct Process {
    /// As it was last seen: a process may change its name, user and cgroup.
    task: Task,
    references: u32,
}

/// When a task had the name, user and cgroup that it is told with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Now,
    /// They may have changed since.
    Before,
}

impl Owners {
    /// The process of a task, with one reference more.
    pub(super) fn acquire(&mut self, task: &Task, seen: Seen) -> Id {
        let hash = self.hash(task);
        let known = self.by_identity.find(hash, |id| {
            self.get(*id).is_some_and(|known| same(known, task))
        });
        if let Some(id) = known.copied() {
            self.retain(id);
            self.refresh(id, task, seen);
            return id;
        }
        let id = self.insert(task.clone());
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.by_identity.insert_unique(hash, id, |id| {
            let process = slots[id.index()].as_ref();
            process.map_or(0, |process| hasher.hash_one(identity(&process.task)))
        });
        id
    }

    fn insert(&mut self, task: Task) -> Id {
        let process = Some(Process {
            task,
            references: 1,
        });
        if let Some(id) = self.free.pop() {
            self.slots[id.index()] = process;
            return id;
        }
        self.slots.push(process);
        // One more than the index: never zero, and there are no four billion processes.
        let number = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        Id(NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN))
    }

    /// One reference more.
    pub(super) fn retain(&mut self, id: Id) {
        if let Some(process) = &mut self.slots[id.index()] {
            process.references += 1;
        }
    }

    /// One reference less; the process is forgotten with the last one.
    pub(super) fn release(&mut self, id: Id) {
        let Some(process) = &mut self.slots[id.index()] else {
            return;
        };
        process.references -= 1;
        if process.references > 0 {
            return;
        }
        let hash = self.hasher.hash_one(identity(&process.task));
        if let Ok(entry) = self.by_identity.find_entry(hash, |known| *known == id) {
            entry.remove();
        }
        self.slots[id.index()] = None;
        self.free.push(id);
    }

    pub(super) fn get(&self, id: Id) -> Option<&Task> {
        Some(&self.slots[id.index()].as_ref()?.task)
    }

    /// Whether this is the task's process.
    pub(super) fn is(&self, id: Id, task: &Task) -> bool {
        self.get(id).is_some_and(|known| same(known, task))
    }

    /// The process is named again.
    pub(super) fn refresh(&mut self, id: Id, task: &Task, seen: Seen) {
        if seen == Seen::Before {
            return;
        }
        if let Some(process) = &mut self.slots[id.index()] {
            process.task.clone_from(task);
        }
    }

    fn hash(&self, task: &Task) -> u64 {
        self.hasher.hash_one(identity(task))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_identity.len()
    }
}

impl Id {
    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

fn same(one: &Task, other: &Task) -> bool {
    identity(one) == identity(other)
}

/// A pid is used again; the start time tells the processes apart.
fn identity(task: &Task) -> (u32, u64) {
    (task.pid, task.start_ns)
}
