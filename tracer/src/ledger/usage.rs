//! Who has what: counted when it is asked for.

use std::{cmp::Reverse, collections::BTreeMap};

use foldhash::{HashMap, HashMapExt, HashSet};

use super::{
    Destination, Ledger, TOP, Totals, Usage,
    entry::{Entry, Progress},
    owners::{Id, Owners},
    place::Address,
    sockets::Slot,
};
use crate::event::{Owner, Role, State, Task};

/// A process, or nobody, in a network namespace.
type Account = (Option<Id>, u32);

/// What is counted when it happens, until it is asked for.
#[derive(Default)]
pub(super) struct Counters {
    counts: HashMap<Account, Counts>,
    /// Kept for whoever may still look at the last answer.
    reported: Vec<Id>,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    opened: u64,
    closed: u64,
    pub(super) failed: u64,
}

impl Counters {
    pub(super) fn of(
        &mut self,
        process: Option<Id>,
        netns: u32,
        owners: &mut Owners,
    ) -> &mut Counts {
        self.counts.entry((process, netns)).or_insert_with(|| {
            if let Some(id) = process {
                owners.retain(id);
            }
            Counts::default()
        })
    }

    /// All counts, from zero on again.
    fn report(&mut self, owners: &mut Owners) -> HashMap<Account, Counts> {
        for id in self.reported.drain(..) {
            owners.release(id);
        }
        let counts = std::mem::take(&mut self.counts);
        self.reported = counts.keys().filter_map(|(id, _)| *id).collect();
        counts
    }
}

impl Ledger {
    /// A connection that came to ESTABLISHED is counted as soon as it has an owner.
    pub(super) fn count_for_first_owner(&mut self, slot: Slot) {
        let entry = &self.sockets[slot];
        if entry.progress == Progress::Uncounted && entry.process.is_some() {
            self.count_opened(slot);
        }
    }

    pub(super) fn count_closed(&mut self, slot: Slot) {
        if self.sockets[slot].progress == Progress::Uncounted {
            self.count_opened(slot);
        }
        let entry = &self.sockets[slot];
        if entry.progress == Progress::Established {
            let (process, netns) = (entry.process, entry.netns);
            self.counters.of(process, netns, &mut self.owners).closed += 1;
        }
    }

    fn count_opened(&mut self, slot: Slot) {
        let entry = &mut self.sockets[slot];
        entry.progress = Progress::Established;
        let (process, netns) = (entry.process, entry.netns);
        self.counters.of(process, netns, &mut self.owners).opened += 1;
    }

    pub(super) fn usages(&mut self, now: u64) -> Vec<Usage<'_>> {
        let counts = self.counters.report(&mut self.owners);
        let mut accounts: HashMap<Account, Sum> = HashMap::new();
        for (account, counts) in counts {
            accounts.entry(account).or_default().counts = counts;
        }
        for (_, entry) in self.sockets.iter() {
            let sum = accounts.entry((entry.process, entry.netns)).or_default();
            sum.add(entry, self.serves(entry));
        }
        let accounts = accounts.into_iter();
        let mut rows: Vec<_> = accounts
            .map(|((id, netns), sum)| {
                let task = id.and_then(|id| self.owners.get(id));
                sum.usage(task, netns, now)
            })
            .collect();
        rows.sort_by_cached_key(order);
        rows
    }

    /// Whether it shares its port with a listener, as far as that is known.
    pub(super) fn serves(&self, entry: &Entry) -> bool {
        match entry.role {
            Some(role) => role == Role::Server,
            None => self.shares_port(entry),
        }
    }

    pub(super) fn count(&self) -> Totals {
        let mut totals = Totals {
            sockets: self.sockets.len() as u64,
            ..Totals::default()
        };
        let mut processes: HashSet<Id> = HashSet::default();
        let mut netns: HashSet<u32> = HashSet::default();
        for (_, entry) in self.sockets.iter() {
            totals.timewait += u64::from(entry.is_timewait);
            totals.bound += u64::from(entry.is_holder());
            totals.unowned += u64::from(entry.owner == Owner::None);
            processes.extend(entry.process);
            netns.insert(entry.netns);
        }
        totals.processes = processes.len() as u64;
        totals.netns = netns.len() as u64;
        totals
    }
}

/// Of one account.
#[derive(Default)]
struct Sum {
    counts: Counts,
    ports: BTreeMap<State, u64>,
    bound: u64,
    serving: BTreeMap<State, u64>,
    /// Ports, and those in TIME_WAIT, by local address and peer.
    destinations: HashMap<(Address, Address), (u64, u64)>,
    due: Option<u64>,
}

impl Sum {
    fn add(&mut self, entry: &Entry, serves: bool) {
        if entry.owner == Owner::None {
            self.due = self.due.max(entry.due.get());
        }
        if !entry.is_connection() {
            self.bound += 1;
        } else if serves {
            *self.serving.entry(entry.state).or_default() += 1;
        } else {
            *self.ports.entry(entry.state).or_default() += 1;
            self.add_destination(entry);
        }
    }

    fn add_destination(&mut self, entry: &Entry) {
        let local = entry.local.without_port();
        let (ports, time_wait) = self.destinations.entry((local, entry.peer)).or_default();
        *ports += 1;
        *time_wait += u64::from(entry.state == State::TimeWait);
    }

    fn usage(self, task: Option<&Task>, netns: u32, now: u64) -> Usage<'_> {
        Usage {
            task,
            netns,
            top: top(self.destinations),
            ports: self.ports,
            bound: self.bound,
            serving: self.serving,
            opened: self.counts.opened,
            closed: self.counts.closed,
            failed: self.counts.failed,
            due_in: self.due.map(|due| due.saturating_sub(now)),
        }
    }
}

/// The most important ones, in an order that is always the same.
fn top(destinations: HashMap<(Address, Address), (u64, u64)>) -> Vec<Destination> {
    let destinations = destinations.into_iter();
    let mut all: Vec<_> = destinations
        .map(|((local, peer), (ports, time_wait))| Destination {
            local_ip: local.ip(),
            peer: peer.into(),
            ports,
            time_wait,
        })
        .collect();
    let order = |one: &Destination| (Reverse(one.ports), one.local_ip, one.peer);
    if all.len() > TOP {
        all.select_nth_unstable_by_key(TOP, order);
        all.truncate(TOP);
    }
    all.sort_unstable_by_key(order);
    all
}

/// Most ports first; the rest only makes it always the same.
fn order(usage: &Usage<'_>) -> impl Ord + use<> {
    let ports = usage.ports.values().sum::<u64>();
    let others = usage.serving.values().sum::<u64>() + usage.bound;
    let process = usage.task.map(|task| (task.pid, task.start_ns));
    (Reverse(ports), Reverse(others), process, usage.netns)
}
