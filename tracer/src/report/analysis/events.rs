//! The timeline, as it is collected.

use std::collections::{BTreeMap, HashMap};

use super::{
    names::{HostId, Names, ProcessId},
    verdict::number,
};
use crate::report::{model::Moment, time::timestamp};

/// So many moments of a kind are kept.
const EACH: usize = 200;
/// Failures of a destination that come so much later are new ones (nanoseconds).
const QUIET: i64 = 30_000_000_000;
/// So many rows of failures are told apart.
const EPISODES: usize = 500;

#[derive(Debug, Default)]
pub(super) struct Events {
    pub moments: Vec<Moment>,
    kinds: HashMap<&'static str, usize>,
    pub episodes: BTreeMap<Target, Vec<Episode>>,
    count: usize,
}

/// What calls failed for. Two network namespaces may each have a destination of the same address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub host: HostId,
    pub netns: u32,
    /// As it is shown.
    pub to: String,
    pub bind: bool,
}

/// Where something happened. `netns` is none for what is of the whole host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Where<'a> {
    pub host: &'a str,
    pub netns: Option<u32>,
}

/// Failures in a row.
#[derive(Debug)]
pub(super) struct Episode {
    pub from: i64,
    pub to: i64,
    pub failures: u64,
    pub process: ProcessId,
    pub reason: String,
}

impl Events {
    pub(super) fn add(
        &mut self,
        id: &'static str,
        ts: i64,
        at: Where,
        text: impl FnOnce() -> String,
    ) {
        let kind = self.kinds.entry(id).or_default();
        *kind += 1;
        if *kind <= EACH {
            self.moments.push(moment(id, ts, at, text()));
        }
    }

    pub(super) fn failure(
        &mut self,
        key: Target,
        process: ProcessId,
        reason: &str,
        count: u64,
        ts: i64,
    ) {
        if self.count >= EPISODES && !self.episodes.contains_key(&key) {
            return;
        }
        let episodes = self.episodes.entry(key).or_default();
        match episodes.last_mut() {
            Some(last) if ts.saturating_sub(last.to) < QUIET || self.count >= EPISODES => {
                last.failures = last.failures.saturating_add(count);
                last.from = last.from.min(ts);
                last.to = last.to.max(ts);
            }
            _ => {
                self.count += 1;
                episodes.push(Episode {
                    from: ts,
                    to: ts,
                    failures: count,
                    process,
                    reason: reason.chars().take(60).collect(),
                });
            }
        }
    }

    /// In the order of time.
    pub(super) fn finish(&self, names: &Names) -> Vec<Moment> {
        let mut all = self.moments.clone();
        for (target, episodes) in &self.episodes {
            for (number, episode) in episodes.iter().enumerate() {
                all.extend(episode.moments(target, number > 0, names));
            }
        }
        all.sort_by_key(|moment| moment.ts);
        all
    }
}

impl Episode {
    fn moments(&self, target: &Target, again: bool, names: &Names) -> Vec<Moment> {
        let who = names.processes[self.process].in_words();
        let what = if target.bind {
            target.to.clone()
        } else {
            format!("connect() to {}", target.to)
        };
        let at = names.place(target.host, Some(target.netns));
        let begins = if again {
            "fails again"
        } else {
            "fails for the first time"
        };
        let id = if again {
            "failures_again"
        } else {
            "first_failure"
        };
        let text = format!("{what} {begins}: {} ({who})", self.reason);
        let mut all = vec![moment(id, self.from, at, text)];
        if self.failures > 1 {
            let failures = number(self.failures);
            let text = format!("the last of {failures} failures in a row: {what}");
            all.push(moment("last_failure", self.to, at, text));
        }
        all
    }
}

pub(super) fn moment(id: &str, ts: i64, at: Where, text: String) -> Moment {
    Moment {
        ts: timestamp(ts),
        host: at.host.into(),
        netns: at.netns,
        id: id.into(),
        text,
    }
}
