//! How sockets end, and what is told of them then.

use super::{
    Connection, Effect, EndReason, Ledger, Take, Transition,
    entry::{Entry, Marks, Progress},
    sockets::Slot,
};
use crate::event::{End, Event, State};

const ECONNREFUSED: i32 = 111;
const ECONNRESET: i32 = 104;
const EPIPE: i32 = 32;
const ETIMEDOUT: i32 = 110;

/// The circumstances of an end.
pub(super) struct Ending {
    ts: u64,
    reason: EndReason,
    corrected: bool,
    /// Only the run ends, not the socket.
    is_of_run: bool,
}

impl Ending {
    /// A connection that gets a timewait socket has been closed by both sides, or is orphaned after its
    /// FIN was acknowledged.
    pub(super) fn of_timewait(ts: u64) -> Self {
        Self {
            ts,
            reason: EndReason::Fin,
            corrected: false,
            is_of_run: false,
        }
    }

    pub(super) fn of_run(ts: u64) -> Self {
        Self {
            is_of_run: true,
            ..Self::of_timewait(ts)
        }
    }

    fn unseen(ts: u64, entry: &Entry) -> Self {
        let reason = match entry.is_timewait {
            true => EndReason::Fin,
            false => EndReason::Unknown,
        };
        Self {
            reason,
            corrected: true,
            ..Self::of_timewait(ts)
        }
    }
}

impl EndReason {
    /// Of a socket that went from a state to CLOSE without a timewait socket.
    fn of(old: State, end: &End) -> Self {
        match (old, end.error) {
            (State::SynSent, ECONNREFUSED) => Self::Refused,
            (State::SynSent, 0) => Self::Abandoned,
            (_, ETIMEDOUT) => Self::Timeout,
            (_, ECONNRESET) => Self::Rst,
            (State::SynSent, _) => Self::Error,
            (_, EPIPE) => Self::Rst,
            (State::LastAck | State::Closing | State::FinWait2, 0) if !end.given_up => Self::Fin,
            (_, 0) => Self::Rst,
            _ => Self::Error,
        }
    }
}

impl Ledger {
    /// The kernel says that the socket is over as a connection.
    pub(super) fn close(&mut self, slot: Slot, event: &Event, end: End, take: Take<'_>) {
        let entry = &mut self.sockets[slot];
        entry.sent = end.sent.into();
        entry.received = end.received.into();
        let ending = Ending {
            reason: EndReason::of(entry.state, &end),
            ..Ending::of_timewait(event.ts)
        };
        match event.held {
            Some(port) => self.rest(slot, port, &ending, take),
            None => self.end_with(slot, &ending, take),
        }
    }

    /// The socket is gone: an event of its own says so.
    pub(super) fn end_with(&mut self, slot: Slot, ending: &Ending, take: Take<'_>) {
        self.note_gone(self.sockets[slot].key, ending.ts);
        self.note_free(slot, ending.ts);
        self.end(slot, ending, take);
    }

    fn end(&mut self, slot: Slot, ending: &Ending, take: Take<'_>) {
        self.leave_state(slot, ending, false, take);
        self.tell_connection(slot, ending, take);
        self.remove(slot);
    }

    /// The socket only holds its port any more.
    pub(super) fn rest(&mut self, slot: Slot, port: u16, ending: &Ending, take: Take<'_>) {
        self.leave_state(slot, ending, true, take);
        self.tell_connection(slot, ending, take);
        let closed_by = self.sockets[slot].closed_by.take();
        self.release(closed_by);
        self.note_free(slot, ending.ts);
        // It gives up its 4-tuple: nobody can have that already.
        self.sockets.update(slot, |entry| entry.rest(port));
    }

    fn leave_state(&mut self, slot: Slot, ending: &Ending, stays: bool, take: Take<'_>) {
        let step = Step {
            ts: ending.ts,
            old: self.sockets[slot].state,
            new: State::Close,
            corrected: ending.corrected,
            stays,
        };
        if step.old != step.new {
            self.tell_step(slot, &step, take);
        }
    }

    /// Its end was not seen.
    pub(super) fn lose(&mut self, slot: Slot, ts: u64, take: Take<'_>) {
        let ending = Ending::unseen(ts, &self.sockets[slot]);
        self.end(slot, &ending, take);
    }

    pub(super) fn lose_key(&mut self, key: u64, ts: u64, take: Take<'_>) {
        if let Some(slot) = self.sockets.find(key) {
            self.lose(slot, ts, take);
        }
    }

    /// Changes what an entry is found by; who had the 4-tuple that it then has ends.
    pub(super) fn update(
        &mut self,
        slot: Slot,
        ts: u64,
        take: Take<'_>,
        change: impl FnOnce(&mut Entry),
    ) {
        let rival = self.sockets.update(slot, change);
        self.supersede(rival, ts, take);
    }

    /// Another socket has got the 4-tuple. The kernel gives it away from a timewait socket only; else the
    /// end was lost.
    pub(super) fn supersede(&mut self, rival: Option<Slot>, ts: u64, take: Take<'_>) {
        match rival {
            Some(slot) if self.sockets[slot].is_timewait => {
                self.end(slot, &Ending::of_timewait(ts), take);
            }
            Some(slot) => self.lose(slot, ts, take),
            None => {}
        }
    }

    fn remove(&mut self, slot: Slot) {
        let entry = self.sockets.remove(slot);
        self.release(entry.process);
        self.release(entry.closed_by);
    }

    /// The socket is in its new state already.
    pub(super) fn tell_transition(
        &self,
        slot: Slot,
        ts: u64,
        old: State,
        new: State,
        take: Take<'_>,
    ) {
        let step = Step {
            ts,
            old,
            new,
            corrected: false,
            stays: true,
        };
        self.tell_step(slot, &step, take);
    }

    pub(super) fn tell_step(&self, slot: Slot, step: &Step, take: Take<'_>) {
        if self.silence.transitions {
            return;
        }
        let entry = &self.sockets[slot];
        let task = self.task_of(entry);
        let mut socket = entry.view(task.as_ref());
        if step.stays {
            socket.state = step.new;
        }
        take(Effect::Transition(Transition {
            ts: step.ts,
            socket,
            old: step.old,
            new: step.new,
            corrected: step.corrected,
            opened: entry.opened.get(),
        }));
    }

    /// Tells of a connection that is over.
    pub(super) fn tell_connection(&mut self, slot: Slot, ending: &Ending, take: Take<'_>) {
        let entry = &self.sockets[slot];
        if !entry.is_connection() {
            return;
        }
        if !entry.is_timewait {
            self.count_closed(slot);
        }
        if self.silence.connections {
            return;
        }
        let entry = &self.sockets[slot];
        let task = self.task_of(entry);
        let owner = entry.process.filter(|_| entry.marks.has(Marks::SHUT_DOWN));
        let closed = entry.closed.get();
        take(Effect::Connection(Connection {
            socket: entry.view(task.as_ref()),
            opened: entry.opened.get(),
            established: entry.progress != Progress::Opening,
            closed: closed.unwrap_or(ending.ts),
            reason: ending.reason,
            closed_by: entry.closed_by.or(owner).and_then(|id| self.owners.get(id)),
            bytes: entry.sent.get().zip(entry.received.get()),
            time_wait: closed.map(|closed| ending.ts.saturating_sub(closed)),
            in_time_wait: ending.is_of_run,
        }));
    }
}

/// What a [`Transition`] says beside the socket.
pub(super) struct Step {
    pub(super) ts: u64,
    pub(super) old: State,
    pub(super) new: State,
    pub(super) corrected: bool,
    /// The entry is not removed with it.
    pub(super) stays: bool,
}
