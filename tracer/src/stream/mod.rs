//! Events in, lines out: the ledger says what they mean, and [`Lines`] writes it down.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, hash_map::Entry},
    io,
    time::Duration,
};

use foldhash::{HashMap, HashMapExt};
use serde::{Deserialize, Serialize};

use crate::{
    clock::{Clock, Time},
    diagnosis::{
        failures::Failures,
        pressure::{Levels, Pressure},
        surroundings::Surroundings,
    },
    event::{Event, Row},
    filter::Filter,
    host::process::Processes,
    input::{Beginning, FORMAT, Input},
    ledger::{Effect, Ledger, Resynced, Silence, Steps},
    metrics::Tallies,
    pool::{Rules, Settings},
    record::{self, Seeded, Table, Where, milliseconds},
};

mod batch;
mod bodies;
mod case;
mod failures;
mod inputs;
mod known;
mod lines;
mod measures;
mod pressure;
mod shed;

pub use batch::{Batch, Line};
use inputs::Recorder;
pub(crate) use inputs::by_kind;
pub use lines::{Lines, Write};
pub use measures::Counts;
pub use shed::Shed;

/// One run: what is known of the kernel's sockets, and the lines about it that nobody has taken yet.
///
/// `now` is `CLOCK_MONOTONIC` in nanoseconds, as [`crate::clock::now`] tells it.
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
    /// `None`: every transition is told.
    steps: Option<Box<dyn Steps>>,
    /// The settings of the network namespaces that have been met; `None`: they could not be read.
    known: HashMap<u32, Option<Settings>>,
    /// The one whose settings were looked at again last.
    refreshed: u32,
    /// The network namespaces that there are events of; `None`: all.
    traced: Option<Vec<u32>>,
    /// Something was lost that no comparison has made up for, or the first one is not over.
    is_incomplete: bool,
    /// Something was lost since the latest comparison began.
    has_lost_since: bool,
    recorder: Option<Box<Recorder>>,
    /// For metrics.
    tallies: Option<Box<Tallies>>,
}

/// What a diagnosis is to be like.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
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
    /// Of this host, from now on.
    #[cfg(target_os = "linux")]
    pub fn new() -> Self {
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        Self {
            told: crate::clock::now(),
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
            steps: None,
            known: HashMap::new(),
            refreshed: 0,
            traced: None,
            is_incomplete: true,
            has_lost_since: false,
            recorder: None,
            tallies: None,
        }
    }

    /// For simulations: whom to ask what time it is, instead of the kernel.
    pub fn set_time(&mut self, time: Box<dyn Time>) {
        self.lines.time = time;
    }

    /// How failures and pressure are told, and whom they ask about the host.
    pub fn diagnose(&mut self, how: Diagnosis, surroundings: Box<dyn Surroundings>) {
        self.failures = Failures::new(how.coalesces);
        self.pressure = Pressure::new(how.levels);
        self.ledger.set_rules(how.rules);
        self.surroundings = match &self.recorder {
            Some(recorder) => recorder.surroundings(surroundings),
            None => surroundings,
        };
        self.record(&Input::Diagnose(how));
    }

    /// Whom to ask where connections are, whose transitions are not all told.
    pub fn ask_for_steps(&mut self, steps: Box<dyn Steps>) {
        self.ledger.expect_no_steps();
        self.steps = Some(steps);
    }

    /// States are to be shown.
    fn follow_steps(&mut self) {
        if let Some(steps) = &self.steps {
            self.ledger.catch_up(steps.as_ref());
        }
    }

    /// Which lines are written.
    pub fn select(&mut self, filter: Filter) {
        self.traced = filter.needs().netns;
        let silent = |kind| !filter.emits(kind) && !filter.records_all();
        self.ledger.keep_silent(Silence {
            transitions: silent(record::Kind::State),
            connections: silent(record::Kind::Connection),
        });
        self.lines.filter = filter;
    }

    /// The settings of network namespaces that the `start` line has told.
    pub fn set_settings(&mut self, settings: Vec<(u32, Option<Settings>)>) {
        self.record(&Input::Settings(Cow::Borrowed(&settings)));
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
        self.record(&Input::Clock(clock));
    }

    /// How full the kernel-side socket table is.
    pub fn set_table(&mut self, table: Table) {
        self.table = Some(table);
        self.record(&Input::Table(table));
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
        self.overflow = self.overflow.saturating_add(count);
        if count > 0 {
            self.record(&Input::Overflow(count));
        }
    }

    /// What every line is to carry; to be called before [`start`](Self::start).
    pub fn set_labels(&mut self, labels: BTreeMap<String, String>) {
        self.lines.set_labels(labels);
    }

    /// The lines since the last call to [`clear`](Self::clear).
    pub fn batch(&self) -> &Batch {
        self.lines.batch()
    }

    /// The same, for whoever takes them away.
    pub fn batch_mut(&mut self) -> &mut Batch {
        self.lines.batch_mut()
    }

    /// The same, as text.
    pub fn lines(&self) -> &[u8] {
        self.lines.bytes()
    }

    pub fn clear(&mut self) {
        self.lines.clear();
    }

    /// The run in a sentence.
    pub fn brief(&self) -> String {
        self.lines.brief()
    }

    /// Whether anything has been lost in this run.
    pub fn has_lost(&self) -> bool {
        self.lines.has_lost()
    }

    pub fn start(&mut self, start: &record::Start) {
        self.lines.start(start);
        self.record(&Input::Start(Beginning {
            format: FORMAT,
            clock: self.lines.clock,
            began: self.told,
            labels: self.lines.labels.clone().map(Cow::Owned),
            start: Cow::Borrowed(start),
        }));
    }

    /// When the latest event happened; 0: there was none.
    pub fn last_event(&self) -> u64 {
        self.last_event
    }

    /// As [`event`](Self::event), of several.
    pub fn events(&mut self, events: &[Event]) {
        self.ledger.expect(events);
        for event in events {
            self.event(event);
        }
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
        if self.recorder.is_some() {
            self.record(&Input::Event(Cow::Borrowed(event)));
        }
    }

    /// As [`event`](Self::event), for a transition that was found by comparing with the kernel in a recorded run.
    pub fn corrected(&mut self, event: &Event) {
        self.last_event = self.last_event.max(event.ts);
        self.lines.count_event();
        self.meet(event);
        let lines = &mut self.lines;
        self.ledger.ingest(event, &mut |mut effect| {
            if let Effect::Transition(transition) = &mut effect {
                transition.corrected = true;
            }
            lines.effect(&effect);
        });
    }

    /// Leaves out lines of type `connection` from now on.
    pub fn omit_connections(&mut self) {
        self.ledger.keep_silent(Silence {
            connections: true,
            ..Silence::default()
        });
    }

    /// Looks at the settings of a network namespace, which may have changed.
    pub fn look_at_settings(&mut self, netns: u32, now: u64) {
        self.settings(netns, None, now, Duration::ZERO);
    }

    /// The first event of a network namespace.
    fn meet(&mut self, event: &Event) {
        if let Entry::Vacant(unknown) = self.known.entry(event.netns) {
            unknown.insert(None);
            self.settings(event.netns, event.task.as_ref(), event.ts, Duration::ZERO);
        }
    }

    /// Something was lost, and a comparison with the kernel's sockets has not begun that makes up for it.
    pub fn lost(&mut self) {
        self.is_incomplete = true;
        self.has_lost_since = true;
        self.record(&Input::Lost);
    }

    /// A dump of the kernel's sockets begins; see [`Ledger::begin_resync`].
    pub fn begin_resync(&mut self, now: u64) {
        self.resyncs.began = now;
        self.has_lost_since = false;
        self.ledger.begin_resync(now);
        self.record(&Input::BeginResync(now));
    }

    /// A row of the dump; see [`Ledger::row`].
    pub fn row(&mut self, row: &Row) {
        // Of a socket that has no events, the end would not be seen.
        if self
            .traced
            .as_ref()
            .is_some_and(|traced| !traced.contains(&row.netns))
        {
            return;
        }
        let lines = &mut self.lines;
        self.ledger.row(row, &mut |effect| lines.effect(&effect));
        self.record(&Input::Row(Cow::Borrowed(row)));
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
        if let Some(steps) = &self.steps {
            steps.forget(&|key| !self.ledger.knows(key));
        }
        self.resyncs.ended += 1;
        self.is_incomplete = self.has_lost_since;
        if self.resyncs.ended == 1 {
            self.seeded(complete.len() as u64, now);
        } else {
            self.resyncs.corrected += found.added + found.removed + found.changed;
        }
        self.record(&Input::EndResync {
            complete: Cow::Borrowed(complete),
            alive: Cow::Borrowed(alive),
            now,
        });
        found
    }

    /// Namespaces that there are sockets of.
    pub fn namespaces(&self) -> BTreeSet<u32> {
        self.ledger.namespaces()
    }

    /// The dump failed; see [`Ledger::give_up_resync`].
    pub fn give_up_resync(&mut self) {
        self.ledger.give_up_resync();
        self.record(&Input::GiveUpResync);
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
        self.tell_usage(now);
        self.record(&Input::Usage(now));
    }

    fn tell_usage(&mut self, now: u64) {
        let interval = now.saturating_sub(self.told);
        self.told = now;
        self.follow_steps();
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
        self.follow_steps();
        for socket in self.ledger.sockets() {
            self.lines.socket(&socket, now);
            self.lines.pass(write)?;
        }
        self.totals(now, None);
        self.record(&Input::Snapshot(now));
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
        if let Some(tallies) = &mut self.tallies {
            tallies.losses.add(count, place);
        }
        self.record(&Input::Loss(count, place, resynced));
    }

    /// Says which lines did not reach an output, which is named where there are several.
    pub fn dropped(&mut self, dropped: BTreeMap<&'static str, u64>, output: Option<&str>) {
        if let Some(tallies) = &mut self.tallies {
            tallies.drop_lines(&dropped);
        }
        if self.recorder.is_some() {
            let names = dropped.iter().map(|(name, count)| ((*name).into(), *count));
            let input = Input::Dropped(names.collect(), output.map(Cow::Borrowed));
            self.lines.dropped(dropped, output);
            self.record(&input);
        } else {
            self.lines.dropped(dropped, output);
        }
    }

    /// What became of the flight recorder.
    pub fn recording(&mut self, recording: &record::Recording) {
        self.lines.recording(recording);
    }

    /// Lines that introduced processes were dropped: each is introduced anew when it is named the next time.
    pub fn forget_introductions(&mut self) {
        self.lines.forget_introductions();
        self.record(&Input::ForgetIntroductions);
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
        self.tell_usage(now);
        self.record(&Input::WindUp(now));
        written
    }

    /// The `stop` line.
    pub fn end(&mut self) {
        let ts = self.lines.now();
        // `stop` is the last line.
        self.record(&Input::End);
        self.lines.stop_at(ts);
    }
}

#[cfg(target_os = "linux")]
impl Default for Stream {
    fn default() -> Self {
        Self::new()
    }
}
