//! Lines: numbered, dated, counted, and each process introduced before the first that names it.

use std::{collections::BTreeMap, io, marker::PhantomData, sync::Arc};

use jiff::Timestamp;

use super::{
    Batch, Counts, Shed,
    known::{Known, Recent},
};
use crate::{
    clock::{Clock, Monotonic, Time},
    event::Task,
    filter::{self, Filter, Subject},
    host::process::Processes,
    ledger::Transition,
    pool::Settings,
    record::{self, Body, Kind, Line, Loss, Netns, NetnsSettings, Start, Stop, VERSION, Where},
};

/// Lines that come in numbers are passed on when so many bytes have gathered.
const CHUNK: usize = 256 << 10;

/// Where [`Lines::pass`] puts whole lines, which may be taken away.
pub type Write<'a> = &'a mut dyn FnMut(&mut Batch) -> io::Result<()>;

/// The lines of one run, gathered until somebody takes them.
pub struct Lines {
    pub(super) clock: Clock,
    pub(super) processes: Processes,
    recent: Recent,
    pub(super) time: Box<dyn Time>,
    pub(super) failures: u64,
    pub(super) bind_failures: u64,
    pub(super) shed: Shed,
    pub(super) filter: Filter,
    pub(super) host: String,
    pub(super) labels: Option<BTreeMap<String, String>>,
    batch: Batch,
    /// The lines that are written now are for the flight recorder only.
    detail: bool,
    count: u64,
    /// How many lines were for the flight recorder only.
    details: u64,
    events: u64,
    lost: u64,
    /// Lines that outputs did not take.
    dropped: u64,
}

impl Lines {
    pub fn new(host: String, clock: Clock, processes: Processes) -> Self {
        Self {
            clock,
            processes,
            recent: Recent::default(),
            time: Box::new(Monotonic),
            failures: 0,
            bind_failures: 0,
            filter: Filter::default(),
            shed: Shed::default(),
            host,
            labels: None,
            batch: Batch::default(),
            detail: false,
            count: 0,
            details: 0,
            events: 0,
            lost: 0,
            dropped: 0,
        }
    }

    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// What every line is to carry.
    pub fn set_labels(&mut self, labels: BTreeMap<String, String>) {
        self.labels = Some(labels).filter(|labels| !labels.is_empty());
    }

    /// Asks another clock from now on, which may ask the one that was asked before.
    pub(super) fn ask_time(&mut self, other: impl FnOnce(Box<dyn Time>) -> Box<dyn Time>) {
        self.time = other(std::mem::replace(&mut self.time, Box::new(Monotonic)));
    }

    /// By the same reckoning as the events, so that lines do not run backwards.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.monotonic(self.time.now())
    }

    /// Whether the lines that follow are for the flight recorder only.
    pub fn set_detail(&mut self, detail: bool) {
        self.detail = detail;
    }

    pub(super) fn is_detail(&self) -> bool {
        self.detail
    }

    /// Whether a line of that kind about that is to be written. Whoever writes one asks before, and spares the work.
    pub(super) fn wants<'a>(&mut self, kind: Kind, subject: impl FnOnce() -> Subject<'a>) -> bool {
        let wanted = self.filter.wants(kind, subject);
        self.admit(wanted)
    }

    /// As [`wants`](Self::wants), of a transition.
    pub(super) fn wants_state(&mut self, transition: &Transition) -> bool {
        let wanted = self.filter.wants_state(transition);
        self.admit(wanted)
    }

    /// What nobody else wants is still for the flight recorder.
    fn admit(&mut self, wanted: bool) -> bool {
        if !self.filter.records_all() {
            return wanted;
        }
        self.detail = !wanted;
        true
    }

    /// The lines since the last call to [`clear`](Self::clear).
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    pub(super) fn batch_mut(&mut self) -> &mut Batch {
        &mut self.batch
    }

    /// The same, as text.
    pub fn bytes(&self) -> &[u8] {
        self.batch.bytes()
    }

    pub fn clear(&mut self) {
        self.batch.clear();
    }

    /// Passes the lines on if they have become many: then memory does not grow with the number of sockets.
    pub(super) fn pass(&mut self, write: Write) -> io::Result<()> {
        if self.bytes().len() < CHUNK {
            return Ok(());
        }
        let written = write(&mut self.batch);
        self.clear();
        written
    }

    /// The run in a sentence.
    pub fn brief(&self) -> String {
        let failures = self.failures + self.bind_failures;
        format!(
            "{} events, {failures} failures, {} lost",
            self.events, self.lost
        )
    }

    pub fn has_lost(&self) -> bool {
        self.lost > 0
    }

    /// All but those of the resyncs.
    pub fn counts(&self) -> Counts {
        Counts {
            events: self.events,
            lines: self.count,
            lost: self.lost,
            dropped: self.dropped,
            ..Counts::default()
        }
    }

    /// For the total in the `stop` line.
    pub fn count_event(&mut self) {
        self.events += 1;
    }

    pub fn start(&mut self, start: &Start) {
        self.write(self.now(), start);
    }

    /// A network namespace is new, or its settings have changed.
    pub fn settings(
        &mut self,
        netns: u32,
        settings: &Settings,
        before: Option<&Settings>,
        now: u64,
    ) {
        // It may come amid the making of another line.
        let detail = self.detail;
        if self.wants(Kind::Netns, || Subject::of_netns(netns)) {
            let body = NetnsSettings {
                now: Netns::new(netns, Some(settings)),
                before: before.map(|before| Netns::new(netns, Some(before))),
            };
            self.write(self.clock.monotonic(now), &body);
        }
        self.detail = detail;
    }

    pub fn loss(&mut self, count: u64, place: Where, resynced: bool) {
        self.lost = self.lost.saturating_add(count);
        let body = Loss {
            events: count,
            r#where: place,
            resynced,
            dropped: BTreeMap::new(),
            output: None,
        };
        self.write(self.now(), &body);
    }

    /// Lines that did not reach an output.
    pub fn dropped(&mut self, dropped: BTreeMap<&'static str, u64>, output: Option<&str>) {
        let count = dropped
            .values()
            .fold(0, |sum: u64, count| sum.saturating_add(*count));
        self.lost = self.lost.saturating_add(count);
        self.dropped = self.dropped.saturating_add(count);
        let body = Loss {
            events: count,
            r#where: Where::Output,
            resynced: true,
            dropped,
            output,
        };
        self.write(self.now(), &body);
    }

    /// What became of the flight recorder.
    pub fn recording(&mut self, recording: &record::Recording) {
        self.write(self.now(), recording);
    }

    /// Introduces every process anew when it is named the next time: lines that did were dropped.
    pub fn forget_introductions(&mut self) {
        self.processes.forget();
        self.recent.forget();
    }

    pub fn stop(&mut self) {
        self.stop_at(self.now());
    }

    pub(super) fn stop_at(&mut self, ts: Timestamp) {
        let stop = Stop {
            lines: self.count + 1,
            events: self.events,
            lost: self.lost,
            failures: self.failures,
            bind_failures: self.bind_failures,
        };
        self.write(ts, &stop);
    }

    /// Makes sure that the process has been introduced.
    pub(super) fn know(&mut self, task: Option<&Task>) -> Option<Arc<Known>> {
        let task = task?;
        let recent = self.recent.find(task, self.detail);
        Some(recent.unwrap_or_else(|| self.meet(task)))
    }

    fn meet(&mut self, task: &Task) -> Arc<Known> {
        let (id, identity) = self.processes.meet(task, self.detail, &self.clock);
        if let Some(identity) = identity {
            self.write(self.now(), &identity);
        }
        let known = Arc::new(Known::new(id, task, self.detail));
        self.recent.keep(known.clone());
        known
    }

    /// The number of the line that comes next.
    pub(super) fn next_line(&self) -> u64 {
        self.count
    }

    /// A line that is none of the numbered ones.
    pub(super) fn input(&mut self, line: &record::Input) {
        let written = self.batch.write(Kind::Input, false, |bytes| {
            serde_json::to_writer(bytes, line)
        });
        if let Err(error) = written {
            log::error!("an input can't be written: {error}");
        }
    }

    /// Returns the line's number.
    pub(super) fn write<B: Body>(&mut self, ts: Timestamp, body: &B) -> u64 {
        let detail = self.detail && !filter::is_of_run(B::KIND);
        let seq = match detail {
            true => self.details,
            false => self.count,
        };
        let line = Line {
            v: VERSION,
            r#type: record::Type(PhantomData),
            ts,
            seq,
            host: &self.host,
            labels: self.labels.as_ref(),
            detail,
            repeated: false,
            body,
        };
        let written = self
            .batch
            .write(B::KIND, detail, |bytes| B::write(&line, bytes));
        match written {
            Ok(()) if detail => self.details += 1,
            Ok(()) => self.count += 1,
            // Unreachable with these types; half a line does not get out all the same.
            Err(error) => log::error!("a line of type {} can't be written: {error}", B::TYPE),
        }
        seq
    }
}
