//! Events in, lines out: numbers them, dates them and introduces processes.

use std::{borrow::Cow, marker::PhantomData, sync::Arc};

use jiff::Timestamp;
use rustix::{io::Errno, system::uname};

use crate::{
    clock::Clock,
    event::{Event, Kind, Reason, State, Task},
    host::process::Processes,
    record::{self, Body, Line, Loss, Process, Stop, VERSION, Where},
};

/// The lines of one run, gathered until somebody takes them.
pub struct Stream {
    host: String,
    clock: Clock,
    processes: Processes,
    buffer: Vec<u8>,
    lines: u64,
    events: u64,
    lost: u64,
    failures: u64,
}

impl Stream {
    pub fn new() -> Self {
        let host = uname().nodename().to_string_lossy().into_owned();
        Self::with(host, Clock::read(), Processes::default())
    }

    /// For tests: a host, a clock and processes of one's choice.
    pub fn with(host: String, clock: Clock, processes: Processes) -> Self {
        Self {
            host,
            clock,
            processes,
            buffer: Vec::new(),
            lines: 0,
            events: 0,
            lost: 0,
            failures: 0,
        }
    }

    /// Follows the time of day, should it have been set.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// The lines since the last call to [`clear`](Self::clear).
    pub fn lines(&self) -> &[u8] {
        &self.buffer
    }

    pub fn clear(&mut self) {
        self.buffer.clear();
    }

    /// Whether anything has been lost in this run.
    pub fn has_lost(&self) -> bool {
        self.lost > 0
    }

    pub fn start(&mut self, start: &record::Start) {
        self.line(self.clock.now(), start);
    }

    /// An event, preceded by its process if that was not seen before.
    pub fn event(&mut self, event: &Event) {
        self.events += 1;
        let id = event.task.as_ref().map(|task| self.introduce(task));
        let process = event.task.as_ref().zip(id.as_deref());
        let process = process.map(|(task, id)| brief(task, id));
        let ts = self.clock.monotonic(event.ts);
        match event.kind {
            Kind::State { old, new } => self.state(ts, event, process, old, new),
            Kind::ConnectFailed { errno, reason } => {
                self.connect_failed(ts, event, process, errno, reason);
            }
        }
    }

    fn introduce(&mut self, task: &Task) -> Arc<str> {
        let (id, identity) = self.processes.meet(task, &self.clock);
        if let Some(identity) = identity {
            self.line(self.clock.now(), &identity);
        }
        id
    }

    fn state(
        &mut self,
        ts: Timestamp,
        event: &Event,
        process: Option<Process>,
        old: State,
        new: State,
    ) {
        let body = record::State {
            socket: event.into(),
            old,
            new,
            cookie: event.cookie,
            process,
            owner: event.owner,
        };
        self.line(ts, &body);
    }

    fn connect_failed(
        &mut self,
        ts: Timestamp,
        event: &Event,
        process: Option<Process>,
        errno: i32,
        reason: Reason,
    ) {
        self.failures += 1;
        let body = record::ConnectFailed {
            socket: event.into(),
            errno,
            error: error_name(errno),
            reason,
            process,
            owner: event.owner,
        };
        self.line(ts, &body);
    }

    /// Says that `count` things were lost at `place`.
    pub fn loss(&mut self, count: u64, place: Where) {
        self.lost += count;
        let body = Loss {
            events: count,
            r#where: place,
            resynced: false,
        };
        self.line(self.clock.now(), &body);
    }

    pub fn stop(&mut self) {
        let stop = Stop {
            lines: self.lines + 1,
            events: self.events,
            lost: self.lost,
            failures: self.failures,
        };
        self.line(self.clock.now(), &stop);
    }

    fn line<B: Body>(&mut self, ts: Timestamp, body: &B) {
        let line = Line {
            v: VERSION,
            r#type: record::Type(PhantomData),
            ts,
            seq: self.lines,
            host: &self.host,
            body,
        };
        let length = self.buffer.len();
        match serde_json::to_writer(&mut self.buffer, &line) {
            Ok(()) => {
                self.buffer.push(b'\n');
                self.lines += 1;
            }
            // Unreachable with these types; half a line must not get out all the same.
            Err(error) => {
                self.buffer.truncate(length);
                log::error!("a line of type {} can't be written: {error}", B::TYPE);
            }
        }
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self::new()
    }
}

fn brief<'a>(task: &'a Task, id: &'a str) -> Process<'a> {
    Process {
        id,
        pid: task.pid,
        tid: task.tid,
        comm: match String::from_utf8_lossy(task.comm.bytes()) {
            Cow::Borrowed(comm) => comm.into(),
            Cow::Owned(comm) => comm.into(),
        },
    }
}

fn error_name(errno: i32) -> &'static str {
    if errno == Errno::ADDRNOTAVAIL.raw_os_error() {
        "EADDRNOTAVAIL"
    } else {
        "unknown"
    }
}
