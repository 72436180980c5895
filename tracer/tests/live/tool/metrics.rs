//! What Prometheus gets: the numbers of the stream, on loopback only.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::{Test, refusals::refused, test};
use crate::{
    actor::{Actor, Op},
    lines::{Keep, Line, PATIENCE, Record},
    scene::{Scene, V4},
    tracer::{Tracer, binary},
};

pub(super) const ALL: &[Test] = &[
    test("metrics", metrics),
    test("metrics_of_all_namespaces", of_all_namespaces),
    test("metrics_loopback_only", loopback_only),
    test("metrics_port_taken", port_taken),
];

pub(super) const PORTS: u32 = 16;

/// One that nobody has, as far as one can know.
pub(super) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(SocketAddr::new(V4, 0))?;
    Ok(listener.local_addr()?.port())
}

/// Answers status line and headers, and the body.
pub(super) fn get(port: u16, path: &str) -> Result<(String, String)> {
    let mut stream = TcpStream::connect(SocketAddr::new(V4, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("not HTTP: {answer}"))?;
    Ok((head.to_owned(), body.to_owned()))
}

/// The samples of a page by their names and labels.
type Page = BTreeMap<String, f64>;

fn page(port: u16) -> Result<Page> {
    let (head, body) = get(port, "/metrics")?;
    if !head.starts_with("HTTP/1.1 200") {
        return Ok(Page::new());
    }
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.map(|line| {
        let (name, value) = line
            .rsplit_once(' ')
            .with_context(|| format!("no sample: {line}"))?;
        Ok((name.to_owned(), value.parse()?))
    });
    samples.collect()
}

/// The page, once it is as it should be.
pub(super) fn wait(port: u16, is: impl Fn(&Page) -> bool) -> Result<Page> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Until the tracer has loaded its programs, nobody is there.
        let page = page(port).unwrap_or_default();
        if is(&page) {
            return Ok(page);
        }
        ensure!(Instant::now() < deadline, "it never becomes so: {page:#?}");
        thread::sleep(Duration::from_millis(50));
    }
}

pub(super) fn sum(page: &Page, name: &str, labels: &str) -> f64 {
    let of_it = |sample: &str| {
        let rest = sample.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('{') && rest.contains(labels))
    };
    page.iter()
        .filter(|(sample, _)| of_it(sample))
        .map(|(_, value)| value)
        .sum()
}

/// A namespace without a free port towards its server, and somebody who failed there so often.
pub(super) struct Full {
    pub scene: Scene,
    pub port: u16,
    pub to: SocketAddr,
    pub failed: u64,
    _actors: [Actor; 2],
}

pub(super) fn full(args: &[&str]) -> Result<Full> {
    let port = free_port()?;
    let metrics = port.to_string();
    let mut all = vec!["--interval", "1", "--metrics", &metrics];
    all.extend(args);
    let scene = Scene::new(Arc::new(Tracer::started(&all, Keep::All)?))?;
    scene
        .netns
        .sysctl("ipv4/ip_local_port_range", "40000 40015")?;
    scene.netns.sysctl("ipv4/tcp_tw_reuse", "0")?;
    let server = scene.server(V4, 5774)?;
    let to = server.addr;
    let mut client = scene.actor("metrics-client")?;
    let failed = 25;
    let times = PORTS + failed;
    let codes = client.all(&Op::ConnectMany {
        v6: false,
        to,
        times,
    })?;
    let connected = codes.iter().filter(|code| **code == 0).count();
    ensure!(
        connected == PORTS as usize,
        "{connected} of {PORTS} connected"
    );
    Ok(Full {
        scene,
        port,
        to,
        failed: failed.into(),
        _actors: [server.actor, client],
    })
}

impl Full {
    fn way(&self) -> String {
        format!(
            r#"{{netns="{}",local="127.0.0.1",peer="{}"}}"#,
            self.scene.netns.inode, self.to
        )
    }
}

/// How many failures the lines tell.
fn told(lines: &[Arc<Line>]) -> u64 {
    let failures = lines.iter().filter_map(|line| match &line.record {
        Record::ConnectFailed(failed) => Some(failed.why.times()),
        _ => None,
    });
    failures.sum()
}

/// The page agrees with the stream, and with what the client counted.
fn metrics() -> Result<()> {
    let full = full(&["--coalesce-failures"])?;
    let series = "tracer_process_connect_failures_total";
    let failed = full.failed as f64;
    let of_client = |page: &Page| sum(page, series, r#"comm="metrics-client""#);
    let way = full.way();
    let at = |page: &Page, name: &str| page.get(&format!("{name}{way}")).copied();
    let page = wait(full.port, |page| {
        of_client(page) >= failed && at(page, "tracer_destination_pressure") == Some(2.0)
    })?;
    ensure!(
        of_client(&page) == failed,
        "{} of {failed}",
        of_client(&page)
    );
    let found = ["in_use", "time_wait", "free"]
        .map(|what| at(&page, &format!("tracer_destination_ports_{what}")));
    ensure!(
        found == [Some(16.0), Some(0.0), Some(0.0)],
        "{way}: {found:?}"
    );
    let all = sum(&page, "tracer_connect_failures_total", "");
    ensure!(
        sum(&page, series, "") == all,
        "the series are not all {all}"
    );
    for name in [
        "tracer_cpu_seconds_total",
        "tracer_resident_memory_bytes",
        "tracer_ring_size_bytes",
    ] {
        ensure!(
            page.get(name).is_some_and(|value| *value > 0.0),
            "no {name}"
        );
    }
    ensure!(
        get(full.port, "/healthz")?.0.starts_with("HTTP/1.1 200"),
        "not well"
    );
    full.scene.drained()?;
    let lines = &full.scene.tracer.lines;
    let inode = full.scene.netns.inode;
    lines.wait(inode, |lines| (told(lines) >= full.failed).then_some(()));
    let told = told(&lines.of(inode));
    ensure!(told == full.failed, "{told} told of {}", full.failed);
    full.scene
        .into_tracer()?
        .stop(Signal::TERM)?
        .check_totals()?;
    Ok(())
}

/// `--netns` chooses lines, and not what is counted.
fn of_all_namespaces() -> Result<()> {
    let ours = std::process::id().to_string();
    let full = full(&["--netns", &ours, "--emit", "connect_failed"])?;
    let failed = full.failed as f64;
    let series = "tracer_process_connect_failures_total";
    wait(full.port, |page| {
        sum(page, series, r#"comm="metrics-client""#) >= failed
    })?;
    let lines = full.scene.tracer.lines.of(full.scene.netns.inode);
    ensure!(lines.is_empty(), "lines of another namespace: {lines:?}");
    let tracer = full.scene.into_tracer()?;
    tracer.stop(Signal::TERM)?.check_totals()?;
    Ok(())
}

/// Who names only a port gets it on loopback only.
fn loopback_only() -> Result<()> {
    let port = free_port()?;
    let tracer = Tracer::started(&["--metrics", &port.to_string()], Keep::Rare)?;
    wait(port, |page| !page.is_empty())?;
    let listeners = |file: &str| -> Result<Vec<String>> {
        let table = fs::read_to_string(
            Path::new("/proc")
                .join(tracer.pid().to_string())
                .join("net")
                .join(file),
        )?;
        let here = format!(":{port:04X}");
        // Local address, remote address, state: 0A is LISTEN (proc_net_tcp(5)).
        let rows = table
            .lines()
            .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
        let rows = rows.filter(|row| row.get(3) == Some(&"0A") && row[1].ends_with(&here));
        Ok(rows.map(|row| row[1].to_owned()).collect())
    };
    let loopback = u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets());
    ensure!(
        listeners("tcp")? == [format!("{loopback:08X}:{port:04X}")],
        "{:?}",
        listeners("tcp")?
    );
    ensure!(listeners("tcp6")?.is_empty(), "{:?}", listeners("tcp6")?);
    tracer.stop(Signal::TERM)?.check_totals()?;
    Ok(())
}

fn port_taken() -> Result<()> {
    let listener = TcpListener::bind(SocketAddr::new(V4, 0))?;
    let address = listener.local_addr()?.to_string();
    let output = Command::new(binary())
        .args(["--metrics", &address])
        .output()?;
    let said = refused(&output)?;
    ensure!(
        said.contains("the port is taken") && said.contains(&address),
        "{said}"
    );
    for bad in ["localhost:9464", "9464x", "127.0.0.1:0"] {
        let said = refused(&Command::new(binary()).args(["--metrics", bad]).output()?)?;
        ensure!(
            said.contains(bad) && said.contains("0.0.0.0:9464"),
            "{said}"
        );
    }
    Ok(())
}
