//! Events in, lines out: the ledger says what they mean, and [`Lines`] writes it down.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    io,
    time::Duration,
};

use rustix::system::uname;

use crate::{
    clock::{self, Clock},
    diagnosis::{
        failures::Failures,
        pressure::{Levels, Pressure},
        surroundings::Surroundings,
    },
    event::{Event, Row},
    host::process::Processes,
    ledger::{Ledger, Resynced},
    pool::{Rules, Settings},
    record::{self, Seeded, Table, Where, milliseconds},
};

mod batch;
mod bodies;
mod case;
mod failures;
mod lines;
mod pressure;

pub use batch::Batch;
pub use lines::{Lines, Write};

/// One run: what is known of the kernel's sockets, and the lines about it that nobody has taken yet.
///
/// `now` is `CLOCK_MONOTONIC` in nanoseconds, as [`clock::now`] tells it.
pub struct Stream {
    ledger: Ledger,
    lines: Lines,
    /// When the usage was last told, or the run began.
    told: u64,
    resyncs: Resyncs,
    last_event: u64,
    /// Connections that got no TIME_WAIT.
    overflow: u64,
    table: Option<Table>,
    failures: Failures,
    pressure: Pressure,
    surroundings: Box<dyn Surroundings>,
    /// The settings of the network namespaces that have been met; `None`: they could not be read.
    known: HashMap<u32, Option<Settings>>,
    /// The one whose settings were looked at again last.
    refreshed: u32,
    /// Something was lost that no comparison has made up for, or the first one is not over.
    is_incomplete: bool,
    /// Something was lost since the latest comparison began.
    has_lost_since: bool,
}

/// What a diagnosis is to be like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Diagnosis {
    /// Failures that are not explained are counted.
    pub coalesces: bool,
    pub levels: Levels,
    pub rules: Rules,
}

/// The comparisons with the kernel's sockets. The first fills the ledger and corrects nothing.
#[derive(Default)]
struct Resyncs {
    /// When the latest began.
    began: u64,
    ended: u64,
    corrected: u64,
}

impl Stream {
    pub fn new() -> Self {
        let host = uname().nodename().to_string_lossy().into_owned();
        Self {
            told: clock::now(),
            ..Self::with(host, Clock::read(), Processes::default())
        }
    }

    /// For tests: a host, a clock and processes of one's choice, and a run that began when the clock did.
    pub fn with(host: String, clock: Clock, processes: Processes) -> Self {
        Self {
            ledger: Ledger::new(),
            lines: Lines::new(host, clock, processes),
            told: 0,
            resyncs: Resyncs::default(),
            last_event: 0,
            overflow: 0,
            table: None,
            failures: Failures::default(),
            pressure: Pressure::default(),
            surroundings: Box::new(()),
            known: HashMap::new(),
            refreshed: 0,
            is_incomplete: true,
            has_lost_since: false,
        }
    }

    /// How failures and pressure are told, and whom they ask about the host.
    pub fn diagnose(&mut self, how: Diagnosis, surroundings: Box<dyn Surroundings>) {
        self.failures = Failures::new(how.coalesces);
        self.pressure = Pressure::new(how.levels);
        self.ledger.set_rules(how.rules);
        self.surroundings = surroundings;
    }

    /// The settings of network namespaces that the `start` line has told.
    pub fn set_settings(&mut self, settings: Vec<(u32, Option<Settings>)>) {
        for (netns, settings) in settings {
            if let Some(settings) = &settings {
                self.ledger.set_settings(netns, settings);
            }
            self.known.insert(netns, settings);
        }
    }

    /// Follows the time of day, should it have been set.
    pub fn set_clock(&mut self, clock: Clock) {
        self.lines.set_clock(clock);
    }

    /// How full the kernel-side socket table is.
    pub fn set_table(&mut self, table: Table) {
        self.table = Some(table);
    }

    /// See [`Ledger::is_unsure`].
    pub fn is_unsure(&self) -> bool {
        self.ledger.is_unsure()
    }

    /// Whether a socket is known, by [`Event::sock`].
    pub fn knows(&self, sock: u64) -> bool {
        self.ledger.knows(sock)
    }

    /// So many more connections got no TIME_WAIT, because `tcp_max_tw_buckets` was reached.
    pub fn add_overflow(&mut self, count: u64) {
        self.overflow += count;
    }

    /// What every line is to carry.
    pub fn set_labels(&mut self, labels: BTreeMap<String, String>) {
        self.lines.set_labels(labels);
    }

    /// The lines since the last call to [`clear`](Self::clear).
    pub fn batch(&self) -> &Batch {
        self.lines.batch()
    }

    /// The same, as text.
    pub fn lines(&self) -> &[u8] {
        self.lines.bytes()
    }

    pub fn clear(&mut self) {
        self.lines.clear();
    }

    /// Whether anything has been lost in this run.
    pub fn has_lost(&self) -> bool {
        self.lines.has_lost()
    }

    pub fn start(&mut self, start: &record::Start) {
        self.lines.start(start);
    }

    /// When the latest event happened; 0: there was none.
    pub fn last_event(&self) -> u64 {
        self.last_event
    }

    /// Takes the next event and tells what it means.
    pub fn event(&mut self, event: &Event) {
        self.last_event = self.last_event.max(event.ts);
        self.lines.count_event();
        self.meet(event);
        let lines = &mut self.lines;
        self.ledger
            .ingest(event, &mut |effect| lines.effect(&effect));
        if failures::is_failure(&event.kind) {
            self.failed(event);
        }
    }

    /// The first event of a network namespace.
    fn meet(&mut self, event: &Event) {
        if let Entry::Vacant(unknown) = self.known.entry(event.netns) {
            unknown.insert(None);
            let pid = event.task.as_ref().map(|task| task.pid);
            self.settings(event.netns, pid, event.ts, Duration::ZERO);
        }
    }

    /// Something was lost, and a comparison with the kernel's sockets has not begun that makes up for it.
    pub fn lost(&mut self) {
        self.is_incomplete = true;
        self.has_lost_since = true;
    }

    /// A dump of the kernel's sockets begins; see [`Ledger::begin_resync`].
    pub fn begin_resync(&mut self, now: u64) {
        self.resyncs.began = now;
        self.has_lost_since = false;
        self.ledger.begin_resync(now);
    }

    /// A row of the dump; see [`Ledger::row`].
    pub fn row(&mut self, row: &Row) {
        let lines = &mut self.lines;
        self.ledger.row(row, &mut |effect| lines.effect(&effect));
    }

    /// The dump is over; see [`Ledger::end_resync`]. After the first one a `ledger` line tells what was
    /// there when the run began.
    pub fn end_resync(
        &mut self,
        complete: &BTreeSet<u32>,
        alive: &BTreeSet<u32>,
        now: u64,
    ) -> Resynced {
        let lines = &mut self.lines;
        let found = self
            .ledger
            .end_resync(complete, alive, now, &mut |effect| lines.effect(&effect));
        self.resyncs.ended += 1;
        self.is_incomplete = self.has_lost_since;
        if self.resyncs.ended == 1 {
            self.seeded(complete.len() as u64, now);
        } else {
            self.resyncs.corrected += found.added + found.removed + found.changed;
        }
        found
    }

    /// The dump failed; see [`Ledger::give_up_resync`].
    pub fn give_up_resync(&mut self) {
        self.ledger.give_up_resync();
    }

    fn seeded(&mut self, netns: u64, now: u64) {
        let totals = self.ledger.totals();
        let seeded = Seeded {
            sockets: totals.sockets,
            timewait: totals.timewait,
            owned: totals.sockets.saturating_sub(totals.unowned),
            netns,
            ms: milliseconds(now.saturating_sub(self.resyncs.began)),
        };
        self.totals(now, Some(seeded));
    }

    /// Who has what, and what they did since the last call: a `usage` line for each process and network
    /// namespace, then a `ledger` line.
    pub fn usage(&mut self, now: u64) {
        let interval = now.saturating_sub(self.told);
        self.told = now;
        let mut namespaces = BTreeSet::new();
        for usage in self.ledger.usage(now) {
            namespaces.insert(usage.netns);
            self.lines.usage(usage, interval, now);
        }
        self.failures.tick(now);
        self.refresh(&namespaces, now);
        self.totals(now, None);
    }

    /// Every socket, then a `ledger` line. Most lines go to `write` at once, the last ones stay.
    pub fn snapshot(&mut self, now: u64, write: Write) -> io::Result<()> {
        for socket in self.ledger.sockets() {
            self.lines.socket(&socket, now);
            self.lines.pass(write)?;
        }
        self.totals(now, None);
        Ok(())
    }

    fn totals(&mut self, now: u64, seeded: Option<Seeded>) {
        let ledger = record::Ledger {
            resyncs: self.resyncs.ended.saturating_sub(1),
            corrected: self.resyncs.corrected,
            overflow: self.overflow,
            table: self.table,
            seeded,
            ..self.ledger.totals().into()
        };
        self.lines.ledger(&ledger, now);
    }

    /// Says that `count` things were lost at `place`, and whether the ledger has been compared with the
    /// kernel's sockets since.
    pub fn loss(&mut self, count: u64, place: Where, resynced: bool) {
        self.lines.loss(count, place, resynced);
    }

    /// Says which lines did not reach an output, which is named where there are several.
    pub fn dropped(&mut self, dropped: BTreeMap<&'static str, u64>, output: Option<&str>) {
        self.lines.dropped(dropped, output);
    }

    /// Lines that introduced processes were dropped: each is introduced anew when it is named the next time.
    pub fn forget_introductions(&mut self) {
        self.lines.forget_introductions();
    }

    /// The end: [`wind_up`](Self::wind_up) and the `stop` line.
    pub fn stop(&mut self, now: u64, write: Write) -> io::Result<()> {
        let written = self.wind_up(now, write);
        self.end();
        written
    }

    /// Connections that are in TIME_WAIT, and the last usage. Most lines go to `write` at once, the last ones stay.
    pub fn wind_up(&mut self, now: u64, write: Write) -> io::Result<()> {
        let lines = &mut self.lines;
        let mut written = Ok(());
        self.ledger.finish(now, &mut |effect| {
            lines.effect(&effect);
            if let Err(error) = lines.pass(write) {
                written = Err(error);
            }
        });
        self.tell_gathered(u64::MAX);
        self.usage(now);
        written
    }

    /// The `stop` line.
    pub fn end(&mut self) {
        self.lines.stop();
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self::new()
    }
}
