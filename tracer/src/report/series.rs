//! Values over time in bins that grow with the span, so that any span takes the same memory.

/// Lengths of a bin, milliseconds: each a multiple of the one before.
const STEPS: [i64; 18] = [
    100,
    200,
    1_000,
    2_000,
    10_000,
    20_000,
    60_000,
    120_000,
    600_000,
    1_800_000,
    3_600_000,
    7_200_000,
    21_600_000,
    43_200_000,
    86_400_000,
    864_000_000,
    8_640_000_000,
    86_400_000_000,
];
/// More bins than this become fewer, longer ones.
const MOST: i64 = 600;
/// A bin whose value is not known.
const UNKNOWN: i32 = i32::MIN;

/// The time axis: which bins there are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Axis {
    step: usize,
    /// First and last bin, counted from 1970; `None`: nothing was seen.
    span: Option<(i64, i64)>,
}

impl Axis {
    pub(super) fn step_ms(&self) -> i64 {
        STEPS[self.step]
    }

    fn step_ns(&self) -> i64 {
        self.step_ms() * 1_000_000
    }

    /// The bin of a time, which the axis grows to have.
    pub(super) fn bin(&mut self, ts: i64) -> i64 {
        let bin = ts.div_euclid(self.step_ns());
        match &mut self.span {
            None => self.span = Some((bin, bin)),
            Some((first, last)) => {
                *first = bin.min(*first);
                *last = bin.max(*last);
            }
        }
        let before = self.step;
        while let Some((first, last)) = self.span
            && last - first >= MOST
            && self.step + 1 < STEPS.len()
        {
            let factor = STEPS[self.step + 1] / STEPS[self.step];
            self.step += 1;
            self.span = Some((first.div_euclid(factor), last.div_euclid(factor)));
        }
        if self.step == before {
            bin
        } else {
            ts.div_euclid(self.step_ns())
        }
    }

    pub(super) fn first(&self) -> i64 {
        self.span.map_or(0, |(first, _)| first)
    }

    pub(super) fn len(&self) -> usize {
        self.span
            .map_or(0, |(first, last)| (last - first + 1) as usize)
    }

    /// When a bin begins, nanoseconds since 1970.
    pub(super) fn begin(&self, bin: i64) -> i64 {
        bin.saturating_mul(self.step_ns())
    }
}

/// Bins from `first` on, of `step_ms` each.
#[derive(Clone, Debug, Default)]
struct Bins<T> {
    step_ms: i64,
    first: i64,
    values: Vec<T>,
}

impl<T: Copy> Bins<T> {
    /// Makes fewer bins if the axis has.
    fn fit(&mut self, step_ms: i64, merge: impl Fn(&[T]) -> T) {
        if self.step_ms == step_ms {
            return;
        }
        if !self.values.is_empty() {
            let factor = step_ms / self.step_ms;
            let first = self.first.div_euclid(factor);
            let skipped = self.first.rem_euclid(factor) as usize;
            let factor = factor as usize;
            let head = (factor - skipped).min(self.values.len());
            let (head, rest) = self.values.split_at(head);
            let mut merged = vec![merge(head)];
            merged.extend(rest.chunks(factor).map(merge));
            (self.first, self.values) = (first, merged);
        }
        self.step_ms = step_ms;
    }

    /// The value of a bin; bins that were not there are `empty`.
    fn at(&mut self, bin: i64, empty: T) -> &mut T {
        if self.values.is_empty() {
            self.first = bin;
        }
        if bin < self.first {
            let missing = (self.first - bin) as usize;
            self.values
                .splice(0..0, std::iter::repeat_n(empty, missing));
            self.first = bin;
        }
        let index = (bin - self.first) as usize;
        if index >= self.values.len() {
            self.values.resize(index + 1, empty);
        }
        &mut self.values[index]
    }

    fn get(&self, bin: i64) -> Option<T> {
        let index = usize::try_from(bin - self.first).ok()?;
        self.values.get(index).copied()
    }
}

/// What happened, counted by bin.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    bins: Bins<u32>,
    total: u64,
}

impl Sums {
    pub(super) fn add(&mut self, axis: &Axis, bin: i64, count: u64) {
        self.total = self.total.saturating_add(count);
        self.bins.fit(axis.step_ms(), sum);
        let value = self.bins.at(bin, 0);
        *value = value.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// A value for each bin of the axis.
    pub(super) fn values(&self, axis: &Axis) -> Vec<u64> {
        let mut bins = self.bins.clone();
        bins.fit(axis.step_ms(), sum);
        let all = axis.first()..axis.first() + axis.len() as i64;
        all.map(|bin| bins.get(bin).unwrap_or(0).into()).collect()
    }
}

fn sum(counts: &[u32]) -> u32 {
    counts
        .iter()
        .fold(0, |sum, count| sum.saturating_add(*count))
}

/// A level: of each bin the highest, or the one at its end.
#[derive(Clone, Debug, Default)]
pub(super) struct Level {
    bins: Bins<i32>,
    now: i32,
    known: bool,
    at_end: bool,
}

impl Level {
    /// Its bins hold the level at their end: such levels add up at each bin.
    pub(super) fn at_end() -> Self {
        Self {
            at_end: true,
            ..Self::default()
        }
    }

    fn merge(&self) -> fn(&[i32]) -> i32 {
        if self.at_end { latest } else { highest }
    }

    pub(super) fn now(&self) -> i32 {
        self.now
    }

    /// `None`: its change does not count, only what it leads to.
    pub(super) fn set(&mut self, axis: &Axis, bin: Option<i64>, value: i32) {
        if let Some(bin) = bin {
            self.reach(axis, bin);
        }
        self.known = true;
        self.now = value;
        if let (Some(bin), Some(last)) = (bin, self.last()) {
            let at_end = self.at_end;
            let of_bin = self.bins.at(bin.max(last), UNKNOWN);
            *of_bin = if at_end { value } else { value.max(*of_bin) };
        }
    }

    pub(super) fn add(&mut self, axis: &Axis, bin: Option<i64>, change: i32) {
        self.set(axis, bin, self.now.saturating_add(change));
    }

    /// It is as it is at this bin too, if it is known.
    pub(super) fn hold(&mut self, axis: &Axis, bin: i64) {
        if self.known {
            self.reach(axis, bin);
        }
    }

    /// It is not known from here on.
    pub(super) fn end(&mut self, axis: &Axis, bin: Option<i64>) {
        if let Some(bin) = bin {
            self.reach(axis, bin);
        }
        self.known = false;
        self.now = 0;
    }

    /// All that was before was higher by this: what was there at the beginning was not known.
    pub(super) fn lift(&mut self, by: i32) {
        for value in &mut self.bins.values {
            if *value != UNKNOWN {
                *value = value.saturating_add(by);
            }
        }
    }

    fn last(&self) -> Option<i64> {
        let len = self.bins.values.len() as i64;
        (len > 0).then(|| self.bins.first + len - 1)
    }

    /// Bins up to this one begin with the level as it is.
    fn reach(&mut self, axis: &Axis, bin: i64) {
        self.bins.fit(axis.step_ms(), self.merge());
        let begin = if self.known { self.now } else { UNKNOWN };
        match self.last() {
            Some(last) if last >= bin => {}
            _ => {
                self.bins.at(bin, begin);
            }
        }
    }

    /// A value for each bin of the axis; null where it is not known.
    pub(super) fn values(&self, axis: &Axis) -> Vec<Option<u32>> {
        let mut bins = self.bins.clone();
        bins.fit(axis.step_ms(), self.merge());
        let all = axis.first()..axis.first() + axis.len() as i64;
        let value = |bin| match bins.get(bin) {
            None | Some(UNKNOWN) => None,
            Some(value) => Some(u32::try_from(value).unwrap_or(0)),
        };
        all.map(value).collect()
    }
}

/// The value of a bin, or the last before it that is known, or the first after it.
pub(super) fn known_at(values: &[Option<u32>], bin: usize) -> Option<u32> {
    let (before, after) = values.split_at(values.len().min(bin.saturating_add(1)));
    let known = before.iter().flatten().next_back();
    known.or_else(|| after.iter().flatten().next()).copied()
}

fn latest(levels: &[i32]) -> i32 {
    let known = levels.iter().rev().find(|level| **level != UNKNOWN);
    known.copied().unwrap_or(UNKNOWN)
}

fn highest(levels: &[i32]) -> i32 {
    levels.iter().copied().max().unwrap_or(UNKNOWN)
}

/// How many of many spans cover the begin of each bin. For what is told only once it is over.
#[derive(Clone, Debug, Default)]
pub(super) struct Spans {
    /// How many more than at the begin of the bin before.
    changes: Bins<i32>,
}

impl Spans {
    pub(super) fn add(&mut self, axis: &mut Axis, from: i64, to: i64) {
        axis.bin(from);
        axis.bin(to);
        self.changes.fit(axis.step_ms(), total);
        let begin = |ts: i64| ts.div_euclid(axis.step_ns()) + 1;
        let (from, to) = (begin(from), begin(to));
        if from < to {
            *self.changes.at(from, 0) += 1;
            *self.changes.at(to, 0) -= 1;
        }
    }

    pub(super) fn values(&self, axis: &Axis) -> Vec<Option<u32>> {
        let mut changes = self.changes.clone();
        changes.fit(axis.step_ms(), total);
        let mut level = 0;
        let all = axis.first()..axis.first() + axis.len() as i64;
        let value = |bin| {
            level = changes.get(bin).unwrap_or(0).saturating_add(level);
            Some(u32::try_from(level).unwrap_or(0))
        };
        all.map(value).collect()
    }
}

/// Changes within a longer bin show at its begin: at most one bin too early.
fn total(changes: &[i32]) -> i32 {
    changes
        .iter()
        .fold(0, |sum, change| sum.saturating_add(*change))
}

#[cfg(test)]
mod tests {
    use super::{Axis, Level, Spans, Sums};

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn bins_grow_with_the_span_and_keep_sums() {
        let mut axis = Axis::default();
        let mut sums = Sums::default();
        for second in 0..100_000 {
            let bin = axis.bin(second * SECOND);
            sums.add(&axis, bin, 2);
        }
        assert!(axis.len() <= 600, "{}", axis.len());
        assert_eq!(axis.step_ms(), 600_000);
        assert_eq!(sums.values(&axis).iter().sum::<u64>(), 200_000);
        assert_eq!(sums.total(), 200_000);
    }

    #[test]
    fn sums_stay_in_their_bins_when_these_merge() {
        let mut axis = Axis::default();
        let mut sums = Sums::default();
        for at in [7 * SECOND, 8 * SECOND, 500 * SECOND, 5 * SECOND] {
            let bin = axis.bin(at);
            sums.add(&axis, bin, 1);
        }
        // 5 to 500 seconds are 496 bins of a second.
        assert_eq!((axis.step_ms(), axis.len()), (1_000, 496));
        let values = sums.values(&axis);
        assert_eq!([values[0], values[1], values[2], values[3]], [1, 0, 1, 1]);
        assert_eq!(values[495], 1);
    }

    #[test]
    fn a_level_holds_until_it_changes_and_a_bin_shows_the_highest() {
        let mut axis = Axis::default();
        let mut level = Level::default();
        for (tenth, value) in [(0, 3), (1, 9), (1, 2), (4, 5)] {
            let bin = axis.bin(tenth * SECOND / 10);
            level.set(&axis, Some(bin), value);
        }
        let values: Vec<_> = level.values(&axis).into_iter().flatten().collect();
        assert_eq!(values, [3, 9, 2, 2, 5]);
    }

    #[test]
    fn levels_at_the_end_of_bins_add_up() {
        let mut axis = Axis::default();
        let mut level = Level::at_end();
        for (ts, value) in [(0, 3), (1, 9), (2, 4)] {
            let bin = axis.bin(ts);
            level.set(&axis, Some(bin), value);
        }
        assert_eq!(level.values(&axis), [Some(4)]);
    }

    #[test]
    fn what_was_there_before_lifts_all_that_was_seen() {
        let mut axis = Axis::default();
        let mut level = Level::default();
        let bin = axis.bin(0);
        level.add(&axis, Some(bin), -1);
        level.lift(4);
        assert_eq!(level.values(&axis), [Some(3)]);
    }

    #[test]
    fn after_its_end_a_level_is_not_known() {
        let mut axis = Axis::default();
        let mut level = Level::default();
        let (first, third) = (axis.bin(0), axis.bin(SECOND / 5));
        level.set(&axis, Some(first), 4);
        level.end(&axis, Some(first));
        level.set(&axis, Some(third), 1);
        assert_eq!(level.values(&axis), [Some(4), None, Some(1)]);
    }

    #[test]
    fn spans_count_where_they_cover_the_begin_of_a_bin() {
        let mut axis = Axis::default();
        let mut spans = Spans::default();
        spans.add(&mut axis, SECOND / 20, SECOND / 4);
        spans.add(&mut axis, SECOND / 5 - 1, SECOND / 2);
        let values: Vec<_> = spans.values(&axis).into_iter().flatten().collect();
        assert_eq!(values, [0, 1, 2, 1, 1, 1]);
    }
}
