//! The most of something in the last minute.

use std::time::Duration;

const HALF: u64 = Duration::from_secs(30).as_nanos() as u64;

/// Of the half minute that runs and the one before: between 30 and 60 seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peak {
    began: u64,
    now: u64,
    before: u64,
}

impl Peak {
    /// `now`: nanoseconds of any clock.
    pub fn add(&mut self, value: u64, now: u64) {
        let halves = now.saturating_sub(self.began) / HALF;
        if halves > 0 {
            self.before = if halves == 1 { self.now } else { 0 };
            self.now = 0;
            self.began += halves * HALF;
        }
        self.now = self.now.max(value);
    }

    pub fn get(&self) -> u64 {
        self.now.max(self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_forgotten_within_a_minute() {
        let mut peak = Peak::default();
        peak.add(9, 1);
        peak.add(1, HALF - 1);
        assert_eq!(peak.get(), 9);
        peak.add(2, HALF);
        assert_eq!(peak.get(), 9);
        peak.add(1, 2 * HALF);
        assert_eq!(peak.get(), 2);
        peak.add(1, 5 * HALF);
        assert_eq!(peak.get(), 1);
    }
}
