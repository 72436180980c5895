//! Counts while the simulation goes on.

use std::{cmp::Reverse, collections::BTreeMap};

use tracer::event::Endpoint;

use super::{
    people::Process,
    truth::{EPOCH, Failure, Pool, Round, SECOND, Second, shown, timestamp},
};

/// A process by its number; `None`: not known.
pub(super) type Who = Option<usize>;

/// Why a call failed: the call, the reason, and the destination.
pub(super) type Why = (&'static str, &'static str, Option<Endpoint>);

#[derive(Default)]
pub(super) struct Tally {
    failures: BTreeMap<(u32, usize, &'static str, &'static str, Option<Endpoint>), Times>,
    pools: BTreeMap<u32, Level>,
    seconds: BTreeMap<(u64, u32, usize, Endpoint), Counts>,
    /// Ports of a process for a destination now.
    now: BTreeMap<(u32, usize, Endpoint), i64>,
    rounds: Vec<(u64, u32, Who, Taken)>,
    pub(super) connect_failures: u64,
    pub(super) bind_failures: u64,
}

struct Times {
    count: u64,
    first: u64,
    last: u64,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Taken {
    ports: u64,
    time_wait: u64,
    peak: u64,
}

#[derive(Default)]
struct Level {
    ports: u64,
    peak: u64,
    at: u64,
    owner: (Who, u64),
    processes: BTreeMap<Who, Taken>,
}

#[derive(Default)]
struct Counts {
    opened: u64,
    failed: u64,
    ports: i64,
}

impl Tally {
    fn second(&mut self, now: u64, netns: u32, who: usize, peer: Endpoint) -> &mut Counts {
        let ports = *self.now.entry((netns, who, peer)).or_default();
        let counts = self
            .seconds
            .entry((now / SECOND, netns, who, peer))
            .or_default();
        counts.ports = ports;
        counts
    }

    /// A port is taken, for a destination or (by `bind()`) for none.
    pub(super) fn take(&mut self, now: u64, netns: u32, who: Who, peer: Option<Endpoint>) {
        let level = self.pools.entry(netns).or_default();
        level.ports += 1;
        let taken = level.processes.entry(who).or_default();
        taken.ports += 1;
        taken.peak = taken.peak.max(taken.ports);
        if level.ports > level.peak {
            let most = |(who, taken): (&Who, &Taken)| (taken.ports, Reverse(*who));
            let (ports, Reverse(owner)) =
                level.processes.iter().map(most).max().unwrap_or_default();
            (level.peak, level.at, level.owner) = (level.ports, now, (owner, ports));
        }
        self.change(now, netns, who, peer, 1);
    }

    pub(super) fn give_back(&mut self, now: u64, netns: u32, who: Who, peer: Option<Endpoint>) {
        let level = self.pools.entry(netns).or_default();
        level.ports -= 1;
        level.processes.entry(who).or_default().ports -= 1;
        self.change(now, netns, who, peer, -1);
    }

    fn change(&mut self, now: u64, netns: u32, who: Who, peer: Option<Endpoint>, by: i64) {
        if let (Some(who), Some(peer)) = (who, peer) {
            *self.now.entry((netns, who, peer)).or_default() += by;
            self.second(now, netns, who, peer);
        }
    }

    /// So many more are in TIME_WAIT.
    pub(super) fn wait(&mut self, netns: u32, who: Who, by: i64) {
        let level = self.pools.entry(netns).or_default();
        let taken = level.processes.entry(who).or_default();
        taken.time_wait = taken.time_wait.saturating_add_signed(by);
    }

    pub(super) fn opened(&mut self, now: u64, netns: u32, who: usize, peer: Endpoint) {
        self.second(now, netns, who, peer).opened += 1;
    }

    pub(super) fn failed(&mut self, now: u64, netns: u32, who: usize, why: Why) {
        let (call, reason, peer) = why;
        match peer {
            Some(peer) => {
                self.connect_failures += 1;
                self.second(now, netns, who, peer).failed += 1;
            }
            None => self.bind_failures += 1,
        }
        let times = self
            .failures
            .entry((netns, who, call, reason, peer))
            .or_insert(Times {
                count: 0,
                first: now,
                last: now,
            });
        times.count += 1;
        times.last = now;
    }

    /// The usage is told now.
    pub(super) fn round(&mut self, now: u64) {
        for (netns, level) in &self.pools {
            let taken = level.processes.iter().filter(|(_, taken)| taken.ports > 0);
            let rows = taken.map(|(who, taken)| (now, *netns, *who, *taken));
            self.rounds.extend(rows);
        }
    }

    pub(super) fn failures(&self, processes: &[Process]) -> Vec<Failure> {
        let failure = |(key, times): (&(u32, usize, _, _, Option<Endpoint>), &Times)| Failure {
            netns: key.0,
            process: processes[key.1].id(),
            call: key.2,
            reason: key.3,
            peer: key.4.and_then(shown),
            count: times.count,
            first: timestamp(times.first),
            last: timestamp(times.last),
        };
        self.failures.iter().map(failure).collect()
    }

    pub(super) fn pools(&self, processes: &[Process]) -> Vec<Pool> {
        let pool = |(netns, level): (&u32, &Level)| Pool {
            netns: *netns,
            peak: level.peak,
            ts: timestamp(level.at),
            owner: level.owner.0.map(|who| processes[who].id()),
            owner_ports: level.owner.1,
            peaks: level
                .processes
                .iter()
                .filter_map(|(who, taken)| Some((processes[(*who)?].id(), taken.peak)))
                .collect(),
        };
        self.pools.iter().map(pool).collect()
    }

    pub(super) fn seconds(&self, processes: &[Process]) -> Vec<Second> {
        let second = |((second, netns, who, peer), counts): (&(u64, _, usize, _), &Counts)| {
            let since = i64::try_from(*second).unwrap_or_default();
            Some(Second {
                second: EPOCH / 1_000_000_000 + since,
                netns: *netns,
                process: processes[*who].id(),
                peer: shown(*peer)?,
                opened: counts.opened,
                failed: counts.failed,
                ports: counts.ports,
            })
        };
        self.seconds.iter().filter_map(second).collect()
    }

    pub(super) fn rounds(&self, processes: &[Process]) -> Vec<Round> {
        let round = |(at, netns, who, taken): &(u64, u32, Who, Taken)| Round {
            ts: timestamp(*at),
            netns: *netns,
            process: who.map(|who| processes[who].id()),
            ports: taken.ports,
            time_wait: taken.time_wait,
        };
        self.rounds.iter().map(round).collect()
    }
}
