//! From the lines that every recording has: what they say goes through the ledger and the diagnosis again. Times are
//! nanoseconds since 1970.

mod host;
mod line;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

use serde::{Deserialize, de::DeserializeOwned};

use self::{
    host::Host,
    line::{
        FailedLine, HowBind, LedgerLine, LossLine, NetnsLine, Process, ProcessLine, SocketLine,
        StateLine, UsageLine, WhyConnect, nowhere,
    },
};
use super::{Troubles, head::without_line, keys::Keys};
use crate::{
    clock::Clock,
    event::{Event, Kind, Owner, Row, Task, Tuple},
    record::{Netns, Start, Where},
    report::time,
    stream::{Diagnosis, Stream, Write, by_kind},
};

/// As a running tracer does it.
const WATCH: u64 = Duration::from_millis(250).as_nanos() as u64;

/// In a longer silence nothing is watched for: there is no rate to know after it.
const SILENCE: u64 = Duration::from_secs(600).as_nanos() as u64;

/// A TIME_WAIT, nanoseconds.
const TIME_WAIT: u64 = Duration::from_secs(60).as_nanos() as u64;

/// What `repeats` may say: it counts one second.
const MOST_FAILURES: u64 = 10_000_000;

/// What no line says.
const UNKNOWN: &str = "it has no `input` lines (`--replayable`), so this is not what was written then, but what the lines say: \
    sockets that are older than the recording or only bound are missing in ports, budgets and holders; reserved ports, conntrack and addresses are not known; \
    `connection` lines are left out, since bytes and who closed are told nowhere else; `pressure` is looked for at other moments";

/// The line that a run begins with.
#[derive(Deserialize)]
pub(super) struct First {
    #[serde(flatten)]
    start: Start,
    labels: Option<BTreeMap<String, String>>,
}

/// A run of which there are only lines.
pub(super) struct Told {
    stream: Stream,
    host: Host,
    keys: Keys,
    /// Of `socket` lines that a `ledger` line has not ended yet.
    rows: Vec<Row>,
    is_snapshot: bool,
    /// A round of `usage` lines is over; the next line tells whether the run is.
    round: Option<u64>,
    netns: BTreeSet<u32>,
    watched: u64,
    overflow: u64,
}

impl Told {
    /// `None`: the recording begins later.
    pub(super) fn new(
        name: &str,
        now: u64,
        first: Option<&First>,
        troubles: &mut Troubles,
    ) -> Self {
        troubles.note(UNKNOWN);
        let host = Host::default();
        host.set_time(now);
        let mut told = Self {
            stream: Stream::again(name.into(), Clock::fixed(0, 0), now, &host),
            host,
            keys: Keys::default(),
            rows: Vec::new(),
            is_snapshot: false,
            round: None,
            netns: BTreeSet::new(),
            watched: now,
            overflow: 0,
        };
        if let Some(labels) = first.and_then(|first| first.labels.clone()) {
            told.stream.set_labels(labels);
        }
        told.begin(first.map(|first| &first.start), troubles);
        told
    }

    fn begin(&mut self, start: Option<&Start>, troubles: &mut Troubles) {
        self.stream.omit_connections();
        match start {
            Some(start) => self.stream.start(start),
            None => troubles.hole("the recording does not begin with a `start` line: what was there before is not known"),
        }
        for netns in start.map_or(&[][..], |start| &start.netns) {
            self.settings(netns, troubles);
        }
        self.stream
            .diagnose(Diagnosis::default(), Box::new(self.host.clone()));
        self.stream.set_settings(self.host.all_settings());
    }

    fn settings(&mut self, netns: &Netns, troubles: &mut Troubles) {
        if let (true, Some(reserved @ 1..)) = (self.host.set_settings(netns), netns.reserved) {
            troubles.note(format!(
                "network namespace {} has {reserved} reserved ports, and no line says which: budgets count them as free",
                netns.netns
            ));
        }
    }

    pub(super) fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// A line with its time. `Err`: why it can't be used.
    pub(super) fn line(
        &mut self,
        kind: &str,
        now: u64,
        line: &[u8],
        troubles: &mut Troubles,
        write: Write,
    ) -> Result<io::Result<()>, String> {
        if kind != "stop" {
            self.end_round();
        }
        self.watch_until(now);
        self.host.set_time(now);
        match kind {
            "state" => self.state(now, parse(line)?),
            "connect_failed" => {
                let (failed, WhyConnect { reason }): (FailedLine, _) = (parse(line)?, parse(line)?);
                let errno = failed.errno;
                self.failed(now, failed, Kind::ConnectFailed { errno, reason })?;
            }
            "bind_failed" => {
                let (failed, HowBind { listen }): (FailedLine, _) = (parse(line)?, parse(line)?);
                let (errno, listens) = (failed.errno, listen);
                self.failed(now, failed, Kind::BindFailed { errno, listens })?;
            }
            "process" => self.process(parse(line)?)?,
            "netns" => {
                let NetnsLine { now: settings } = parse(line)?;
                self.settings(&settings, troubles);
                self.stream.look_at_settings(settings.netns, now);
            }
            "usage" => {
                let usage: UsageLine = parse(line)?;
                if let Some(process) = usage.process {
                    self.host.set_exited(&process.id, usage.exited);
                }
            }
            "socket" => self.socket(now, parse(line)?),
            "ledger" => return Ok(self.ledger(now, parse(line)?, write)),
            "loss" => {
                let loss: LossLine = parse(line)?;
                self.stream.lost();
                match loss.r#where {
                    Where::Output => {
                        let output = loss.output.as_deref();
                        self.stream.dropped(by_kind(&loss.dropped), output);
                    }
                    place => self.stream.loss(loss.events, place, loss.resynced),
                }
            }
            "stop" => return Ok(self.stop(now, write)),
            // Made anew, from the ledger; or left out.
            "pressure" | "connection" | "stats" | "shed" | "recording" => {}
            other => return Err(format!("lines of type `{other}` are not known")),
        }
        Ok(Ok(()))
    }

    /// The copy of a line that introduces a process.
    pub(super) fn copy(&mut self, line: &[u8]) -> Result<(), String> {
        self.process(parse(line)?)
    }

    /// Nothing follows.
    pub(super) fn end(&mut self) {
        self.end_round();
    }

    fn end_round(&mut self) {
        if let Some(now) = self.round.take() {
            self.stream.usage(now);
        }
    }

    fn watch_until(&mut self, now: u64) {
        if now.saturating_sub(self.watched) > SILENCE {
            self.watched = now;
        }
        while self.watched + WATCH <= now {
            self.watched += WATCH;
            self.stream.watch(self.watched);
        }
    }

    fn task(&self, process: Option<&Process>) -> Option<Task> {
        process.and_then(|process| self.host.task(process))
    }

    fn state(&mut self, now: u64, line: StateLine) {
        let kind = Kind::State {
            old: line.old,
            new: line.new,
            end: None,
        };
        let tuple = Tuple {
            family: line.family,
            local: line.local,
            peer: line.peer,
        };
        let mut event = Event {
            role: line.role,
            cookie: line.cookie,
            task: self.task(line.process.as_ref()),
            owner: line.owner,
            timestamps: self.host.has_timestamps(line.netns),
            ..event(now, line.netns, tuple, kind)
        };
        if event.task.is_none() {
            event.owner = Owner::None;
        }
        self.netns.insert(event.netns);
        self.keys.resolve(&mut event);
        match line.corrected {
            true => self.stream.corrected(&event),
            false => self.stream.event(&event),
        }
    }

    fn failed(&mut self, now: u64, line: FailedLine, kind: Kind) -> Result<(), String> {
        let repeats = line.repeats.unwrap_or(1);
        if repeats > MOST_FAILURES {
            return Err(format!(
                "{repeats} failures in one line are not to be believed"
            ));
        }
        let tuple = Tuple {
            family: line.family,
            local: line.local,
            peer: line.peer.unwrap_or(nowhere(line.family)),
        };
        let event = Event {
            role: line.role,
            task: self.task(line.process.as_ref()),
            owner: line.owner,
            socket_range: line.socket_range,
            ..event(now, line.netns, tuple, kind)
        };
        for _ in 0..repeats {
            self.stream.event(&event);
        }
        Ok(())
    }

    fn process(&mut self, line: ProcessLine) -> Result<(), String> {
        let start = time::parse(&line.start).ok_or("its `start` is no time")?;
        let since_boot = self
            .host
            .introduce(line)
            .ok_or("its `id` is not pid and start")?;
        let since_boot = i64::try_from(since_boot).unwrap_or(0);
        self.stream
            .set_clock(Clock::fixed(0, start.saturating_sub(since_boot)));
        Ok(())
    }

    /// What is there that no transition has told.
    fn socket(&mut self, now: u64, line: SocketLine) {
        self.is_snapshot = true;
        let tuple = Tuple {
            family: line.family,
            local: line.local,
            peer: line.peer,
        };
        if self.keys.knows(line.netns, line.cookie, &tuple) {
            return;
        }
        let due = line.due_s.map(Duration::try_from_secs_f64);
        let due = due.and_then(Result::ok).map_or(TIME_WAIT, nanoseconds);
        self.netns.insert(line.netns);
        self.rows.push(Row {
            sock: self
                .keys
                .add(line.netns, line.cookie, &tuple, line.timewait),
            cookie: line.cookie,
            netns: line.netns,
            tuple,
            held: line.local.port,
            state: line.state,
            due: line.timewait.then_some(now.saturating_add(due)),
            holder: self.task(line.process.as_ref()),
            timestamps: self.host.has_timestamps(line.netns),
            mode: None,
            connect_bind: None,
        });
    }

    fn ledger(&mut self, now: u64, line: LedgerLine, write: Write) -> io::Result<()> {
        let overflow = line.overflow.saturating_sub(self.overflow);
        self.overflow += overflow;
        self.stream.add_overflow(overflow);
        if let Some(table) = line.table {
            self.stream.set_table(table);
        }
        if let Some(seeded) = line.seeded {
            self.compare(now);
            if seeded.sockets > 0 {
                self.stream.lost();
            }
            return Ok(());
        }
        if !std::mem::take(&mut self.is_snapshot) {
            self.round = Some(now);
            return Ok(());
        }
        self.compare(now);
        self.stream.snapshot(now, write)
    }

    /// Adds what `socket` lines said; what they did not say goes on.
    fn compare(&mut self, now: u64) {
        self.stream.begin_resync(now);
        for row in std::mem::take(&mut self.rows) {
            self.stream.row(&row);
        }
        self.stream.end_resync(&BTreeSet::new(), &self.netns, now);
    }

    /// The last round of usage belongs to it.
    fn stop(&mut self, now: u64, write: Write) -> io::Result<()> {
        let now = self.round.take().unwrap_or(now);
        self.stream.stop(now, write)
    }
}

/// Of a socket that holds nothing, as far as is known.
fn event(ts: u64, netns: u32, tuple: Tuple, kind: Kind) -> Event {
    Event {
        ts,
        sock: 0,
        cookie: None,
        netns,
        tuple,
        held: None,
        role: None,
        owner: Owner::None,
        task: None,
        kind,
        timestamps: false,
        socket_range: None,
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(TIME_WAIT)
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, String> {
    serde_json::from_slice(line)
        .map_err(|error| format!("this is no line of tracer's: {}", without_line(&error)))
}
