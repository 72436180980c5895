//! Drains the ring buffer, and reads what the kernel side could not put into it.

mod places;
mod records;

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, Map, MapData, MapError, PerCpuArray},
};
use thiserror::Error;
use tracer_ebpf as abi;

use crate::{event::Event, ledger::GROUP};
use places::Places;
use records::Records;

/// At most so many records are taken at once, so that signals and timers get their turn.
const BATCH: usize = 16_384;

/// The ring buffer and the loss counters of the loaded object.
pub struct Ring {
    map: MapData,
    records: Records,
    counters: PerCpuArray<MapData, Counters>,
    places: Places,
    /// Those that have no place.
    sockets: HashMap<MapData, u64, Remembered>,
    seen: abi::Counters,
    /// Events that are handed over next.
    group: Vec<Event>,
    /// Entries of the socket table that we removed.
    forgotten: u64,
    malformed: u64,
    /// Most bytes that waited since it was asked.
    peak: usize,
}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct Counters(abi::Counters);

// SAFETY: `u64`s, any bytes are valid.
unsafe impl Pod for Counters {}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct Remembered(abi::Socket);

// SAFETY: made of integers, any bytes are valid.
unsafe impl Pod for Remembered {}

/// What was lost since the last time it was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// The ring buffer was full.
    pub ring: u64,
    /// The socket table was full.
    pub table: u64,
    /// Timewait sockets that were not found.
    pub timewait: u64,
    /// Not lost: connections that got no TIME_WAIT, because `tcp_max_tw_buckets` was reached.
    pub overflow: u64,
    /// The record was not understood.
    pub malformed: u64,
}

#[derive(Debug, Error)]
pub enum Error {
    #[error("the object lacks the map {0}, or it is of another type")]
    Missing(&'static str),
    #[error(transparent)]
    Map(#[from] MapError),
    #[error("the ring buffer can't be mapped into memory: {0}")]
    Memory(#[from] io::Error),
}

impl Ring {
    /// Takes the maps out of the object.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let mut map = |name| ebpf.take_map(name).ok_or(Error::Missing(name));
        let Map::RingBuf(events) = map("EVENTS")? else {
            return Err(Error::Missing("EVENTS"));
        };
        let Map::Array(places) = map("PLACES")? else {
            return Err(Error::Missing("PLACES"));
        };
        let size = events.info()?.max_entries() as usize;
        Ok(Self {
            records: Records::new(events.fd().as_fd(), size)?,
            peak: 0,
            map: events,
            counters: map("COUNTERS")?.try_into()?,
            places: Places::new(places)?,
            sockets: map("SOCKETS")?.try_into()?,
            seen: abi::Counters::default(),
            group: Vec::with_capacity(GROUP),
            forgotten: 0,
            malformed: 0,
        })
    }

    /// Most bytes that were waiting since the last call, and how many fit.
    pub fn take_peak(&mut self) -> (u64, u64) {
        let peak = std::mem::take(&mut self.peak);
        (peak as u64, self.records.size() as u64)
    }

    /// Hands every waiting event to `take`, some at once; true if there may be more.
    pub fn drain(&mut self, mut take: impl FnMut(&[Event])) -> bool {
        self.peak = self.peak.max(self.records.waiting());
        for _ in 0..BATCH / GROUP {
            let all = self.decode_group();
            take(&self.group);
            if all {
                return false;
            }
        }
        true
    }

    /// Fills the group; true: nothing more is waiting.
    fn decode_group(&mut self) -> bool {
        self.group.clear();
        while self.group.len() < GROUP {
            let Some(record) = self.records.next() else {
                return true;
            };
            match Event::decode(record) {
                Ok(event) => self.group.push(event),
                Err(error) => {
                    log::debug!("{error}");
                    self.malformed += 1;
                }
            }
        }
        false
    }

    fn totals(&self) -> Result<abi::Counters, MapError> {
        let per_cpu = self.counters.get(&0, 0)?;
        Ok(per_cpu
            .iter()
            .fold(abi::Counters::default(), |sum, cpu| abi::Counters {
                ring: sum.ring + cpu.0.ring,
                table: sum.table + cpu.0.table,
                timewait: sum.timewait + cpu.0.timewait,
                overflow: sum.overflow + cpu.0.overflow,
                nested: sum.nested + cpu.0.nested,
                entries: sum.entries.wrapping_add(cpu.0.entries),
            }))
    }

    /// How many skipped runs another program stood in for, in all.
    pub fn stood_in(&self) -> Result<u64, MapError> {
        Ok(self.totals()?.nested)
    }

    /// How many sockets are in the kernel-side table.
    pub fn table_used(&self) -> Result<u64, MapError> {
        let entries = self.totals()?.entries;
        Ok(entries.wrapping_sub(self.forgotten))
    }

    /// What was lost since the last call.
    pub fn losses(&mut self) -> Result<Losses, MapError> {
        let total = self.totals()?;
        let losses = Losses {
            ring: total.ring.saturating_sub(self.seen.ring),
            table: total.table.saturating_sub(self.seen.table),
            timewait: total.timewait.saturating_sub(self.seen.timewait),
            overflow: total.overflow.saturating_sub(self.seen.overflow),
            malformed: std::mem::take(&mut self.malformed),
        };
        self.seen = total;
        Ok(losses)
    }
}

impl Ring {
    /// Removes the sockets that `is_gone` from the kernel-side table: their last event was lost. Answers how
    /// many those were.
    pub fn forget(&mut self, is_gone: impl Fn(u64) -> bool) -> Result<usize, Error> {
        let known: Vec<u64> = self.sockets.keys().filter_map(Result::ok).collect();
        let gone = known.into_iter().filter(|sock| is_gone(*sock));
        // One that has gone in the meantime is no error.
        let count = gone
            .filter(|sock| self.sockets.remove(sock).is_ok())
            .count();
        let count = count + self.places.forget(is_gone)?;
        self.forgotten += count as u64;
        Ok(count)
    }
}

/// Readable when the kernel side has put a record into an empty ring.
impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.map.fd().as_fd().as_raw_fd()
    }
}
