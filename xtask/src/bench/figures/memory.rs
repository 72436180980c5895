//! Memory at the start, and with 200,000 sockets.
//!
//! The sockets are in TIME_WAIT, which is what port exhaustion is made of: in two network namespaces, on the side of the
//! client, to several addresses of loopback; the servers' ends are gone. They are made at a rate that the full stream keeps up
//! with, so that no lines wait in memory. Options are as they come.

use std::{path::Path, thread, time::Duration};

use anyhow::Result;

use super::{
    super::{bpf, cpu, load},
    Table,
    subject::Subject,
    table,
};

const SOCKETS: u64 = 200_000;
const LOADS: u64 = 2;
/// Connections per second: within the 60 s of TIME_WAIT.
const RATE: u64 = 10_000;
/// To catch up.
const REST: Duration = Duration::from_secs(2);

pub(super) fn measure(tracer: &Path) -> Result<Table> {
    let subject = Subject::settled(tracer, &[], |_| false)?;
    let pid = subject.pid();
    let at_start = cpu::resident(pid)?;
    let order = load::Order {
        kind: load::Kind::FinClient,
        connections: SOCKETS / LOADS,
        rate: RATE / LOADS,
        cpu: None,
    };
    let (_, loads) = load::hold(&order, LOADS)?;
    thread::sleep(REST);
    let (filled, maps, sockets) = (cpu::resident(pid)?, bpf::maps(pid), load::timewait(&loads)?);
    drop(loads);
    subject.stop()?;
    let mib = |bytes: f64| format!("{bytes:.1}");
    let rows = vec![
        ("RSS at the start, MiB".into(), mib(at_start)),
        (format!("RSS at {sockets} sockets, MiB"), mib(filled)),
        (
            "BPF maps in the kernel, MiB".into(),
            mib(maps as f64 / f64::from(1 << 20)),
        ),
    ];
    Ok(table("memory", "sockets in TIME_WAIT", rows))
}
