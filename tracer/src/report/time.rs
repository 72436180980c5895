//! Times as they stand in lines.

use jiff::Timestamp;

/// Nanoseconds since 1970 (UTC) of an RFC 3339 time; `None`: it is none, or out of what 64 bits hold.
pub fn parse(text: &str) -> Option<i64> {
    canonical(text.as_bytes()).or_else(|| {
        let ts: Timestamp = text.parse().ok()?;
        i64::try_from(ts.as_nanosecond()).ok()
    })
}

/// The form that tracer writes, `2026-01-02T03:04:05.123456789Z`: some ten times as fast as what reads all forms.
fn canonical(text: &[u8]) -> Option<i64> {
    let text: &[u8; 30] = text.try_into().ok()?;
    let marks = [
        (4, b'-'),
        (7, b'-'),
        (10, b'T'),
        (13, b':'),
        (16, b':'),
        (19, b'.'),
        (29, b'Z'),
    ];
    if marks.iter().any(|&(at, mark)| text[at] != mark) {
        return None;
    }
    let number = |from: usize, to: usize| {
        text[from..to].iter().try_fold(0_i64, |sum, digit| {
            digit
                .is_ascii_digit()
                .then(|| sum * 10 + i64::from(digit - b'0'))
        })
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let valid = (1970..2262).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !valid {
        return None;
    }
    let seconds = ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    Some(seconds * 1_000_000_000 + number(20, 29)?)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970; years begin in March, so that the leap day is their last (Hinnant, "chrono-compatible low-level
/// date algorithms").
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let (era, of_era) = (year / 400, year % 400);
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`parse`].
pub fn timestamp(ns: i64) -> Timestamp {
    Timestamp::from_nanosecond(ns.into()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::{canonical, parse, timestamp};

    /// From then on, 64 bits do not hold the whole year.
    const BEFORE_2262: i64 = 9_214_646_400_000_000_000;

    proptest! {
        #[test]
        fn what_tracer_writes_is_read_as_the_library_reads_it(ns in 0..BEFORE_2262) {
            let text = format!("{:.9}", timestamp(ns));
            prop_assert_eq!(canonical(text.as_bytes()), Some(ns));
        }

        #[test]
        fn both_agree_on_what_is_no_time(text in "20[0-9]{2}-[0-3][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-5][0-9]\\.[0-9]{9}Z") {
            let library = text.parse::<Timestamp>().ok().map(|ts| ts.as_nanosecond());
            prop_assert_eq!(parse(&text).map(i128::from), library);
        }
    }

    #[test]
    fn other_forms_are_read_too() {
        let second = parse("2026-01-02T03:04:05Z").unwrap();
        assert_eq!(parse("2026-01-02T04:04:05.000+01:00"), Some(second));
        assert_eq!(parse("yesterday"), None);
        assert_eq!(parse("9999-01-02T03:04:05.000000000Z"), None);
    }
}
