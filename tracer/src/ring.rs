//! Drains the ring buffer, and reads what the kernel side could not put into it.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use aya::{
    Ebpf, Pod,
    maps::{MapData, MapError, PerCpuArray, RingBuf},
};
use tracer_ebpf::Lost;

use crate::event::Event;

/// At most so many records are taken at once, so that signals and timers get their turn.
const BATCH: usize = 16_384;

/// The ring buffer and the loss counters of the loaded object.
pub struct Ring {
    events: RingBuf<MapData>,
    lost: PerCpuArray<MapData, Counters>,
    seen: Lost,
    malformed: u64,
}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct Counters(Lost);

// SAFETY: two `u64`, any bytes are valid.
unsafe impl Pod for Counters {}

/// What was lost since the last time it was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// The ring buffer was full.
    pub ring: u64,
    /// The socket table was full.
    pub table: u64,
    /// The record was not understood.
    pub malformed: u64,
}

impl Ring {
    /// Takes the maps out of the object.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        let mut map = |name: &str| {
            ebpf.take_map(name)
                .ok_or_else(|| MapError::InvalidName { name: name.into() })
        };
        Ok(Self {
            events: map("EVENTS")?.try_into()?,
            lost: map("LOST")?.try_into()?,
            seen: Lost::default(),
            malformed: 0,
        })
    }

    /// Hands every waiting event to `take`; true if there may be more.
    pub fn drain(&mut self, mut take: impl FnMut(&Event)) -> bool {
        for _ in 0..BATCH {
            let Some(record) = self.events.next() else {
                return false;
            };
            match Event::decode(&record) {
                Ok(event) => take(&event),
                Err(error) => {
                    log::debug!("{error}");
                    self.malformed += 1;
                }
            }
        }
        true
    }

    /// What was lost since the last call.
    pub fn losses(&mut self) -> Result<Losses, MapError> {
        let per_cpu = self.lost.get(&0, 0)?;
        let total = per_cpu.iter().fold(Lost::default(), |sum, cpu| Lost {
            ring: sum.ring + cpu.0.ring,
            table: sum.table + cpu.0.table,
        });
        let losses = Losses {
            ring: total.ring.saturating_sub(self.seen.ring),
            table: total.table.saturating_sub(self.seen.table),
            malformed: std::mem::take(&mut self.malformed),
        };
        self.seen = total;
        Ok(losses)
    }
}

/// Readable when the kernel side has put a record into an empty ring.
impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.events.as_fd().as_raw_fd()
    }
}
