//! One host: its kernel's events, and the tracer that hears them.

use std::{cell::Cell, collections::HashMap, io, rc::Rc};

use anyhow::Result;
use tracer::{
    clock::{Clock, Time},
    event::{Event, Kind, Owner, State, Tuple},
    host::process::Processes,
    record::{Table, Where},
    stream::Stream,
};

use super::{
    HostTruth, Plan,
    agenda::{Agenda, Step},
    life::Connection,
    people::{Proc, Process, UPTIME},
    ports::Ports,
    random::Random,
    scene::{CONTAINER, Flow, HOST, Scene},
    tally::Tally,
    truth::{EPOCH, ProcessTruth, SECOND, timestamp},
};

pub(super) const WATCH: u64 = SECOND / 4;
pub(super) const USAGE: u64 = 10 * SECOND;

/// Times that a program of the tracer was skipped, once in a run.
const SKIPPED: u64 = 3;

pub(super) struct Host {
    pub(super) name: String,
    pub(super) stream: Stream,
    pub(super) agenda: Agenda,
    pub(super) random: Random,
    pub(super) processes: Vec<Process>,
    pub(super) flows: Vec<Flow>,
    pub(super) ports: HashMap<u32, Ports>,
    pub(super) connections: Vec<Connection>,
    /// Places in `connections` that are free.
    pub(super) vacant: Vec<usize>,
    pub(super) tally: Tally,
    /// Sockets that there were.
    pub(super) sockets: u64,
    pub(super) proc: Proc,
    now: u64,
    time: Standing,
    lines: u64,
    lost: u64,
    deploy: Option<u64>,
}

/// A clock that stands until it is set, `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Default)]
struct Standing(Rc<Cell<u64>>);

impl Time for Standing {
    fn now(&self) -> u64 {
        self.0.get()
    }
}

fn clock() -> Clock {
    Clock::fixed(EPOCH, EPOCH - UPTIME as i64)
}

impl Host {
    pub(super) fn new(plan: &Plan, number: usize) -> Result<Self> {
        let proc = Proc::new()?;
        let scene = Scene::new(plan, number);
        let name = format!("web-{}", number + 1);
        let mut stream = Stream::with(name.clone(), clock(), Processes::at(proc.path()));
        let time = Standing::default();
        stream.set_time(Box::new(time.clone()));
        let ports = || Ports::new(plan.range());
        let mut host = Self {
            name,
            stream,
            agenda: Agenda::default(),
            random: Random::new(plan.seed.wrapping_mul(1000).wrapping_add(number as u64)),
            processes: scene.processes,
            flows: scene.flows,
            ports: [(HOST, ports()), (CONTAINER, ports())].into(),
            connections: Vec::new(),
            vacant: Vec::new(),
            tally: Tally::default(),
            sockets: 0,
            proc,
            now: 0,
            time,
            lines: 0,
            lost: 0,
            deploy: scene.deploy,
        };
        host.start(plan)?;
        host.seed(plan, &scene.listeners);
        host.plan(plan, number);
        Ok(host)
    }

    /// Until the next call of a flow, nanoseconds: calls come independently of each other.
    pub(super) fn pause(&mut self, flow: usize) -> u64 {
        let seconds = -self.random.fraction().ln() / self.flows[flow].rate;
        1 + (seconds * 1e9) as u64
    }

    /// Until that moment.
    pub(super) fn run(&mut self, end: u64) -> io::Result<()> {
        while let Some((at, step)) = self.agenda.next(end) {
            self.now = at;
            self.time.0.set(at);
            self.step(step)?;
        }
        self.now = end;
        self.time.0.set(end);
        Ok(())
    }

    fn step(&mut self, step: Step) -> io::Result<()> {
        let now = self.now;
        match step {
            Step::Call(flow) => {
                if now < self.flows[flow].until {
                    self.call(flow, now);
                    let pause = self.pause(flow);
                    self.agenda.enter(now + pause, step);
                }
            }
            Step::Next(connection) => self.advance(connection, now),
            Step::Begin(process) => self.proc.begin(&self.processes[process])?,
            Step::End(process) => self.proc.end(&self.processes[process])?,
            Step::Older(number) => self.end_older(number),
            Step::Watch => {
                self.stream.watch(now);
                self.agenda.enter(now + WATCH, step);
            }
            Step::Usage => {
                self.usage();
                self.agenda.enter(now + USAGE, step);
            }
            Step::Skipped => {
                self.lost += SKIPPED;
                self.stream.loss(SKIPPED, Where::Program, true);
            }
        }
        Ok(())
    }

    fn usage(&mut self) {
        let used = (self.connections.len() - self.vacant.len()) as u64;
        let size = 262_144;
        self.stream.set_table(Table { used, size });
        self.tally.round(self.now);
        self.stream.usage(self.now);
    }

    fn end_older(&mut self, number: usize) {
        let row = self.older(u16::try_from(number).unwrap_or_default());
        let mut event = self.event(row.netns, row.tuple);
        event.sock = row.sock;
        event.kind = Kind::State {
            old: State::TimeWait,
            new: State::Close,
            end: None,
        };
        self.stream.event(&event);
        if let (Some(ports), Some(port)) = (self.ports.get_mut(&HOST), row.tuple.local.port) {
            ports.give_back(row.tuple.peer, port);
        }
        self.tally.wait(HOST, None, -1);
        self.tally
            .give_back(self.now, HOST, None, Some(row.tuple.peer));
    }

    /// One of nobody, now.
    pub(super) fn event(&self, netns: u32, tuple: Tuple) -> Event {
        Event {
            ts: self.now,
            sock: 0,
            cookie: None,
            netns,
            tuple,
            held: None,
            role: None,
            owner: Owner::None,
            task: None,
            kind: Kind::Port,
            timestamps: true,
            socket_range: None,
        }
    }

    /// The key of a socket that is new.
    pub(super) fn new_sock(&mut self) -> u64 {
        self.sockets += 1;
        0x10_000 + self.sockets * 64
    }

    pub(super) fn lines(&self) -> &[u8] {
        self.stream.lines()
    }

    pub(super) fn clear(&mut self) {
        self.lines += count(self.stream.lines());
        self.stream.clear();
    }

    /// The end of the tracer. The last lines stay.
    pub(super) fn stop(
        &mut self,
        write: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.tally.round(self.now);
        let mut written = 0;
        self.stream.stop(self.now, &mut |batch| {
            written += count(batch.bytes());
            write(batch.bytes())
        })?;
        self.lines += written;
        Ok(())
    }

    /// After [`stop`](Self::stop).
    pub(super) fn truth(&self) -> HostTruth {
        let (tally, processes) = (&self.tally, &self.processes);
        HostTruth {
            host: self.name.clone(),
            lines: self.lines + count(self.stream.lines()),
            connect_failures: tally.connect_failures,
            bind_failures: tally.bind_failures,
            lost: self.lost,
            deploy: self.deploy.map(timestamp),
            processes: processes.iter().map(ProcessTruth::from).collect(),
            failures: tally.failures(processes),
            pools: tally.pools(processes),
            seconds: tally.seconds(processes),
            rounds: tally.rounds(processes),
        }
    }
}

/// Whole lines.
fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}
