//! Connections whose transitions are not told one by one: their states are asked for when they are to be shown.

use super::{
    Ledger,
    entry::{Entry, Marks},
};
use crate::event::State;

/// Whom to ask.
pub trait Steps {
    /// Tells the key ([`Event::sock`](crate::event::Event::sock)), the local and the peer's port, and the state of
    /// each.
    fn each(&self, tell: &mut dyn FnMut(u64, [u16; 2], State));

    /// Forgets those whose keys are gone: their ends were not seen. Transitions of one that is forgotten without reason
    /// are told.
    fn forget(&self, is_gone: &dyn Fn(u64) -> bool);
}

impl Ledger {
    /// From now on the steps in the midst of a connection need not be told.
    pub fn expect_no_steps(&mut self) {
        self.has_no_steps = true;
    }

    /// Every connection is where it is said to be now.
    pub fn catch_up(&mut self, steps: &dyn Steps) {
        steps.each(&mut |key, ports, state| {
            if let Some(slot) = self.sockets.find(key) {
                self.sockets[slot].come_to(state, ports);
            }
        });
    }

    /// Whether it was not told that a connection had come from one state to the other, because it need not be.
    pub(super) fn is_untold(&self, old: State, new: State) -> bool {
        self.has_no_steps && is_step(old) && is_step(new)
    }
}

/// Whether a connection can come to it, and from it, without a record.
fn is_step(state: State) -> bool {
    use State::{CloseWait, Closing, Established, FinWait1, FinWait2, LastAck};
    matches!(
        state,
        Established | FinWait1 | FinWait2 | Closing | CloseWait | LastAck
    )
}

/// Whether a connection may come from one to the other in such steps: there is no way back.
fn leads_on(from: State, to: State) -> bool {
    use State::{CloseWait, Closing, Established, FinWait1, FinWait2, LastAck};
    match from {
        Established => is_step(to),
        FinWait1 => matches!(to, FinWait2 | Closing),
        CloseWait => to == LastAck,
        _ => false,
    }
}

impl Entry {
    /// Such a step changes nothing of what it has. Where the kernel's own word, in a dump, is further on, a step was lost,
    /// and that one stays.
    fn come_to(&mut self, state: State, ports: [u16; 2]) {
        let is_same = [self.local.port, self.peer.port] == ports;
        if is_same && !self.is_timewait && leads_on(self.state, state) {
            self.state = state;
        }
    }

    /// It is closed, or handed over to its timewait socket, in this state. If somebody other than its owner had shut
    /// it down, that would have been told. (Of one that is older than the tracer nobody knows.)
    pub(super) fn conclude(&mut self, last: State) {
        use State::{Closing, FinWait1, FinWait2, LastAck};
        let has_sent_fin = matches!(last, FinWait1 | FinWait2 | Closing | LastAck);
        if has_sent_fin && self.opened.get().is_some() {
            self.marks.set(Marks::SHUT_DOWN, true);
        }
    }
}
