//! How times, durations and ids are written.

use std::{cell::Cell, io::Write as _};

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

/// A second and its text, such as `2026-11-26T05:01:27.`
type Second = (i64, [u8; 20]);

/// A prime: what lies a minute before has another place. A connection that was in TIME_WAIT has times of then and now.
const SECONDS: i64 = 7;

thread_local! {
    /// Those that were written last, each at its place: most times are of the same second as one before.
    static LAST: [Cell<Second>; SECONDS as usize] =
        const { [const { Cell::new((i64::MIN, [0; 20])) }; SECONDS as usize] };
}

/// RFC 3339 in UTC, with nine digits after the point.
pub(super) fn rfc3339<S: Serializer>(ts: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{ts:.9}"))
}

/// Appends the same.
pub(super) fn push_rfc3339(ts: &Timestamp, to: &mut Vec<u8>) {
    let fraction = u32::try_from(ts.subsec_nanosecond()).ok();
    match fraction.and_then(|fraction| Some((second_of(ts)?, fraction))) {
        Some((second, fraction)) => to.extend_from_slice(&with_fraction(&second, fraction)),
        // A `Vec` takes everything.
        None => _ = write!(to, "{ts:.9}"),
    }
}

/// `None`: the year has not four digits.
fn second_of(ts: &Timestamp) -> Option<[u8; 20]> {
    let number = ts.as_second();
    LAST.with(|seconds| {
        let place = &seconds[number.rem_euclid(SECONDS) as usize];
        let (last, text) = place.get();
        if last == number {
            return Some(text);
        }
        let text = format!("{ts:.0}").replace('Z', ".");
        let text = text.into_bytes().try_into().ok()?;
        place.set((number, text));
        Some(text)
    })
}

fn with_fraction(second: &[u8; 20], mut fraction: u32) -> [u8; 30] {
    let mut text = [b'Z'; 30];
    text[..20].copy_from_slice(second);
    for digit in text[20..29].iter_mut().rev() {
        *digit = b'0' + (fraction % 10) as u8;
        fraction /= 10;
    }
    text
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
    use jiff::Timestamp;

    use super::{milliseconds, push_rfc3339, seconds};

    #[test]
    fn times_are_as_jiff_writes_them() {
        let year = 31_556_952_000_000_000;
        for ns in [
            0,
            1,
            999_999_999,
            1_000_000_000,
            -1,
            -year * 3000,
            year * 7000,
        ] {
            for ns in [ns, ns + 1_795_669_287_323_836_345] {
                let ts = Timestamp::from_nanosecond(ns).unwrap();
                let mut written = Vec::new();
                push_rfc3339(&ts, &mut written);
                assert_eq!(String::from_utf8(written).unwrap(), format!("{ts:.9}"));
            }
        }
    }

    #[test]
    fn fractions_have_three_digits_at_most() {
        assert_eq!(seconds(61_234_567_890).to_string(), "61.234");
        assert_eq!(milliseconds(1_234_567_899).to_string(), "1234.567");
        assert_eq!(seconds(999).to_string(), "0");
        let century = 100 * 365 * 86_400 * 1_000_000_000 + 1_000;
        assert_eq!(milliseconds(century).to_string(), "3153600000000.001");
    }
}
