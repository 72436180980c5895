//! Who has the ports of a budget.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use super::{
    Ledger, Socket, Way,
    budget::{Budget, Query, SECOND, Verdict},
    entry::{Entry, Marks},
    owners::Id,
    place::{Address, Place},
    sockets::Slot,
};
use crate::{
    event::{Endpoint, State, Task},
    pool::PortSet,
};

/// Who has ports of a budget; [`Budget::in_use`] and [`Budget::bound`] are the sums of all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Holder<'a> {
    /// `None`: nobody can be named truthfully.
    pub task: Option<&'a Task>,
    pub ports: u32,
    /// By the state of the socket that has the port; bound ones that are not connected are in `bound`.
    pub states: BTreeMap<State, u32>,
    pub bound: u32,
}

/// A budget with all that explains it.
#[derive(Clone, Debug, Default)]
pub struct Explained<'a> {
    pub budget: Budget,
    /// Most ports first.
    pub holders: Vec<Holder<'a>>,
    /// Of `budget.bound`: ports of connections.
    pub bound_connections: u32,
    /// Of `budget.bound`: ports of listeners, in order, and who listens.
    pub listeners: Vec<(u16, Option<&'a Task>)>,
    /// Listeners from port 1024 on that are outside the range of the namespace, in order.
    pub listeners_outside: Vec<(u16, Option<&'a Task>)>,
    /// TIME_WAIT of accepted connections in the namespace.
    pub serving_time_wait: u64,
    /// Ports in TIME_WAIT (of `budget.in_use`) by the whole seconds until it ends, or they can be reused; the last is
    /// for more.
    pub releases: Vec<u32>,
}

/// More seconds than a TIME_WAIT lasts, timer slack included.
const RELEASES: usize = 64;

impl Ledger {
    pub fn explain(&self, query: &Query) -> Explained<'_> {
        let (budget, found) = self.look_at_ports(query);
        self.explanation(query, budget, found)
    }

    /// Why the socket with this key (as [`Event::sock`](crate::event::Event::sock)) finds no port. Each other one that
    /// connects there has a port by then, even if that is told only when the call returns.
    pub fn explain_failure(&self, query: &Query, key: u64) -> Explained<'_> {
        let (mut budget, mut found) = self.look_at_ports(query);
        if budget.free > 0 {
            let waiting = self.waiting(query, key);
            for (slot, _) in waiting.take(budget.free as usize) {
                found.taken.push(slot);
                budget.in_use += 1;
                budget.free -= 1;
            }
            budget.reusable = budget.reusable.min(budget.free);
        }
        self.explanation(query, budget, found)
    }

    fn look_at_ports(&self, query: &Query) -> (Budget, Found) {
        let mut found = Found::default();
        let budget = self.count_ports(query, &mut |port, verdict| match verdict {
            Verdict::Taken(slot) => found.taken.push(*slot),
            Verdict::Bound => found.bound.insert(port),
            Verdict::Free | Verdict::Reusable => {}
        });
        (budget, found)
    }

    /// Who waits for an answer from the destination, at a port that is not known.
    fn waiting(&self, query: &Query, key: u64) -> impl Iterator<Item = (Slot, &Entry)> {
        let way = query
            .way()
            .map(|way| (way.local_ip, Address::from(way.peer)));
        let netns = query.netns;
        self.sockets.iter().filter(move |(_, entry)| {
            let is_waiting = entry.state == State::SynSent && entry.local.port == 0;
            let is_there = Some((entry.local.ip(), entry.peer)) == way && entry.netns == netns;
            is_waiting && is_there && entry.key != key
        })
    }

    /// The socket that has the port of an address, so that it can't be bound.
    pub fn port_holder(&self, netns: u32, local: Endpoint) -> Option<Socket<'_>> {
        let wanted = Address::from(local);
        let found = self.sockets.iter().map(|(_, entry)| entry);
        let found = found.filter(|entry| {
            let is_there = entry.netns == netns && entry.local.port == wanted.port;
            is_there && entry.local.overlaps(&wanted)
        });
        let first = found.min_by_key(|entry| entry.rank())?;
        Some(first.view(first.process.and_then(|id| self.owners.get(id))))
    }

    /// The socket that has a 4-tuple.
    pub fn tuple_holder(&self, netns: u32, local: Endpoint, peer: Endpoint) -> Option<Socket<'_>> {
        let slot = self.sockets.at(Place::Tuple {
            netns,
            local: local.into(),
            peer: peer.into(),
        })?;
        let entry = &self.sockets[slot];
        Some(entry.view(entry.process.and_then(|id| self.owners.get(id))))
    }

    /// Whether the peer is a socket of this host, in the same network namespace, as far as is known.
    pub fn is_local(&self, way: &Way) -> bool {
        let Some(port) = way.peer.port else {
            return false;
        };
        let at = Address::from(way.peer);
        let mut listeners = self.sockets.listeners(way.netns, port);
        way.peer.ip.is_loopback()
            || way.peer.ip == way.local_ip
            || listeners.any(|listener| listener.local.has_ip_of(&at))
    }

    /// Every way that takes ports, and how many, most first; for a look without a run before it.
    pub fn ways(&self) -> Vec<(Way, u32)> {
        let mut ways: HashMap<Way, u32> = HashMap::new();
        for (_, entry) in self.sockets.iter() {
            if let Some(taken) = entry.taken() {
                let way = Way {
                    netns: taken.netns,
                    local_ip: taken.local.ip(),
                    peer: taken.peer.into(),
                };
                *ways.entry(way).or_default() += 1;
            }
        }
        let mut ways: Vec<_> = ways.into_iter().collect();
        ways.sort_unstable_by_key(|(way, ports)| (Reverse(*ports), *way));
        ways
    }
}

/// What a look at each port found.
#[derive(Default)]
struct Found {
    taken: Vec<Slot>,
    bound: PortSet,
}

impl Ledger {
    fn explanation(&self, query: &Query, budget: Budget, found: Found) -> Explained<'_> {
        let mut explained = Explained {
            budget,
            releases: vec![0; RELEASES],
            ..Explained::default()
        };
        let mut accounts = Accounts::default();
        for slot in found.taken {
            let entry = &self.sockets[slot];
            accounts.add(entry);
            if entry.state == State::TimeWait {
                let rest = match entry.due.get() {
                    Some(due) if !query.will_reuse(entry, self.rules) => {
                        due.saturating_sub(query.now) / SECOND
                    }
                    _ => query.gives_way_in(entry, self.rules),
                };
                let second = usize::try_from(rest).unwrap_or(RELEASES);
                explained.releases[second.min(RELEASES - 1)] += 1;
            }
        }
        let around = self.look_around(query, &found.bound);
        for (port, slot) in around.bound {
            let entry = &self.sockets[slot];
            accounts.add(entry);
            if entry.state == State::Listen {
                explained.listeners.push((port, self.task_at(slot)));
            } else if entry.is_connection() {
                explained.bound_connections += 1;
            }
        }
        let outside = around.outside.into_iter();
        let outside = outside.map(|(port, slot)| (port, self.task_at(slot)));
        explained.listeners_outside = outside.collect();
        explained.serving_time_wait = around.serving_time_wait;
        explained.holders = self.holders(accounts);
        explained
    }

    fn task_at(&self, slot: Slot) -> Option<&Task> {
        let process = self.sockets[slot].process;
        process.and_then(|id| self.owners.get(id))
    }

    /// Looks once at every socket of the namespace; `ports` are those that are bound.
    fn look_around(&self, query: &Query, ports: &PortSet) -> Around {
        let mut around = Around::default();
        let (low, high) = query.settings.range;
        for (slot, entry) in self.sockets.iter() {
            let port = entry.local.port;
            if entry.netns != query.netns {
                continue;
            }
            around.serving_time_wait += u64::from(entry.is_timewait && self.serves(entry));
            if ports.contains(port) {
                let first = around.bound.entry(port).or_insert(slot);
                if entry.rank() < self.sockets[*first].rank() {
                    *first = slot;
                }
            }
            if entry.state == State::Listen && port >= 1024 && !(low..=high).contains(&port) {
                around.outside.insert(port, slot);
            }
        }
        around
    }

    fn holders(&self, accounts: Accounts) -> Vec<Holder<'_>> {
        let accounts = accounts.0.into_iter();
        let mut holders: Vec<_> = accounts
            .map(|(process, account)| Holder {
                task: process.and_then(|id| self.owners.get(id)),
                ports: account.states.values().sum::<u32>() + account.bound,
                states: account.states,
                bound: account.bound,
            })
            .collect();
        holders.sort_by_key(|holder| {
            let process = holder.task.map(|task| (task.pid, task.start_ns));
            (Reverse(holder.ports), process)
        });
        holders
    }
}

/// What is found without looking for a port.
#[derive(Default)]
struct Around {
    /// Of each port that is bound, who is to be named for it.
    bound: BTreeMap<u16, Slot>,
    /// See [`Explained::listeners_outside`].
    outside: BTreeMap<u16, Slot>,
    serving_time_wait: u64,
}

#[derive(Default)]
struct Accounts(HashMap<Option<Id>, Account>);

#[derive(Default)]
struct Account {
    states: BTreeMap<State, u32>,
    bound: u32,
}

impl Accounts {
    fn add(&mut self, entry: &Entry) {
        let account = self.0.entry(entry.process).or_default();
        if entry.is_connection() {
            *account.states.entry(entry.state).or_default() += 1;
        } else {
            account.bound += 1;
        }
    }
}

impl Entry {
    /// Who is named first for a port that several have: who bound it, and of those who still needs it for itself.
    pub(super) fn rank(&self) -> (bool, bool, bool, u64) {
        (
            !self.marks.has(Marks::BINDER),
            self.is_connection(),
            self.is_timewait,
            self.key,
        )
    }
}
