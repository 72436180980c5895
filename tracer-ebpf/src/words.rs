//! Zeroing and copying by words of 8 bytes. For the BPF target the compiler makes calls of `memset`
//! and `memmove` from plain Rust, which go byte by byte: 128 iterations for one record.

use core::ptr::from_mut;

const WORD: usize = size_of::<u64>();

/// # Safety
///
/// `to` is writable for the size of a `T`.
#[inline(always)]
pub(crate) unsafe fn zero<T>(to: *mut T) {
    const { assert!(size_of::<T>().is_multiple_of(WORD) && align_of::<T>() == WORD) };
    let to = to.cast::<u64>();
    for n in 0..size_of::<T>() / WORD {
        // SAFETY: within `T`, and aligned. Volatile, or it would become a call of `memset`.
        unsafe { to.add(n).write_volatile(0) };
    }
}

#[inline(always)]
pub(crate) fn copy<T: Copy>(from: &T, to: &mut T) {
    const { assert!(size_of::<T>().is_multiple_of(WORD) && align_of::<T>() == WORD) };
    let (from, to) = (
        core::ptr::from_ref(from).cast::<u64>(),
        from_mut(to).cast::<u64>(),
    );
    for n in 0..size_of::<T>() / WORD {
        // SAFETY: within both, and aligned. Volatile, or it would become a call of `memmove`.
        unsafe { to.add(n).write_volatile(from.add(n).read()) };
    }
}
