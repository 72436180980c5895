//! How many more connects to a destination will succeed, and who has the other ports.

use std::{collections::HashMap, net::IpAddr};

use super::{
    Ledger, Way,
    buckets::Openness,
    entry::{Entry, Marks},
    place::{Address, Place},
    sockets::Slot,
};
use crate::{
    event::{Endpoint, State},
    pool::{Rules, Settings},
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
    /// One of `free` may never be tried: the range has an odd number of ports, and the kernel looks at pairs. For `bind()`,
    /// too.
    pub uncertain: bool,
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

const MS: u64 = 1_000_000;
pub(super) const SECOND: u64 = 1000 * MS;

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
    /// of an odd range is left over (`remaining &= ~1U` in `__inet_hash_connect`, net/ipv4/inet_hashtables.c, and in
    /// `inet_csk_find_open_port`, net/ipv4/inet_connection_sock.c).
    fn leaves_one_over(&self, rules: Rules) -> bool {
        let (low, high) = self.range();
        let count = u32::from(high - low) + 1;
        let steps_by_one = rules.steps_by_one && self.socket_range.is_some();
        count % 2 == 1 && count > 1 && !steps_by_one
    }

    /// Whether a timewait socket gives way to `connect()` once it is old enough.
    pub(super) fn will_reuse(&self, entry: &Entry, rules: Rules) -> bool {
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
        let may_be = self.will_reuse(entry, rules);
        let Some(since) = entry.waits_since().filter(|_| may_be) else {
            return false;
        };
        if rules.delays {
            self.now / MS > since / MS + self.delay()
        } else {
            self.now / SECOND > since / SECOND
        }
    }

    /// In so many seconds a timewait socket that will be reused gives way, one at least.
    pub(super) fn gives_way_in(&self, entry: &Entry, rules: Rules) -> u64 {
        let since = entry.waits_since().unwrap_or(self.now);
        let due = since.saturating_add(self.delay().saturating_mul(MS));
        let rest = due.saturating_sub(self.now).div_ceil(SECOND);
        if rules.delays { rest.max(1) } else { 1 }
    }

    /// Milliseconds.
    fn delay(&self) -> u64 {
        const DELAY: u32 = 1000;
        self.settings.tw_reuse_delay.unwrap_or(DELAY).into()
    }
}

/// Who has a port, as far as a query is concerned.
pub(super) enum Verdict {
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

    pub(super) fn count_ports(&self, query: &Query, seen: &mut dyn FnMut(u16, &Verdict)) -> Budget {
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
            Some(slot) if self.will_give_way(query, &self.sockets[slot]) => Verdict::Reusable,
            Some(slot) => Verdict::Taken(slot),
        }
    }

    /// Whether a socket makes room for a `connect()` now.
    pub(super) fn will_give_way(&self, query: &Query, entry: &Entry) -> bool {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(settings: (u16, u16), own: Option<(u16, u16)>) -> (u16, u16) {
        let settings = Settings {
            range: settings,
            ..Settings::default()
        };
        query(&settings, own).range()
    }

    fn query(settings: &Settings, socket_range: Option<(u16, u16)>) -> Query<'_> {
        let ip = "10.0.0.9".parse().unwrap();
        Query {
            netns: 1,
            local_ip: ip,
            peer: Some(Endpoint { ip, port: Some(80) }),
            settings,
            socket_range,
            now: 0,
        }
    }

    #[test]
    fn a_range_of_the_socket_counts_inside_that_of_the_namespace() {
        assert_eq!(range((100, 199), None), (100, 199));
        assert_eq!(range((100, 199), Some((120, 130))), (120, 130));
        assert_eq!(range((100, 199), Some((90, 130))), (100, 130));
        assert_eq!(range((100, 199), Some((120, 230))), (120, 199));
        assert_eq!(range((100, 199), Some((300, 310))), (100, 199));
        assert_eq!(range((100, 199), Some((0, 0))), (100, 199));
    }

    #[test]
    fn an_odd_range_leaves_one_port_over() {
        let over = |range, own, steps_by_one| {
            let settings = Settings {
                range,
                ..Settings::default()
            };
            let rules = Rules {
                steps_by_one,
                ..Rules::default()
            };
            query(&settings, own).leaves_one_over(rules)
        };
        assert!(over((100, 102), None, true));
        assert!(!over((100, 103), None, true));
        assert!(!over((100, 100), None, true));
        assert!(!over((100, 103), Some((100, 102)), true));
        assert!(over((100, 103), Some((100, 102)), false));
    }
}
