//! The part of the kernel-side socket table that is an array, for those who tidy it up.

use std::{
    io,
    os::fd::AsFd as _,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::{MapData, MapError};
use tracer_ebpf::{Place, Socket};

use crate::kernel::mapping::{Mapping, clear};

/// The map `PLACES`. It is not mapped for longer than somebody looks at it: all of it would count as our memory.
pub(super) struct Places {
    map: MapData,
    length: usize,
}

/// A [`Place`] that may change while it is looked at.
#[repr(C)]
struct Cell {
    claims: AtomicU64,
    sock: AtomicU64,
    rest: [u8; size_of::<Socket>()],
}

const _: () = assert!(size_of::<Cell>() == size_of::<Place>());

impl Places {
    pub(super) fn new(map: MapData) -> Result<Self, MapError> {
        let length = map.info()?.max_entries() as usize;
        Ok(Self { map, length })
    }

    /// Frees the places of sockets that are gone, and answers how many those were.
    pub(super) fn forget(&self, is_gone: impl Fn(u64) -> bool) -> io::Result<usize> {
        let size = self.length * size_of::<Cell>();
        let mapping = Mapping::to_write(self.map.fd().as_fd(), 0, size)?;
        // SAFETY: the mapping is as long as that, and outlives the slice. Of what may change only the atomic words are
        // looked at.
        let cells: &[Cell] =
            unsafe { std::slice::from_raw_parts(mapping.start().cast().as_ptr(), self.length) };
        let left = cells.iter().filter(|cell| cell.leave(&is_gone));
        Ok(left.count())
    }
}

impl Cell {
    /// Frees the place, if whoever has it is gone. Should it be left by itself at the very same moment, then nobody gets it
    /// any more.
    fn leave(&self, is_gone: impl Fn(u64) -> bool) -> bool {
        let leaves = clear(&self.sock, is_gone);
        if leaves {
            self.claims.fetch_sub(1, Ordering::Relaxed);
        }
        leaves
    }
}
