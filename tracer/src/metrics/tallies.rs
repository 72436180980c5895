//! Failures and losses, counted as they happen.

use std::collections::BTreeMap;

use super::Series;
use crate::{
    event::{Comm, Endpoint, Event, Kind, Reason},
    record::Where,
};

/// What is counted for metrics. The default keeps no series but those of all.
#[derive(Debug)]
pub struct Tallies {
    pub connects: Tally,
    pub binds: Tally,
    pub losses: Losses,
    /// Lines that outputs did not take, by type.
    pub dropped: BTreeMap<&'static str, u64>,
}

/// Failures of one system call.
#[derive(Debug)]
pub struct Tally {
    /// All of them, by reason.
    pub all: BTreeMap<&'static str, u64>,
    /// Who failed, and where; the groups are the reasons.
    pub series: Series<Failed, &'static str>,
}

/// What makes failures the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Failed {
    pub reason: &'static str,
    /// UTF-8. Empty: nobody can be named.
    pub comm: Comm,
    /// The destination of a `connect()`, the address that `bind()` asked for.
    pub at: Endpoint,
}

/// What the `loss` lines have told, by place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses(BTreeMap<&'static str, u64>);

impl Tallies {
    /// `most`: series for each system call.
    pub fn new(most: usize) -> Self {
        Self {
            connects: Tally::new(&CONNECT_REASONS.map(connect_reason), most),
            binds: Tally::new(&BIND_REASONS, most),
            losses: Losses::default(),
            dropped: BTreeMap::new(),
        }
    }

    /// Outputs did not take so many lines of each type.
    pub fn drop_lines(&mut self, dropped: &BTreeMap<&'static str, u64>) {
        self.losses.add(dropped.values().sum(), Where::Output);
        for (kind, count) in dropped {
            *self.dropped.entry(kind).or_default() += count;
        }
    }

    /// Counts the event if it is a call that failed.
    pub fn count(&mut self, event: &Event) {
        let comm = event.task.as_ref().map(|task| readable(task.comm));
        let comm = comm.unwrap_or(Comm([0; 16]));
        let (tally, reason, at) = match event.kind {
            Kind::ConnectFailed { reason, .. } => {
                (&mut self.connects, connect_reason(reason), event.tuple.peer)
            }
            Kind::BindFailed { .. } => {
                let at = event.tuple.local;
                (&mut self.binds, bind_reason(at), at)
            }
            _ => return,
        };
        tally.count(&Failed { reason, comm, at }, event.ts);
    }
}

impl Tally {
    fn new(reasons: &[&'static str], most: usize) -> Self {
        Self {
            all: reasons.iter().map(|reason| (*reason, 0)).collect(),
            series: Series::new(most),
        }
    }

    fn count(&mut self, failed: &Failed, now: u64) {
        *self.all.entry(failed.reason).or_default() += 1;
        self.series.add(failed, failed.reason, now);
    }
}

impl Losses {
    pub fn add(&mut self, count: u64, place: Where) {
        *self.0.entry(place.name()).or_default() += count;
    }

    /// Every place, whether anything was lost there or not.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let places = Where::ALL.iter().map(|place| place.name());
        places.map(|name| (name, self.0.get(name).copied().unwrap_or(0)))
    }
}

/// The name as labels show it. Names that look the same there must be the same here: a page that has a series twice
/// is no page.
fn readable(comm: Comm) -> Comm {
    let shown = String::from_utf8_lossy(comm.bytes());
    let mut readable = [0; 16];
    // What replaces a byte is longer than that.
    let end = shown.floor_char_boundary(readable.len());
    readable[..end].copy_from_slice(&shown.as_bytes()[..end]);
    Comm(readable)
}

const CONNECT_REASONS: [Reason; 4] = [
    Reason::PortsExhausted,
    Reason::TupleInUse,
    Reason::NoSourceAddress,
    Reason::Unknown,
];

const BIND_REASONS: [&str; 2] = ["ports_exhausted", "address_in_use"];

/// As the lines name it.
fn connect_reason(reason: Reason) -> &'static str {
    match reason {
        Reason::PortsExhausted => "ports_exhausted",
        Reason::TupleInUse => "tuple_in_use",
        Reason::NoSourceAddress => "no_source_address",
        Reason::Unknown => "unknown",
    }
}

/// As the lines name it.
fn bind_reason(at: Endpoint) -> &'static str {
    BIND_REASONS[usize::from(at.port.is_some())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_look_the_same_are_the_same() {
        let comm = |bytes: &[u8]| {
            let mut comm = [0; 16];
            comm[..bytes.len()].copy_from_slice(bytes);
            readable(Comm(comm))
        };
        assert_eq!(comm(b"worker").bytes(), b"worker");
        assert_eq!(comm(b"a\xff"), comm(b"a\xfe"));
        assert_eq!(comm(b"a\xff").bytes(), "a\u{fffd}".as_bytes());
        assert_eq!(comm(&[0xff; 15]).bytes(), "\u{fffd}".repeat(5).as_bytes());
    }

    #[test]
    fn reasons_and_places_are_named_as_in_the_lines() {
        for reason in CONNECT_REASONS {
            let name = serde_json::to_value(reason).unwrap();
            assert_eq!(name, connect_reason(reason));
        }
        for place in Where::ALL {
            assert_eq!(serde_json::to_value(place).unwrap(), place.name());
        }
    }
}
