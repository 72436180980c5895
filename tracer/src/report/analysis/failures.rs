//! Failures by reason, process and destination, and the advice that came with them.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

use super::names::{HostId, Names, ProcessId};
use crate::report::{
    digest,
    model::{Advice, Count, Failures as Told},
    time::timestamp,
};

/// So many rows of a list are kept; further failures go to `others`.
const ROWS: usize = 2048;
/// So many rows are shown.
const SHOWN: usize = 20;
/// So many pieces of advice, and places of each, are kept.
const ADVICE: usize = 64;

/// Failures of one kind.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// `None`: on several.
    pub host: Option<HostId>,
    /// `None`: in several.
    pub netns: Option<u32>,
    pub failures: u64,
    pub first: i64,
    pub last: i64,
}

#[derive(Debug, Default)]
pub(super) struct Failures {
    pub connect: u64,
    pub bind: u64,
    pub whole: Option<Tally>,
    reasons: Table<(bool, Box<str>)>,
    processes: Table<ProcessId>,
    /// By host, network namespace, and what is shown.
    destinations: Table<(HostId, u32, String)>,
    advice: BTreeMap<Box<str>, Given>,
}

#[derive(Debug)]
struct Table<K> {
    rows: HashMap<K, Tally>,
    others: Option<Tally>,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self {
            rows: HashMap::new(),
            others: None,
        }
    }
}

/// A piece of advice.
#[derive(Debug, Default)]
struct Given {
    given: u64,
    /// Best first: how far up it stood.
    weight: f64,
    places: HashMap<(HostId, u32, String), Place>,
}

#[derive(Debug)]
struct Place {
    given: u64,
    why: Box<str>,
    how: Box<str>,
}

impl Tally {
    fn new((host, netns): (HostId, u32), ts: i64) -> Self {
        Self {
            host: Some(host),
            netns: Some(netns),
            failures: 0,
            first: ts,
            last: ts,
        }
    }

    fn add(&mut self, at: (HostId, u32), count: u64, ts: i64) {
        self.merge(&Self {
            failures: count,
            ..Self::new(at, ts)
        });
    }

    fn merge(&mut self, other: &Self) {
        self.host = self.host.filter(|known| Some(*known) == other.host);
        // Of different hosts, namespaces are different ones.
        let netns = self.netns.filter(|known| Some(*known) == other.netns);
        self.netns = self.host.and(netns);
        self.failures = self.failures.saturating_add(other.failures);
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

impl<K: Eq + Hash + Ord + Clone> Table<K> {
    fn add(&mut self, key: K, at: (HostId, u32), count: u64, ts: i64) {
        let has_room = self.rows.len() < ROWS || self.rows.contains_key(&key);
        let tally = if has_room {
            self.rows.entry(key).or_insert_with(|| Tally::new(at, ts))
        } else {
            self.others.get_or_insert_with(|| Tally::new(at, ts))
        };
        tally.add(at, count, ts);
    }

    /// Most first; those that are not shown are one row.
    fn rows(&self, name: impl Fn(&K) -> String, names: &Names) -> Vec<Count> {
        let mut all: Vec<_> = self.rows.iter().collect();
        all.sort_by(|a, b| b.1.failures.cmp(&a.1.failures).then(a.0.cmp(b.0)));
        let shown = if all.len() > SHOWN {
            SHOWN - 1
        } else {
            all.len()
        };
        let mut others = self.others.clone();
        for (_, tally) in &all[shown..] {
            match &mut others {
                Some(others) => others.merge(tally),
                None => others = Some((*tally).clone()),
            }
        }
        let count = |name, tally: &Tally| Count {
            name,
            host: tally.host.map(|host| names.hosts[host].name.clone()),
            netns: tally.netns,
            failures: tally.failures,
            first: timestamp(tally.first),
            last: timestamp(tally.last),
        };
        let mut rows: Vec<_> = all[..shown]
            .iter()
            .map(|(key, tally)| count(name(key), tally))
            .collect();
        rows.extend(others.as_ref().map(|others| count("others".into(), others)));
        rows
    }
}

/// A failed call.
#[derive(Debug)]
pub(super) struct Failure<'a> {
    pub host: HostId,
    pub netns: u32,
    pub process: ProcessId,
    /// As it is shown.
    pub destination: String,
    pub bind: bool,
    pub reason: &'a str,
    pub repeats: u64,
    pub ts: i64,
}

impl Failures {
    pub(super) fn add(&mut self, failure: Failure) {
        let Failure {
            host,
            netns,
            ts,
            repeats,
            ..
        } = failure;
        let at = (host, netns);
        let total = if failure.bind {
            &mut self.bind
        } else {
            &mut self.connect
        };
        *total = total.saturating_add(repeats);
        self.whole
            .get_or_insert_with(|| Tally::new(at, ts))
            .add(at, repeats, ts);
        let reason: String = failure.reason.chars().take(60).collect();
        self.reasons
            .add((failure.bind, reason.into()), at, repeats, ts);
        self.processes.add(failure.process, at, repeats, ts);
        self.destinations
            .add((host, netns, failure.destination), at, repeats, ts);
    }

    /// When the first failed there; `None` in place of a destination: for any.
    pub(super) fn first_in(&self, host: HostId, netns: u32, to: Option<&str>) -> Option<i64> {
        let there = self.destinations.rows.iter().filter(|((on, of, name), _)| {
            (*on, *of) == (host, netns) && to.is_none_or(|wanted| wanted == name)
        });
        there.map(|(_, tally)| tally.first).min()
    }

    /// Advice of an explained failure, or of pressure.
    pub(super) fn advise(
        &mut self,
        (host, netns): (HostId, u32),
        about: &str,
        advice: Vec<digest::Advice>,
    ) {
        for (position, each) in advice.into_iter().enumerate() {
            if self.advice.len() >= ADVICE && !self.advice.contains_key(&each.id) {
                continue;
            }
            let given = self.advice.entry(each.id).or_default();
            given.given += 1;
            given.weight += 1.0 / (position as f64 + 1.0);
            let key = (host, netns, about.to_owned());
            if given.places.len() >= ADVICE && !given.places.contains_key(&key) {
                continue;
            }
            // The first of a place shows how it came to it: later, nothing can be opened any more.
            let place = given.places.entry(key).or_insert(Place {
                given: 0,
                why: each.why,
                how: each.how,
            });
            place.given += 1;
        }
    }

    pub(super) fn advice(&self, names: &Names) -> Vec<Advice> {
        let mut all: Vec<_> = self.advice.iter().collect();
        let rank = |id: &str, given: &Given| (id.starts_with("not_"), -given.weight);
        all.sort_by(|a, b| {
            let (a, b) = (rank(a.0, a.1), rank(b.0, b.1));
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
        });
        let made = all.into_iter().filter_map(|(id, given)| {
            let most = |place: &(&(HostId, u32, String), &Place)| {
                (place.1.given, std::cmp::Reverse(place.0.clone()))
            };
            let ((host, netns, about), place) = given.places.iter().max_by_key(most)?;
            Some(Advice {
                id: id.as_ref().into(),
                why: place.why.as_ref().into(),
                how: place.how.as_ref().into(),
                host: names.hosts[*host].name.clone(),
                netns: *netns,
                about: about.clone(),
                given: given.given,
            })
        });
        made.collect()
    }

    pub(super) fn told(&self, names: &Names) -> Told {
        let reason = |(bind, reason): &(bool, Box<str>)| match bind {
            true => format!("bind: {reason}"),
            false => reason.as_ref().to_owned(),
        };
        Told {
            connect: self.connect,
            bind: self.bind,
            first: self.whole.as_ref().map(|whole| timestamp(whole.first)),
            last: self.whole.as_ref().map(|whole| timestamp(whole.last)),
            by_reason: self.reasons.rows(reason, names),
            by_process: self
                .processes
                .rows(|process| names.processes[*process].title(), names),
            by_destination: self.destinations.rows(|(.., name)| name.clone(), names),
        }
    }
}
