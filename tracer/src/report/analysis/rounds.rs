//! Rounds of `usage` lines: the whole, now and then.

use std::collections::BTreeMap;

use super::{
    names::{HostId, ProcessId},
    pools::{BOUND, DestinationId, Pool, PoolId, Pools, STATES, When},
};
use crate::{event::State, report::digest::Usage};

/// The lines of one round of a host, until it is over.
#[derive(Debug, Default)]
pub(super) struct Round {
    ts: i64,
    rows: BTreeMap<(PoolId, ProcessId), Row>,
    /// When there was a snapshot.
    snapshot: Option<i64>,
    /// Processes may share a number, so these are sums.
    destinations: BTreeMap<(DestinationId, ProcessId), (i32, i32)>,
}

#[derive(Debug, Default)]
struct Row {
    states: [i32; STATES],
    /// All its destinations are told.
    complete: bool,
    /// Ports of the least of those that are told.
    least: i32,
}

impl Round {
    /// Nothing, after a round at that time.
    pub(super) fn after(ts: i64) -> Self {
        Self {
            ts,
            ..Self::default()
        }
    }

    /// A socket was told of.
    pub(super) fn snapshot(&mut self, ts: i64) {
        self.snapshot = Some(ts);
    }

    /// A `ledger` line of that time ends no round: it has ended, or the line is a snapshot's.
    pub(super) fn is_over(&self, ts: i64) -> bool {
        self.ts == ts || self.snapshot == Some(ts)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn ts(&self) -> i64 {
        self.ts
    }

    /// Destinations have other numbers; those without one are gone.
    pub(super) fn renumber(&mut self, numbers: &[Option<DestinationId>]) {
        let before = std::mem::take(&mut self.destinations);
        let kept = before
            .into_iter()
            .filter_map(|((to, process), ports)| Some(((numbers[to]?, process), ports)));
        self.destinations = kept.collect();
    }

    /// `to`: the destination of each of `usage.top`.
    pub(super) fn add(
        &mut self,
        pool: PoolId,
        process: ProcessId,
        usage: &Usage,
        to: &[Option<DestinationId>],
        ts: i64,
    ) {
        self.ts = ts;
        let row = self.rows.entry((pool, process)).or_default();
        let mut total = 0_i64;
        for (state, ports) in &usage.states {
            let ports = count(*ports);
            let sum = &mut row.states[*state as usize];
            *sum = sum.saturating_add(ports);
            total += i64::from(ports);
        }
        row.states[BOUND] = row.states[BOUND].saturating_add(count(usage.bound));
        let told: i64 = usage.top.iter().map(|top| i64::from(top.ports)).sum();
        row.complete = told >= total;
        row.least = usage
            .top
            .iter()
            .map(|top| count(top.ports))
            .min()
            .unwrap_or(0);
        for (top, to) in usage.top.iter().zip(to) {
            if let Some(to) = to {
                let sum = self.destinations.entry((*to, process)).or_default();
                sum.0 = sum.0.saturating_add(count(top.ports));
                sum.1 = sum.1.saturating_add(count(top.time_wait));
            }
        }
    }

    /// The round is over. `whole`: what it does not name has no ports.
    pub(super) fn apply(&mut self, host: HostId, pools: &mut Pools, whole: bool, when: When) {
        let destinations = std::mem::take(&mut self.destinations);
        let rows = std::mem::take(&mut self.rows);
        for id in 0..pools.pools.len() {
            if pools.pools[id].host == host {
                apply_to_pool(id, &rows, pools, whole, when);
            }
        }
        for id in 0..pools.destinations.len() {
            let pool = pools.destinations[id].pool;
            if pools.pools[pool].host == host {
                apply_to_destination(id, &rows, &destinations, pools, whole, when);
            }
        }
    }
}

fn apply_to_pool(
    id: PoolId,
    rows: &BTreeMap<(PoolId, ProcessId), Row>,
    pools: &mut Pools,
    whole: bool,
    when: When,
) {
    let pool = &mut pools.pools[id];
    let of_pool = rows.range((id, 0)..(id + 1, 0));
    if !whole && of_pool.clone().next().is_none() {
        return;
    }
    let unnamed = if whole { pool.stacks.len() } else { 0 };
    let mut sums: BTreeMap<usize, [i32; STATES]> =
        (0..unnamed).map(|stack| (stack, [0; STATES])).collect();
    for ((_, process), row) in of_pool {
        let sums = sums.entry(pool.stack(*process)).or_default();
        for (sum, ports) in sums.iter_mut().zip(row.states) {
            *sum = sum.saturating_add(ports);
        }
    }
    let first = pool.told.state && !pool.anchored;
    for (stack, states) in sums {
        for (state, ports) in states.into_iter().enumerate() {
            if first && state != BOUND {
                lift(pool, stack, state, ports, when);
            }
            pool.set(stack, state, ports, when);
        }
    }
    pool.told.usage = true;
    pool.anchored = true;
    pool.sum(when);
}

/// What was there before the first line shows for the first time: it was there all along. What is only bound may have
/// come since.
fn lift(pool: &mut Pool, stack: usize, state: usize, ports: i32, when: When) {
    let more = ports.saturating_sub(pool.stacks[stack].now(state));
    if more > 0 {
        pool.lift(stack, state, more, when);
    }
}

fn apply_to_destination(
    id: DestinationId,
    rows: &BTreeMap<(PoolId, ProcessId), Row>,
    told: &BTreeMap<(DestinationId, ProcessId), (i32, i32)>,
    pools: &mut Pools,
    whole: bool,
    when: When,
) {
    let pool = pools.destinations[id].pool;
    let follows = pools.pools[pool].told.state;
    let to = &mut pools.destinations[id];
    let of_this = told.range((id, 0)..(id + 1, 0));
    let named: Vec<_> = of_this
        .map(|((_, process), ports)| (*process, *ports))
        .collect();
    // A process may have this destination without it being among those that are told.
    let mut certain = true;
    let mut all: Vec<_> = named
        .iter()
        .map(|(process, (ports, _))| (*process, *ports))
        .collect();
    for (process, level) in &to.owners {
        if level.now() == 0 || named.iter().any(|(named, _)| named == process) {
            continue;
        }
        match rows.get(&(pool, *process)) {
            Some(row) if !row.complete => {
                certain = false;
                all.push((*process, level.now().min(row.least)));
            }
            None if !whole => {}
            _ => all.push((*process, 0)),
        }
    }
    if all.is_empty() {
        return;
    }
    to.set_all(all.into_iter(), when);
    let waits = total(named.iter().map(|(_, (_, waits))| *waits));
    let waits = (certain || !follows).then_some(waits);
    to.sum(waits, when);
}

/// A hostile line may say any number.
pub(super) fn total(ports: impl Iterator<Item = i32>) -> i32 {
    ports.fold(0, i32::saturating_add)
}

pub(super) fn count(ports: u32) -> i32 {
    i32::try_from(ports).unwrap_or(i32::MAX)
}

/// A state that a port may be in, by its number.
pub(super) fn name(state: usize) -> &'static str {
    const NAMES: [(State, &str); 11] = [
        (State::Established, "ESTABLISHED"),
        (State::SynSent, "SYN_SENT"),
        (State::SynRecv, "SYN_RECV"),
        (State::FinWait1, "FIN_WAIT1"),
        (State::FinWait2, "FIN_WAIT2"),
        (State::TimeWait, "TIME_WAIT"),
        (State::Close, "CLOSE"),
        (State::CloseWait, "CLOSE_WAIT"),
        (State::LastAck, "LAST_ACK"),
        (State::Listen, "LISTEN"),
        (State::Closing, "CLOSING"),
    ];
    let named = NAMES.iter().find(|(which, _)| *which as usize == state);
    named.map_or("bound", |(_, name)| name)
}
