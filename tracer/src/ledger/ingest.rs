//! What transitions do to the sockets.

use super::{
    Effect, Ledger, Take, Transition,
    end::Ending,
    entry::{Entry, Marks, Progress},
    place::Sight,
    sockets::Slot,
};
use crate::event::{End, Event, Owner, State};

/// The content of [`crate::event::Kind::State`].
#[derive(Clone, Copy)]
pub(super) struct Change {
    pub(super) old: State,
    pub(super) new: State,
    pub(super) end: Option<End>,
}

impl Change {
    /// None: the socket is in this state.
    pub(super) fn at(state: State) -> Self {
        Self {
            old: state,
            new: state,
            end: None,
        }
    }

    /// Nothing of the key's past goes on.
    fn is_birth(&self) -> bool {
        use State::{Close, Established, Listen, SynRecv};
        self.old == Close || self.old == Listen && matches!(self.new, SynRecv | Established)
    }

    /// The timewait socket that takes over.
    fn timewait(&self) -> Option<u64> {
        self.end.and_then(|end| end.timewait)
    }

    /// Whether it makes sense for a socket that is a timewait socket already.
    fn fits_timewait(&self) -> bool {
        use State::{Close, FinWait2, TimeWait};
        matches!(self.new, FinWait2 | TimeWait | Close)
            && self.timewait().is_none()
            && !self.is_birth()
    }

    /// Whether only a socket that is a timewait socket already can do it.
    fn needs_timewait(&self) -> bool {
        [self.old, self.new].contains(&State::TimeWait) && self.timewait().is_none()
    }

    /// Whether a socket that is not known must be a timewait socket. A full socket may go from FIN_WAIT2
    /// to CLOSE as well (after an RST, given up, or with `tcp_max_tw_buckets` reached); then it has something to tell.
    fn is_of_timewait(&self) -> bool {
        let tells = |end: End| end.error != 0 || end.sent != 0 || end.received != 0 || end.given_up;
        let ends_in_silence = self.old == State::FinWait2 && !self.end.is_some_and(tells);
        self.fits_timewait() && (self.needs_timewait() || ends_in_silence)
    }

    /// Where the socket is with it: one that closes is told of as it was.
    fn state(&self) -> State {
        match self.new {
            State::Close => self.old,
            new => new,
        }
    }

    fn is_end(&self) -> bool {
        self.new == State::Close && self.old != State::Close
    }

    /// Leads the entry to where the socket is.
    fn lead(&self, entry: &mut Entry) {
        entry.enter(self.state());
        entry.marks.set(Marks::UNHASHED, self.is_end());
    }
}

/// Whether the event can be of the entry's socket. In doubt it is not: an owner must not pass to another
/// socket at the same address.
fn goes_on(entry: &Entry, event: &Event, change: &Change) -> bool {
    let sight = Sight::of_event(event);
    if entry.is_timewait {
        return change.fits_timewait() && !entry.is_other(&sight);
    }
    match (change.is_birth(), entry.is_holder()) {
        (false, false) => !change.needs_timewait() && !entry.is_other(&sight),
        (false, true) => entry.is_surely(&sight),
        // The child of a listener is a new socket.
        (true, true) => change.old == State::Close && !entry.is_other(&sight),
        (true, false) if is_accepted(entry, change) => !entry.is_other(&sight),
        (true, false) => entry.made != 0 && entry.netns == event.netns,
    }
}

/// Whether it is the beginning of a child that has been accepted already: it is in its listener's queue before it is established
/// (`inet_csk_complete_hashdance`, net/ipv4/inet_connection_sock.c, and then `tcp_child_process`).
fn is_accepted(entry: &Entry, change: &Change) -> bool {
    let is_early = entry.state == State::SynRecv && entry.owner == Owner::Accept;
    is_early && change.old == State::Listen && change.new == State::Established
}

impl Ledger {
    pub(super) fn state(&mut self, event: &Event, change: Change, take: Take<'_>) {
        if self.is_taken_over(event, &change) {
            return;
        }
        match self.still_of(event, &change, take) {
            Some(slot) if self.sockets[slot].is_timewait => {
                self.timewait_state(slot, event, &change, take);
            }
            Some(slot) => self.full_state(slot, event, &change, take),
            None if change.is_of_timewait() => self.unknown_timewait(event, &change, take),
            None => {
                let slot = self.begin_with(event, &change, take);
                self.full_state(slot, event, &change, take);
            }
        }
    }

    /// Whether the timewait socket that takes over has the connection already: it may be told twice.
    fn is_taken_over(&self, event: &Event, change: &Change) -> bool {
        let known = change.timewait().and_then(|key| self.sockets.find(key));
        known.is_some_and(|slot| {
            let entry = &self.sockets[slot];
            let sight = Sight::of_event(event);
            entry.is_timewait && entry.tuple() == event.tuple && !entry.is_other(&sight)
        })
    }

    /// The entry of the event's socket, ready for it. If the one at its key must be another's, that one
    /// has ended unseen.
    fn still_of(&mut self, event: &Event, change: &Change, take: Take<'_>) -> Option<Slot> {
        let slot = self.sockets.find(event.sock)?;
        if !goes_on(&self.sockets[slot], event, change) {
            self.lose(slot, event.ts, take);
            return None;
        }
        if self.sockets[slot].is_timewait {
            return Some(slot);
        }
        if change.is_birth() && !is_accepted(&self.sockets[slot], change) {
            self.forget_past(slot);
        }
        self.continue_with(slot, event, change, take);
        Some(slot)
    }

    /// A socket begins anew. Who bound it keeps it; who had a descriptor of an earlier connection at this
    /// address says nothing about this one.
    fn forget_past(&mut self, slot: Slot) {
        let closed_by = self.sockets[slot].closed_by.take();
        self.release(closed_by);
        if !self.sockets[slot].is_holder() {
            self.disown(slot);
        }
        self.sockets.update(slot, Entry::begin_anew);
    }

    /// A new entry for the event's socket.
    pub(super) fn begin_with(&mut self, event: &Event, change: &Change, take: Take<'_>) -> Slot {
        let mut entry = Entry::of_event(event, change.old);
        change.lead(&mut entry);
        if self.is_second_child(&entry) {
            entry.marks.set(Marks::UNHASHED, true);
        }
        entry.touched = self.touch(event.ts);
        let (slot, rival) = self.sockets.insert(entry);
        self.supersede(rival, event.ts, take);
        slot
    }

    /// Of two children of one request one will do (`inet_ehash_nolisten`, net/ipv4/inet_hashtables.c): the one that has
    /// the 4-tuple, or is established next. A timewait socket has ended before there is a child.
    fn is_second_child(&self, entry: &Entry) -> bool {
        let has_tuple = entry.state == State::SynRecv && entry.peer.port != 0;
        let rival = has_tuple.then(|| self.sockets.rival(entry)).flatten();
        rival.is_some_and(|slot| !self.sockets[slot].is_timewait)
    }

    fn continue_with(&mut self, slot: Slot, event: &Event, change: &Change, take: Take<'_>) {
        let touched = self.touch(event.ts);
        self.update(slot, event.ts, take, |entry| {
            entry.touched = touched.max(entry.touched);
            entry.adopt(event);
            change.lead(entry);
        });
    }

    /// The entry is in its new state; what follows from that?
    fn full_state(&mut self, slot: Slot, event: &Event, change: &Change, take: Take<'_>) {
        let Change { old, new, end } = *change;
        if change.is_birth() {
            self.sockets[slot].opened = event.ts.into();
        }
        self.set_owner_of(slot, event);
        if matches!(new, State::SynRecv | State::Established) {
            self.inherit(slot);
        }
        self.came_to(slot, old, new);
        if end.is_some() && self.has_no_steps {
            self.sockets[slot].conclude(old);
        }
        match end {
            Some(end) if new == State::Close => self.close(slot, event, end, take),
            // One that takes its own place makes no sense, and would end itself.
            Some(End {
                timewait: Some(key),
                ..
            }) if key != event.sock => {
                self.lose_key(key, event.ts, take);
                self.hand_over(slot, key, event, end);
                if old != new {
                    self.tell_transition(slot, event.ts, old, new, take);
                }
            }
            _ => self.tell_transition(slot, event.ts, old, new, take),
        }
    }

    /// Counts a connection when it is first seen to be established.
    pub(super) fn came_to(&mut self, slot: Slot, old: State, new: State) {
        let entry = &mut self.sockets[slot];
        let is_there = new == State::Established || Progress::of(old) == Progress::Established;
        if is_there && entry.progress == Progress::Opening {
            entry.progress = Progress::Uncounted;
            self.count_for_first_owner(slot);
        }
    }

    /// The timewait socket has the connection from here on.
    fn hand_over(&mut self, slot: Slot, timewait: u64, event: &Event, end: Option<End>) {
        self.count_closed(slot);
        let holder = event.held.map(|port| self.holder(slot, port));
        self.sockets.rekey(slot, timewait);
        self.sockets.wait(slot);
        let entry = &mut self.sockets[slot];
        entry.marks.set(Marks::TIMESTAMPS, event.timestamps);
        entry.closed = event.ts.into();
        if entry.state == State::TimeWait {
            entry.wait_from(event.ts);
        }
        entry.sent = end.map(|end| end.sent).into();
        entry.received = end.map(|end| end.received).into();
        match holder {
            // It has no 4-tuple, so nobody can have it already.
            Some(holder) => _ = self.sockets.insert(holder),
            None => self.note_gone(event.sock, event.ts),
        }
    }

    /// What stays of a bound socket whose connection goes on without it.
    fn holder(&mut self, slot: Slot, port: u16) -> Entry {
        let mut holder = self.sockets[slot].clone();
        holder.closed_by = None;
        holder.rest(port);
        if let Some(process) = holder.process {
            self.owners.retain(process);
        }
        holder
    }

    /// The kernel does not always say the state that it had: ours counts.
    fn timewait_state(&mut self, slot: Slot, event: &Event, change: &Change, take: Take<'_>) {
        let touched = self.touch(event.ts);
        let entry = &mut self.sockets[slot];
        entry.touched = touched.max(entry.touched);
        entry.made = 0;
        let has_come = [change.old, change.new].contains(&State::TimeWait);
        if has_come && entry.state != State::TimeWait {
            let old = entry.state;
            self.update(slot, event.ts, take, |entry| {
                entry.state = State::TimeWait;
                entry.wait_from(event.ts);
            });
            self.tell_transition(slot, event.ts, old, State::TimeWait, take);
        }
        if change.new == State::Close {
            self.end_with(slot, &Ending::of_timewait(event.ts), take);
        }
    }

    /// It is older than the tracer, and has not been dumped yet.
    fn unknown_timewait(&mut self, event: &Event, change: &Change, take: Take<'_>) {
        if change.new != State::Close {
            let slot = self.begin_with(event, change, take);
            self.sockets.wait(slot);
            if change.new == State::TimeWait {
                self.sockets[slot].wait_from(event.ts);
            }
            self.set_owner_of(slot, event);
            self.tell_transition(slot, event.ts, change.old, change.new, take);
            return;
        }
        self.note_gone(event.sock, event.ts);
        if self.silence.transitions {
            return;
        }
        let mut entry = Entry::of_event(event, change.old);
        entry.is_timewait = true;
        take(Effect::Transition(Transition {
            ts: event.ts,
            socket: entry.view(None),
            old: change.old,
            new: change.new,
            corrected: false,
            opened: None,
        }));
    }

    /// What [`Entry::touched`] becomes with an event of that time: 0 unless a dump is running.
    fn touch(&self, ts: u64) -> u32 {
        let during = self.dump.as_ref().is_some_and(|dump| dump.covers(ts));
        if during { self.epoch } else { 0 }
    }
}
