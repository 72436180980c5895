//! The destinations that may run out of ports, all counted in one look at every socket: a budget for each of them would
//! look at every port as often as there are destinations.

use std::cmp::Reverse;

use foldhash::HashMap;
use serde::Serialize;

use super::{Ledger, Query, Way, entry::Entry};
use crate::{event::State, pool::Settings};

/// See [`Ledger::crowd`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crowd {
    /// Most crowded first.
    pub ways: Vec<Crowded>,
    /// What all other destinations take together; `free` says nothing.
    pub others: Crowded,
    /// Network namespaces, those first whose ports are most bound.
    pub pools: Vec<Closed>,
    /// Sockets that are known, and those of them in TIME_WAIT.
    pub sockets: u64,
    pub time_wait: u64,
}

/// The ports of a destination, as in its [`Budget`](super::Budget).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crowded {
    /// `None`: of several.
    pub way: Option<Way>,
    pub in_use: u64,
    /// Of `in_use`.
    pub time_wait: u64,
    pub free: u64,
}

/// The ports of a network namespace that are closed to every destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Closed {
    pub netns: u32,
    /// Ports that `connect()` may choose.
    pub usable: u32,
    /// Of them.
    pub bound: u32,
}

/// Keeps at most `most`, in order.
fn keep<T, K: Ord>(all: &mut Vec<T>, most: usize, order: impl Fn(&T) -> K) {
    if all.len() > most {
        all.select_nth_unstable_by_key(most, &order);
        all.truncate(most);
    }
    all.sort_unstable_by_key(order);
}

/// Parts in a million.
fn part(of: u32, whole: u32) -> u64 {
    u64::from(of) * 1_000_000 / u64::from(whole.max(1))
}

impl Ledger {
    /// At most `most` destinations that take a considerable part of their ports, and as many network namespaces. Costs
    /// a look at every socket. `settings` are those of a network namespace, if they are known.
    pub fn crowd<'a>(
        &self,
        most: usize,
        settings: impl Fn(u32) -> Option<&'a Settings>,
        now: u64,
    ) -> Crowd {
        let ways = self.most_crowded(most);
        let place = |(row, way): (usize, &Way)| (self.sockets.destinations.key_of(way), row);
        let rows: HashMap<u64, usize> = ways.iter().enumerate().map(place).collect();
        let mut crowd = Crowd {
            pools: self.pools(most),
            sockets: self.sockets.len() as u64,
            ..Crowd::default()
        };
        crowd.ways = ways.into_iter().map(Crowded::of).collect();
        for (_, entry) in self.sockets.iter() {
            crowd.time_wait += u64::from(entry.state == State::TimeWait);
            if let Some(key) = self.blocks(entry, settings(entry.netns), now) {
                let row = rows.get(&key).map(|row| &mut crowd.ways[*row]);
                row.unwrap_or(&mut crowd.others).add(entry);
            }
        }
        for row in &mut crowd.ways {
            row.free = self.left(row);
        }
        crowd
    }

    fn most_crowded(&self, most: usize) -> Vec<Way> {
        let busy = self.busy().map(|(way, traffic)| (*way, traffic.ports));
        self.fullest(most, busy)
    }

    /// Of destinations that take so many ports, at most `most`, those first that take the greatest part of the ports that they
    /// can. The number of ports alone would put a small range that is used up behind large ones that are not. Without those
    /// whose settings are not known.
    pub fn fullest(&self, most: usize, ways: impl IntoIterator<Item = (Way, u32)>) -> Vec<Way> {
        let known = |(way, ports): (Way, u32)| {
            let usable = self.usable_ports(way.netns)?;
            let taken = ports.saturating_add(self.bound_ports(way.netns));
            Some((part(taken, usable), way))
        };
        let mut ways: Vec<_> = ways.into_iter().filter_map(known).collect();
        keep(&mut ways, most, |(part, way)| (Reverse(*part), *way));
        ways.into_iter().map(|(_, way)| way).collect()
    }

    /// At most `most` network namespaces whose settings are known, those first whose ports are most bound.
    pub fn pools(&self, most: usize) -> Vec<Closed> {
        let scales = self.sockets.destinations.all_usable();
        let pools = scales.map(|(netns, usable)| Closed {
            netns,
            usable,
            bound: self.bound_ports(netns),
        });
        let mut pools: Vec<_> = pools.collect();
        keep(&mut pools, most, |pool| {
            (Reverse(part(pool.bound, pool.usable)), pool.netns)
        });
        pools
    }

    /// The key of the destination that the socket takes a port from, one that `connect()` could choose.
    fn blocks(&self, entry: &Entry, settings: Option<&Settings>, now: u64) -> Option<u64> {
        let taken = entry.taken()?;
        let buckets = &self.sockets.buckets;
        if !buckets.is_choice(entry.netns, entry.local.port) {
            return None;
        }
        let gives_way = settings.is_some_and(|settings| {
            let query = Query {
                netns: entry.netns,
                local_ip: entry.local.ip(),
                peer: None,
                settings,
                socket_range: None,
                now,
            };
            self.will_give_way(&query, entry)
        });
        (!gives_way).then(|| {
            self.sockets
                .destinations
                .key(taken.netns, taken.local, taken.peer)
        })
    }

    fn left(&self, row: &Crowded) -> u64 {
        let netns = row.way.map_or(0, |way| way.netns);
        let usable = self.usable_ports(netns).unwrap_or(0);
        u64::from(usable.saturating_sub(self.bound_ports(netns))).saturating_sub(row.in_use)
    }
}

impl Crowded {
    fn of(way: Way) -> Self {
        Self {
            way: Some(way),
            ..Self::default()
        }
    }

    fn add(&mut self, entry: &Entry) {
        self.in_use += 1;
        self.time_wait += u64::from(entry.state == State::TimeWait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Comm, End, Endpoint, Event, Family, Kind, Owner, Role, Task, Tuple},
        ledger::Budget,
    };

    const NETNS: u32 = 7;
    const SECOND: u64 = 1_000_000_000;

    fn settings(tw_reuse: u8) -> Settings {
        Settings {
            range: (40_000, 40_015),
            reserved: "40003".parse().unwrap(),
            tw_reuse,
            ..Settings::default()
        }
    }

    fn at(ip: [u8; 4], port: u16) -> Endpoint {
        Endpoint {
            ip: ip.into(),
            port: (port != 0).then_some(port),
        }
    }

    struct Host {
        ledger: Ledger,
        settings: Settings,
        next: u64,
    }

    impl Host {
        fn new(tw_reuse: u8) -> Self {
            let settings = settings(tw_reuse);
            let mut ledger = Ledger::new();
            ledger.set_settings(NETNS, &settings);
            Self {
                ledger,
                settings,
                next: 1,
            }
        }

        fn put(&mut self, sock: u64, port: u16, peer: Endpoint, held: Option<u16>, kind: Kind) {
            let event = Event {
                timestamps: true,
                socket_range: None,
                ts: SECOND,
                sock,
                cookie: None,
                netns: NETNS,
                tuple: Tuple {
                    family: Family::Ipv4,
                    local: at([10, 0, 0, 1], port),
                    peer,
                },
                held,
                role: Some(Role::Client),
                owner: Owner::Connect,
                task: Some(Task {
                    pid: 1,
                    tid: 1,
                    uid: 0,
                    start_ns: 1,
                    cgroup: 1,
                    comm: Comm([b'a'; 16]),
                }),
                kind,
            };
            self.ledger.ingest(&event, &mut |_| {});
        }

        /// Connects from the port; `bound`: that had been bound before.
        fn connect(&mut self, port: u16, peer: Endpoint, bound: bool) -> u64 {
            let sock = self.next;
            self.next += 2;
            let held = bound.then_some(port);
            for (old, new) in [
                (State::Close, State::SynSent),
                (State::SynSent, State::Established),
            ] {
                self.put(
                    sock,
                    port,
                    peer,
                    held,
                    Kind::State {
                        old,
                        new,
                        end: None,
                    },
                );
            }
            sock
        }

        fn wait(&mut self, sock: u64, port: u16, peer: Endpoint) {
            let end = Some(End {
                timewait: Some(sock + 1),
                ..End::default()
            });
            let (old, new) = (State::FinWait2, State::TimeWait);
            self.put(sock, port, peer, None, Kind::State { old, new, end });
        }

        fn crowd(&self, most: usize, now: u64) -> Crowd {
            self.ledger.crowd(most, |_| Some(&self.settings), now)
        }

        fn budget(&self, way: &Way, now: u64) -> Budget {
            self.ledger.budget(&Query {
                netns: way.netns,
                local_ip: way.local_ip,
                peer: Some(way.peer),
                settings: &self.settings,
                socket_range: None,
                now,
            })
        }
    }

    #[test]
    fn every_row_is_a_budget() {
        for (tw_reuse, now) in [(0, 2 * SECOND), (1, 2 * SECOND), (1, 5 * SECOND)] {
            let mut host = Host::new(tw_reuse);
            let peers = [
                at([10, 0, 0, 2], 80),
                at([10, 0, 0, 2], 81),
                at([10, 0, 0, 3], 80),
            ];
            for port in [40_000, 40_001, 40_004, 40_005, 40_006] {
                let sock = host.connect(port, peers[0], false);
                if port % 2 == 0 {
                    host.wait(sock, port, peers[0]);
                }
            }
            host.connect(40_001, peers[1], false);
            host.connect(40_007, peers[1], false);
            // Closed to all, whoever else has it; outside the range; reserved.
            host.connect(40_005, peers[1], true);
            host.connect(40_010, peers[2], true);
            host.connect(50_000, peers[2], false);
            host.connect(40_003, peers[2], false);
            let crowd = host.crowd(10, now);
            assert!(crowd.ways.len() >= 2, "{crowd:?}");
            for row in &crowd.ways {
                let budget = host.budget(&row.way.unwrap(), now);
                let expected = [budget.in_use, budget.time_wait, budget.free].map(u64::from);
                assert_eq!([row.in_use, row.time_wait, row.free], expected, "{row:?}");
            }
            let (usable, bound) = (15, 2);
            assert_eq!(
                crowd.pools,
                [Closed {
                    netns: NETNS,
                    usable,
                    bound
                }]
            );
            assert_eq!((crowd.sockets, crowd.time_wait), (11, 3));
        }
    }

    #[test]
    fn what_has_no_row_is_summed() {
        let mut host = Host::new(0);
        for number in 0..10_000_u32 {
            let [_, _, high, low] = number.to_be_bytes();
            for port in [40_000, 40_001]
                .into_iter()
                .take(1 + usize::from(number < 50))
            {
                host.connect(port, at([10, 1, high, low], 80), false);
            }
        }
        let crowd = host.crowd(50, SECOND);
        assert_eq!(crowd.ways.len(), 50);
        assert!(
            crowd
                .ways
                .iter()
                .all(|row| (row.in_use, row.free) == (2, 13)),
            "{crowd:?}"
        );
        assert_eq!(crowd.others.in_use, 9950);
        let again = host.crowd(50, 2 * SECOND);
        assert_eq!(crowd, again);
    }
}
