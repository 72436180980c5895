//! The maps. Sizes are defaults; the loader sets those that an option governs.

use aya_ebpf::{
    macros::map,
    maps::{HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use tracer_ebpf::{Event, Lost, Socket};

/// Events on their way to user space.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// Owner and role of each socket that had a first event, by address of its `struct sock`. The entry
/// lives until the socket's transition to CLOSE.
#[map]
pub(crate) static SOCKETS: HashMap<u64, Socket> = HashMap::with_max_entries(1 << 18, 0);

/// What could not be reported.
#[map]
pub(crate) static LOST: PerCpuArray<Lost> = PerCpuArray::with_max_entries(1, 0);

/// Connection attempts that failed while a port was looked for, by socket, until the call that
/// made them returns. LRU, because that return is not always seen.
#[map]
pub(crate) static FAILED: LruHashMap<u64, Event> = LruHashMap::with_max_entries(4096, 0);

/// Arguments of a call in progress, by thread and function. LRU for the same reason.
#[map]
pub(crate) static CALLS: LruHashMap<u64, Call> = LruHashMap::with_max_entries(16384, 0);

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Call {
    /// A `struct sock` (kernel functions) or a file descriptor (system calls).
    pub(crate) target: u64,
    /// The `struct sockaddr` passed; 0 where there is none.
    pub(crate) address: u64,
}
