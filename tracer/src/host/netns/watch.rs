//! Keeps what network namespaces say, and reads it afresh when it has grown old.

use std::{
    collections::HashMap,
    io, mem,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{Namespace, all, host, in_each, settings, walk::OWN};
use crate::{
    diagnosis::{case::Host, surroundings::Surroundings},
    pool::Settings,
};

/// What can't be read is not tried again sooner.
const RETRY: Duration = Duration::from_millis(100);

/// All namespaces are not looked for again sooner, nor before so many times as long as it took.
const WALK: Duration = Duration::from_secs(1);
const WALK_FACTOR: u32 = 20;

/// What nobody has asked for that long is forgotten.
const FORGET: Duration = Duration::from_secs(600);

/// The settings of a namespace were changed. (Or it is a new one: the kernel gives the inode number of one that is
/// gone to the next.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Inode number.
    pub netns: u32,
    pub old: Settings,
    pub new: Settings,
}

/// Times are those of the caller, in nanoseconds since whenever.
#[derive(Debug, Default)]
pub struct Watch {
    known: HashMap<u32, Known>,
    /// Paths that led to a namespace. They are tried again each time: a descriptor that is kept open would
    /// keep the namespace.
    places: HashMap<u32, PathBuf>,
    /// When all namespaces may be looked for again.
    walk_after: u64,
    /// Those that have not been told.
    changes: Vec<Change>,
}

#[derive(Debug)]
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
        pid: Option<u32>,
        now: u64,
        max_age: Duration,
    ) -> Option<Settings> {
        Self::settings(self, netns, pid, now, max_age).cloned()
    }

    fn host(&mut self, netns: u32, pid: Option<u32>, now: u64) -> Host {
        Self::host(self, netns, pid, now, HOST_AGE)
    }
}

impl Look {
    fn of_thread() -> io::Result<Self> {
        Ok(Self {
            settings: settings::of_thread()?,
            host: host::of_thread(),
        })
    }
}

impl Watch {
    pub fn new() -> Self {
        Self::default()
    }

    /// The settings of a namespace, not older than `max_age` if they can be read now; else those that are known.
    /// `pid`: a process or thread that may be in it.
    pub fn settings(
        &mut self,
        inode: u32,
        pid: Option<u32>,
        now: u64,
        max_age: Duration,
    ) -> Option<&Settings> {
        self.look(inode, pid, now, max_age)
            .map(|look| &look.settings)
    }

    /// As [`Watch::settings`].
    pub fn host(&mut self, inode: u32, pid: Option<u32>, now: u64, max_age: Duration) -> Host {
        let look = self.look(inode, pid, now, max_age);
        look.map_or_else(Host::default, |look| look.host.clone())
    }

    /// Reads these namespaces afresh. Tells what has changed since the last call, in these and others.
    pub fn refresh(&mut self, inodes: &[u32], now: u64) -> Vec<Change> {
        let mut found: Vec<Namespace> = Vec::new();
        let mut lost = Vec::new();
        for &inode in inodes {
            match self.open(inode, None) {
                Some(namespace) => found.push(namespace),
                None => lost.push(inode),
            }
        }
        if !lost.is_empty() {
            found.extend(self.walk(&lost, now));
        }
        self.read(&found, inodes, now);
        mem::take(&mut self.changes)
    }

    fn look(&mut self, inode: u32, pid: Option<u32>, now: u64, max_age: Duration) -> Option<&Look> {
        // Through another process it may succeed where it has just failed.
        let retry = if pid.is_some() { Duration::ZERO } else { RETRY };
        if !self.is_recent(inode, now, max_age, retry) {
            let found = match self.open(inode, pid) {
                Some(namespace) => vec![namespace],
                None => self.walk(&[inode], now),
            };
            self.read(&found, &[inode], now);
        }
        self.known.get(&inode)?.look.as_ref()
    }

    fn is_recent(&self, inode: u32, now: u64, max_age: Duration, retry: Duration) -> bool {
        self.known.get(&inode).is_some_and(|known| {
            let enough = if known.fresh { max_age } else { retry };
            Duration::from_nanos(now.saturating_sub(known.at)) < enough
        })
    }

    /// By the process, or as before.
    fn open(&mut self, inode: u32, pid: Option<u32>) -> Option<Namespace> {
        let of_process = pid.map(|pid| PathBuf::from(format!("/proc/{pid}/ns/net")));
        let places = [
            of_process,
            self.places.get(&inode).cloned(),
            Some(OWN.into()),
        ];
        let namespace = places.into_iter().flatten().find_map(|place| {
            Some(Namespace::at(&place, inode)).filter(|namespace| namespace.file.is_ok())
        })?;
        self.places.insert(inode, namespace.place.clone());
        Some(namespace)
    }

    /// Looks for them among all namespaces of the host, unless it has just done so: that may take long.
    fn walk(&mut self, inodes: &[u32], now: u64) -> Vec<Namespace> {
        if now < self.walk_after {
            return Vec::new();
        }
        let begun = Instant::now();
        let mut found = all().unwrap_or_else(|error| {
            log::debug!("network namespaces can't be listed: {error}");
            Vec::new()
        });
        found.retain(|namespace| namespace.file.is_ok());
        let places = found.iter().map(|each| (each.inode, each.place.clone()));
        self.places = places.collect();
        found.retain(|namespace| inodes.contains(&namespace.inode));
        let pause = WALK.max(begun.elapsed() * WALK_FACTOR);
        self.walk_after = now.saturating_add(nanoseconds(pause));
        found
    }

    /// `inodes`: all that were looked for.
    fn read(&mut self, found: &[Namespace], inodes: &[u32], now: u64) {
        let looks = if found.is_empty() {
            Vec::new()
        } else {
            in_each(found, |_| Look::of_thread()).unwrap_or_else(|error| vec![Err(error)])
        };
        self.forget(now);
        for &inode in inodes {
            let known = self.known.entry(inode).or_insert_with(|| Known::new(now));
            (known.at, known.fresh) = (now, false);
        }
        for (namespace, look) in found.iter().zip(looks) {
            match look {
                Ok(look) => self.keep(namespace.inode, look, now),
                Err(error) => log::debug!("{error}"),
            }
        }
    }

    fn keep(&mut self, inode: u32, look: Look, now: u64) {
        let known = self.known.entry(inode).or_insert_with(|| Known::new(now));
        known.fresh = true;
        let new = look.settings.clone();
        let old = known.look.replace(look).map(|old| old.settings);
        if let Some(old) = old.filter(|old| *old != new) {
            let netns = inode;
            self.changes.push(Change { netns, old, new });
        }
    }

    fn forget(&mut self, now: u64) {
        let oldest = now.saturating_sub(nanoseconds(FORGET));
        self.known.retain(|_, known| known.at >= oldest);
    }
}

impl Known {
    fn new(at: u64) -> Self {
        Self {
            at,
            fresh: false,
            look: None,
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
    use crate::host::netns::tests::{elsewhere, enter, here};

    const SECOND: u64 = 1_000_000_000;
    const AGE: Duration = Duration::from_secs(5);

    fn set_range(inode: u32, range: &'static str) {
        let change = move || {
            enter(inode);
            fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).unwrap();
        };
        std::thread::spawn(change).join().unwrap();
    }

    #[test]
    fn reads_what_has_grown_old_and_tells_changes_once() {
        let Some((inode, leave, thread)) = elsewhere() else {
            return;
        };
        set_range(inode, "2000 2015");
        let mut watch = Watch::new();
        // Process 1 is in another one, which does not mislead.
        let range = |watch: &mut Watch, now| {
            let settings = watch.settings(inode, Some(1), now, AGE);
            settings.map(|settings| settings.range)
        };
        assert_eq!(range(&mut watch, SECOND), Some((2000, 2015)));
        set_range(inode, "2000 2031");
        assert_eq!(range(&mut watch, 2 * SECOND), Some((2000, 2015)));
        assert_eq!(range(&mut watch, 6 * SECOND), Some((2000, 2031)));
        set_range(inode, "2000 2063");
        let changes = watch.refresh(&[inode, here()], 6 * SECOND);
        let told: Vec<_> = changes
            .iter()
            .map(|c| (c.netns, c.old.range, c.new.range))
            .collect();
        let (a, b, c) = ((2000, 2015), (2000, 2031), (2000, 2063));
        assert_eq!(told, [(inode, a, b), (inode, b, c)]);
        assert!(watch.refresh(&[inode, here()], 6 * SECOND).is_empty());
        let host = watch.host(inode, None, 6 * SECOND, AGE);
        assert_eq!(host.has_ipv4, Some(false));
        drop(leave);
        thread.join().unwrap();
    }

    #[test]
    fn what_was_not_found_is_found_at_once_through_a_process_in_it() {
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
        assert!(watch.settings(inode, thread_id, SECOND, AGE).is_some());
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
