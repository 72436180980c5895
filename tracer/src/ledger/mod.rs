//! Every TCP socket and TIME_WAIT entry that the kernel has, who is accountable for it, and what it holds.
//!
//! Pure: no I/O, and time is an argument (`CLOCK_MONOTONIC`, nanoseconds). Live streams, replays and tests use
//! the same one.

mod buckets;
mod budget;
mod claims;
mod crowd;
mod destinations;
mod end;
mod entry;
mod holders;
mod ingest;
mod owners;
mod ownership;
mod place;
mod resync;
mod sockets;
mod steps;
mod usage;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use self::{
    destinations::Reuse, end::Ending, entry::Entry, ingest::Change, owners::Owners, resync::Dump,
    sockets::Sockets, usage::Counters,
};
pub use budget::{Budget, Query};
pub use crowd::{Closed, Crowd, Crowded};
pub use destinations::{Traffic, Way};
pub use holders::{Explained, Holder};
pub use steps::Steps;

use crate::{
    event::{Event, Kind, Owner, Role, Row, State, Task, Tuple},
    pool::{Rules, Settings},
};

/// What an event or a dump means, for those who tell it.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect<'a> {
    Transition(Transition<'a>),
    Connection(Connection<'a>),
}

/// A socket changed its state.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition<'a> {
    /// When.
    pub ts: u64,
    pub socket: Socket<'a>,
    pub old: State,
    /// Also the state of `socket`, unless that is gone.
    pub new: State,
    /// Found by comparing with the kernel, not seen when it happened: `ts` is later than that.
    pub corrected: bool,
    /// As [`Connection::opened`]: the same for all transitions of a connection.
    pub opened: Option<u64>,
}

/// A socket, or the timewait socket that has taken its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Socket<'a> {
    /// As [`Event::sock`].
    pub key: u64,
    pub cookie: Option<u64>,
    pub netns: u32,
    pub tuple: Tuple,
    /// CLOSE: it only holds a port.
    pub state: State,
    /// A timewait socket (in FIN_WAIT2 or TIME_WAIT).
    pub is_timewait: bool,
    pub role: Option<Role>,
    pub owner: Owner,
    /// `None` exactly with [`Owner::None`].
    pub task: Option<&'a Task>,
    /// Of a timewait socket that is older than the tracer: when it is due, nanoseconds.
    pub due: Option<u64>,
}

/// A connection, or an attempt at one, that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Connection<'a> {
    /// As it was; `state` is the last one.
    pub socket: Socket<'a>,
    /// First transition; `None`: before the tracer saw the socket.
    pub opened: Option<u64>,
    /// Whether it came to ESTABLISHED, as far as that was seen.
    pub established: bool,
    /// When the socket itself was closed, that is, before TIME_WAIT; if that was not seen, when its timewait
    /// socket ended.
    pub closed: u64,
    pub reason: EndReason,
    /// The process that closed it or shut down its sending side; `None`: nobody did, or it is not known.
    pub closed_by: Option<&'a Task>,
    /// Bytes of payload sent and received; `None`: not known.
    pub bytes: Option<(u64, u64)>,
    /// How long a timewait socket held its tuple; `None`: there was none, or its beginning was not seen.
    pub time_wait: Option<u64>,
    /// The timewait socket is still there (at the end of a run).
    pub in_time_wait: bool,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Both sides closed it.
    Fin,
    /// One side aborted it.
    Rst,
    /// Nobody listens there.
    Refused,
    /// The peer did not answer any more.
    Timeout,
    /// The attempt to connect was given up, or failed before a packet was sent.
    Abandoned,
    /// Another error.
    Error,
    /// The end was not seen.
    Unknown,
}

/// What one process has in one network namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage<'a> {
    /// `None`: sockets that nobody can be named for.
    pub task: Option<&'a Task>,
    pub netns: u32,
    /// Sockets that each hold a port of this host for their tuple (all but those of role server), by
    /// state; those that only hold a bound port are not among them.
    pub ports: BTreeMap<State, u64>,
    /// Sockets in CLOSE or LISTEN: they hold a bound port.
    pub bound: u64,
    /// Sockets of role server by state: they share the listener's port.
    pub serving: BTreeMap<State, u64>,
    /// Connections that came to ESTABLISHED since the last call. One that nobody owned then counts once for
    /// its first owner, or at its end for nobody.
    pub opened: u64,
    /// Connections that had, and ended (TIME_WAIT not waited for), since the last call.
    pub closed: u64,
    /// Failed connects (the events of that kind) since the last call.
    pub failed: u64,
    /// The destinations with most `ports`, most first, at most [`TOP`].
    pub top: Vec<Destination>,
    /// Of the sockets of nobody that are timewait sockets older than the tracer: nanoseconds until the
    /// last is due.
    pub due_in: Option<u64>,
}

pub const TOP: usize = 10;

/// So many events are best [expected](Ledger::expect) at once: what more of them need would not stay in the cache.
pub const GROUP: usize = 16;

/// Where ports lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub local_ip: std::net::IpAddr,
    pub peer: crate::event::Endpoint,
    pub ports: u64,
    pub time_wait: u64,
}

/// The whole in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sockets, timewait sockets and bound ones included.
    pub sockets: u64,
    pub timewait: u64,
    /// In CLOSE: they only hold a port.
    pub bound: u64,
    /// Sockets of [`Owner::None`].
    pub unowned: u64,
    pub processes: u64,
    pub netns: u64,
}

/// What a comparison with the kernel found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resynced {
    /// Sockets that were not known.
    pub added: u64,
    /// Sockets that the kernel no longer has.
    pub removed: u64,
    /// Sockets in another state.
    pub changed: u64,
    /// Sockets that got an owner.
    pub owned: u64,
}

/// See the module.
#[derive(Default)]
pub struct Ledger {
    sockets: Sockets,
    owners: Owners,
    counters: Counters,
    dump: Option<Dump>,
    rules: Rules,
    /// The number of dumps until now.
    epoch: u32,
    silence: Silence,
    /// See [`expect_no_steps`](Self::expect_no_steps).
    has_no_steps: bool,
}

/// Effects that nobody wants to be told of, which spares making them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silence {
    pub transitions: bool,
    pub connections: bool,
}

/// Who is told what events mean.
type Take<'a> = &'a mut dyn FnMut(Effect<'_>);

impl Ledger {
    pub fn new() -> Self {
        Self::default()
    }

    /// These events come next. Where memory is far away, it is fetched for all of them at the same time.
    pub fn expect(&self, events: &[Event]) {
        for event in events {
            self.sockets.expect(event);
        }
    }

    /// Takes the next event; each meaning goes to `take`, in order.
    pub fn ingest(&mut self, event: &Event, take: &mut dyn FnMut(Effect<'_>)) {
        self.sockets.now = event.ts;
        match event.kind {
            Kind::State { old, new, end } => self.state(event, Change { old, new, end }, take),
            Kind::ConnectFailed { .. } => self.connect_failed(event),
            Kind::BindFailed { .. } => {}
            Kind::Bound => self.bound(event, take),
            Kind::Port => self.port(event, take),
            Kind::Released => self.released(event, take),
            Kind::Accepted { state } => self.accepted(event, state, take),
            Kind::ClosedBy => self.closed_by(event),
        }
    }

    /// A dump of the kernel's sockets begins now. All events until now need not have been ingested.
    pub fn begin_resync(&mut self, now: u64) {
        self.epoch += 1;
        self.sockets.now = self.sockets.now.max(now);
        self.dump = Some(Dump::new(now));
    }

    /// One row of the dump. All events from before it was read have been ingested. A socket comes once for
    /// itself and once more for each descriptor of it.
    pub fn row(&mut self, row: &Row, take: &mut dyn FnMut(Effect<'_>)) {
        if let Some(mut dump) = self.dump.take() {
            self.sockets.is_past = true;
            if self.compare(row, &mut dump, take) {
                self.believe(row);
            }
            self.sockets.is_past = false;
            self.dump = Some(dump);
        }
    }

    /// Namespaces that there are sockets of.
    pub fn namespaces(&self) -> BTreeSet<u32> {
        self.sockets.iter().map(|(_, entry)| entry.netns).collect()
    }

    /// The dump is over, and all events from before its end have been ingested. Sockets of namespaces in
    /// `complete` that neither came in it nor had an event since it began are gone, as are those of
    /// namespaces that are not in `alive`.
    pub fn end_resync(
        &mut self,
        complete: &BTreeSet<u32>,
        alive: &BTreeSet<u32>,
        now: u64,
        take: &mut dyn FnMut(Effect<'_>),
    ) -> Resynced {
        let Some(Dump { mut found, .. }) = self.dump.take() else {
            return Resynced::default();
        };
        found.removed += self.sweep(complete, alive, now, take);
        found.owned += self.infer();
        found
    }

    /// The dump ended before its time: its rows hold, but nothing follows from what did not come.
    pub fn give_up_resync(&mut self) {
        self.dump = None;
    }

    /// The run ends: connections that are in TIME_WAIT are told. Called again, it tells them again.
    pub fn finish(&mut self, now: u64, take: &mut dyn FnMut(Effect<'_>)) {
        let sockets = self.sockets.iter().filter(|(_, entry)| entry.is_timewait);
        let slots: Vec<_> = sockets.map(|(slot, _)| slot).collect();
        for slot in slots {
            self.tell_connection(slot, &Ending::of_run(now), take);
        }
    }

    /// Every socket, in no order. The `tid` of its task is that of the process's latest sight, not of the
    /// socket as in an [`Effect`].
    pub fn sockets(&self) -> impl Iterator<Item = Socket<'_>> {
        let entries = self.sockets.iter();
        entries.map(|(_, entry)| entry.view(entry.process.and_then(|id| self.owners.get(id))))
    }

    pub fn keep_silent(&mut self, silence: Silence) {
        self.silence = silence;
    }

    /// How the running kernel gives out ports.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
        self.sockets.buckets.reopens = rules.reopens;
    }

    /// The settings of a network namespace. Budgets are asked for with their own; these are for what is counted as it
    /// happens.
    pub fn set_settings(&mut self, netns: u32, settings: &Settings) {
        let usable = settings.usable();
        let reuses = Reuse::of(settings);
        let count = usable.len();
        self.sockets.buckets.set_pool(netns, usable);
        self.sockets.destinations.set_scale(netns, count, reuses);
    }

    /// A network namespace that is gone.
    pub fn forget_settings(&mut self, netns: u32) {
        self.sockets.buckets.forget_pool(netns);
        self.sockets.destinations.forget_scale(netns);
    }

    /// The ways that take a considerable part of the ports that they can, in no order.
    pub fn busy(&self) -> impl Iterator<Item = &(Way, Traffic)> {
        self.sockets.destinations.busy()
    }

    /// `None`: the way is not a busy one.
    pub fn traffic(&self, way: &Way) -> Option<&Traffic> {
        self.sockets.destinations.traffic(way)
    }

    /// How many ports `connect()` may choose from; `None`: the settings are not known.
    pub fn usable_ports(&self, netns: u32) -> Option<u32> {
        self.sockets.destinations.usable(netns)
    }

    /// How many of the ports that `connect()` may choose are closed to every destination.
    pub fn bound_ports(&self, netns: u32) -> u32 {
        self.sockets.buckets.bound(netns)
    }

    /// Who has what, most ports first; counts anew what is counted since the last call. Processes that
    /// have ended are kept until their counts are asked for: to be called now and then.
    pub fn usage(&mut self, now: u64) -> Vec<Usage<'_>> {
        self.usages(now)
    }

    /// Whether the kernel has this socket, as far as is known; `key` as [`Event::sock`].
    pub fn knows(&self, key: u64) -> bool {
        self.sockets.find(key).is_some()
    }

    /// Whether there is any socket of which tracepoints alone do not tell everything: a timewait socket, or
    /// one whose `connect()` waits.
    pub fn is_unsure(&self) -> bool {
        let unsure = |entry: &Entry| {
            entry.is_timewait || (entry.state == State::SynSent && entry.local.port == 0)
        };
        self.sockets.iter().any(|(_, entry)| unsure(entry))
    }

    pub fn totals(&self) -> Totals {
        self.count()
    }
}
