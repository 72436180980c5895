//! Validated settings: after this, nothing about arguments can fail.

use std::time::Duration;

use crate::{cli::Trace, diagnosis::pressure::Levels, kernel::load::Sizes, kernel::plan::Rung};

/// The ring buffer's limits: one page, and what an `u32` power of two holds.
const RING_MIN: u64 = 4096;
const RING_MAX: u64 = 1 << 30;

/// What `tracer` without a command is to do.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub forced: Option<Rung>,
    pub sizes: Sizes,
    /// How often the usage of ports is shown.
    pub interval: Duration,
    pub levels: Levels,
    pub coalesces: bool,
}

impl From<Trace> for Config {
    fn from(trace: Trace) -> Self {
        Self {
            forced: trace.backend,
            sizes: Sizes {
                ring: trace.ring_size,
                sockets: trace.max_sockets,
            },
            interval: Duration::from_secs(trace.interval.into()),
            levels: Levels {
                warning: trace.warn.into(),
                critical: trace.critical.into(),
            },
            coalesces: trace.coalesce_failures,
        }
    }
}

/// Parses a size of the ring buffer and rounds it up to what the kernel accepts.
pub fn ring_size(text: &str) -> Result<u32, String> {
    let (digits, unit) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1 << 10),
        None => match text.strip_suffix(['M', 'm']) {
            Some(digits) => (digits, 1 << 20),
            None => (text, 1),
        },
    };
    let bytes = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .filter(|bytes| (1..=RING_MAX).contains(bytes))
        .ok_or("give a number of bytes up to 1024M, such as 65536, 64K or 8M")?;
    u32::try_from(bytes.max(RING_MIN).next_power_of_two()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::ring_size;

    #[test]
    fn ring_sizes_are_rounded_up_and_bounded() {
        assert_eq!(ring_size("8M"), Ok(8 << 20));
        assert_eq!(ring_size("1"), Ok(4096));
        assert_eq!(ring_size("5k"), Ok(8192));
        assert_eq!(ring_size("1024M"), Ok(1 << 30));
        for bad in ["", "0", "-1", "8G", "1025M", "99999999999999999999"] {
            assert!(ring_size(bad).is_err(), "{bad}");
        }
    }
}
