//! A report as an incident leaves it, with names that nobody should trust.

use std::{collections::BTreeMap, f64::consts::PI};

use jiff::Timestamp;
use tracer::report::model::{
    Advice, Axis, Count, Destination, Failures, File, Hole, Input, Moment, Peak, Pool, Report, Run,
    Span, Stack, VERSION,
};

/// Ends the script's element, starts another, breaks out of attributes and lines, turns the direction of writing.
pub(crate) const HOSTILE: &str = "</script><img src=x onerror=alert(1)><script>alert(2)</script>\"'`${alert(3)}\n\u{202e}gpj.\u{0}\u{2028}&lt;";
/// As the page shows its begin.
pub(crate) const HOSTILE_SHOWN: &str = "</script><img src=x onerror=alert(1)>";

/// 2026-11-21 14:00:00 UTC.
const START: i64 = 1_795_269_600;
const SECONDS: usize = 600;
const NARROW: u32 = 28_232;
const WIDE: u32 = 54_512;
const HOST: &str = "web-3";
const NETNS: u32 = 4_026_531_840;

fn at(second: f64) -> Timestamp {
    Timestamp::from_millisecond(START * 1000 + (second * 1000.0) as i64)
        .expect("a time of this century")
}

/// What one second was like.
#[derive(Clone, Copy, Default)]
struct Second {
    limit: u32,
    proxy: u32,
    proxy_waits: u32,
    deploy: u32,
    deploy_waits: u32,
    leak: u32,
    opened: u64,
    closed: u64,
    failed: u64,
}

/// A proxy works; at second 150 a new version of something comes that closes each connection first; the range is full
/// until somebody widens it at 420, and put right at 500.
fn seconds() -> Vec<Second> {
    let mut lives = Vec::new();
    let mut waits: Vec<u32> = Vec::new();
    for second in 0..SECONDS {
        let now = second as f64;
        let wave = (now / 47.0 * PI).sin() + (now / 7.3 * PI).sin() / 3.0;
        let limit = if second < 420 { NARROW } else { WIDE };
        let (proxy, proxy_waits) = (
            (420.0 + 60.0 * wave) as u32,
            (5_200.0 + 700.0 * wave) as u32,
        );
        let leak = (second * second / 180) as u32;
        let held: u32 = waits.iter().rev().take(60).sum();
        let demand = match second {
            150..500 => (640.0 + 60.0 * wave) as u32,
            _ => 0,
        };
        let deploy = demand / 4;
        let free = limit.saturating_sub(proxy + proxy_waits + leak + deploy + 16 + held);
        let done = demand.min(free);
        waits.push(done);
        let deploy_waits: u32 = waits.iter().rev().take(60).sum();
        lives.push(Second {
            limit,
            proxy,
            proxy_waits: proxy_waits.min(limit - proxy - deploy - deploy_waits - leak - 16),
            deploy,
            deploy_waits,
            leak,
            opened: u64::from(done) + 92 + second as u64 % 7,
            closed: u64::from(done) + 90 + second as u64 % 5,
            failed: u64::from(demand - done),
        });
    }
    lives
}

/// The values of each second, in `bins`: of levels the last, so that they add up; of counts the sum.
fn levels(seconds: &[Second], bins: usize, of: impl Fn(&Second) -> u32) -> Vec<u32> {
    let chunks = seconds.chunks(SECONDS / bins);
    chunks
        .map(|chunk| chunk.last().map(&of).unwrap_or(0))
        .collect()
}
fn sums(seconds: &[Second], bins: usize, of: impl Fn(&Second) -> u64) -> Vec<u64> {
    let chunks = seconds.chunks(SECONDS / bins);
    chunks.map(|chunk| chunk.iter().map(&of).sum()).collect()
}
fn known<T: Copy>(values: &[T]) -> Vec<Option<T>> {
    values.iter().copied().map(Some).collect()
}
fn add(series: &[&Vec<u32>]) -> Vec<u32> {
    (0..series[0].len())
        .map(|bin| series.iter().map(|values| values[bin]).sum())
        .collect()
}

fn stack(process: &str, id: Option<&str>, states: &[(&str, Vec<u32>)]) -> Stack {
    Stack {
        process: process.into(),
        id: id.map(Into::into),
        exited: None,
        states: states
            .iter()
            .map(|(state, values)| ((*state).to_owned(), values.clone()))
            .collect(),
    }
}

fn busy(bins: usize, newcomer: &str) -> Pool {
    let all = seconds();
    let level = |of: fn(&Second) -> u32| levels(&all, bins, of);
    let (proxy, proxy_waits) = (level(|s| s.proxy), level(|s| s.proxy_waits));
    let (deploy, deploy_waits) = (level(|s| s.deploy), level(|s| s.deploy_waits));
    let (leak, bound) = (level(|s| s.leak), vec![16; bins]);
    let ports = add(&[&proxy, &proxy_waits, &deploy, &deploy_waits, &leak, &bound]);
    let peak = (0..bins)
        .max_by_key(|bin| (ports[*bin], bins - bin))
        .expect("at least one bin");
    Pool {
        host: HOST.into(),
        netns: NETNS,
        limit: known(&level(|s| s.limit)),
        time_wait: known(&add(&[&proxy_waits, &deploy_waits])),
        opened: sums(&all, bins, |s| s.opened),
        closed: sums(&all, bins, |s| s.closed),
        failed: sums(&all, bins, |s| s.failed),
        peak: Some(Peak {
            ts: at((peak * SECONDS / bins) as f64),
            ports: ports[peak],
            owner: newcomer.to_owned(),
            owner_ports: deploy[peak] + deploy_waits[peak],
        }),
        ports: known(&ports),
        stacks: vec![
            stack(
                newcomer,
                Some("4711-1"),
                &[("ESTABLISHED", deploy), ("TIME_WAIT", deploy_waits)],
            ),
            stack(
                "nginx (812)",
                Some("812-1"),
                &[("ESTABLISHED", proxy), ("TIME_WAIT", proxy_waits)],
            ),
            stack(
                "payments (990)",
                Some("990-1"),
                &[("CLOSE_WAIT", leak), ("bound", bound)],
            ),
        ],
    }
}

/// Another host, where a minute is missing.
fn healthy(bins: usize) -> Pool {
    let ports: Vec<u32> = (0..bins).map(|bin| 180 + (bin as u32 * 37) % 45).collect();
    let missing = bins * 3 / 10..bins * 4 / 10;
    let seen = |bin: usize, value: u32| (!missing.contains(&bin)).then_some(value);
    let rows = |share: u32| {
        (0..bins)
            .map(|bin| seen(bin, ports[bin] * share / 3).unwrap_or(0))
            .collect::<Vec<_>>()
    };
    Pool {
        host: "db-1".into(),
        netns: 4_026_532_177,
        limit: vec![Some(NARROW); bins],
        ports: (0..bins)
            .map(|bin| seen(bin, ports[bin] * 2 / 3 + ports[bin] / 3))
            .collect(),
        time_wait: (0..bins).map(|bin| seen(bin, 0)).collect(),
        opened: vec![3; bins],
        closed: vec![3; bins],
        failed: vec![0; bins],
        peak: Some(Peak {
            ts: at(30.0),
            ports: 224,
            owner: "postgres (77)".into(),
            owner_ports: 149,
        }),
        stacks: vec![
            stack("postgres (77)", Some("77-1"), &[("ESTABLISHED", rows(2))]),
            stack("not known", None, &[("ESTABLISHED", rows(1))]),
        ],
    }
}

fn destination(peer: &str, of: &Pool, share: u32, failures: bool) -> Destination {
    let part = |values: &[Option<u32>]| {
        values
            .iter()
            .map(|value| value.map(|all| all * share / 100))
            .collect::<Vec<_>>()
    };
    let ports = part(&of.ports);
    let most = ports.iter().flatten().copied().max().unwrap_or(0);
    let bin = ports
        .iter()
        .position(|each| *each == Some(most))
        .unwrap_or(0);
    let step = SECONDS / ports.len();
    let half: Vec<u32> = ports.iter().map(|each| each.unwrap_or(0) / 2).collect();
    Destination {
        host: of.host.clone(),
        netns: of.netns,
        local_ip: Some("10.0.0.7".into()),
        peer: peer.into(),
        limit: of.limit.clone(),
        time_wait: part(&of.time_wait),
        opened: of.opened.clone(),
        failed: if failures {
            of.failed.clone()
        } else {
            vec![0; ports.len()]
        },
        peak: Some(Peak {
            ts: at((bin * step) as f64),
            ports: most,
            owner: of.stacks[0].process.clone(),
            owner_ports: most / 2,
        }),
        owners: BTreeMap::from([
            (of.stacks[0].process.clone(), half.clone()),
            (of.stacks[1].process.clone(), half),
        ]),
        ports,
    }
}

fn count(name: &str, failures: u64) -> Count {
    Count {
        name: name.into(),
        host: Some(HOST.into()),
        netns: Some(NETNS),
        failures,
        first: at(183.108),
        last: at(419.9),
    }
}

fn moment(second: f64, id: &str, text: impl Into<String>) -> Moment {
    Moment {
        ts: at(second),
        host: HOST.into(),
        netns: None,
        id: id.into(),
        text: text.into(),
    }
}

fn failures(total: u64, newcomer: &str) -> Failures {
    Failures {
        connect: total - 2,
        bind: 2,
        first: Some(at(183.108)),
        last: Some(at(419.9)),
        by_reason: vec![
            count("ports_exhausted", total - 2),
            count("address_in_use", 2),
        ],
        by_process: vec![count(newcomer, total - 2), count("payments (990)", 2)],
        by_destination: vec![
            count("10.0.0.9:5774", total - 40),
            count("[2001:db8::5]:443", 38),
            count("others", 2),
        ],
    }
}

fn timeline(newcomer: &str) -> Vec<Moment> {
    vec![
        moment(
            168.0,
            "pressure_warning",
            "70 percent of the ports to 10.0.0.9:5774 are in use: 19,763 of 28,232, and 640 more each second",
        ),
        moment(
            176.5,
            "pressure_critical",
            "90 percent of the ports to 10.0.0.9:5774 are in use",
        ),
        moment(
            183.1,
            "first_failure",
            format!("{newcomer} could not connect to 10.0.0.9:5774: no port was free"),
        ),
        moment(419.9, "last_failure", "the last of the failed calls"),
        moment(
            424.0,
            "pressure_over",
            "less than 70 percent of the ports to 10.0.0.9:5774 are in use again",
        ),
    ]
}

fn causes(newcomer: &str) -> Vec<Moment> {
    vec![
        moment(
            150.0,
            "new_process",
            format!(
                "{newcomer} started, and opened 640 connections per second from its first second"
            ),
        ),
        moment(
            152.0,
            "rate_rose",
            "connections to 10.0.0.9:5774 rose from 92 to 730 per second within 5 seconds",
        ),
        moment(
            420.0,
            "range_changed",
            "net.ipv4.ip_local_port_range changed from 32768-60999 to 10000-64511: 54,512 ports instead of 28,232",
        ),
    ]
}

fn advice() -> Vec<Advice> {
    let new = |id: &str, why: &str, how: &str, given| Advice {
        id: id.into(),
        why: why.into(),
        how: how.into(),
        host: HOST.into(),
        netns: NETNS,
        about: "10.0.0.9:5774".into(),
        given,
    };
    vec![
        new(
            "reuse_connections",
            "27,410 of 28,232 ports held are in TIME_WAIT: connections that were used once; 640 are opened per second, and the range bears about 470 short ones per second to one destination",
            "keep connections open and use them again. HTTP: keep-alive (nginx: `keepalive 64; proxy_http_version 1.1; proxy_set_header Connection \"\";`; Go: read each body to its end, then close it, and raise `http.Transport.MaxIdleConnsPerHost` from 2; Python: one `requests.Session()`); databases: a connection pool",
            238,
        ),
        new(
            "widen_range",
            "the range has 28,232 ports; 54,512 are possible here without touching a listener",
            "`sysctl -w net.ipv4.ip_local_port_range=\"10000 64511\"`; it helps for twice the rate, not for ever",
            238,
        ),
        new(
            "not_tw_recycle",
            "it is written in many places, and was removed from Linux in 4.12",
            "do not look for `net.ipv4.tcp_tw_recycle`",
            12,
        ),
    ]
}

fn holes(file: &str) -> Vec<Hole> {
    vec![
        Hole {
            id: "loss".into(),
            host: Some("db-1".into()),
            ts: Some(at(180.0)),
            file: None,
            line: None,
            count: 1,
            text: "1,234 events of db-1 were lost in the ring buffer; its ports are not known for a minute".into(),
        },
        Hole {
            id: "truncated".into(),
            host: None,
            ts: None,
            file: Some(file.into()),
            line: Some(120_417),
            count: 1,
            text: "the last line is cut off, and was skipped".into(),
        },
    ]
}

fn run(host: &str, stopped: bool) -> Run {
    Run {
        host: host.into(),
        from: at(0.0),
        to: at(599.9),
        tracer: Some("0.1.0".into()),
        kernel: stopped.then(|| "6.12.117-amd64".into()),
        lines: 60_208,
        stopped,
    }
}

/// Ten minutes in so many bins; `bins` divides 600.
pub(crate) fn incident(bins: usize) -> Report {
    caused_by("checkout-api", bins)
}

/// The same, by something that chose its name with care.
pub(crate) fn hostile(bins: usize) -> Report {
    let mut report = caused_by(HOSTILE, bins);
    for pool in &mut report.pools {
        pool.host = format!("{HOSTILE}{}", pool.host);
    }
    for to in &mut report.destinations {
        to.peer = format!("{HOSTILE}{}", to.peer);
        to.local_ip = Some(HOSTILE.into());
    }
    for advice in &mut report.advice {
        advice.how = format!("`{HOSTILE}` {HOSTILE}");
    }
    report
}

fn caused_by(name: &str, bins: usize) -> Report {
    let newcomer = &format!("{name} (4711)");
    let file = format!("traces/{name}.jsonl.zst");
    let (busy, healthy) = (busy(bins, newcomer), healthy(bins));
    let total = busy.failed.iter().sum();
    Report {
        v: VERSION,
        tracer: "0.1.0".into(),
        verdict: vec![
            "web-3 ran out of ports to 10.0.0.9:5774 at 14:03:03: 28,232 of 28,232 were taken, most of them in TIME_WAIT.".into(),
            format!("{newcomer} came at 14:02:30, opens 640 connections per second and closes each of them first; the proxy beside it suffered too."),
        ],
        span: Some(Span { from: at(0.0), to: at(599.9) }),
        narrowed: vec!["since 14:00".into(), format!("process {newcomer}")],
        input: Input {
            files: vec![File { name: file.clone(), bytes: 48_231_221, lines: 120_417, skipped: 1 }],
            bytes: 48_231_221,
            lines: 120_417,
            skipped: 1,
            complete: true,
        },
        runs: vec![run(HOST, true), run("db-1", false)],
        failures: failures(total, newcomer),
        timeline: timeline(newcomer),
        causes: causes(newcomer),
        advice: advice(),
        holes: holes(&file),
        axis: Axis { start_ms: START * 1000, step_ms: (SECONDS / bins * 1000) as i64, bins },
        destinations: vec![
            destination("10.0.0.9:5774", &busy, 92, true),
            destination("[2001:db8::5]:443", &busy, 6, false),
            destination("10.0.0.20:5432", &healthy, 100, false),
        ],
        pools: vec![busy, healthy],
    }
}

/// Nothing in it could be used.
pub(crate) fn empty() -> Report {
    Report {
        v: VERSION,
        tracer: "0.1.0".into(),
        verdict: vec!["No line could be used: nothing is known.".into()],
        span: None,
        narrowed: Vec::new(),
        input: Input::default(),
        runs: Vec::new(),
        failures: Failures::default(),
        timeline: Vec::new(),
        causes: Vec::new(),
        advice: Vec::new(),
        holes: Vec::new(),
        axis: Axis::default(),
        pools: Vec::new(),
        destinations: Vec::new(),
    }
}
