//! Reads the records of a BPF ring buffer (`struct bpf_ringbuf`, kernel/bpf/ringbuf.c).
//!
//! Other than aya's reader it gives room back for many records at once: the kernel looks at that for each record, and
//! then neither side waits for the other's cache. And it maps the records once, not twice in a row, since mapped pages
//! count as resident memory: one that goes on at the beginning is put together.

use std::{
    io,
    os::fd::BorrowedFd,
    ptr::copy_nonoverlapping,
    slice,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence},
};

use rustix::param::page_size;

use crate::kernel::mapping::Mapping;

/// `BPF_RINGBUF_BUSY_BIT` and `BPF_RINGBUF_DISCARD_BIT` (include/uapi/linux/bpf.h) of a record's length.
const BUSY: u32 = 1 << 31;
const DISCARD: u32 = 1 << 30;

/// Length and page number, in front of each record.
const HEADER: usize = 8;

/// Room is given back when it is this part of the whole.
const PART: usize = 16;

/// A ring buffer has one reader.
pub(super) struct Records {
    /// Begins with how far we have read.
    ours: Mapping,
    /// Begins with how far the kernel has written; the records follow on the next page.
    theirs: Mapping,
    /// Bytes, a power of two.
    size: usize,
    page: usize,
    // Positions only grow; where a record is follows from the size.
    read: usize,
    /// So far room has been given back.
    returned: usize,
    /// So far the kernel had written when we last looked.
    written: usize,
    /// For a record that goes on at the beginning.
    whole: Vec<u8>,
}

impl Records {
    /// `size`: that of the ring buffer, in bytes.
    pub(super) fn new(map: BorrowedFd, size: usize) -> io::Result<Self> {
        let page = page_size();
        let mut records = Self {
            ours: Mapping::to_write(map, 0, page)?,
            theirs: Mapping::to_read(map, page, page + size)?,
            size,
            page,
            read: 0,
            returned: 0,
            written: 0,
            whole: Vec::new(),
        };
        records.read = records.ours().load(Ordering::Acquire);
        // Nothing is known to have been written that has not been read.
        (records.returned, records.written) = (records.read, records.read);
        Ok(records)
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Bytes that have not been read, those included that are only reserved.
    pub(super) fn waiting(&self) -> usize {
        let written = self.theirs().load(Ordering::Acquire);
        written.wrapping_sub(self.read).min(self.size)
    }

    /// The next record; `None`: there is none yet, and the kernel wakes whoever waits when there is.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        if self.read.wrapping_sub(self.returned) >= self.size / PART {
            self.give_back();
        }
        loop {
            let Some(length) = self.look() else {
                if self.read == self.returned {
                    return None;
                }
                // The kernel wakes nobody for a record that it does not take for the next one.
                self.give_back();
                continue;
            };
            let start = self.read.wrapping_add(HEADER);
            let bytes = (length & !DISCARD) as usize;
            self.read = start.wrapping_add(bytes.next_multiple_of(HEADER));
            if length & DISCARD == 0 {
                return Some(self.record(start, bytes));
            }
        }
    }

    /// The length of the next record, if that is complete.
    fn look(&mut self) -> Option<u32> {
        if self.read == self.written {
            self.written = self.theirs().load(Ordering::Acquire);
        }
        if self.read == self.written {
            return None;
        }
        let at = self.read & (self.size - 1);
        // SAFETY: lengths and positions are multiples of 8, so the header is inside, and aligned.
        let header = unsafe { self.data().add(at).cast::<AtomicU32>().as_ref() }?;
        Some(header.load(Ordering::Acquire)).filter(|length| length & BUSY == 0)
    }

    /// Then either we see a record that was complete before, or the kernel sees that we have read all others
    /// (`bpf_ringbuf_commit`).
    fn give_back(&mut self) {
        self.ours().store(self.read, Ordering::Release);
        self.returned = self.read;
        fence(Ordering::SeqCst);
    }

    fn record(&mut self, start: usize, length: usize) -> &[u8] {
        let at = start & (self.size - 1);
        let first = length.min(self.size - at);
        // SAFETY: inside, and complete: the kernel does not touch it before room is given back.
        unsafe {
            if first == length {
                return slice::from_raw_parts(self.data().add(at), length);
            }
            self.whole.resize(length, 0);
            let to = self.whole.as_mut_ptr();
            copy_nonoverlapping(self.data().add(at), to, first);
            copy_nonoverlapping(self.data(), to.add(first), length - first);
        }
        &self.whole
    }

    fn data(&self) -> *const u8 {
        // SAFETY: the records follow on the next page.
        unsafe { self.theirs.start().as_ptr().add(self.page) }
    }

    fn ours(&self) -> &AtomicUsize {
        position(&self.ours)
    }

    fn theirs(&self) -> &AtomicUsize {
        position(&self.theirs)
    }
}

/// An `unsigned long` at the beginning of a page.
fn position(page: &Mapping) -> &AtomicUsize {
    // SAFETY: inside, aligned, and everybody reads and writes it as a whole.
    unsafe { page.start().cast().as_ref() }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    /// The kernel's side.
    struct Kernel {
        file: OwnedFd,
        pages: Mapping,
        size: usize,
        position: usize,
    }

    impl Kernel {
        fn new(size: usize) -> Self {
            let file = memfd_create("ring", MemfdFlags::empty()).unwrap();
            let length = 2 * page_size() + size;
            ftruncate(&file, length as u64).unwrap();
            Self {
                pages: Mapping::to_write(file.as_fd(), 0, length).unwrap(),
                file,
                size,
                position: 0,
            }
        }

        fn reader(&self) -> Records {
            Records::new(self.file.as_fd(), self.size).unwrap()
        }

        /// How far the reader says that it has read.
        fn returned(&self) -> usize {
            position(&self.pages).load(Ordering::Acquire)
        }

        fn byte(&self, at: usize) -> *mut u8 {
            let offset = 2 * page_size() + at % self.size;
            // SAFETY: inside.
            unsafe { self.pages.start().as_ptr().add(offset) }
        }

        /// Writes a record, as far as `flags` say, and returns where it is.
        fn write(&mut self, bytes: &[u8], flags: u32) -> usize {
            let start = self.position;
            assert!(start + HEADER + bytes.len() - self.returned() <= self.size);
            for (byte, n) in bytes.iter().zip(start + HEADER..) {
                // SAFETY: inside.
                unsafe { self.byte(n).write(*byte) };
            }
            self.mark(start, bytes.len() as u32 | flags);
            self.position += HEADER + bytes.len().next_multiple_of(8);
            // SAFETY: the second page begins with it.
            let written = unsafe {
                let page = self.pages.start().add(page_size());
                page.cast::<AtomicUsize>().as_ref()
            };
            written.store(self.position, Ordering::Release);
            start
        }

        fn mark(&self, start: usize, length: u32) {
            // SAFETY: inside, and aligned.
            let header = unsafe { AtomicU32::from_ptr(self.byte(start).cast()) };
            header.store(length, Ordering::Release);
        }
    }

    fn size() -> usize {
        page_size()
    }

    #[test]
    fn records_come_in_order_and_whole_around_the_end() {
        let mut kernel = Kernel::new(size());
        let mut reader = kernel.reader();
        // 48 bytes with its header, so that some go on at the beginning.
        for n in 0..1000_usize {
            let bytes = [n as u8; 37];
            kernel.write(&bytes, 0);
            assert_eq!(reader.next(), Some(&bytes[..]), "record {n}");
            if n % 3 == 0 {
                assert_eq!(reader.next(), None);
            }
        }
        assert!(kernel.position > 10 * size());
    }

    #[test]
    fn room_is_given_back_for_many_at_once_and_when_all_is_read() {
        let mut kernel = Kernel::new(size());
        let mut reader = kernel.reader();
        for n in 0..10 {
            kernel.write(&[n; 24], 0);
        }
        assert_eq!(reader.waiting(), 320);
        for n in 0..8 {
            assert_eq!(reader.next(), Some(&[n; 24][..]));
            assert_eq!(kernel.returned(), 0);
        }
        assert_eq!(reader.next(), Some(&[8; 24][..]));
        assert_eq!(kernel.returned(), size() / PART);
        assert_eq!((reader.waiting(), reader.next().is_some()), (32, true));
        assert_eq!((reader.next(), kernel.returned()), (None, 320));
    }

    #[test]
    fn what_is_not_complete_is_waited_for_and_what_is_discarded_left_out() {
        let mut kernel = Kernel::new(size());
        let mut reader = kernel.reader();
        kernel.write(b"first", 0);
        let busy = kernel.write(b"second", BUSY);
        kernel.write(b"dropped", DISCARD);
        kernel.write(b"last", 0);
        assert_eq!(reader.next(), Some(&b"first"[..]));
        assert_eq!((reader.next(), kernel.returned()), (None, busy));
        kernel.mark(busy, 6);
        assert_eq!(reader.next(), Some(&b"second"[..]));
        assert_eq!(reader.next(), Some(&b"last"[..]));
        assert_eq!(reader.next(), None);
        assert_eq!(kernel.returned(), kernel.position);
    }

    #[test]
    fn a_second_reader_goes_on_where_the_first_one_was() {
        let mut kernel = Kernel::new(size());
        kernel.write(b"one", 0);
        let mut reader = kernel.reader();
        assert!(reader.next().is_some() && reader.next().is_none());
        drop(reader);
        assert_eq!(kernel.reader().next(), None);
        kernel.write(b"two", 0);
        assert_eq!(kernel.reader().next(), Some(&b"two"[..]));
    }
}
