//! What the kernel says of this process.

use std::fs;

use rustix::{
    param::page_size,
    time::{ClockId, clock_gettime},
};

/// CPU time of all threads until now, user and system, nanoseconds.
pub fn cpu() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let ns = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    u64::try_from(ns).unwrap_or(0)
}

/// Bytes of memory; `None`: /proc does not say.
pub fn rss() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    Some(resident_pages(&statm)? * page_size() as u64)
}

/// The second number (proc_pid_statm(5)).
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_measured() {
        assert_eq!(resident_pages("5060 612 503 90 0 140 0\n"), Some(612));
        assert_eq!(resident_pages(""), None);
        let before = cpu();
        assert!(rss().unwrap() > 0);
        assert!(cpu() > before);
    }
}
