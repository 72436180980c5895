//! From what the ledger says to the bodies of lines.

use rustix::io::Errno;

use super::Lines;
use crate::{
    event::{Event, Reason},
    ledger::{Connection, Effect, Socket, Transition, Usage},
    record::{self, KnownSocket, Ports, Serving, milliseconds, seconds},
};

impl Lines {
    pub fn effect(&mut self, effect: &Effect) {
        match effect {
            Effect::Transition(transition) => self.transition(transition),
            Effect::Connection(connection) => self.connection(connection),
        }
    }

    fn transition(&mut self, transition: &Transition) {
        let socket = &transition.socket;
        let owner = self.know(socket.task);
        let body = record::State {
            socket: socket.into(),
            old: transition.old,
            new: transition.new,
            cookie: socket.cookie,
            process: owner.as_ref().map(|owner| owner.process()),
            owner: socket.owner,
            corrected: transition.corrected,
        };
        self.write(self.clock.monotonic(transition.ts), &body);
    }

    fn connection(&mut self, connection: &Connection) {
        let socket = &connection.socket;
        let owner = self.know(socket.task);
        let closer = self.know(connection.closed_by);
        let closed = connection.closed;
        let lasted = |opened| milliseconds(closed.saturating_sub(opened));
        let body = record::Connection {
            socket: socket.into(),
            cookie: socket.cookie,
            process: owner.as_ref().map(|owner| owner.process()),
            owner: socket.owner,
            closed_by: closer.as_ref().map(|closer| closer.process()),
            opened: connection.opened.map(|ts| self.clock.monotonic(ts)),
            closed: self.clock.monotonic(closed),
            duration_ms: connection.opened.map(lasted),
            established: connection.established,
            end: connection.reason,
            bytes_sent: connection.bytes.map(|(sent, _)| sent),
            bytes_received: connection.bytes.map(|(_, received)| received),
            time_wait_s: connection.time_wait.map(seconds),
            in_time_wait: connection.in_time_wait,
        };
        let complete = closed.saturating_add(connection.time_wait.unwrap_or(0));
        self.write(self.clock.monotonic(complete), &body);
    }

    /// A failed connect; the task of the event is the one that called.
    pub fn connect_failed(&mut self, event: &Event, errno: i32, reason: Reason) {
        self.failures += 1;
        let caller = self.know(event.task.as_ref());
        let body = record::ConnectFailed {
            socket: event.into(),
            errno,
            error: error_name(errno),
            reason,
            process: caller.as_ref().map(|caller| caller.process()),
            owner: event.owner,
        };
        self.write(self.clock.monotonic(event.ts), &body);
    }

    /// A socket as it is at `now`.
    pub fn socket(&mut self, socket: &Socket, now: u64) {
        let owner = self.know(socket.task);
        let body = KnownSocket {
            socket: socket.into(),
            state: socket.state,
            timewait: socket.is_timewait,
            cookie: socket.cookie,
            process: owner.as_ref().map(|owner| owner.process()),
            owner: socket.owner,
            due_s: socket.due.map(|due| seconds(due.saturating_sub(now))),
        };
        self.write(self.clock.monotonic(now), &body);
    }

    /// What a process has at `now`, and what it did in the `interval` (nanoseconds) before.
    pub fn usage(&mut self, usage: Usage, interval: u64, now: u64) {
        let owner = self.know(usage.task);
        let body = record::Usage {
            interval_s: seconds(interval),
            process: owner.as_ref().map(|owner| owner.whole()),
            exited: usage.task.map(|task| !self.processes.is_alive(task)),
            netns: usage.netns,
            ports: Ports::new(usage.ports, usage.bound),
            serving: Serving::new(usage.serving),
            opened: usage.opened,
            closed: usage.closed,
            failed: usage.failed,
            top: usage.top.into_iter().map(Into::into).collect(),
            due_in_s: usage.due_in.map(seconds),
        };
        self.write(self.clock.monotonic(now), &body);
    }

    pub fn ledger(&mut self, ledger: &record::Ledger, now: u64) {
        self.write(self.clock.monotonic(now), ledger);
    }
}

fn error_name(errno: i32) -> &'static str {
    if errno == Errno::ADDRNOTAVAIL.raw_os_error() {
        "EADDRNOTAVAIL"
    } else {
        "unknown"
    }
}
