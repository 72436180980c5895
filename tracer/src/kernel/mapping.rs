//! A map's memory in ours: looking at it takes no system call.

use std::{
    io,
    os::fd::BorrowedFd,
    ptr::{NonNull, null_mut},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A part of a file or map that is shared with whoever else maps it. Unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

impl Mapping {
    /// `offset`, and `length`, in bytes; the former a multiple of the size of a page.
    pub(crate) fn to_read(map: BorrowedFd, offset: usize, length: usize) -> io::Result<Self> {
        Self::new(map, offset, length, ProtFlags::READ)
    }

    /// As [`to_read`](Self::to_read).
    pub(crate) fn to_write(map: BorrowedFd, offset: usize, length: usize) -> io::Result<Self> {
        Self::new(map, offset, length, ProtFlags::READ | ProtFlags::WRITE)
    }

    fn new(map: BorrowedFd, offset: usize, length: usize, prot: ProtFlags) -> io::Result<Self> {
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let start = unsafe {
            mmap(
                null_mut(),
                length,
                prot,
                MapFlags::SHARED,
                map,
                offset as u64,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start, length })
    }

    /// Others may write there at any time.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }
}

/// Clears the key of a socket, if there is one and that is gone; not if somebody else's has taken its place meanwhile.
pub(crate) fn clear(sock: &AtomicU64, is_gone: impl Fn(u64) -> bool) -> bool {
    let key = sock.load(Ordering::Relaxed);
    let (old, free) = (Ordering::Relaxed, Ordering::Relaxed);
    key != 0 && is_gone(key) && sock.compare_exchange(key, 0, old, free).is_ok()
}

// SAFETY: memory of this process, whichever thread uses it; `start` is for those who know how.
unsafe impl Send for Mapping {}

// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nobody refers to any more.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}
