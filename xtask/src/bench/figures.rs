//! Figures of tracer alone, each in a file of its own: what it takes when there is nothing to do, and how it grows.

mod growth;
mod idle;
mod latency;
mod memory;
mod start;
mod subject;

use std::path::Path;

use anyhow::Result;

use super::table::Table;
use crate::process::say;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Figure {
    /// CPU without a load
    Idle,
    /// Memory at the start, and with 200,000 sockets
    Memory,
    /// Time to the first line, and until everything is attached
    Start,
    /// Time from a failing connect() to the line that explains it
    Latency,
    /// Cost of an event while 1,000, 100,000 and 1,000,000 sockets are tracked
    Growth,
    All,
}

type Measure = fn(&Path) -> Result<Table>;

const ALL: [(Figure, &str, Measure); 5] = [
    (Figure::Idle, "idle", idle::measure),
    (Figure::Start, "start", start::measure),
    (Figure::Latency, "latency", latency::measure),
    (Figure::Memory, "memory", memory::measure),
    (Figure::Growth, "growth", growth::measure),
];

/// One table for each that is wanted, as soon as it is there.
pub(super) fn measure(
    wanted: &[Figure],
    tracer: &Path,
    show: &mut dyn FnMut(&Table) -> Result<()>,
) -> Result<()> {
    for (figure, name, measure) in ALL {
        if wanted.contains(&figure) || wanted.contains(&Figure::All) {
            say(name);
            show(&measure(tracer)?)?;
        }
    }
    Ok(())
}

/// A table of figures with their names.
fn table(name: &str, note: &str, rows: Vec<(String, String)>) -> Table {
    Table {
        name: name.to_owned(),
        note: note.to_owned(),
        head: ["figure", "value"].map(String::from).to_vec(),
        rows: rows
            .into_iter()
            .map(|(figure, value)| vec![figure, value])
            .collect(),
    }
}
