//! The simulated lines (`examples/simulate`) are lines of a tracer, and say what the simulation knows of itself.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use jiff::Timestamp;
use serde_json::Value;
use tracer::record;

#[path = "../examples/simulate/fleet/mod.rs"]
mod fleet;

use fleet::{HostTruth, Plan, Scenario, Truth, simulate};

const PLAN: Plan = Plan {
    scenario: Scenario::Mixed,
    seed: 7,
    hosts: 2,
    seconds: 95,
    bytes: u64::MAX,
    rate: 60.0,
    ports: 500,
};

struct Run {
    lines: Vec<Value>,
    truth: Truth,
}

static RUN: LazyLock<Run> = LazyLock::new(|| {
    let (text, truth) = run(&PLAN);
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    Run {
        lines: lines.collect(),
        truth,
    }
});

fn run(plan: &Plan) -> (String, Truth) {
    let mut text = Vec::new();
    let truth = simulate(plan, &mut |lines| {
        text.extend_from_slice(lines);
        Ok(())
    });
    (String::from_utf8(text).unwrap(), truth.unwrap())
}

/// The lines of a host, of one type.
fn of<'a>(host: &'a HostTruth, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    RUN.lines
        .iter()
        .filter(move |line| line["host"] == *host.host && line["type"] == kind)
}

fn ns(time: &Value) -> i64 {
    let time: Timestamp = time.as_str().unwrap().parse().unwrap();
    time.as_nanosecond().try_into().unwrap()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(Into::into)
}

#[test]
fn every_line_conforms_to_the_schema() {
    let schema = serde_json::to_value(record::schema()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    // Most lines are alike: all others, and of those some.
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for line in &RUN.lines {
        let count = seen.entry(line["type"].as_str().unwrap()).or_default();
        *count += 1;
        if *count < 2000 || count.is_multiple_of(50) {
            assert!(validator.is_valid(line), "{line}");
        }
    }
    let kinds: Vec<&str> = seen.into_keys().collect();
    let expected = [
        "bind_failed",
        "connect_failed",
        "connection",
        "ledger",
        "loss",
        "pressure",
        "process",
        "start",
        "state",
        "stop",
        "usage",
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn the_same_seed_gives_the_same_lines_and_another_does_not() {
    let short = Plan {
        seconds: 5,
        ..PLAN.clone()
    };
    let (first, _) = run(&short);
    assert_eq!(run(&short).0, first);
    let other = Plan { seed: 8, ..short };
    assert_ne!(run(&other).0, first);
}

#[test]
fn the_lines_of_a_host_are_numbered_and_add_up() {
    assert_eq!(RUN.truth.lines, RUN.lines.len() as u64);
    for host in &RUN.truth.hosts {
        let lines = RUN.lines.iter().filter(|line| line["host"] == *host.host);
        for (number, line) in lines.enumerate() {
            assert_eq!(line["seq"], number, "{line}");
        }
        let stop = of(host, "stop").next().unwrap();
        assert_eq!(stop["lines"], host.lines);
        assert_eq!(stop["failures"], host.connect_failures);
        assert_eq!(stop["bind_failures"], host.bind_failures);
        assert_eq!(stop["lost"], host.lost);
    }
}

#[test]
fn each_process_is_introduced_before_it_is_named() {
    for host in &RUN.truth.hosts {
        let mut known = BTreeSet::new();
        for line in RUN.lines.iter().filter(|line| line["host"] == *host.host) {
            if line["type"] == "process" {
                known.insert(line["id"].as_str().unwrap());
                assert!(line["exe"].is_string() && line["cgroup"].is_string());
            } else if let Some(id) = line["process"]["id"].as_str() {
                assert!(known.contains(id), "{line}");
            }
        }
        let named = host.processes.iter().map(|process| process.id.as_str());
        assert!(
            known
                .iter()
                .all(|id| named.clone().any(|named| named == *id))
        );
    }
}

#[test]
fn failures_are_those_that_happened() {
    for host in &RUN.truth.hosts {
        let mut told: BTreeMap<_, (u64, i64, i64)> = BTreeMap::new();
        for call in ["connect", "bind"] {
            for line in of(host, &format!("{call}_failed")) {
                let peer = &line["peer"];
                let peer = peer["ip"].as_str().map(|ip| match ip.contains(':') {
                    true => format!("[{ip}]:{}", peer["port"]),
                    false => format!("{ip}:{}", peer["port"]),
                });
                let reason = text(&line["reason"]);
                let process = text(&line["process"]["id"]);
                let key = (line["netns"].as_u64(), process, call, reason, peer);
                let ts = ns(&line["ts"]);
                let times = told.entry(key).or_insert((0, ts, ts));
                *times = (times.0 + 1, times.1, ts);
            }
        }
        let truth = host.failures.iter().map(|failure| {
            let reason = Some(failure.reason.to_owned());
            let process = Some(failure.process.clone());
            let netns = Some(failure.netns.into());
            let key = (netns, process, failure.call, reason, failure.peer.clone());
            (key, (failure.count, failure.first, failure.last))
        });
        assert_eq!(told, truth.collect());
    }
    let reasons = RUN.truth.hosts[0].failures.iter().map(|each| each.reason);
    let reasons: BTreeSet<&str> = reasons.collect();
    let expected = ["no_source_address", "ports_exhausted", "tuple_in_use"];
    assert_eq!(reasons, expected.into());
    assert!(RUN.truth.hosts[1].failures.is_empty());
}

#[test]
fn usage_is_what_the_kernel_had() {
    for host in &RUN.truth.hosts {
        let told: BTreeMap<_, _> = of(host, "usage")
            .filter(|line| line["ports"]["total"] != 0)
            .map(|line| {
                let key = (
                    ns(&line["ts"]),
                    line["netns"].as_u64().unwrap(),
                    text(&line["process"]["id"]),
                );
                let ports = &line["ports"];
                let waiting = ports["TIME_WAIT"].as_u64().unwrap_or(0);
                (key, (ports["total"].as_u64().unwrap(), waiting))
            })
            .collect();
        let truth = host.rounds.iter().map(|round| {
            let key = (round.ts, round.netns.into(), round.process.clone());
            (key, (round.ports, round.time_wait))
        });
        let truth: BTreeMap<_, _> = truth.collect();
        assert!(truth.len() > 20);
        assert_eq!(told, truth);
    }
}

#[test]
fn an_explained_failure_shows_an_exhausted_pool() {
    let host = &RUN.truth.hosts[0];
    let exhausted = of(host, "connect_failed").filter(|line| line["reason"] == "ports_exhausted");
    let explained = exhausted.filter(|line| line["budget"].is_object());
    let mut count = 0;
    for line in explained {
        count += 1;
        assert_eq!(line["budget"]["free"], 0, "{line}");
        let holders = line["holders"].as_array().unwrap();
        let held: u64 = holders
            .iter()
            .map(|row| row["ports"].as_u64().unwrap())
            .sum();
        assert_eq!(held, 500, "{line}");
        assert!(!line["advice"].as_array().unwrap().is_empty());
    }
    assert!(count > 5);
}
