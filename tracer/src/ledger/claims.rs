//! Events that are no transitions: who has a socket, binds, accepts or closes it.

use super::{
    Ledger, Take,
    entry::{Entry, Marks},
    ingest::Change,
    owners::Seen,
    place::Sight,
};
use crate::event::{Event, Role, State};

impl Ledger {
    pub(super) fn connect_failed(&mut self, event: &Event) {
        let process = event
            .task
            .as_ref()
            .map(|task| self.owners.acquire(task, Seen::Now));
        self.counters
            .of(process, event.netns, &mut self.owners)
            .failed += 1;
        self.release(process);
    }

    pub(super) fn bound(&mut self, event: &Event, take: Take<'_>) {
        // A connection can not be bound: the one at this address is another then. `listen()` binds again,
        // and for the first time when `bind()` has not; `bind()` itself finds no listener.
        let found = self.sockets.find(event.sock);
        let found = found.filter(|slot| {
            let entry = &self.sockets[*slot];
            let sight = Sight::of_event(event);
            let listens = event.role == Some(Role::Listener) && entry.state == State::Listen;
            listens && listens_at(entry, event.held) && !entry.is_other(&sight)
                || entry.is_holder() && entry.is_surely(&sight)
        });
        let slot = match found {
            Some(slot) => {
                // It says nothing of the state, so a row may still do that.
                self.sockets.update(slot, |entry| entry.adopt(event));
                slot
            }
            None => {
                self.lose_key(event.sock, event.ts, take);
                self.begin_with(event, &Change::at(State::Close), take)
            }
        };
        if let Some(port) = event.held {
            self.sockets.update(slot, |entry| match entry.is_holder() {
                // The event may still tell of the connection that it had.
                true => entry.rest(port),
                false => {
                    entry.local.port = port;
                    entry.marks.set(Marks::BINDER, true);
                }
            });
        }
        self.set_owner_of(slot, event);
    }

    /// An attempt that has ended or succeeded in the meantime knows its port already.
    pub(super) fn port(&mut self, event: &Event, take: Take<'_>) {
        let found = self.sockets.find(event.sock);
        let found = found.filter(|slot| {
            let entry = &self.sockets[*slot];
            entry.state == State::SynSent && !entry.is_other(&Sight::of_event(event))
        });
        if let Some(slot) = found {
            self.update(slot, event.ts, take, |entry| entry.adopt(event));
        }
    }

    pub(super) fn released(&mut self, event: &Event, take: Take<'_>) {
        self.lose_key(event.sock, event.ts, take);
        self.note_gone(event.sock, event.ts);
    }

    /// The state decides only about a socket that is not known: transitions tell that of the others. It may be out of date:
    /// the kernel tells the transition to CLOSE before it writes the state, but after it has given the port back.
    pub(super) fn accepted(&mut self, event: &Event, state: State, take: Take<'_>) {
        let found = self.sockets.find(event.sock);
        let found = found.filter(|slot| {
            let entry = &self.sockets[*slot];
            let is_other = entry.is_other(&Sight::of_event(event));
            entry.is_connection() && !entry.is_timewait && !is_other
        });
        let slot = match found {
            Some(slot) => slot,
            // It had ended before it was accepted.
            None if state == State::Close || event.held.is_none() => return,
            None => {
                self.lose_key(event.sock, event.ts, take);
                self.begin_with(event, &Change::at(state), take)
            }
        };
        self.update(slot, event.ts, take, |entry| {
            entry.learn(event.cookie, &event.tuple);
            entry.play(entry.role.or(Some(Role::Server)));
            entry.made = 0;
        });
        self.set_owner_of(slot, event);
    }

    pub(super) fn closed_by(&mut self, event: &Event) {
        let found = self.sockets.find(event.sock);
        let found = found.filter(|slot| !self.sockets[*slot].is_timewait);
        if let Some((slot, task)) = found.zip(event.task.as_ref()) {
            let process = self.owners.acquire(task, Seen::Now);
            let before = self.sockets[slot].closed_by.replace(process);
            self.release(before);
        }
    }
}

/// Whether a listener may be at this port.
fn listens_at(listener: &Entry, held: Option<u16>) -> bool {
    listener.local.port == 0 || held == Some(listener.local.port)
}
