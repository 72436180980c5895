//! Counters of which there may be any number, in a bounded number of series.

use std::{collections::HashMap, hash::Hash, time::Duration};

/// A series that has not counted for so long may give way to another one: no usual `rate()` looks back so far.
const QUIET: u64 = Duration::from_secs(3600).as_nanos() as u64;

/// The first `most` keys get a series each; what comes under other keys is counted in the one of its group's `others`.
///
/// No series ever goes backwards. What has been counted stays where it was counted: nothing moves from a series into
/// `others` or back, because a jump there would look like that many events at once. A key that comes when all series
/// are taken gets the one that has been quiet for longest, if that is an hour or more; the old one is no longer shown,
/// and if its key comes back it counts from 1, which readers take for the reset that it is. So the sum of the series
/// shown may fall: the count of everything is kept elsewhere ([`super::Tally`]).
#[derive(Debug)]
pub struct Series<K, G> {
    most: usize,
    counts: HashMap<K, Count>,
    others: HashMap<G, u64>,
    /// Before then no series has been quiet for long enough.
    quiet_at: u64,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    count: u64,
    last: u64,
}

impl<K: Clone + Eq + Hash, G: Copy + Eq + Hash> Series<K, G> {
    pub fn new(most: usize) -> Self {
        Self {
            most,
            counts: HashMap::new(),
            others: HashMap::new(),
            quiet_at: 0,
        }
    }

    /// One more of `key`, which belongs to `group`, at `now` (nanoseconds of any clock that does not run backwards).
    pub fn add(&mut self, key: &K, group: G, now: u64) {
        if let Some(known) = self.counts.get_mut(key) {
            known.count += 1;
            known.last = now;
        } else if self.has_room(now) {
            let first = Count {
                count: 1,
                last: now,
            };
            self.counts.insert(key.clone(), first);
        } else {
            *self.others.entry(group).or_default() += 1;
        }
    }

    /// Makes room if that is possible.
    fn has_room(&mut self, now: u64) -> bool {
        if self.counts.len() < self.most {
            return true;
        }
        if now < self.quiet_at {
            return false;
        }
        let quietest = self.counts.iter().min_by_key(|(_, count)| count.last);
        let Some((key, last)) = quietest.map(|(key, count)| (key.clone(), count.last)) else {
            return false;
        };
        self.quiet_at = last.saturating_add(QUIET);
        let is_quiet = now >= self.quiet_at;
        if is_quiet {
            self.counts.remove(&key);
        }
        is_quiet
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, u64)> {
        self.counts.iter().map(|(key, count)| (key, count.count))
    }

    /// What has no series of its own, by group.
    pub fn others(&self) -> impl Iterator<Item = (G, u64)> {
        self.others.iter().map(|(group, count)| (*group, *count))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn shown(series: &Series<u32, u8>) -> HashMap<u32, u64> {
        series.iter().map(|(key, count)| (*key, count)).collect()
    }

    fn others(series: &Series<u32, u8>) -> u64 {
        series.others().map(|(_, count)| count).sum()
    }

    #[test]
    fn who_comes_too_late_is_counted_with_the_others() {
        let mut series = Series::new(2);
        for key in [1, 2, 3, 3, 4, 1] {
            series.add(&key, 0_u8, 1);
        }
        assert_eq!(shown(&series), HashMap::from([(1, 2), (2, 1)]));
        assert_eq!(others(&series), 3);
    }

    #[test]
    fn a_series_that_is_quiet_gives_way_and_its_count_goes_nowhere() {
        let mut series = Series::new(2);
        series.add(&1, 0_u8, 0);
        series.add(&2, 0, QUIET / 2);
        series.add(&3, 0, QUIET - 1);
        assert_eq!(others(&series), 1);
        series.add(&3, 0, QUIET);
        assert_eq!(shown(&series), HashMap::from([(2, 1), (3, 1)]));
        assert_eq!(others(&series), 1);
        series.add(&1, 0, QUIET + 1);
        assert_eq!(others(&series), 2);
    }

    #[test]
    fn none_at_all_may_be_asked_for() {
        let mut series = Series::new(0);
        series.add(&1, 0_u8, 0);
        series.add(&1, 0_u8, u64::MAX);
        assert_eq!((shown(&series).len(), others(&series)), (0, 2));
    }

    proptest! {
        #[test]
        fn nothing_goes_backwards_or_is_counted_twice(
            most in 0_usize..6,
            steps in prop::collection::vec((0_u32..12, 0_u64..QUIET), 1..300),
        ) {
            let mut series = Series::new(most);
            let mut now = 0;
            for (key, pause) in steps {
                // Most come in quick succession.
                now += if pause % 4 == 0 { pause } else { 1 };
                let (before, other) = (shown(&series), others(&series));
                series.add(&key, (key % 2) as u8, now);
                let after = shown(&series);
                prop_assert!(after.len() <= most);
                prop_assert!(others(&series) >= other);
                for (key, count) in &before {
                    prop_assert!(after.get(key).is_none_or(|now| now >= count));
                }
                let all = |counts: &HashMap<u32, u64>| counts.values().sum::<u64>();
                let lost: u64 = before.iter().filter(|(key, _)| !after.contains_key(key)).map(|(_, count)| count).sum();
                prop_assert_eq!(all(&after) + others(&series) + lost, all(&before) + other + 1);
            }
        }
    }
}
