//! From a socket to a record in the ring buffer.

use aya_ebpf::{helpers::bpf_ktime_get_ns, maps::ring_buf::RingBufEntry};
use tracer_ebpf::{EADDRNOTAVAIL, Event, KIND_STATE, OWNER_CONNECT, ROLE_CLIENT, Socket, Task};

use crate::{
    maps::{EVENTS, LOST},
    sock::{Reader, Sock},
    words,
};

/// Emits a state transition; `socket` is what we remember of it.
#[inline(always)]
pub(crate) fn state<R: Reader>(sock: Sock<R>, old: u8, new: u8, socket: Option<&Socket>) {
    let Some(mut record) = Record::reserve() else {
        return;
    };
    let event = record.event();
    describe(event, sock);
    event.kind = KIND_STATE;
    event.old = old;
    event.new = new;
    if let Some(socket) = socket {
        words::copy(&socket.task, &mut event.task);
        event.role = socket.role;
        event.owner = socket.owner;
    }
    record.submit();
}

/// Fills a zeroed record with a connection attempt of `task` that failed.
#[inline(always)]
pub(crate) fn failure<R: Reader>(event: &mut Event, sock: Sock<R>, kind: u16, task: Task) {
    describe(event, sock);
    event.kind = kind;
    event.errno = EADDRNOTAVAIL;
    event.role = ROLE_CLIENT;
    if task.pid != 0 {
        event.owner = OWNER_CONNECT;
    }
    event.task = task;
}

#[inline(always)]
fn describe<R: Reader>(event: &mut Event, sock: Sock<R>) {
    event.size = size_of::<Event>() as u16;
    // SAFETY: the helper has no preconditions.
    event.ts = unsafe { bpf_ktime_get_ns() };
    event.sock = sock.key();
    event.cookie = sock.cookie();
    event.netns = sock.netns();
    sock.tuple(&mut event.tuple);
}

/// Room for one record in the ring buffer.
#[must_use = "the verifier wants every reservation submitted"]
pub(crate) struct Record(RingBufEntry<Event>);

impl Record {
    /// A zeroed record, so that no old ring memory reaches user space. `None` when the ring is full,
    /// which is counted.
    #[inline(always)]
    pub(crate) fn reserve() -> Option<Self> {
        let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
            ring_full();
            return None;
        };
        // SAFETY: the entry is writable for the size of an `Event`.
        unsafe { words::zero(entry.as_mut_ptr()) };
        Some(Self(entry))
    }

    #[inline(always)]
    pub(crate) fn event(&mut self) -> &mut Event {
        // SAFETY: `reserve` zeroed it, and all bytes zero is a valid `Event`.
        unsafe { self.0.assume_init_mut() }
    }

    /// No wakeup flag: the kernel wakes the reader only when it had caught up, and the reader naps
    /// before it drains, so wakeups are rare.
    #[inline(always)]
    pub(crate) fn submit(self) {
        self.0.submit(0);
    }
}

#[inline(always)]
fn ring_full() {
    if let Some(lost) = LOST.get_ptr_mut(0) {
        // SAFETY: this CPU's value. A program that interrupts this one may lose an increment.
        unsafe { (*lost).ring += 1 };
    }
}

/// Counts a socket that found no room in the table; true for the first one on this CPU.
#[inline(always)]
pub(crate) fn table_full() -> bool {
    let Some(lost) = LOST.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: as in `ring_full`.
    unsafe {
        (*lost).table += 1;
        (*lost).table == 1
    }
}
