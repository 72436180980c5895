//! The memory of this process.

/// Gives memory that is free back to the system. Loading takes 30 MB for the kernel's BTF, once; what is allocated
/// after that would keep the allocator from giving back what lies below.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` has no preconditions.
    unsafe {
        libc::malloc_trim(0)
    };
}
