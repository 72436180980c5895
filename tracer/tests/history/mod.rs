//! A recorded history: what the ring buffer and the dumps of a real kernel gave, in the order in which it came,
//! one JSON line each. Sockets are numbered instead of told by their addresses, and there is one network namespace.

use std::{collections::HashMap, net::SocketAddr};

use serde::{Deserialize, Serialize};
use tracer::event::{
    Comm, Endpoint, Event, Family, Kind, Mode, Owner, Role, Row, State, Task, Tuple,
};

/// The number of the one network namespace.
pub(crate) const NETNS: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct History {
    pub about: About,
    pub steps: Vec<Step>,
}

/// Where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    pub kernel: String,
    /// The hooks, by capability.
    pub hooks: Vec<String>,
    /// These hooks alone show everything: no comparison with the kernel finds a difference.
    pub exact: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Event(Event),
    /// A dump begins.
    Begin(u64),
    Row(Row),
    /// The dump is over.
    End(u64),
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    About(About),
    /// Tasks are referred to by the number of their line, from 0 on.
    Task(u32, u32, u32, u64, u64, String),
    Event(EventLine),
    Begin(u64),
    Row(RowLine),
    End(u64),
}

/// Who: number, cookie, and the tuple; port 0: none.
#[derive(Serialize, Deserialize)]
struct Who(u64, Option<u64>, Family, SocketAddr, SocketAddr);

/// When, who, `held`, role, owner, task, what, and timestamps with the socket's range: not in older histories.
#[derive(Serialize, Deserialize)]
struct EventLine(
    u64,
    Who,
    Option<u16>,
    Option<Role>,
    Owner,
    Option<usize>,
    Kind,
    #[serde(default, skip_serializing_if = "is_default")] (bool, Option<(u16, u16)>),
);

/// Who, `held`, state, `timewait`, holder, and timestamps with mode and `connect_bind`: not in older histories.
#[derive(Serialize, Deserialize)]
struct RowLine(
    Who,
    Option<u16>,
    State,
    Option<u64>,
    Option<usize>,
    #[serde(default, skip_serializing_if = "is_default")] (bool, Option<Mode>, Option<bool>),
);

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl History {
    pub(crate) fn to_text(&self) -> String {
        let mut writer = Writer::default();
        writer.line(&Line::About(self.about.clone()));
        for step in &self.steps {
            writer.step(step);
        }
        writer.text
    }

    pub(crate) fn parse(text: &str) -> serde_json::Result<Self> {
        let mut history = Self {
            about: About {
                kernel: String::new(),
                hooks: Vec::new(),
                exact: false,
            },
            steps: Vec::new(),
        };
        let mut tasks = Vec::new();
        for line in text.lines() {
            let step = match serde_json::from_str(line)? {
                Line::About(about) => {
                    history.about = about;
                    continue;
                }
                Line::Task(pid, tid, uid, start_ns, cgroup, comm) => {
                    let comm = comm_of(&comm);
                    tasks.push(Task {
                        pid,
                        tid,
                        uid,
                        start_ns,
                        cgroup,
                        comm,
                    });
                    continue;
                }
                Line::Event(event) => Step::Event(event.event(&tasks)),
                Line::Begin(now) => Step::Begin(now),
                Line::Row(row) => Step::Row(row.row(&tasks)),
                Line::End(now) => Step::End(now),
            };
            history.steps.push(step);
        }
        Ok(history)
    }
}

fn comm_of(text: &str) -> Comm {
    let mut comm = [0; 16];
    for (to, from) in comm.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    Comm(comm)
}

#[derive(Default)]
struct Writer {
    text: String,
    /// Numbers of sockets, by address.
    socks: HashMap<u64, u64>,
    tasks: Vec<Task>,
}

impl Writer {
    fn line(&mut self, line: &Line) {
        // Made of numbers and strings: this can't fail.
        self.text += &serde_json::to_string(line).expect("a line is JSON");
        self.text.push('\n');
    }

    fn step(&mut self, step: &Step) {
        let line = match step {
            Step::Event(event) => Line::Event(self.event(event)),
            Step::Begin(now) => Line::Begin(*now),
            Step::Row(row) => Line::Row(self.row(row)),
            Step::End(now) => Line::End(*now),
        };
        self.line(&line);
    }

    fn event(&mut self, event: &Event) -> EventLine {
        let mut kind = event.kind;
        if let Kind::State { end: Some(end), .. } = &mut kind {
            end.timewait = end.timewait.map(|timewait| self.number(timewait));
        }
        EventLine(
            event.ts,
            self.who(event.sock, event.cookie, &event.tuple),
            event.held,
            event.role,
            event.owner,
            self.task(event.task.as_ref()),
            kind,
            (event.timestamps, event.socket_range),
        )
    }

    fn row(&mut self, row: &Row) -> RowLine {
        RowLine(
            self.who(row.sock, row.cookie, &row.tuple),
            row.held,
            row.state,
            row.timewait,
            self.task(row.holder.as_ref()),
            (row.timestamps, row.mode, row.connect_bind),
        )
    }

    fn number(&mut self, sock: u64) -> u64 {
        let next = self.socks.len() as u64 + 1;
        *self.socks.entry(sock).or_insert(next)
    }

    fn who(&mut self, sock: u64, cookie: Option<u64>, tuple: &Tuple) -> Who {
        let address = |end: Endpoint| SocketAddr::new(end.ip, end.port.unwrap_or(0));
        let (local, peer) = (address(tuple.local), address(tuple.peer));
        Who(self.number(sock), cookie, tuple.family, local, peer)
    }

    /// The number of the task, which is written down when it comes first.
    fn task(&mut self, task: Option<&Task>) -> Option<usize> {
        let task = task?;
        let known = self.tasks.iter().position(|known| known == task);
        Some(known.unwrap_or_else(|| {
            let comm = String::from_utf8_lossy(task.comm.bytes()).into_owned();
            let Task {
                pid,
                tid,
                uid,
                start_ns,
                cgroup,
                ..
            } = *task;
            self.line(&Line::Task(pid, tid, uid, start_ns, cgroup, comm));
            self.tasks.push(task.clone());
            self.tasks.len() - 1
        }))
    }
}

impl Who {
    fn tuple(&self) -> Tuple {
        let end = |address: SocketAddr| Endpoint {
            ip: address.ip(),
            port: (address.port() != 0).then_some(address.port()),
        };
        Tuple {
            family: self.2,
            local: end(self.3),
            peer: end(self.4),
        }
    }
}

impl EventLine {
    fn event(self, tasks: &[Task]) -> Event {
        let Self(ts, who, held, role, owner, task, kind, (timestamps, socket_range)) = self;
        Event {
            ts,
            sock: who.0,
            cookie: who.1,
            netns: NETNS,
            tuple: who.tuple(),
            held,
            role,
            owner,
            task: task.map(|number| tasks[number].clone()),
            timestamps,
            socket_range,
            kind,
        }
    }
}

impl RowLine {
    fn row(self, tasks: &[Task]) -> Row {
        let Self(who, held, state, timewait, holder, (timestamps, mode, connect_bind)) = self;
        Row {
            sock: who.0,
            cookie: who.1,
            netns: NETNS,
            tuple: who.tuple(),
            held,
            state,
            timewait,
            holder: holder.map(|number| tasks[number].clone()),
            timestamps,
            mode,
            connect_bind,
        }
    }
}
