//! The maps. Sizes are defaults; the loader sets those that an option governs.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use tracer_ebpf::{Counters, Event, MAX_NAMESPACES, Place, Socket, Step};

/// Events on their way to user space.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// Owner and role of each socket that had a first event, until its transition to CLOSE: see `table.rs`. User space maps
/// it into its memory.
#[map]
pub(crate) static PLACES: Array<Place> =
    Array::with_max_entries(tracer_ebpf::PLACES, BPF_F_MMAPABLE);

/// The same of those that have no place, by address of their `struct sock`.
#[map]
pub(crate) static SOCKETS: HashMap<u64, Socket> = HashMap::with_max_entries(1 << 18, 0);

/// See `steps.rs`. User space maps it into its memory (since 5.5).
#[map]
pub(crate) static STEPS: Array<Step> = Array::with_max_entries(tracer_ebpf::STEPS, BPF_F_MMAPABLE);

/// Address of the function behind the timers of timewait sockets, once one has been seen; 0 before.
#[map]
pub(crate) static TIMER_HANDLER: Array<u64> = Array::with_max_entries(1, 0);

/// The network namespaces whose sockets are told of, by inode number; see `ONLY_SOME_NETNS`.
#[map]
pub(crate) static NAMESPACES: HashMap<u32, u8> = HashMap::with_max_entries(MAX_NAMESPACES, 0);

/// 1 while this CPU is at a transition: see `hooks/nested.rs`.
#[map]
pub(crate) static BUSY: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// Addresses on their way to becoming numbers: see `Typed` in `sock.rs`.
#[map]
pub(crate) static SCRATCH: PerCpuArray<u64> = PerCpuArray::with_max_entries(4, 0);

/// The row of a dump that is being written. Not on the stack: the verifiers of 5.10 and 6.1 tell a zero there from
/// any other value, and would follow each read's failure apart.
#[map]
pub(crate) static ROW: PerCpuArray<Event> = PerCpuArray::with_max_entries(1, 0);

/// What could not be reported, and how full the socket table is.
#[map]
pub(crate) static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// Connection attempts that failed while a port was looked for, by socket, until the call that
/// made them returns. LRU, because that return is not always seen.
#[map]
pub(crate) static FAILED: LruHashMap<u64, Event> = LruHashMap::with_max_entries(4096, 0);

/// Arguments of a call in progress, by thread and function. LRU for the same reason.
#[map]
pub(crate) static CALLS: LruHashMap<u64, Call> = LruHashMap::with_max_entries(16384, 0);

/// 1: what a call was made with is read from the registers when it returns, and not kept in `CALLS`. The loader
/// knows which programs it has attached.
#[map]
pub(crate) static BY_REGISTERS: Array<u32> = Array::with_max_entries(1, 0);

/// 1 once there has been an entry in `FAILED`.
#[map]
pub(crate) static HAS_FAILED: Array<u32> = Array::with_max_entries(1, 0);

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Call {
    /// A `struct sock` (kernel functions) or a file descriptor (system calls).
    pub(crate) target: u64,
    /// The `struct sockaddr` passed, or another argument; 0 where there is none.
    pub(crate) address: u64,
}
