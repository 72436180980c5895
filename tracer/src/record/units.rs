//! How times, durations and ids are written.

use jiff::Timestamp;
use serde::Serializer;

/// Nanoseconds as seconds, to the millisecond.
pub fn seconds(ns: u64) -> f64 {
    thousandths(ns / 1_000_000)
}

/// Nanoseconds as milliseconds, to the microsecond.
pub fn milliseconds(ns: u64) -> f64 {
    thousandths(ns / 1000)
}

/// Prints with three digits after the point at most: up to 2^53 the quotient is the number nearest to those.
fn thousandths(count: u64) -> f64 {
    count as f64 / 1000.0
}

/// Rates and percentages are not known better.
pub fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

pub(super) fn rfc3339<S: Serializer>(ts: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{ts:.9}"))
}

pub(super) fn rfc3339_or_null<S: Serializer>(
    ts: &Option<Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match ts {
        Some(ts) => rfc3339(ts, serializer),
        None => serializer.serialize_none(),
    }
}

/// 64-bit ids are strings: JSON numbers lose digits above 2^53 in many readers.
pub(super) fn decimal<S: Serializer>(id: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    match id {
        Some(id) => serializer.collect_str(id),
        None => serializer.serialize_none(),
    }
}

/// For fields that are left out when they say nothing.
pub(super) fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::{milliseconds, seconds};

    #[test]
    fn fractions_have_three_digits_at_most() {
        assert_eq!(seconds(61_234_567_890).to_string(), "61.234");
        assert_eq!(milliseconds(1_234_567_899).to_string(), "1234.567");
        assert_eq!(seconds(999).to_string(), "0");
        let century = 100 * 365 * 86_400 * 1_000_000_000 + 1_000;
        assert_eq!(milliseconds(century).to_string(), "3153600000000.001");
    }
}
