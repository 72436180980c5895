//! Comparing with a dump of the kernel's sockets: what a start, a loss or a missing hook left open.

use std::collections::BTreeSet;

use foldhash::{HashSet, HashSetExt};

use super::{
    Ledger, Resynced, Take,
    end::Step,
    entry::{Entry, Marks},
    place::{Address, Place, Sight},
    sockets::Slot,
};
use crate::event::{Mode, Owner, Role, Row, State, Task};

/// A dump that is running.
pub(super) struct Dump {
    began: u64,
    /// Keys of sockets that have ended since it began: rows of them are out of date.
    gone: HashSet<u64>,
    /// 4-tuples that sockets have given up since, by namespace: a row that still has one is out of date.
    freed: HashSet<(u32, Address, Address)>,
    pub(super) found: Resynced,
}

impl Dump {
    pub(super) fn new(began: u64) -> Self {
        Self {
            began,
            gone: HashSet::new(),
            freed: HashSet::new(),
            found: Resynced::default(),
        }
    }

    /// Whether what happened then may be newer than a row.
    pub(super) fn covers(&self, ts: u64) -> bool {
        ts >= self.began
    }
}

impl Ledger {
    /// An event of the socket with this key says that it is over. One that was lost, or lost its 4-tuple,
    /// does not count: its key may be another socket's already.
    pub(super) fn note_gone(&mut self, key: u64, ts: u64) {
        if let Some(dump) = self.dump.as_mut().filter(|dump| dump.covers(ts)) {
            dump.gone.insert(key);
        }
    }

    /// The same of the 4-tuple that the entry has.
    pub(super) fn note_free(&mut self, slot: Slot, ts: u64) {
        if let Some(dump) = self.dump.as_mut().filter(|dump| dump.covers(ts)) {
            dump.freed.insert(ends(&self.sockets[slot]));
        }
    }

    /// The kernel's word on the row's port.
    pub(super) fn believe(&mut self, row: &Row) {
        if let Some((port, mode)) = row.tuple.local.port.zip(row.mode) {
            let is_bound = mode == Mode::Bind;
            self.sockets.buckets.set_bound(row.netns, port, is_bound);
        }
    }

    /// Answers whether there is such a socket.
    pub(super) fn compare(&mut self, row: &Row, dump: &mut Dump, take: Take<'_>) -> bool {
        let slot = match self.sockets.find(row.sock) {
            Some(slot) if self.sockets[slot].touched == self.epoch => {
                self.complete(slot, row, dump, take)
            }
            _ if dump.gone.contains(&row.sock) => None,
            Some(slot) => self.correct(slot, row, dump, take),
            None => self.add(row, dump, take),
        };
        if let Some((slot, holder)) = slot.zip(row.holder.as_ref()) {
            dump.found.owned += u64::from(self.found_at(slot, holder));
        }
        slot.is_some()
    }

    /// An event was newer than the row, which can only add to it. `None`: the row is of a socket that was
    /// at this address before.
    fn complete(&mut self, slot: Slot, row: &Row, dump: &Dump, take: Take<'_>) -> Option<Slot> {
        let (entry, sight) = (&mut self.sockets[slot], Sight::of_row(row));
        // What its descriptor alone still keeps has told its end already, perhaps before the dump began.
        let is_over = row.state == State::Close && row.held.is_none();
        let may_be_gone = is_over || dump.gone.contains(&row.sock);
        let is_stale = may_be_gone && !entry.is_surely(&sight);
        if is_stale || entry.is_other(&sight) {
            return None;
        }
        entry.seen = self.epoch;
        if row.tuple.local.port == Some(entry.local.port) {
            // How it came by its port does not change.
            self.update(slot, dump.began, take, |entry| entry.believe(row));
        }
        let entry = &self.sockets[slot];
        if entry.state == State::SynSent && row.state == State::SynSent && entry.local.port == 0 {
            self.follow(slot, row, dump, take);
        }
        Some(slot)
    }

    /// No event was newer than the row: it is right. `None`: there is no socket.
    fn correct(&mut self, slot: Slot, row: &Row, dump: &mut Dump, take: Take<'_>) -> Option<Slot> {
        if !goes_on(&self.sockets[slot], row) {
            self.lose(slot, dump.began, take);
            dump.found.removed += 1;
            return self.add(row, dump, take);
        }
        let entry = &self.sockets[slot];
        let step = Step {
            ts: dump.began,
            old: entry.state,
            new: row.state,
            corrected: entry.made != self.epoch && !self.is_untold(entry.state, row.state),
            stays: true,
        };
        if step.old != step.new && step.corrected {
            dump.found.changed += 1;
        }
        self.follow(slot, row, dump, take);
        if step.old != step.new && step.corrected {
            self.tell_step(slot, &step, take);
        }
        Some(slot)
    }

    fn follow(&mut self, slot: Slot, row: &Row, dump: &Dump, take: Take<'_>) {
        let epoch = self.epoch;
        self.update(slot, dump.began, take, |entry| {
            entry.seen = epoch;
            entry.learn(row.cookie, &row.tuple);
            if entry.role == Some(Role::Listener) {
                entry.role = None;
            }
            entry.enter(row.state);
            entry.believe(row);
            if row.due.is_some() {
                entry.due = row.due.into();
            }
        });
        self.came_to(slot, row.state, row.state);
    }

    /// The row's socket is not known.
    fn add(&mut self, row: &Row, dump: &mut Dump, take: Take<'_>) -> Option<Slot> {
        if row.state == State::Close && row.held.is_none() {
            return None;
        }
        let mut entry = Entry::of_row(row, self.epoch);
        if let (State::Close, Some(port)) = (row.state, row.held) {
            entry.rest(port);
        }
        if entry.is_timewait && dump.freed.contains(&ends(&entry)) {
            return None;
        }
        let rival = self.sockets.rival(&entry);
        if rival.is_some_and(|slot| self.sockets[slot].touched == self.epoch) {
            // Of the two sockets that have had this 4-tuple it is the other one now.
            return None;
        }
        let (slot, rival) = self.sockets.insert(entry);
        dump.found.added += 1;
        dump.found.removed += u64::from(rival.is_some());
        self.supersede(rival, dump.began, take);
        Some(slot)
    }

    /// A process has a descriptor of the socket: somebody accepted it, if it was inherited. Children have
    /// the descriptors of their parents: the oldest is the most likely to have made it. True: there was
    /// no owner.
    fn found_at(&mut self, slot: Slot, holder: &Task) -> bool {
        let entry = &self.sockets[slot];
        let known = entry.process.and_then(|id| self.owners.get(id));
        let is_older = known.is_some_and(|known| age(holder) < age(known));
        let (is_first, is_better) = match entry.owner {
            Owner::None => (true, true),
            Owner::Inherited => (false, true),
            Owner::Snapshot => (false, is_older),
            Owner::Connect | Owner::Bind | Owner::Accept => (false, false),
        };
        if is_better {
            self.set_owner(slot, Owner::Snapshot, holder);
        }
        is_first
    }

    /// Ends what the kernel no longer has; returns how many.
    pub(super) fn sweep(
        &mut self,
        complete: &BTreeSet<u32>,
        alive: &BTreeSet<u32>,
        now: u64,
        take: Take<'_>,
    ) -> u64 {
        let epoch = self.epoch;
        let is_stale = |entry: &Entry| {
            let is_known = entry.seen == epoch || entry.touched == epoch;
            !is_known && (complete.contains(&entry.netns) || !alive.contains(&entry.netns))
        };
        let stale = self.slots(is_stale);
        for slot in &stale {
            self.lose(*slot, now, take);
        }
        stale.len() as u64
    }

    /// Concludes roles and owners from who listens where; returns how many got an owner.
    pub(super) fn infer(&mut self) -> u64 {
        let served = |entry: &Entry| {
            let is_asking = entry.state == State::SynSent;
            entry.role.is_none() && !is_asking && self.shares_port(entry)
        };
        for slot in self.slots(served) {
            self.sockets
                .update(slot, |entry| entry.play(Some(Role::Server)));
        }
        let orphans = self.slots(|entry| {
            entry.role == Some(Role::Server)
                && entry.owner == Owner::None
                && !entry.marks.has(Marks::DISPUTED)
        });
        let owned = orphans.into_iter().filter(|slot| self.inherit(*slot));
        owned.count() as u64
    }

    fn slots(&self, wanted: impl Fn(&Entry) -> bool) -> Vec<Slot> {
        let found = self.sockets.iter().filter(|(_, entry)| wanted(entry));
        found.map(|(slot, _)| slot).collect()
    }
}

/// Whether the row is of the entry's connection, listener or holder, perhaps in a later state. In doubt it
/// is not: an owner must not pass to another socket at the same address, nor to who used it next.
fn goes_on(entry: &Entry, row: &Row) -> bool {
    let (new, sight) = (Entry::of_row(row, 0), Sight::of_row(row));
    let is_same_kind =
        entry.is_timewait == new.is_timewait && entry.is_connection() == new.is_connection();
    let is_same = match row.state {
        State::Close => entry.is_holder() && row.held == Some(entry.local.port),
        State::Listen => entry.place() != Place::Nowhere && entry.place() == new.place(),
        // Until the connection is made not all of its ports are known.
        State::SynSent => entry.state == State::SynSent && entry.peer == new.peer,
        State::SynRecv => entry.state == State::SynRecv && entry.local.port == new.local.port,
        _ => entry.has_tuple_of(&sight) || entry.is_surely(&sight),
    };
    is_same_kind && is_same && !entry.is_other(&sight)
}

fn ends(entry: &Entry) -> (u32, Address, Address) {
    (entry.netns, entry.local, entry.peer)
}

/// Of two that started together the smaller pid counts as the older one.
fn age(task: &Task) -> (u64, u32) {
    (task.start_ns, task.pid)
}
