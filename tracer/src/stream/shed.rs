//! Detail that is left out while the CPU guard says so: what is not written need not be formatted.

use std::mem::take;

use crate::record::{LeftOut, Shedding};

/// Of so many rounds of usage one is told.
const ROUNDS: u64 = 6;

/// Nothing is left out by default.
#[derive(Debug, Default)]
pub struct Shed {
    level: Shedding,
    left_out: LeftOut,
    total: LeftOut,
}

impl Shed {
    pub fn level(&self) -> Shedding {
        self.level
    }

    pub fn set_level(&mut self, level: Shedding) {
        self.level = level;
    }

    /// What has been left out since the last call.
    pub fn take(&mut self) -> LeftOut {
        take(&mut self.left_out)
    }

    /// Whether there is anything to take.
    pub fn has_left_out(&self) -> bool {
        self.left_out != LeftOut::default()
    }

    pub fn total(&self) -> LeftOut {
        self.total
    }

    /// Whether the next `state` line is left out, which is then counted.
    pub fn leaves_out_state(&mut self) -> bool {
        let is_shed = self.level >= Shedding::State;
        self.left_out.state += u64::from(is_shed);
        self.total.state += u64::from(is_shed);
        is_shed
    }

    /// As [`Self::leaves_out_state`], of a `connection` line.
    pub fn leaves_out_connection(&mut self) -> bool {
        let is_shed = self.level >= Shedding::Connection;
        self.left_out.connection += u64::from(is_shed);
        self.total.connection += u64::from(is_shed);
        is_shed
    }

    /// As [`Self::leaves_out_state`], of a round of `usage` lines; `round` is its number.
    pub fn leaves_out_usage(&mut self, round: u64) -> bool {
        let is_shed = self.level >= Shedding::Usage && !round.is_multiple_of(ROUNDS);
        self.left_out.usage_rounds += u64::from(is_shed);
        self.total.usage_rounds += u64::from(is_shed);
        is_shed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_leaves_out_more_and_counts_it() {
        for (level, left_out) in [
            (Shedding::Nothing, [0, 0, 0]),
            (Shedding::State, [6, 0, 0]),
            (Shedding::Connection, [6, 6, 0]),
            (Shedding::Usage, [6, 6, 5]),
        ] {
            let mut shed = Shed::default();
            shed.set_level(level);
            for round in 0..6 {
                shed.leaves_out_state();
                shed.leaves_out_connection();
                shed.leaves_out_usage(round);
            }
            let found = shed.take();
            let found = [found.state, found.connection, found.usage_rounds];
            assert_eq!(found, left_out, "{level:?}");
            assert_eq!(shed.take(), LeftOut::default());
            assert_eq!(shed.total().state, left_out[0]);
        }
    }
}
