//! When a file is full, what the full one is called, and which ones go.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::ValueEnum;
use jiff::{Timestamp, tz::TimeZone};

#[derive(Clone, Debug)]
pub struct Rotation {
    /// Bytes.
    pub size: Option<u64>,
    pub age: Option<Duration>,
    /// How many rotated files stay.
    pub keep: usize,
    pub compress: Compress,
    pub fsync: Fsync,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compress {
    None,
    Zstd,
}

/// When lines are to be safe from a crash of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fsync {
    /// When the kernel thinks fit.
    Never,
    /// When a file is rotated, and at the end.
    Rotate,
    /// Once a second as well.
    Interval,
    /// With every write.
    Always,
}

/// Stamps in the order of the alphabet are in that of time.
const FORMAT: &str = "%Y%m%dT%H%M%S%.3fZ";
const PATTERN: &[u8] = b"00000000T000000.000Z";

/// What the extension of a compressed file is.
pub(super) const ZSTD: &str = "zst";

/// A time as names of files have it: `20261126T012213.123Z`.
pub(super) fn stamp(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime(FORMAT).to_string()
}

pub(super) fn is_stamp(text: &[u8]) -> bool {
    let fits = |(byte, pattern): (&u8, &u8)| match pattern {
        b'0' => byte.is_ascii_digit(),
        _ => byte == pattern,
    };
    text.len() == PATTERN.len() && text.iter().zip(PATTERN).all(fits)
}

/// What a file that is full is to be called: a name that no other file has.
pub(super) fn name(path: &Path, now: Timestamp) -> PathBuf {
    let mut now = now;
    loop {
        let name = with(path, &stamp(now));
        if !name.exists() && !with(&name, ZSTD).exists() {
            return name;
        }
        now += Duration::from_millis(1);
    }
}

/// The path with a further extension.
pub(super) fn with(path: &Path, extension: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(extension);
    name.into()
}

/// Whether `name` is what a rotated `file` is called, compressed or not.
pub(super) fn is_rotated(file: &OsStr, name: &OsStr) -> bool {
    let rest = name
        .as_encoded_bytes()
        .strip_prefix(file.as_encoded_bytes());
    let Some(stamp) = rest.and_then(|rest| rest.strip_prefix(b".")) else {
        return false;
    };
    is_stamp(stamp.strip_suffix(b".zst").unwrap_or(stamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_again_and_those_of_others_are_not() {
        let path = Path::new("/nonexistent/trace.jsonl");
        let name = name(path, "2026-11-26T01:22:13.1234Z".parse().unwrap());
        assert_eq!(
            name,
            Path::new("/nonexistent/trace.jsonl.20261126T012213.123Z")
        );
        let file = OsStr::new("trace.jsonl");
        for ours in [
            "trace.jsonl.20261126T012213.123Z",
            "trace.jsonl.20261126T012213.123Z.zst",
        ] {
            assert!(is_rotated(file, OsStr::new(ours)), "{ours}");
        }
        for other in [
            "trace.jsonl",
            "trace.jsonl.1",
            "trace.jsonl.20261126T012213.123Z.gz",
            "trace.jsonl.20261126T012213.123Z.zst.part",
            "trace.jsonl.2026-11-26T01:22.123Z",
            "other.20261126T012213.123Z",
        ] {
            assert!(!is_rotated(file, OsStr::new(other)), "{other}");
        }
    }
}
