//! CPU without a load, with the options as they come.

use std::{path::Path, thread, time::Duration};

use anyhow::Result;

use super::{super::cpu, Table, subject::Subject, table};

/// Two intervals of usage.
const WATCHED: Duration = Duration::from_secs(20);

pub(super) fn measure(tracer: &Path) -> Result<Table> {
    let subject = Subject::settled(tracer, &[], |_| false)?;
    let before = cpu::of(subject.pid())?;
    thread::sleep(WATCHED);
    let used = cpu::of(subject.pid())?.saturating_sub(before);
    subject.stop()?;
    let percent = used.as_secs_f64() / WATCHED.as_secs_f64() * 100.0;
    let note = format!("over {} s without a load", WATCHED.as_secs());
    let rows = vec![("CPU, percent of a core".into(), format!("{percent:.3}"))];
    Ok(table("idle", &note, rows))
}
