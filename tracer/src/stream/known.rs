//! Processes that have been introduced, and those that were named lately: most lines name one of a few.

use std::{borrow::Cow, sync::Arc};

use crate::{
    event::{Comm, Task},
    record::{Process, WholeProcess},
};

/// A process that has been introduced, and one of its threads.
pub(super) struct Known {
    id: Arc<str>,
    pid: u32,
    tid: u32,
    start_ns: u64,
    comm: Comm,
    /// The last one as text.
    name: String,
    /// What lines say of it.
    json: Option<String>,
    /// To the flight recorder only.
    detail: bool,
}

impl Known {
    pub(super) fn new(id: Arc<str>, task: &Task, detail: bool) -> Self {
        let mut known = Self {
            id,
            pid: task.pid,
            tid: task.tid,
            start_ns: task.start_ns,
            comm: task.comm,
            name: String::from_utf8_lossy(task.comm.bytes()).into_owned(),
            json: None,
            detail,
        };
        // None of its fields can fail; without it the fields are written each time.
        known.json = serde_json::to_string(&known.process()).ok();
        known
    }

    pub(super) fn process(&self) -> Process<'_> {
        Process {
            id: &self.id,
            pid: self.pid,
            tid: self.tid,
            comm: Cow::Borrowed(&self.name),
            json: self.json.as_deref(),
        }
    }

    pub(super) fn whole(&self) -> WholeProcess<'_> {
        WholeProcess {
            id: &self.id,
            pid: self.pid,
            comm: Cow::Borrowed(&self.name),
        }
    }

    /// A thread's process may have got another name.
    fn is(&self, task: &Task) -> bool {
        (self.pid, self.tid, self.start_ns) == (task.pid, task.tid, task.start_ns)
            && self.comm == task.comm
    }
}

/// So many are remembered: each has one place, by its thread id.
const PLACES: usize = 64;

/// Those that were named lately.
pub(super) struct Recent([Option<Arc<Known>>; PLACES]);

impl Default for Recent {
    fn default() -> Self {
        Self([const { None }; PLACES])
    }
}

impl Recent {
    /// `detail`: a line for the flight recorder only names it.
    pub(super) fn find(&self, task: &Task, detail: bool) -> Option<Arc<Known>> {
        let known = self.0[place(task.tid)].as_ref()?;
        (known.is(task) && (detail || !known.detail)).then(|| known.clone())
    }

    pub(super) fn keep(&mut self, known: Arc<Known>) {
        let place = place(known.tid);
        self.0[place] = Some(known);
    }

    /// Nobody has been introduced.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

fn place(tid: u32) -> usize {
    tid as usize % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(tid: u32, comm: &[u8]) -> Task {
        let mut name = [0; 16];
        name[..comm.len()].copy_from_slice(comm);
        Task {
            pid: 812,
            tid,
            uid: 0,
            start_ns: 5,
            cgroup: 1,
            comm: Comm(name),
        }
    }

    fn known(task: &Task, detail: bool) -> Arc<Known> {
        Arc::new(Known::new("812-5".into(), task, detail))
    }

    #[test]
    fn what_was_written_is_as_derived() {
        let known = known(&task(813, b"a\"\xff\n"), false);
        let derived = Process {
            json: None,
            ..known.process()
        };
        let derived = serde_json::to_string(&derived).unwrap();
        assert_eq!(known.process().json, Some(derived.as_str()));
    }

    #[test]
    fn another_name_or_thread_is_not_found() {
        let mut recent = Recent::default();
        let task_of = |tid| task(tid, b"worker");
        let worker = task_of(813);
        recent.keep(known(&worker, false));
        assert!(recent.find(&worker, false).is_some());
        assert!(recent.find(&task(813, b"renamed"), false).is_none());
        assert!(recent.find(&task_of(813 + PLACES as u32), false).is_none());
        recent.forget();
        assert!(recent.find(&worker, false).is_none());
    }

    #[test]
    fn who_was_introduced_to_the_flight_recorder_is_new_to_others() {
        let mut recent = Recent::default();
        let worker = task(813, b"worker");
        recent.keep(known(&worker, true));
        assert!(recent.find(&worker, true).is_some());
        assert!(recent.find(&worker, false).is_none());
    }
}
