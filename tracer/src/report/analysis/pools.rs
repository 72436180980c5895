//! The ports of each network namespace and destination over time.
//!
//! `state` lines tell each change, `usage` lines the whole now and then: levels follow the changes, and are set to the
//! whole whenever it is told, so that what was lost does not stay. Without `state` lines levels hold from one `usage`
//! to the next, and without those, finished connections tell where they were.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{
    names::{HostId, ProcessId},
    rounds::total,
};
use crate::{
    event::State,
    report::{
        digest::Route,
        series::{Axis, Level, Spans, Sums},
    },
};

/// States of a socket, and [`BOUND`].
pub(super) const STATES: usize = 12;
/// In place of a state: it only holds a port.
pub(super) const BOUND: usize = 11;
const _: () = assert!(State::Closing as usize + 1 == BOUND);

/// So many network namespaces, rows of one, and destinations are kept. The last row is for all others.
const POOLS: usize = 1024;
const STACKS: usize = 512;
const DESTINATIONS: usize = 2048;
/// So many processes of a destination are told apart; the others share one more row.
const OWNERS: usize = 8;
/// An attempt that fails at once never has a port: until it is so old, it is not counted (nanoseconds).
const FRESH: i64 = 10_000_000;
/// So many attempts are watched for that.
const ATTEMPTS: usize = 1024;

pub(super) type PoolId = usize;
pub(super) type DestinationId = usize;

#[derive(Debug, Default)]
pub(super) struct Pools {
    pub pools: Vec<Pool>,
    by_netns: HashMap<(HostId, u32), PoolId>,
    pub destinations: Vec<Destination>,
    by_route: HashMap<(PoolId, Route), DestinationId>,
    /// Network namespaces that had no room.
    pub refused: u64,
    /// Destinations that were dropped: nothing was there, and others need the room.
    pub dropped: u64,
}

#[derive(Debug)]
pub(super) struct Pool {
    pub host: HostId,
    pub netns: u32,
    /// Whose row it is that the processes share which have none.
    pub others: ProcessId,
    pub limit: Level,
    pub ports: Level,
    pub time_wait: Level,
    /// As `state`, `connection` and `usage` lines tell it.
    pub opened: [Sums; 3],
    pub closed: [Sums; 3],
    pub failed: Sums,
    pub failed_by_usage: Sums,
    pub peak: Option<Peak>,
    pub stacks: Vec<Stack>,
    by_process: HashMap<ProcessId, usize>,
    /// What kinds of lines there were.
    pub told: Told,
    attempts: VecDeque<Attempt>,
    /// The highest pressure of a destination, as [`Destination::pressure`], and when it first was so high.
    pub pressed: Option<(u8, i64)>,
    /// Some levels began without knowing what was there before.
    pub anchored: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    pub state: bool,
    pub usage: bool,
    pub connection: bool,
    pub failure: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Peak {
    pub ts: i64,
    pub ports: i32,
    /// `None`: not looked for yet.
    pub owner: Option<(ProcessId, i32)>,
}

/// Levels here and of owners are those at the end of a bin: they add up.
#[derive(Debug)]
pub(super) struct Stack {
    pub process: ProcessId,
    pub states: [Option<Box<Level>>; STATES],
    pub total: i32,
    pub highest: i32,
    pub failed_by_usage: u64,
    /// Ports of connections that are over.
    pub established: Spans,
    pub waited: Spans,
}

#[derive(Debug)]
pub(super) struct Destination {
    pub pool: PoolId,
    pub route: Route,
    /// As [`Pool::others`].
    others: ProcessId,
    pub limit: Option<Level>,
    pub ports: Level,
    pub time_wait: Level,
    /// In FIN_WAIT2: this side closed, and the peer has not yet.
    pub half_closed: Level,
    /// As `state` and `connection` lines tell it.
    pub opened: [Sums; 2],
    pub failed: Sums,
    /// Connections that this side, or the peer, closed first.
    pub closed_here: Sums,
    pub closed_there: Sums,
    /// Connections that are over, and milliseconds they lasted.
    pub finished: Sums,
    pub lasted: Sums,
    pub peak: Option<Peak>,
    pub owners: Vec<(ProcessId, Level)>,
    pub established: Spans,
    pub waited: Spans,
    /// The highest pressure: 1 warning, 2 critical.
    pub pressure: u8,
}

#[derive(Debug)]
struct Attempt {
    cookie: u64,
    ts: i64,
    who: Who,
}

/// Whose port it is, and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Who {
    pub process: ProcessId,
    pub destination: Option<DestinationId>,
}

/// When: `bin` is none where it does not count, only what it leads to. The axis is small: a copy spares borrows.
#[derive(Clone, Copy, Debug)]
pub(super) struct When {
    pub axis: Axis,
    pub bin: Option<i64>,
    pub ts: i64,
}

/// A change of state of a socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub old: State,
    pub new: State,
    pub has_port: bool,
    pub cookie: u64,
}

impl Pools {
    /// `None`: there are too many. `others`: of that host.
    pub(super) fn pool(&mut self, host: HostId, netns: u32, others: ProcessId) -> Option<PoolId> {
        if let Some(known) = self.by_netns.get(&(host, netns)) {
            return Some(*known);
        }
        if self.pools.len() == POOLS {
            self.refused += 1;
            return None;
        }
        self.pools.push(Pool::new(host, netns, others));
        self.by_netns.insert((host, netns), self.pools.len() - 1);
        Some(self.pools.len() - 1)
    }

    pub(super) fn destination(&mut self, pool: PoolId, route: Route) -> DestinationId {
        let fresh = self.destinations.len();
        let id = *self.by_route.entry((pool, route)).or_insert(fresh);
        if id == fresh {
            let others = self.pools[pool].others;
            self.destinations
                .push(Destination::new(pool, route, others));
        }
        id
    }

    /// Makes room: destinations with nothing in use, no failure and no pressure go, those with fewest connections
    /// first. Returns the new number of each, if there is one.
    pub(super) fn make_room(&mut self, axis: &Axis) -> Option<Vec<Option<DestinationId>>> {
        if self.destinations.len() <= DESTINATIONS {
            return None;
        }
        for pool in 0..self.pools.len() {
            self.count_attempts(pool, i64::MAX, axis);
        }
        let mut weights: Vec<_> = self.destinations.iter().map(Destination::weight).collect();
        weights.sort_unstable();
        let least = weights[weights.len() - DESTINATIONS / 2];
        let mut kept = 0..;
        let before = std::mem::take(&mut self.destinations);
        let number = |to: &Destination| (to.weight() > least).then(|| kept.next()).flatten();
        let numbers: Vec<_> = before.iter().map(number).collect();
        let stays = before
            .into_iter()
            .zip(&numbers)
            .filter(|(_, number)| number.is_some());
        self.destinations = stays.map(|(to, _)| to).collect();
        self.dropped += (numbers.len() - self.destinations.len()) as u64;
        let numbered = self.destinations.iter().enumerate();
        self.by_route = numbered.map(|(id, to)| ((to.pool, to.route), id)).collect();
        Some(numbers)
    }

    /// A transition of a socket that has a port of its own.
    pub(super) fn change(&mut self, pool: PoolId, who: Who, change: Change, when: When) {
        self.pools[pool].told.state = true;
        self.count_attempts(pool, when.ts.saturating_sub(FRESH), &when.axis);
        let Change { old, new, .. } = change;
        self.count_change(pool, who, change, when);
        if old == State::Close && new == State::SynSent && !change.has_port {
            self.attempt(pool, change.cookie, who, when);
            return;
        }
        let is_fresh = old == State::SynSent && self.take_attempt(pool, change.cookie, who);
        let from = (holds(old) && !is_fresh).then_some(old as usize);
        self.shift(pool, who, from, holds(new).then_some(new as usize), when);
    }

    fn count_change(&mut self, pool: PoolId, who: Who, change: Change, when: When) {
        use State::{Close, CloseWait, Established, FinWait1, Listen, SynSent, TimeWait};
        let Some(bin) = when.bin else { return };
        let (axis, Change { old, new, .. }) = (&when.axis, change);
        let to = who.destination.map(|to| &mut self.destinations[to]);
        if new == Established {
            self.pools[pool].opened[0].add(axis, bin, 1);
            if let Some(to) = to {
                to.opened[0].add(axis, bin, 1);
            }
            return;
        }
        if matches!(new, TimeWait | Close) && !matches!(old, TimeWait | SynSent | Close | Listen) {
            self.pools[pool].closed[0].add(axis, bin, 1);
        }
        match (old, new, to) {
            (Established, FinWait1, Some(to)) => to.closed_here.add(axis, bin, 1),
            (Established, CloseWait, Some(to)) => to.closed_there.add(axis, bin, 1),
            _ => {}
        }
    }

    fn attempt(&mut self, pool: PoolId, cookie: u64, who: Who, when: When) {
        if self.pools[pool].attempts.len() == ATTEMPTS {
            self.count_attempts(pool, when.ts.saturating_add(1), &when.axis);
        }
        let attempt = Attempt {
            cookie,
            ts: when.ts,
            who,
        };
        self.pools[pool].attempts.push_back(attempt);
    }

    fn take_attempt(&mut self, pool: PoolId, cookie: u64, who: Who) -> bool {
        let attempts = &mut self.pools[pool].attempts;
        let is_it =
            |attempt: &Attempt| attempt.cookie == cookie && attempt.who.process == who.process;
        let found = attempts.iter().rposition(is_it);
        found.and_then(|at| attempts.remove(at)).is_some()
    }

    /// Attempts older than `before` have a port.
    fn count_attempts(&mut self, pool: PoolId, before: i64, axis: &Axis) {
        while let Some(first) = self.pools[pool].attempts.front()
            && first.ts < before
        {
            let (who, ts) = (first.who, first.ts);
            self.pools[pool].attempts.pop_front();
            // Its own bin may lie before the axis: the next change shows it.
            let when = When {
                axis: *axis,
                bin: None,
                ts,
            };
            self.shift(pool, who, None, Some(State::SynSent as usize), when);
        }
    }

    /// A port goes from one state to another.
    fn shift(
        &mut self,
        pool: PoolId,
        who: Who,
        from: Option<usize>,
        to: Option<usize>,
        when: When,
    ) {
        const TIME_WAIT: usize = State::TimeWait as usize;
        const FIN_WAIT2: usize = State::FinWait2 as usize;
        let is = |state: Option<usize>, which| i32::from(state == Some(which));
        let change = i32::from(to.is_some()) - i32::from(from.is_some());
        let waits = is(to, TIME_WAIT) - is(from, TIME_WAIT);
        let halves = is(to, FIN_WAIT2) - is(from, FIN_WAIT2);
        if let Some(to) = who.destination {
            self.destinations[to].shift(who.process, change, waits, halves, when);
        }
        self.pools[pool].shift(who.process, from, to, change, waits, when);
    }

    /// A connection that is over.
    pub(super) fn finished(&mut self, pool: PoolId, who: Who, over: Over, axis: &mut Axis) {
        let it = &mut self.pools[pool];
        it.told.connection = true;
        let bin = axis.bin(over.closed);
        if over.established {
            it.closed[1].add(axis, bin, 1);
        }
        let alone = !it.told.state && !it.told.usage;
        if alone {
            let stack = it.stack(who.process);
            let stack = &mut it.stacks[stack];
            over.into(&mut stack.established, &mut stack.waited, axis);
        }
        let Some(opened) = over.opened else { return };
        let bin = axis.bin(opened);
        self.pools[pool].opened[1].add(axis, bin, over.established.into());
        let Some(to) = who.destination else { return };
        let to = &mut self.destinations[to];
        to.opened[1].add(axis, bin, over.established.into());
        to.finished.add(axis, bin, 1);
        to.lasted.add(
            axis,
            bin,
            (over.closed.saturating_sub(opened) / 1_000_000)
                .max(0)
                .cast_unsigned(),
        );
        if alone {
            over.into(&mut to.established, &mut to.waited, axis);
            let closer = if over.waited {
                &mut to.closed_here
            } else {
                &mut to.closed_there
            };
            let bin = axis.bin(over.closed);
            closer.add(axis, bin, over.established.into());
        }
    }

    /// What was taken before the time that counts is still taken when that begins.
    pub(super) fn begin(&mut self, host: HostId, axis: &Axis, bin: i64) {
        for (id, pool) in self.pools.iter_mut().enumerate() {
            if pool.host != host {
                continue;
            }
            let of_pool = [&mut pool.ports, &mut pool.time_wait, &mut pool.limit];
            let of_stacks = pool.stacks.iter_mut().flat_map(|stack| &mut stack.states);
            let of_stacks = of_stacks.flatten().map(Box::as_mut);
            let to = self.destinations.iter_mut().filter(|to| to.pool == id);
            let of_destinations = to.flat_map(Destination::levels);
            for level in of_pool.into_iter().chain(of_stacks).chain(of_destinations) {
                level.hold(axis, bin);
            }
        }
    }

    /// The pools of a host are not known from here on.
    pub(super) fn end(&mut self, host: HostId, when: When) {
        for (id, pool) in self.pools.iter_mut().enumerate() {
            if pool.host == host {
                pool.end(when);
                for to in self.destinations.iter_mut().filter(|to| to.pool == id) {
                    to.end(when);
                }
            }
        }
    }

    /// Names the owners of peaks that have none yet.
    pub(super) fn settle(&mut self) {
        for pool in &mut self.pools {
            pool.settle();
        }
        for to in &mut self.destinations {
            to.settle();
        }
    }
}

/// A connection that is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Over {
    pub opened: Option<i64>,
    pub closed: i64,
    /// When its TIME_WAIT was.
    pub ended: i64,
    pub established: bool,
    pub waited: bool,
}

impl Over {
    fn into(self, established: &mut Spans, waited: &mut Spans, axis: &mut Axis) {
        if let Some(opened) = self.opened {
            established.add(axis, opened, self.closed);
        }
        if self.waited {
            waited.add(axis, self.closed, self.ended);
        }
    }
}

/// Whether a socket in this state has a port: LISTEN is among what is bound, which only `usage` tells, and SYN_RECV
/// is of the accepting side.
fn holds(state: State) -> bool {
    !matches!(state, State::Close | State::Listen | State::SynRecv)
}

impl Pool {
    fn new(host: HostId, netns: u32, others: ProcessId) -> Self {
        Self {
            host,
            netns,
            others,
            limit: Level::default(),
            ports: Level::default(),
            time_wait: Level::default(),
            opened: Default::default(),
            closed: Default::default(),
            failed: Sums::default(),
            failed_by_usage: Sums::default(),
            peak: None,
            stacks: Vec::new(),
            by_process: HashMap::new(),
            told: Told::default(),
            attempts: VecDeque::new(),
            pressed: None,
            anchored: false,
        }
    }

    /// The row of a process, which it may share.
    pub(super) fn stack(&mut self, process: ProcessId) -> usize {
        if let Some(known) = self.by_process.get(&process) {
            return *known;
        }
        if self.stacks.len() == STACKS - 1 && process != self.others {
            return self.stack(self.others);
        }
        self.stacks.push(Stack {
            process,
            states: Default::default(),
            total: 0,
            highest: 0,
            failed_by_usage: 0,
            established: Spans::default(),
            waited: Spans::default(),
        });
        self.by_process.insert(process, self.stacks.len() - 1);
        self.stacks.len() - 1
    }

    fn shift(
        &mut self,
        process: ProcessId,
        from: Option<usize>,
        to: Option<usize>,
        change: i32,
        waits: i32,
        when: When,
    ) {
        if change != 0 {
            self.settle();
        }
        let stack = self.stack(process);
        let stack = &mut self.stacks[stack];
        for (state, by) in [(from, -1), (to, 1)] {
            if let Some(state) = state {
                stack.level(state).add(&when.axis, when.bin, by);
            }
        }
        stack.total = stack.total.saturating_add(change);
        stack.highest = stack.highest.max(stack.total);
        if waits != 0 {
            self.time_wait.add(&when.axis, when.bin, waits);
        }
        if change != 0 || self.ports.now() == 0 {
            self.ports.add(&when.axis, when.bin, change);
            peak(&mut self.peak, self.ports.now(), when);
        }
    }

    /// Sets a state of a row; [`Pool::sum`] follows.
    pub(super) fn set(&mut self, stack: usize, state: usize, ports: i32, when: When) {
        let stack = &mut self.stacks[stack];
        if ports == 0 && stack.states[state].is_none() {
            return;
        }
        let change = ports.saturating_sub(stack.level(state).now());
        stack.level(state).set(&when.axis, when.bin, ports);
        stack.total = stack.total.saturating_add(change);
        stack.highest = stack.highest.max(stack.total);
    }

    /// Ports in a state of all rows but these.
    pub(super) fn elsewhere(&self, but: &[usize], state: usize) -> i32 {
        let rows = self.stacks.iter().enumerate();
        let others = rows.filter(|(at, _)| !but.contains(at));
        total(others.map(|(_, stack)| stack.now(state)))
    }

    /// The sums, after [`Pool::set`].
    pub(super) fn sum(&mut self, when: When) {
        let ports = total(self.stacks.iter().map(|stack| stack.total));
        let waits = total(
            self.stacks
                .iter()
                .map(|stack| stack.now(State::TimeWait as usize)),
        );
        self.ports.set(&when.axis, when.bin, ports);
        self.time_wait.set(&when.axis, when.bin, waits);
        peak(&mut self.peak, ports, when);
        self.settle();
    }

    fn settle(&mut self) {
        let Some(peak) = self.peak.as_mut().filter(|peak| peak.owner.is_none()) else {
            return;
        };
        let most = self.stacks.iter().max_by_key(|stack| stack.total);
        peak.owner = most.map(|stack| (stack.process, stack.total));
    }

    /// What was there before was `more` than was counted.
    pub(super) fn lift(&mut self, stack: usize, state: usize, more: i32, when: When) {
        let waits = state == State::TimeWait as usize;
        let of_stack = self.stacks[stack].level(state);
        let sums = [&mut self.ports].into_iter();
        let sums = sums.chain(waits.then_some(&mut self.time_wait));
        for level in [of_stack].into_iter().chain(sums) {
            if let Some(bin) = when.bin {
                level.hold(&when.axis, bin);
            }
            level.lift(more);
        }
        if let Some(peak) = &mut self.peak {
            peak.ports = peak.ports.saturating_add(more);
            peak.owner = None;
        }
    }

    fn end(&mut self, when: When) {
        self.settle();
        self.attempts.clear();
        self.anchored = false;
        for level in self
            .stacks
            .iter_mut()
            .flat_map(|stack| &mut stack.states)
            .flatten()
        {
            level.end(&when.axis, when.bin);
        }
        for stack in &mut self.stacks {
            stack.total = 0;
        }
        for level in [&mut self.ports, &mut self.time_wait, &mut self.limit] {
            level.end(&when.axis, when.bin);
        }
    }
}

impl Stack {
    pub(super) fn level(&mut self, state: usize) -> &mut Level {
        self.states[state].get_or_insert_with(|| Box::new(Level::at_end()))
    }

    pub(super) fn now(&self, state: usize) -> i32 {
        self.states[state].as_ref().map_or(0, |level| level.now())
    }
}

impl Destination {
    fn new(pool: PoolId, route: Route, others: ProcessId) -> Self {
        Self {
            pool,
            route,
            others,
            limit: None,
            ports: Level::default(),
            time_wait: Level::default(),
            half_closed: Level::default(),
            opened: Default::default(),
            failed: Sums::default(),
            closed_here: Sums::default(),
            closed_there: Sums::default(),
            finished: Sums::default(),
            lasted: Sums::default(),
            peak: None,
            owners: Vec::new(),
            established: Spans::default(),
            waited: Spans::default(),
            pressure: 0,
        }
    }

    /// What makes it worth keeping, most telling first.
    fn weight(&self) -> (u64, u8, i32, i32, u64) {
        let failed = self.failed.total();
        (
            failed,
            self.pressure,
            self.ports.now(),
            self.highest(),
            self.opened(),
        )
    }

    pub(super) fn opened(&self) -> u64 {
        self.opened[0].total().max(self.opened[1].total())
    }

    pub(super) fn highest(&self) -> i32 {
        self.peak.map_or(0, |peak| peak.ports)
    }

    /// Whose row is that of a process.
    pub(super) fn row_of(&self, process: ProcessId) -> ProcessId {
        let has_row = self.owners.iter().any(|(owner, _)| *owner == process);
        match has_row || self.owners.len() < OWNERS {
            true => process,
            false => self.others,
        }
    }

    fn owner(&mut self, process: ProcessId) -> &mut Level {
        let row = self.row_of(process);
        let known = self.owners.iter().position(|(owner, _)| *owner == row);
        let at = known.unwrap_or_else(|| {
            self.owners.push((row, Level::at_end()));
            self.owners.len() - 1
        });
        &mut self.owners[at].1
    }

    fn shift(&mut self, process: ProcessId, change: i32, waits: i32, halves: i32, when: When) {
        if waits != 0 {
            self.time_wait.add(&when.axis, when.bin, waits);
        }
        if halves != 0 {
            self.half_closed.add(&when.axis, when.bin, halves);
        }
        if change == 0 {
            return;
        }
        self.settle();
        self.owner(process).add(&when.axis, when.bin, change);
        self.ports.add(&when.axis, when.bin, change);
        peak(&mut self.peak, self.ports.now(), when);
    }

    /// Sets the ports of a row; [`Destination::sum`] follows.
    fn set(&mut self, row: ProcessId, ports: i32, when: When) {
        self.owner(row).set(&when.axis, when.bin, ports);
    }

    /// Sets the ports of processes, which may share a row; [`Destination::sum`] follows.
    pub(super) fn set_all(&mut self, ports: impl Iterator<Item = (ProcessId, i32)>, when: When) {
        let mut rows = BTreeMap::<ProcessId, i32>::new();
        for (process, ports) in ports {
            let row = self.row_of(process);
            // From here on it has one.
            self.owner(row);
            let sum = rows.entry(row).or_default();
            *sum = sum.saturating_add(ports);
        }
        for (row, ports) in rows {
            self.set(row, ports, when);
        }
    }

    pub(super) fn sum(&mut self, time_wait: Option<i32>, when: When) {
        let ports = total(self.owners.iter().map(|(_, level)| level.now()));
        self.ports.set(&when.axis, when.bin, ports);
        if let Some(time_wait) = time_wait {
            self.time_wait.set(&when.axis, when.bin, time_wait);
        }
        peak(&mut self.peak, ports, when);
        self.settle();
    }

    fn settle(&mut self) {
        if let Some(peak) = self.peak.as_mut().filter(|peak| peak.owner.is_none()) {
            let most = self.owners.iter().max_by_key(|(_, level)| level.now());
            peak.owner = most.map(|(process, level)| (*process, level.now()));
        }
    }

    fn levels(&mut self) -> impl Iterator<Item = &mut Level> {
        let own = [&mut self.ports, &mut self.time_wait, &mut self.half_closed];
        let owners = self.owners.iter_mut().map(|(_, level)| level);
        own.into_iter().chain(owners).chain(&mut self.limit)
    }

    fn end(&mut self, when: When) {
        self.settle();
        for level in self.levels() {
            level.end(&when.axis, when.bin);
        }
    }
}

/// Keeps the highest; its owner is looked for before the next change.
fn peak(peak: &mut Option<Peak>, ports: i32, when: When) {
    if when.bin.is_some() && ports > peak.map_or(0, |peak| peak.ports) {
        *peak = Some(Peak {
            ts: when.ts,
            ports,
            owner: None,
        });
    }
}
