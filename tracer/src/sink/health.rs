//! Whether a sink takes lines: said when that changes, and not each time while it goes back and forth, as on a disk
//! that is full.

use std::time::{Duration, Instant};

/// It has to take lines for so long, without an error, before that is said.
const LASTING: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Health {
    /// It was said that it fails.
    ails: bool,
    /// It takes lines since then, which was not said yet.
    well_since: Option<Instant>,
}

impl Health {
    /// Answers whether that is to be said.
    pub(super) fn failed(&mut self) -> bool {
        self.well_since = None;
        !std::mem::replace(&mut self.ails, true)
    }

    pub(super) fn took_lines(&mut self, now: Instant) {
        if self.ails {
            self.well_since.get_or_insert(now);
        }
    }

    /// Whether it is to be said that it takes lines again.
    pub(super) fn has_recovered(&mut self, now: Instant) -> bool {
        let lasts = |since| now.saturating_duration_since(since) >= LASTING;
        let recovered = self.well_since.is_some_and(lasts);
        if recovered {
            *self = Self::default();
        }
        recovered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_back_and_forth_is_said_once() {
        let mut health = Health::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        health.took_lines(at(0));
        assert!(!health.has_recovered(at(60)), "it never failed");
        assert!(health.failed());
        for second in 61..70 {
            health.took_lines(at(second));
            assert!(!health.has_recovered(at(second + 1)));
            assert!(!health.failed(), "that is known");
        }
        assert!(!health.has_recovered(at(80)), "nothing was taken since");
        health.took_lines(at(80));
        assert!(!health.has_recovered(at(84)));
        assert!(health.has_recovered(at(85)));
        assert!(!health.has_recovered(at(86)));
        assert!(health.failed());
    }
}
