//! What a program has used when it ends.

use std::{io, mem::MaybeUninit, os::unix::process::ExitStatusExt as _, process::ExitStatus};

pub(crate) struct Usage(libc::rusage);

impl Usage {
    /// In the program and in the kernel for it.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        seconds(self.0.ru_utime) + seconds(self.0.ru_stime)
    }

    /// The most that was resident at a time, bytes. Linux counts in KiB.
    pub(crate) fn most_memory(&self) -> u64 {
        u64::try_from(self.0.ru_maxrss).unwrap_or_default() * 1024
    }
}

/// Waits for the end of a child. The standard library does, too, but does not tell what the child used.
pub(crate) fn wait(pid: u32) -> io::Result<(ExitStatus, Usage)> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let (mut status, mut usage) = (0, MaybeUninit::zeroed());
    loop {
        // SAFETY: both point to memory of the types that the call fills.
        let waited = unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
        if waited == pid {
            // SAFETY: all zeroes are a valid `rusage`, and the call has filled it.
            let usage = Usage(unsafe { usage.assume_init() });
            return Ok((ExitStatus::from_raw(status), usage));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
