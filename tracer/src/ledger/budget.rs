//! How many more connects to a destination will succeed, and who has the other ports.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use super::{
    Ledger, Way,
    buckets::Openness,
    entry::{Entry, Marks},
    owners::Id,
    place::{Address, Place},
    sockets::Slot,
};
use crate::{
    event::{Endpoint, State, Task},
    pool::{PortSet, Rules, Settings},
};

/// The ports of a range, from one destination's view. `range` is the sum of `reserved`, `bound`, `in_use` and `free`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// First and last port, both inclusive.
    pub ports: (u16, u16),
    /// How many those are.
    pub range: u32,
    /// In `ip_local_reserved_ports`.
    pub reserved: u32,
    /// Somebody has bound them: closed to every destination.
    pub bound: u32,
    /// Their 4-tuple to this destination is taken.
    pub in_use: u32,
    /// Of `in_use`: in TIME_WAIT.
    pub time_wait: u32,
    /// Of `free`: TIME_WAIT that gives way to a new connection (`tcp_tw_reuse`).
    pub reusable: u32,
    /// So many connects will succeed.
    pub free: u32,
    /// One of `free` may never be tried: the range has an odd number of ports, and the kernel looks at pairs.
    pub uncertain: bool,
}

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

/// What to look for.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    pub netns: u32,
    pub local_ip: IpAddr,
    /// `None`: ports to `bind()` at `local_ip`, for whatever destination.
    pub peer: Option<Endpoint>,
    pub settings: &'a Settings,
    /// IP_LOCAL_PORT_RANGE of the socket.
    pub socket_range: Option<(u16, u16)>,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub now: u64,
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

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

/// More seconds than a TIME_WAIT lasts, timer slack included.
const RELEASES: usize = 64;

impl Query<'_> {
    /// The ports that are tried (`inet_sk_get_local_port_range`, net/ipv4/inet_connection_sock.c): each end of the
    /// socket's own range counts only if it lies in that of the namespace.
    pub fn range(&self) -> (u16, u16) {
        let (mut low, mut high) = self.settings.range;
        if let Some((own_low, own_high)) = self.socket_range {
            if (low..=high).contains(&own_low) {
                low = own_low;
            }
            if (low..=high).contains(&own_high) {
                high = own_high;
            }
        }
        (low, high)
    }

    /// The one that is asked about.
    pub fn way(&self) -> Option<Way> {
        Some(Way {
            netns: self.netns,
            local_ip: self.local_ip,
            peer: self.peer?,
        })
    }

    /// Whether the port at `end` is tried or skipped, the kernel alone knows: it looks at pairs, and one end
    /// of an odd range is left over (`remaining &= ~1U` in `__inet_hash_connect`, net/ipv4/inet_hashtables.c).
    fn leaves_one_over(&self, rules: Rules) -> bool {
        let (low, high) = self.range();
        let count = u32::from(high - low) + 1;
        let steps_by_one = rules.steps_by_one && self.socket_range.is_some();
        count % 2 == 1 && count > 1 && !steps_by_one && self.peer.is_some()
    }

    /// Whether a timewait socket gives way to `connect()` once it is old enough.
    fn will_reuse(&self, entry: &Entry, rules: Rules) -> bool {
        let is_waiting = entry.state == State::TimeWait || rules.reuses_fin_wait2;
        let is_enabled = match self.settings.tw_reuse {
            1 => true,
            2 => [entry.local, entry.peer]
                .iter()
                .any(|end| end.ip().is_loopback()),
            _ => false,
        };
        is_waiting && is_enabled && entry.marks.has(Marks::TIMESTAMPS)
    }

    /// Whether a timewait socket gives way to `connect()` now (`tcp_twsk_unique`, net/ipv4/tcp_ipv4.c).
    fn reuses(&self, entry: &Entry, rules: Rules) -> bool {
        const DELAY: u32 = 1000;
        let may_be = self.will_reuse(entry, rules);
        let Some(since) = entry.waits_since().filter(|_| may_be) else {
            return false;
        };
        if rules.delays {
            let delay = self.settings.tw_reuse_delay.unwrap_or(DELAY);
            self.now / MS > since / MS + u64::from(delay)
        } else {
            self.now / SECOND > since / SECOND
        }
    }
}

/// Who has a port, as far as a query is concerned.
enum Verdict {
    Free,
    Reusable,
    Taken(Slot),
    /// By whom is found out later, for all such ports together.
    Bound,
}

impl Ledger {
    /// The budget alone: faster than [`explain`](Self::explain) where the ledger is large.
    pub fn budget(&self, query: &Query) -> Budget {
        self.count_ports(query, &mut |_, _| {})
    }

    pub fn explain(&self, query: &Query) -> Explained<'_> {
        let mut found = Found::default();
        let budget = self.count_ports(query, &mut |port, verdict| match verdict {
            Verdict::Taken(slot) => found.taken.push(*slot),
            Verdict::Bound => found.bound.insert(port),
            Verdict::Free | Verdict::Reusable => {}
        });
        self.explanation(query, budget, found)
    }

    fn count_ports(&self, query: &Query, seen: &mut dyn FnMut(u16, &Verdict)) -> Budget {
        let (low, high) = query.range();
        let mut budget = Budget {
            ports: (low, high),
            range: u32::from(high - low) + 1,
            ..Budget::default()
        };
        let conflicts = query.peer.is_none().then(|| self.conflicts(query));
        let mut has_free_end = false;
        for port in low..=high {
            if query.settings.reserved.contains(port) {
                budget.reserved += 1;
                continue;
            }
            let verdict = match (&conflicts, query.peer) {
                (None, Some(peer)) => self.verdict(query, port, peer),
                (conflicts, _) => self.verdict_of_bind(query, port, conflicts.as_ref()),
            };
            seen(port, &verdict);
            match verdict {
                Verdict::Free | Verdict::Reusable => {
                    budget.free += 1;
                    budget.reusable += u32::from(matches!(verdict, Verdict::Reusable));
                    has_free_end |= port == low || port == high;
                }
                Verdict::Bound => budget.bound += 1,
                Verdict::Taken(slot) => {
                    budget.in_use += 1;
                    let is_waiting = self.sockets[slot].state == State::TimeWait;
                    budget.time_wait += u32::from(is_waiting);
                }
            }
        }
        budget.uncertain = has_free_end && query.leaves_one_over(self.rules);
        budget
    }

    fn verdict(&self, query: &Query, port: u16, peer: Endpoint) -> Verdict {
        match self.sockets.buckets.openness(query.netns, port) {
            Openness::Free => return Verdict::Free,
            Openness::Bound => return Verdict::Bound,
            Openness::Shared => {}
        }
        let local = Endpoint {
            ip: query.local_ip,
            port: Some(port),
        };
        let holder = self.sockets.at(Place::Tuple {
            netns: query.netns,
            local: local.into(),
            peer: peer.into(),
        });
        match holder {
            None => Verdict::Free,
            Some(slot) if self.gives_way(query, slot) => Verdict::Reusable,
            Some(slot) => Verdict::Taken(slot),
        }
    }

    fn gives_way(&self, query: &Query, slot: Slot) -> bool {
        let entry = &self.sockets[slot];
        entry.is_timewait && query.reuses(entry, self.rules)
    }

    /// `bind()` to port 0 avoids every port that a socket of the same address has, or of any address
    /// (`inet_csk_bind_conflict`, net/ipv4/inet_connection_sock.c; without SO_REUSEADDR and SO_REUSEPORT).
    fn verdict_of_bind(
        &self,
        query: &Query,
        port: u16,
        conflicts: Option<&HashMap<u16, Slot>>,
    ) -> Verdict {
        let Some(slot) = conflicts.and_then(|conflicts| conflicts.get(&port)) else {
            return Verdict::Free;
        };
        match self.sockets.buckets.openness(query.netns, port) {
            Openness::Bound => Verdict::Bound,
            Openness::Free | Openness::Shared => Verdict::Taken(*slot),
        }
    }

    /// Of each port that can't be bound at the address the first who has it.
    fn conflicts(&self, query: &Query) -> HashMap<u16, Slot> {
        let (low, high) = query.range();
        let wanted = Address::of(query.local_ip);
        let mut conflicts: HashMap<u16, Slot> = HashMap::new();
        for (slot, entry) in self.sockets.iter() {
            let is_near = entry.netns == query.netns && (low..=high).contains(&entry.local.port);
            if is_near && entry.local.overlaps(&wanted) {
                let first = conflicts.entry(entry.local.port).or_insert(slot);
                if entry.rank() < self.sockets[*first].rank() {
                    *first = slot;
                }
            }
        }
        conflicts
    }

    /// The socket that has the port of an address, so that it can't be bound.
    pub fn port_holder(&self, netns: u32, local: Endpoint) -> Option<super::Socket<'_>> {
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
    pub fn tuple_holder(
        &self,
        netns: u32,
        local: Endpoint,
        peer: Endpoint,
    ) -> Option<super::Socket<'_>> {
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
        ways.sort_unstable_by_key(|(way, ports)| (std::cmp::Reverse(*ports), *way));
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
                // One that gives way does so in the next second or the one after that.
                let due = entry
                    .due
                    .get()
                    .filter(|_| !query.will_reuse(entry, self.rules));
                let rest = due.map_or(1, |due| due.saturating_sub(query.now) / SECOND);
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
            (std::cmp::Reverse(holder.ports), process)
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
    fn rank(&self) -> (bool, bool, bool, u64) {
        (
            !self.marks.has(Marks::BINDER),
            self.is_connection(),
            self.is_timewait,
            self.key,
        )
    }
}
