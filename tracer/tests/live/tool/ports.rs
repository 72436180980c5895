//! `tracer check` on the ports of a network namespace.

use std::{
    io::Read as _,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{Test, test};
use crate::{netns::Netns, tracer::binary};

pub(super) const ALL: &[Test] = &[test("check_ports", check_ports)];

const LISTENER: u16 = 40_010;
const TIME_WAITS: usize = 3;

/// Longer than what a library reads at first: 31 ports, three of them in the range.
const RESERVED: &str = "9001,9003,9005,9007,9009,9011,9013-9034,40001,40003-40004";

/// Sixteen ports, three of them reserved, one a listener's, and some in TIME_WAIT.
fn crowded() -> Result<(Netns, TcpListener)> {
    let netns = Netns::new()?;
    netns.sysctl("ipv4/ip_local_port_range", "40000 40015")?;
    netns.sysctl("ipv4/ip_local_reserved_ports", RESERVED)?;
    netns.sysctl("ipv4/tcp_tw_reuse", "0")?;
    let listener = netns.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, LISTENER))?;
        for _ in 0..TIME_WAITS {
            let client = TcpStream::connect((Ipv4Addr::LOCALHOST, LISTENER))?;
            let (mut server, _) = listener.accept()?;
            drop(client);
            // The client's FIN has come, and ours answers it.
            ensure!(server.read(&mut [0])? == 0, "data from nowhere");
        }
        Ok(listener)
    })?;
    Ok((netns, listener))
}

fn check(arguments: &[&str]) -> Result<String> {
    let output = Command::new(binary())
        .arg("check")
        .args(arguments)
        .output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {stderr}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

fn check_ports() -> Result<()> {
    let (netns, _listener) = crowded()?;
    in_json(&netns)?;
    // Run inside, it shows this namespace first.
    let text = netns.run(|| check(&[]))?;
    let mut parts = text.split("\n\n");
    let own = parts.find(|part| part.starts_with("network namespace"));
    let own = own.context("no namespace")?;
    for line in [
        format!("network namespace {}", netns.inode),
        "  range 40000..40015: 12 ports for each destination; at 60 s".into(),
        "  reserved: 31 ports, 3 of them in the range".into(),
        "  tcp_tw_reuse 0: ".into(),
        // By now they may be over, on a slow machine.
        "  TIME_WAIT: ".into(),
        format!("  listener on port {LISTENER} sits inside the ephemeral range"),
        "  addresses beside loopback: none".into(),
    ] {
        ensure!(
            own.lines().any(|each| each.starts_with(&line)),
            "{line:?} is not in {text}"
        );
    }
    Ok(())
}

/// Run outside, it shows the namespace among the others.
fn in_json(netns: &Netns) -> Result<()> {
    let report: Value = serde_json::from_str(&check(&["--json"])?)?;
    ensure!(report["coverage"][0]["capability"] == "transitions");
    let all = report["netns"].as_array().context("no namespaces")?;
    let is_it = |each: &&Value| each["netns"] == netns.inode;
    let found = all.iter().find(is_it).context("not among them")?;
    let delays = Path::new("/proc/sys/net/ipv4/tcp_tw_reuse_delay").exists();
    for (name, expected) in [
        ("range", json!([40_000, 40_015])),
        ("reserved", json!(31)),
        ("reserved_in_range", json!(3)),
        ("listeners_in_range", json!([LISTENER])),
        ("ports_per_destination", json!(12)),
        ("tw_reuse", json!(0)),
        ("timestamps", json!(true)),
        ("time_wait", json!(TIME_WAITS)),
        ("has_ipv4", json!(false)),
        ("problems", Value::Null),
    ] {
        ensure!(
            found[name] == expected,
            "{name} is not {expected} in {found}"
        );
    }
    ensure!(found["max_tw_buckets"].is_u64(), "{found}");
    ensure!(found["tw_reuse_delay_ms"].is_u64() == delays, "{found}");
    Ok(())
}
