//! Keeps what network namespaces say, and reads it afresh when it has grown old.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{Namespace, all, host, in_each, settings, walk::OWN};
use crate::{
    diagnosis::{case::Host, surroundings::Surroundings},
    event::Task,
    pool::Settings,
};

/// What can't be read is not tried again sooner.
const RETRY: Duration = Duration::from_millis(100);

/// All namespaces are not looked for again sooner, nor before so many times as long as it took.
const WALK: Duration = Duration::from_secs(1);
const WALK_FACTOR: u32 = 20;

/// What nobody has asked for that long is forgotten.
const FORGET: Duration = Duration::from_secs(600);

/// Times are those of the caller, in nanoseconds since whenever.
#[derive(Debug, Default)]
pub struct Watch {
    known: HashMap<u32, Known>,
    /// Paths that led to a namespace. They are tried again each time: a descriptor that is kept open would
    /// keep the namespace.
    places: HashMap<u32, PathBuf>,
    /// When all namespaces may be looked for again.
    walk_after: u64,
}

#[derive(Debug, Default)]
struct Known {
    /// Of the last attempt.
    at: u64,
    /// It succeeded.
    fresh: bool,
    /// `None`: no attempt has succeeded.
    look: Option<Look>,
}

#[derive(Debug)]
struct Look {
    settings: Settings,
    host: Host,
}

/// What is asked of the host for one explanation is one reading.
const HOST_AGE: Duration = Duration::from_secs(1);

impl Surroundings for Watch {
    fn settings(
        &mut self,
        netns: u32,
        task: Option<&Task>,
        now: u64,
        max_age: Duration,
    ) -> Option<Settings> {
        Self::settings(self, netns, task, now, max_age).cloned()
    }

    fn host(&mut self, netns: u32, task: Option<&Task>, now: u64) -> Host {
        Self::host(self, netns, task, now, HOST_AGE)
    }
}

impl Look {
    fn of_thread() -> io::Result<Self> {
        Ok(Self {
            settings: settings::of_thread()?,
            host: host::of_thread(),
        })
    }

    fn at(namespace: Namespace) -> Option<Self> {
        let looks = in_each(&[namespace], |_| Self::of_thread());
        let look = looks.and_then(|looks| looks.into_iter().collect::<io::Result<Vec<_>>>());
        let look = look.inspect_err(|error| log::debug!("{error}")).ok();
        look?.pop()
    }
}

impl Watch {
    pub fn new() -> Self {
        Self::default()
    }

    /// The settings of a namespace, not older than `max_age` if they can be read now; else those that are known.
    /// `task`: may be in it.
    pub fn settings(
        &mut self,
        inode: u32,
        task: Option<&Task>,
        now: u64,
        max_age: Duration,
    ) -> Option<&Settings> {
        self.look(inode, task, now, max_age)
            .map(|look| &look.settings)
    }

    /// As [`Watch::settings`].
    pub fn host(&mut self, inode: u32, task: Option<&Task>, now: u64, max_age: Duration) -> Host {
        let look = self.look(inode, task, now, max_age);
        look.map_or_else(Host::default, |look| look.host.clone())
    }

    fn look(
        &mut self,
        inode: u32,
        task: Option<&Task>,
        now: u64,
        max_age: Duration,
    ) -> Option<&Look> {
        // Through another task it may succeed where it has just failed.
        let retry = if task.is_some() {
            Duration::ZERO
        } else {
            RETRY
        };
        if !self.is_recent(inode, now, max_age, retry) {
            let found = self.open(inode, task).or_else(|| self.walk(inode, now));
            let look = found.and_then(Look::at);
            self.keep(inode, look, now);
        }
        self.known.get(&inode)?.look.as_ref()
    }

    fn is_recent(&self, inode: u32, now: u64, max_age: Duration, retry: Duration) -> bool {
        self.known.get(&inode).is_some_and(|known| {
            let enough = if known.fresh { max_age } else { retry };
            Duration::from_nanos(now.saturating_sub(known.at)) < enough
        })
    }

    /// By the thread, which may have left its process's namespace, the process, or as before.
    fn open(&mut self, inode: u32, task: Option<&Task>) -> Option<Namespace> {
        let of_task = task.into_iter().flat_map(|task| [task.tid, task.pid]);
        let of_task = of_task.map(|id| PathBuf::from(format!("/proc/{id}/ns/net")));
        let before = self.places.get(&inode).cloned();
        let mut places = of_task.chain(before).chain([OWN.into()]);
        let namespace = places.find_map(|place| {
            Some(Namespace::at(&place, inode)).filter(|namespace| namespace.file.is_ok())
        })?;
        self.places.insert(inode, namespace.place.clone());
        Some(namespace)
    }

    /// Looks for it among all namespaces of the host, unless it has just done so: that may take long.
    fn walk(&mut self, inode: u32, now: u64) -> Option<Namespace> {
        if now < self.walk_after {
            return None;
        }
        let begun = Instant::now();
        let mut found = all().unwrap_or_else(|error| {
            log::debug!("network namespaces can't be listed: {error}");
            Vec::new()
        });
        found.retain(|namespace| namespace.file.is_ok());
        let places = found.iter().map(|each| (each.inode, each.place.clone()));
        self.places = places.collect();
        let pause = WALK.max(begun.elapsed() * WALK_FACTOR);
        self.walk_after = now.saturating_add(nanoseconds(pause));
        found.into_iter().find(|namespace| namespace.inode == inode)
    }

    /// What was found of a namespace; `None`: nothing, and what is known of it still counts.
    fn keep(&mut self, inode: u32, look: Option<Look>, now: u64) {
        self.forget(now);
        let known = self.known.entry(inode).or_default();
        (known.at, known.fresh) = (now, look.is_some());
        known.look = look.or_else(|| known.look.take());
    }

    fn forget(&mut self, now: u64) {
        let oldest = now.saturating_sub(nanoseconds(FORGET));
        let old = self.known.extract_if(|_, known| known.at < oldest);
        for (inode, _) in old {
            self.places.remove(&inode);
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        event::Comm,
        host::netns::tests::{elsewhere, enter, here},
    };

    const SECOND: u64 = 1_000_000_000;
    const AGE: Duration = Duration::from_secs(5);

    fn task(pid: u32, tid: u32) -> Task {
        Task {
            pid,
            tid,
            uid: 0,
            start_ns: 0,
            cgroup: 0,
            comm: Comm([0; 16]),
        }
    }

    fn set_range(inode: u32, range: &'static str) {
        let change = move || {
            enter(inode);
            fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).unwrap();
        };
        std::thread::spawn(change).join().unwrap();
    }

    #[test]
    fn reads_what_has_grown_old() {
        let Some((inode, leave, thread)) = elsewhere() else {
            return;
        };
        set_range(inode, "2000 2015");
        let mut watch = Watch::new();
        // Process 1 is in another one, which does not mislead.
        let range = |watch: &mut Watch, now| {
            let settings = watch.settings(inode, Some(&task(1, 1)), now, AGE);
            settings.map(|settings| settings.range)
        };
        assert_eq!(range(&mut watch, SECOND), Some((2000, 2015)));
        set_range(inode, "2000 2031");
        assert_eq!(range(&mut watch, 2 * SECOND), Some((2000, 2015)));
        assert_eq!(range(&mut watch, 6 * SECOND), Some((2000, 2031)));
        let host = watch.host(inode, None, 6 * SECOND, AGE);
        assert_eq!(host.has_ipv4, Some(false));
        drop(leave);
        thread.join().unwrap();
    }

    #[test]
    fn what_was_not_found_is_found_at_once_through_a_thread_in_it() {
        let Some((inode, leave, thread)) = elsewhere() else {
            return;
        };
        let found = all().unwrap();
        let found = found.iter().find(|each| each.inode == inode).unwrap();
        let mut numbers = found.place.iter().rev().filter_map(|part| part.to_str());
        let thread_id = numbers.find_map(|part| part.parse().ok());
        let mut watch = Watch::new();
        watch.walk_after = u64::MAX;
        assert_eq!(watch.settings(inode, None, SECOND, AGE), None);
        // The process of that thread is in another one.
        let task = task(std::process::id(), thread_id.unwrap());
        assert!(watch.settings(inode, Some(&task), SECOND, AGE).is_some());
        drop(leave);
        thread.join().unwrap();
    }

    #[test]
    fn looks_for_an_unknown_one_only_now_and_then() {
        let mut watch = Watch::new();
        assert_eq!(watch.settings(1, None, 0, AGE), None);
        let pause = watch.walk_after;
        assert!(pause >= SECOND);
        assert_eq!(watch.settings(1, None, SECOND / 2, AGE), None);
        assert_eq!(watch.walk_after, pause);
        assert_eq!(watch.settings(1, None, pause, AGE), None);
        assert!(watch.walk_after > pause);
        // One's own needs no search.
        let before = watch.walk_after;
        assert!(watch.settings(here(), None, pause, AGE).is_some());
        assert_eq!(watch.walk_after, before);
        watch.settings(here(), None, 1000 * SECOND, AGE);
        assert!(!watch.known.contains_key(&1));
    }
}
