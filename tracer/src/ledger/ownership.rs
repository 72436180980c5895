//! Who is accountable for a socket.

use super::{
    Ledger,
    entry::{Entry, Marks},
    owners::{Id, Seen},
    place::Address,
    sockets::Slot,
};
use crate::event::{Event, Kind, Owner, Role, Task};

impl Ledger {
    /// The owner that the event names, if it does. Who took a port keeps it: listening with a socket that
    /// another process has bound does not change that.
    pub(super) fn set_owner_of(&mut self, slot: Slot, event: &Event) {
        let is_bound = event.owner == Owner::Bind && self.sockets[slot].owner == Owner::Bind;
        let named = event.owner != Owner::None && !is_bound;
        if let Some(task) = event.task.as_ref().filter(|_| named) {
            let seen = self.seen_in(slot, event);
            self.own(slot, event.owner, task, seen);
        }
    }

    pub(super) fn set_owner(&mut self, slot: Slot, owner: Owner, task: &Task) {
        self.own(slot, owner, task, Seen::Now);
    }

    /// Whether the event's task ran then. At the end of a socket, and where one keeps its port after that, it is as it was
    /// at the beginning.
    fn seen_in(&self, slot: Slot, event: &Event) -> Seen {
        match event.kind {
            Kind::State { end: Some(_), .. } => Seen::Before,
            Kind::Bound if self.sockets[slot].process.is_some() => Seen::Before,
            _ => Seen::Now,
        }
    }

    fn own(&mut self, slot: Slot, owner: Owner, task: &Task, seen: Seen) {
        let process = self.sockets[slot].process;
        // Most events name the owner that is known.
        match process.filter(|id| self.owners.is(*id, task)) {
            Some(id) => self.owners.refresh(id, task, seen),
            None => {
                self.sockets[slot].process = Some(self.owners.acquire(task, seen));
                self.release(process);
            }
        }
        let entry = &mut self.sockets[slot];
        entry.owner = owner;
        entry.tid = task.tid;
        self.count_for_first_owner(slot);
    }

    pub(super) fn disown(&mut self, slot: Slot) {
        let entry = &mut self.sockets[slot];
        entry.owner = Owner::None;
        let process = entry.process.take();
        self.release(process);
    }

    pub(super) fn release(&mut self, process: Option<Id>) {
        if let Some(id) = process {
            self.owners.release(id);
        }
    }

    /// The socket's owner, by its own thread.
    pub(super) fn task_of(&self, entry: &Entry) -> Option<Task> {
        let task = self.owners.get(entry.process?)?;
        Some(Task {
            tid: entry.tid,
            ..task.clone()
        })
    }

    /// A connection that nobody has accepted yet belongs to who listens. True: it has got an owner that
    /// it did not have.
    pub(super) fn inherit(&mut self, slot: Slot) -> bool {
        let entry = &self.sockets[slot];
        let waits = matches!(entry.owner, Owner::None | Owner::Inherited);
        if !waits || entry.role != Some(Role::Server) {
            return false;
        }
        let is_first = entry.owner == Owner::None;
        let Some(listening) = self.listening_process(entry) else {
            return false;
        };
        let Some((process, tid)) = listening else {
            self.sockets[slot].marks.set(Marks::DISPUTED, true);
            return false;
        };
        self.owners.retain(process);
        let entry = &mut self.sockets[slot];
        (entry.owner, entry.tid) = (Owner::Inherited, tid);
        let before = entry.process.replace(process);
        self.release(before);
        self.count_for_first_owner(slot);
        is_first
    }

    /// The process, and a thread of it, whose listener took the connection. Inner `None`: several may
    /// have, or nobody knows whose it is; outer: there is no listener. As in the kernel a listener at the
    /// very address goes before one at every address, and a connection's socket is of its listener's family.
    fn listening_process(&self, server: &Entry) -> Option<Option<(Id, u32)>> {
        let at = |is_there: fn(&Address, &Address) -> bool| {
            let there = self.sockets.listeners(server.netns, server.local.port);
            one_process(there.filter(move |listener| {
                listener.family == server.family && is_there(&listener.local, &server.local)
            }))
        };
        // Before ESTABLISHED some kernels do not say the addresses.
        if server.peer.port == 0 {
            return at(|_, _| true);
        }
        at(Address::has_ip_of).or_else(|| at(|listener, _| listener.is_unspecified()))
    }

    /// Whether a socket that is no listener shares its port with one that listens at its address.
    pub(super) fn shares_port(&self, entry: &Entry) -> bool {
        let mut there = self.sockets.listeners(entry.netns, entry.local.port);
        entry.is_connection() && there.any(|listener| listener.local.overlaps(&entry.local))
    }
}

/// Outer `None`: nobody is there; inner: not one process only, or not a known one. Of its threads it is the lowest,
/// whatever the order in which they come.
fn one_process<'a>(mut listeners: impl Iterator<Item = &'a Entry>) -> Option<Option<(Id, u32)>> {
    let first = listeners.next()?;
    let tid = listeners.try_fold(first.tid, |tid, other| {
        (other.process == first.process).then_some(tid.min(other.tid))
    });
    Some(first.process.zip(tid))
}
