//! What an observer has written.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::Path,
};

use anyhow::Result;
use serde::Deserialize;

use super::{
    load,
    mode::{Mode, Program},
};

/// The part of tracer's `stop` line that counts.
#[derive(Deserialize)]
struct Stop {
    lost: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    /// Those that count.
    pub(super) lines: u64,
    /// Events that it says it lost; `None`: it says nothing.
    pub(super) lost: Option<u64>,
}

/// Reads its standard output and its standard error.
pub(super) fn read(mode: &Mode, output: &Path, errors: &Path) -> Result<Told> {
    let mut reader = BufReader::with_capacity(1 << 20, File::open(output)?);
    let port = load::PORT.to_string();
    let (mut line, mut last, mut lines) = (Vec::new(), Vec::new(), 0);
    while reader.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        // Others may have connections meanwhile.
        lines += u64::from(text.contains(&port) && (mode.counts)(&text));
        last.clear();
        std::mem::swap(&mut line, &mut last);
    }
    let lost = match mode.program {
        Program::Tracer => lost(&last),
        Program::Peer(_) => Some(complaints(&fs::read_to_string(errors)?)),
        Program::Nobody => None,
    };
    Ok(Told { lines, lost })
}

/// Events that tracer lost, by its last line; `None`: that is no `stop` line.
pub(super) fn lost(last: &[u8]) -> Option<u64> {
    let stop: Stop = serde_json::from_slice(last).ok()?;
    Some(stop.lost)
}

/// Peers complain: "lost 12 events on CPU #1", "Lost 12 events", "Possibly lost 12 samples".
fn complaints(errors: &str) -> u64 {
    let numbers = errors.split("ost ").skip(1).filter_map(|rest| {
        let number = rest.split_whitespace().next()?;
        number.parse::<u64>().ok()
    });
    numbers.sum()
}

#[cfg(test)]
mod tests {
    use super::complaints;

    #[test]
    fn complaints_are_added_up() {
        assert_eq!(complaints(""), 0);
        let some = "lost 12 events on CPU #1\nPossibly lost 3 samples\nLost 5 events\ncost 1.5\n";
        assert_eq!(complaints(some), 20);
    }
}
