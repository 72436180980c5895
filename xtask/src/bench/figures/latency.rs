//! Time from a failing connect() to the line that explains it.
//!
//! In a network namespace of 16 ports, all of them bound, connect() fails at random moments, each time to an address
//! of its own, so that each failure is explained by itself. Its end (the return of connect(), in this process) is
//! compared with the moment at which this process has read the line from the pipe.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use socket2::{Domain, Socket, Type};

use super::{super::load, Table, subject::Subject, table};

const FAILURES: u32 = 1200;
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 1);
const PORTS: std::ops::RangeInclusive<u16> = 40_000..=40_015;
/// The longest pause between two failures, in microseconds.
const PAUSE: u64 = 20_000;
/// For the last lines.
const REST: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Failed {
    peer: Peer,
    explained_by: Option<u64>,
}

#[derive(Deserialize)]
struct Peer {
    ip: Option<IpAddr>,
}

pub(super) fn measure(tracer: &Path) -> Result<Table> {
    let subject = Subject::settled(tracer, &[], |line| {
        line.contains(r#""type":"connect_failed""#)
    })?;
    // A thread of its own goes into the network namespace, and leaves it with its end.
    let failed = thread::spawn(fail).join();
    let failed = failed.ok().context("a thread panicked")??;
    thread::sleep(REST);
    let mut times = Vec::new();
    for line in subject.stop()? {
        let Ok(told) = serde_json::from_str::<Failed>(&line.text) else {
            continue;
        };
        let at = told.peer.ip.and_then(|ip| failed.get(&ip));
        if let (Some(at), None) = (at, told.explained_by) {
            times.push(line.at.saturating_duration_since(*at));
        }
    }
    ensure!(!times.is_empty(), "no failure was explained");
    times.sort_unstable();
    let note = format!(
        "{} explained of {} failures at random moments",
        times.len(),
        failed.len()
    );
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    let row = |name: &str, share| {
        (
            format!("{name}, ms"),
            format!("{:.2}", at(share).as_secs_f64() * 1000.0),
        )
    };
    let rows = vec![row("p50", 0.5), row("p99", 0.99), row("max", 1.0)];
    Ok(table("latency", &note, rows))
}

/// When connect() to each address returned.
fn fail() -> Result<HashMap<IpAddr, Instant>> {
    load::enter_namespace("40000 40015")?;
    let _held = PORTS.map(bound).collect::<Result<Vec<_>>>()?;
    let mut failed = HashMap::new();
    let mut random = 1_u64;
    for number in 0..FAILURES {
        // Knuth's constants for MMIX: the upper bits are random enough for pauses.
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        thread::sleep(Duration::from_micros((random >> 33) % PAUSE));
        let to = Ipv4Addr::from_bits(FIRST.to_bits() + number);
        let client = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        let result = client.connect(&SocketAddr::from((to, load::PORT)).into());
        failed.insert(to.into(), Instant::now());
        let errno = result.err().and_then(|error| error.raw_os_error());
        ensure!(
            errno == Some(libc::EADDRNOTAVAIL),
            "a connect gave {errno:?}"
        );
    }
    Ok(failed)
}

/// What is bound no connect() can choose.
fn bound(port: u16) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    Ok(socket)
}
