//! How long to wait before it is tried again.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Twice as long each time, and not as long as all the others that lost the same peer.
#[derive(Default)]
pub(super) struct Retry {
    failed: u32,
    random: RandomState,
}

impl Retry {
    pub(super) fn succeeded(&mut self) {
        self.failed = 0;
    }

    /// Between half of the time and all of it.
    pub(super) fn pause(&mut self) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.failed.min(10)).min(LONGEST);
        self.failed = self.failed.saturating_add(1);
        let random = self.random.hash_one(self.failed) as u32;
        let part = f64::from(random) / f64::from(u32::MAX);
        whole.mul_f64(0.5 + part / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_begin_anew() {
        let mut retry = Retry::default();
        for _ in 0..40 {
            let pause = retry.pause();
            assert!(FIRST / 2 <= pause && pause <= LONGEST, "{pause:?}");
        }
        assert!(retry.pause() >= LONGEST / 2);
        retry.succeeded();
        assert!(retry.pause() <= FIRST);
    }
}
