//! What an event costs while few sockets are tracked, and while many are.
//!
//! The sockets are in TIME_WAIT, as for memory. While they last (60 s), further connections are made, several times, and
//! what those cost is told by state transition. Lines are those of failures, pressure and usage, and there is no
//! usage meanwhile: that is told by interval, not by event. The ring buffer is large, because the sockets are made as fast as it
//! goes, and after a loss tracer would look at all of them.

use std::{path::Path, thread, time::Duration};

use anyhow::Result;

use super::{
    super::{bpf, cpu, load, table::median},
    Table,
    subject::Subject,
};
use crate::process::say;

const SOCKETS: [u64; 3] = [1_000, 100_000, 1_000_000];
const LOADS: u64 = 2;
const BATCHES: usize = 3;
/// Connections of a batch.
const CONNECTIONS: u64 = 10_000;
/// To catch up.
const REST: Duration = Duration::from_millis(1500);
const ARGUMENTS: [&str; 8] = [
    "--emit",
    "connect_failed,bind_failed,pressure,usage",
    "--interval",
    "3600",
    "--max-sockets",
    "2000000",
    "--ring-size",
    "512M",
];

/// Of a state transition, nanoseconds.
struct Cost {
    own: f64,
    bpf: f64,
}

pub(super) fn measure(tracer: &Path) -> Result<Table> {
    let rows = SOCKETS.map(|sockets| row(tracer, sockets));
    let head = [
        "sockets tracked",
        "own, ns",
        "BPF, ns",
        "sockets left at the end",
    ];
    Ok(Table {
        name: "growth".to_owned(),
        note: format!("by state transition; medians of {BATCHES} times {CONNECTIONS} connections"),
        head: head.map(String::from).to_vec(),
        rows: rows.into_iter().collect::<Result<_>>()?,
    })
}

fn row(tracer: &Path, sockets: u64) -> Result<Vec<String>> {
    say(&format!("growth: {sockets} sockets"));
    let subject = Subject::settled(tracer, &ARGUMENTS, |_| false)?;
    let (_, filled) = load::hold(&order(sockets / LOADS), LOADS)?;
    thread::sleep(REST);
    let _stats = bpf::Statistics::enable()?;
    let (mut costs, mut batches) = (Vec::new(), Vec::new());
    for _ in 0..BATCHES {
        let (cost, running) = batch(subject.pid())?;
        costs.push(cost);
        // As long as they last, their network namespaces need not be dissolved.
        batches.push(running);
    }
    let left = load::timewait(&filled)?;
    drop((filled, batches));
    subject.stop()?;
    let median_of =
        |cost: fn(&Cost) -> f64| format!("{:.0}", median(costs.iter().map(cost).collect()));
    Ok(vec![
        sockets.to_string(),
        median_of(|cost| cost.own),
        median_of(|cost| cost.bpf),
        left.to_string(),
    ])
}

fn order(connections: u64) -> load::Order {
    load::Order {
        kind: load::Kind::FinClient,
        connections,
        rate: 0,
        cpu: None,
    }
}

fn batch(pid: u32) -> Result<(Cost, Vec<load::Running>)> {
    let before = (cpu::of(pid)?, bpf::ns(pid));
    let (load, running) = load::hold(&order(CONNECTIONS), 1)?;
    thread::sleep(REST);
    let own = cpu::of(pid)?.saturating_sub(before.0);
    let transitions = (load.in_all * load::Kind::FinClient.transitions()) as f64;
    let cost = Cost {
        own: own.as_secs_f64() * 1e9 / transitions,
        bpf: bpf::ns(pid).saturating_sub(before.1) as f64 / transitions,
    };
    Ok((cost, running))
}
