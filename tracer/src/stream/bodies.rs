//! From what the ledger says to the bodies of lines.

use std::{collections::BTreeMap, sync::Arc};

use super::{Lines, known::Known};
use crate::{
    event::{Event, Kind},
    filter::Subject,
    ledger::{Connection, Effect, Holder, Socket, TOP, Transition, Usage},
    record::{
        self, BindFailed, BindReason, KnownSocket, Ports, Serving, Told, milliseconds, seconds,
    },
};

impl Lines {
    pub fn effect(&mut self, effect: &Effect) {
        match effect {
            Effect::Transition(transition) => self.transition(transition),
            Effect::Connection(connection) => self.connection(connection),
        }
    }

    fn transition(&mut self, transition: &Transition) {
        if !self.wants_state(transition) || self.shed.leaves_out_state() {
            return;
        }
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
        if !self.wants(record::Kind::Connection, || {
            Subject::of_connection(connection)
        }) || self.shed.leaves_out_connection()
        {
            return;
        }
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

    /// A failed call; the task of the event is the one that made it. Returns the number of its line.
    pub fn failure(&mut self, event: &Event, told: Told) -> u64 {
        let caller = self.know(event.task.as_ref());
        let process = caller.as_ref().map(|caller| caller.process());
        let ts = self.clock.monotonic(event.ts);
        // What `stop` says of failures is about the lines that `stop` counts.
        let count = match self.is_detail() {
            true => 0,
            false => told.repeats.unwrap_or(1),
        };
        let socket_range = event.socket_range.map(<[u16; 2]>::from);
        match event.kind {
            Kind::ConnectFailed { errno, reason } => {
                self.failures += count;
                let body = record::ConnectFailed {
                    socket: event.into(),
                    errno,
                    error: error_name(errno),
                    reason,
                    process,
                    owner: event.owner,
                    socket_range,
                    told,
                };
                self.write(ts, &body)
            }
            Kind::BindFailed { errno, listens } => {
                self.bind_failures += count;
                let body = BindFailed {
                    netns: event.netns,
                    family: event.tuple.family,
                    local: event.tuple.local,
                    errno,
                    error: error_name(errno),
                    reason: match event.tuple.local.port {
                        Some(_) => BindReason::AddressInUse,
                        None => BindReason::PortsExhausted,
                    },
                    listen: listens,
                    process,
                    owner: event.owner,
                    socket_range,
                    told,
                };
                self.write(ts, &body)
            }
            _ => self.next_line(),
        }
    }

    /// Introduces those who will be named.
    pub(super) fn know_holders(&mut self, holders: &[Holder]) -> Vec<Option<Arc<Known>>> {
        let named = holders.iter().take(TOP);
        named.map(|holder| self.know(holder.task)).collect()
    }

    /// The rows of those who are known, and one for the others.
    pub(super) fn holders<'a>(
        &self,
        holders: &[Holder],
        known: &'a [Option<Arc<Known>>],
    ) -> Vec<record::Holder<'a>> {
        let rows = holders
            .iter()
            .zip(known)
            .map(|(holder, known)| record::Holder {
                process: known.as_ref().map(|known| known.whole()),
                exited: holder.task.and_then(|task| self.processes.has_exited(task)),
                others: None,
                ports: holder.ports,
                states: holder.states.clone(),
                bound: holder.bound,
            });
        rows.chain(others(&holders[known.len()..])).collect()
    }

    /// A socket as it is at `now`.
    pub fn socket(&mut self, socket: &Socket, now: u64) {
        if !self.wants(record::Kind::Socket, || Subject::of_socket(socket)) {
            return;
        }
        let owner = self.know(socket.task);
        let process = owner.as_ref().map(|owner| owner.process());
        let body = KnownSocket::new(socket, process, now);
        self.write(self.clock.monotonic(now), &body);
    }

    /// What a process has at `now`, and what it did in the `interval` (nanoseconds) before.
    pub fn usage(&mut self, usage: Usage, interval: u64, now: u64) {
        if !self.wants(record::Kind::Usage, || {
            Subject::of_usage(usage.netns, usage.task)
        }) {
            return;
        }
        let owner = self.know(usage.task);
        let body = record::Usage {
            interval_s: seconds(interval),
            process: owner.as_ref().map(|owner| owner.whole()),
            exited: usage.task.and_then(|task| self.processes.has_exited(task)),
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

    pub fn pressure(&mut self, pressure: &record::Pressure, now: u64) {
        self.write(self.clock.monotonic(now), pressure);
    }

    pub fn stats(&mut self, stats: &record::Stats, now: u64) {
        self.write(self.clock.monotonic(now), stats);
    }

    pub fn tell_shed(&mut self, shed: &record::Shed, now: u64) {
        self.write(self.clock.monotonic(now), shed);
    }

    pub fn ledger(&mut self, ledger: &record::Ledger, now: u64) {
        if !self.wants(record::Kind::Ledger, Subject::default) {
            return;
        }
        self.write(self.clock.monotonic(now), ledger);
    }
}

/// One row for several processes.
fn others(holders: &[Holder]) -> Option<record::Holder<'static>> {
    let mut sum = record::Holder {
        process: None,
        exited: None,
        others: Some(u32::try_from(holders.len()).unwrap_or(u32::MAX)),
        ports: 0,
        states: BTreeMap::new(),
        bound: 0,
    };
    for holder in holders {
        sum.ports += holder.ports;
        sum.bound += holder.bound;
        for (state, count) in &holder.states {
            *sum.states.entry(*state).or_default() += count;
        }
    }
    (!holders.is_empty()).then_some(sum)
}

/// By Linux's numbers (include/uapi/asm-generic/errno.h), wherever it is replayed.
fn error_name(errno: i32) -> &'static str {
    match errno {
        99 => "EADDRNOTAVAIL",
        98 => "EADDRINUSE",
        _ => "unknown",
    }
}
