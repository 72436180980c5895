//! All entries, found by key, by 4-tuple, and listeners by port.

use std::{
    hash::BuildHasher,
    hint::black_box,
    ops::{Index, IndexMut},
};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::{
    buckets::Buckets,
    destinations::Destinations,
    entry::{Claims, Entry},
    place::Place,
};
use crate::event::{Event, Kind, State};

/// Entries that are allocated together. A growing `Vec` would hold every entry twice while it moves, and
/// up to twice the room that it needs afterwards.
const CHUNK: usize = 4096;

/// There is room for so many before the indexes grow, a copy of them each time: all ports that `connect()` may choose by
/// default, with one destination. Room that nobody uses takes a byte for each.
const ROOM: usize = 28_672;

/// Where an entry is; stays until the entry is removed.
pub(super) type Slot = u32;

/// The indexes hold slots only (five bytes each) and compare with the entries themselves. foldhash,
/// because peers choose parts of a tuple: it is as fast as the simplest hashes, but seeded.
pub(super) struct Sockets {
    slab: Slab,
    by_key: HashTable<Slot>,
    by_tuple: HashTable<Slot>,
    /// Several sockets may listen at one port.
    listeners: HashTable<Slot>,
    pub(super) buckets: Buckets,
    pub(super) destinations: Destinations,
    /// `CLOCK_MONOTONIC`, nanoseconds: when what is being done to the entries happened.
    pub(super) now: u64,
    /// That is only found out.
    pub(super) is_past: bool,
    hasher: RandomState,
}

impl Default for Sockets {
    fn default() -> Self {
        Self {
            slab: Slab::default(),
            by_key: HashTable::with_capacity(ROOM),
            by_tuple: HashTable::with_capacity(ROOM),
            listeners: HashTable::new(),
            buckets: Buckets::default(),
            destinations: Destinations::default(),
            now: 0,
            is_past: false,
            hasher: RandomState::default(),
        }
    }
}

impl Sockets {
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &Entry)> {
        self.slab.iter()
    }

    pub(super) fn find(&self, key: u64) -> Option<Slot> {
        let hash = self.hasher.hash_one(key);
        let found = self.by_key.find(hash, |slot| self[*slot].key == key);
        found.copied()
    }

    /// Looks up what the event will be about, so that it is in the cache then: what is not found is of no matter here,
    /// and the processor waits for several such searches at once.
    pub(super) fn expect(&self, event: &Event) {
        black_box(self.find(event.sock));
        // With these a 4-tuple is taken or given up.
        let changes_hands = matches!(
            event.kind,
            Kind::State {
                new: State::Established | State::Close,
                ..
            }
        );
        if changes_hands {
            black_box(self.at(Place::Tuple {
                netns: event.netns,
                local: event.tuple.local.into(),
                peer: event.tuple.peer.into(),
            }));
        }
    }

    /// Who has the 4-tuple of an entry that is not there yet.
    pub(super) fn rival(&self, entry: &Entry) -> Option<Slot> {
        self.at(entry.place())
    }

    /// Who has a 4-tuple.
    pub(super) fn at(&self, place: Place) -> Option<Slot> {
        let hash = self.hasher.hash_one(place);
        let found = self
            .by_tuple
            .find(hash, |slot| self[*slot].place() == place);
        found.copied()
    }

    /// Sockets that listen at a port, whatever their address.
    pub(super) fn listeners(&self, netns: u32, port: u16) -> impl Iterator<Item = &Entry> {
        let place = Place::Listener { netns, port };
        let found = self.listeners.iter_hash(self.hasher.hash_one(place));
        let entries = found.map(|slot| &self[*slot]);
        entries.filter(move |entry| entry.place() == place)
    }

    /// Adds an entry, whose key must be new. Who had its 4-tuple until now is returned: it can not have it
    /// any more, and is not found by it.
    pub(super) fn insert(&mut self, entry: Entry) -> (Slot, Option<Slot>) {
        let (key, place) = (entry.key, entry.place());
        self.take(&entry);
        let slot = self.slab.insert(entry);
        self.insert_key(key, slot);
        (slot, self.settle(slot, place))
    }

    /// The entry was removed from everything.
    pub(super) fn remove(&mut self, slot: Slot) -> Entry {
        self.remove_key(slot);
        self.unsettle(slot, self[slot].place());
        let entry = self.slab.remove(slot);
        self.give_back(&entry);
        entry
    }

    /// The entry goes by another key from now on, which must be new.
    pub(super) fn rekey(&mut self, slot: Slot, key: u64) {
        self.remove_key(slot);
        self[slot].key = key;
        self.insert_key(key, slot);
    }

    /// Changes what an entry is found by, beside its key. As with [`insert`](Self::insert), returns who
    /// had the 4-tuple.
    pub(super) fn update(&mut self, slot: Slot, change: impl FnOnce(&mut Entry)) -> Option<Slot> {
        let entry = &mut self[slot];
        let before = entry.basis();
        change(entry);
        let after = entry.basis();
        if before == after {
            return None;
        }
        let (before, after) = (before.claims(), after.claims());
        self.claim(before, after);
        if before.place == after.place {
            return None;
        }
        self.unsettle(slot, before.place);
        self.settle(slot, after.place)
    }

    /// The entry has become that of a timewait socket.
    pub(super) fn wait(&mut self, slot: Slot) {
        let entry = &mut self[slot];
        let before = entry.taken();
        entry.is_timewait = true;
        if let Some(taken) = before {
            self.destinations.hand_over(taken);
        }
    }

    fn take(&mut self, entry: &Entry) {
        self.claim(Claims::NONE, entry.claims());
    }

    fn give_back(&mut self, entry: &Entry) {
        self.claim(entry.claims(), Claims::NONE);
    }

    fn claim(&mut self, before: Claims, after: Claims) {
        if before.hold != after.hold {
            // In this order: the port is never free in between.
            if let Some(hold) = after.hold {
                self.buckets.take(hold);
            }
            if let Some(hold) = before.hold {
                self.buckets.give_back(hold);
            }
        }
        if before.taken == after.taken {
            return;
        }
        if let Some(taken) = before.taken {
            let bound = self.buckets.bound(taken.netns);
            self.destinations.give_back(taken, bound, self.now);
        }
        if let Some(taken) = after.taken {
            let bound = self.buckets.bound(taken.netns);
            self.destinations
                .take(taken, bound, self.now, !self.is_past);
        }
    }

    fn insert_key(&mut self, key: u64, slot: Slot) {
        let (slab, hasher) = (&self.slab, &self.hasher);
        let hash = hasher.hash_one(key);
        self.by_key
            .insert_unique(hash, slot, |slot| hasher.hash_one(slab.get(*slot).key));
    }

    fn remove_key(&mut self, slot: Slot) {
        let hash = self.hasher.hash_one(self[slot].key);
        take(&mut self.by_key, hash, slot);
    }

    fn settle(&mut self, slot: Slot, place: Place) -> Option<Slot> {
        let (slab, hasher) = (&self.slab, &self.hasher);
        let hash = hasher.hash_one(place);
        let rehash = |slot: &Slot| hasher.hash_one(slab.get(*slot).place());
        match place {
            Place::Nowhere => None,
            Place::Listener { .. } => {
                self.listeners.insert_unique(hash, slot, rehash);
                None
            }
            Place::Tuple { .. } => {
                let is_rival = |other: &Slot| slab.get(*other).place() == place;
                if let Some(other) = self.by_tuple.find_mut(hash, is_rival) {
                    return Some(std::mem::replace(other, slot));
                }
                self.by_tuple.insert_unique(hash, slot, rehash);
                None
            }
        }
    }

    fn unsettle(&mut self, slot: Slot, place: Place) {
        let table = match place {
            Place::Nowhere => return,
            Place::Listener { .. } => &mut self.listeners,
            Place::Tuple { .. } => &mut self.by_tuple,
        };
        take(table, self.hasher.hash_one(place), slot);
    }
}

/// It may be missing: who lost its 4-tuple is no longer found by it.
fn take(table: &mut HashTable<Slot>, hash: u64, slot: Slot) {
    if let Ok(entry) = table.find_entry(hash, |known| *known == slot) {
        entry.remove();
    }
}

impl Index<Slot> for Sockets {
    type Output = Entry;

    fn index(&self, slot: Slot) -> &Entry {
        self.slab.get(slot)
    }
}

/// For what an entry is not found by; else see [`Sockets::update`].
impl IndexMut<Slot> for Sockets {
    fn index_mut(&mut self, slot: Slot) -> &mut Entry {
        self.slab.get_mut(slot)
    }
}

/// Entries that do not move. Freed slots are used again, the last one first.
#[derive(Default)]
struct Slab {
    chunks: Vec<Box<[Cell]>>,
    /// First of the chain of free slots.
    free: Option<Slot>,
}

enum Cell {
    Used(Entry),
    /// And the next free one.
    Free(Option<Slot>),
}

const _: () = assert!(size_of::<Cell>() == 128);

impl Slab {
    fn insert(&mut self, entry: Entry) -> Slot {
        let slot = self.free.unwrap_or_else(|| self.grow());
        let cell = self.cell(slot);
        let before = std::mem::replace(cell, Cell::Used(entry));
        self.free = match before {
            Cell::Free(next) => next,
            Cell::Used(_) => None,
        };
        slot
    }

    fn remove(&mut self, slot: Slot) -> Entry {
        let next = Cell::Free(self.free);
        match std::mem::replace(self.cell(slot), next) {
            Cell::Used(entry) => {
                self.free = Some(slot);
                entry
            }
            Cell::Free(_) => unreachable!("slot {slot} is removed twice"),
        }
    }

    /// Adds a chunk of free slots, and returns the first one.
    fn grow(&mut self) -> Slot {
        let first = (self.chunks.len() * CHUNK) as Slot;
        let last = first + CHUNK as Slot - 1;
        let cells = (first..=last).map(|slot| Cell::Free((slot < last).then_some(slot + 1)));
        self.chunks.push(cells.collect());
        first
    }

    fn get(&self, slot: Slot) -> &Entry {
        match &self.chunks[slot as usize / CHUNK][slot as usize % CHUNK] {
            Cell::Used(entry) => entry,
            Cell::Free(_) => unreachable!("slot {slot} is free"),
        }
    }

    fn get_mut(&mut self, slot: Slot) -> &mut Entry {
        match self.cell(slot) {
            Cell::Used(entry) => entry,
            Cell::Free(_) => unreachable!("slot {slot} is free"),
        }
    }

    fn cell(&mut self, slot: Slot) -> &mut Cell {
        &mut self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    fn iter(&self) -> impl Iterator<Item = (Slot, &Entry)> {
        let cells = self.chunks.iter().flatten().zip(0..);
        cells.filter_map(|(cell, slot)| match cell {
            Cell::Used(entry) => Some((slot, entry)),
            Cell::Free(_) => None,
        })
    }
}
