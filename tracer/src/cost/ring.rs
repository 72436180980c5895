//! How much of the ring buffer waits to be read.

use std::{
    io,
    os::fd::BorrowedFd,
    ptr::{NonNull, null_mut},
    sync::atomic::{AtomicUsize, Ordering},
};

use rustix::{
    mm::{MapFlags, ProtFlags, mmap, munmap},
    param::page_size,
};

/// The two pages in front of the data: the first begins with how far we have read, the second with how far the kernel
/// has written (`struct bpf_ringbuf`, kernel/bpf/ringbuf.c, which lets everybody map them to read).
#[derive(Debug)]
pub struct RingFill {
    pages: NonNull<u8>,
    size: u64,
}

// SAFETY: the pages are only read, by atomic loads.
unsafe impl Send for RingFill {}

// SAFETY: as above.
unsafe impl Sync for RingFill {}

impl RingFill {
    /// `size`: that of the ring buffer, bytes.
    pub fn new(map: BorrowedFd, size: u64) -> io::Result<Self> {
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let pages = unsafe {
            mmap(
                null_mut(),
                2 * page_size(),
                ProtFlags::READ,
                MapFlags::SHARED,
                map,
                0,
            )
        }?;
        let pages = NonNull::new(pages.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { pages, size })
    }

    /// Bytes that have not been read, those included that are only reserved.
    pub fn used(&self) -> u64 {
        // Read first: what is read is then written already.
        let read = self.position(0);
        let written = self.position(page_size());
        (written.wrapping_sub(read) as u64).min(self.size)
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    fn position(&self, offset: usize) -> usize {
        // SAFETY: the mapping is two pages long, lives as long as this, and the kernel keeps an aligned `unsigned
        // long` at the beginning of each of them.
        let position = unsafe { self.pages.add(offset).cast::<AtomicUsize>().as_ref() };
        position.load(Ordering::Acquire)
    }
}

impl Drop for RingFill {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nobody refers to any more.
        let _ = unsafe { munmap(self.pages.as_ptr().cast(), 2 * page_size()) };
    }
}
