//! Golden records: what the ledger says becomes lines, field by field, and that the schema admits them.
//!
//! After an intended change: `UPDATE_GOLDEN=1 cargo test -p tracer --test records`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use serde_json::Value;
use tracer::{
    clock::Clock,
    host::process::Processes,
    record::{self, Where},
    stream::Lines,
};

mod given;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/records.jsonl");

/// 2026-01-02T03:04:05Z at boot.
const BOOT: i64 = 1_767_323_045_000_000_000;

/// A /proc in which process 812 is alive, in a container, and everybody else has ended. Made once: the tests run at the
/// same time, and share it.
static PROC: LazyLock<PathBuf> = LazyLock::new(|| {
    let proc = Path::new(env!("CARGO_TARGET_TMPDIR")).join("records-proc");
    let dir = proc.join("812");
    fs::create_dir_all(&dir).unwrap();
    let id = "4b825dc642cb6eb9a060e54bf8d69288fbee4904b825dc642cb6eb9a060e54bf";
    let cgroup = format!("0::/system.slice/docker-{id}.scope\n");
    fs::write(dir.join("cgroup"), cgroup).unwrap();
    let stat = "812 (a) b) S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 500 1 1\n";
    fs::write(dir.join("stat"), stat).unwrap();
    proc
});

static TEXT: LazyLock<String> = LazyLock::new(text);

fn text() -> String {
    let clock = Clock::fixed(BOOT, BOOT);
    let mut lines = Lines::new("web-3".into(), clock, Processes::at(&PROC));
    lines.start(&given::start());
    for transition in given::transitions() {
        lines.effect(&transition);
    }
    for (event, told) in given::failures() {
        lines.count_event();
        lines.failure(&event, told);
    }
    let (before, now) = given::settings();
    lines.settings(given::NETNS, &now, Some(&before), given::NOW);
    for pressure in given::pressures() {
        lines.pressure(&pressure, given::NOW);
    }
    for connection in given::connections() {
        lines.effect(&connection);
    }
    for socket in given::sockets() {
        lines.socket(&socket, given::NOW);
    }
    for usage in given::usages() {
        lines.usage(usage, 10_000_999_999, given::NOW);
    }
    for ledger in given::ledgers() {
        lines.ledger(&ledger, given::NOW);
    }
    for place in [Where::Ring, Where::Program, Where::Table, Where::Decode] {
        lines.loss(1234, place, place == Where::Ring);
    }
    for stats in given::stats() {
        lines.stats(&stats, given::NOW);
    }
    for shed in given::sheds() {
        lines.tell_shed(&shed, given::NOW);
    }
    let dropped = BTreeMap::from([("state", 12), ("connect_failed", 3)]);
    lines.dropped(dropped.clone(), None);
    let labels = [("rack", "\"7\"\n"), ("site", "fra1")];
    lines.set_labels(labels.map(|(key, value)| (key.into(), value.into())).into());
    lines.dropped(dropped, Some("tcp:192.0.2.1:5170"));
    lines.set_labels(BTreeMap::new());
    for recording in given::recordings() {
        lines.recording(&recording);
    }
    lines.stop();
    String::from_utf8(lines.bytes().to_vec()).unwrap()
}

fn lines() -> Vec<Value> {
    TEXT.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Lines that are not dated by an event or the caller are dated now: any time will do.
fn without_now(line: &str) -> String {
    let dated_now = ["start", "process", "recording", "loss", "stop"]
        .iter()
        .any(|name| line.contains(&format!(r#""type":"{name}""#)));
    if !dated_now {
        return line.into();
    }
    let (before, ts) = line.split_once(r#""ts":""#).unwrap();
    let (_, after) = ts.split_once('"').unwrap();
    format!(r#"{before}"ts":"…"{after}"#)
}

#[test]
fn records_are_as_agreed() {
    let lines: Vec<String> = TEXT.lines().map(without_now).collect();
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(GOLDEN, lines.join("\n") + "\n").unwrap();
    }
    let golden = fs::read_to_string(GOLDEN).unwrap();
    for (line, expected) in lines.iter().zip(golden.lines()) {
        assert_eq!(line, expected);
    }
    assert_eq!(lines.len(), golden.lines().count());
}

#[test]
fn every_record_conforms_to_the_schema() {
    let schema = serde_json::to_value(record::schema()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for line in lines() {
        assert!(validator.is_valid(&line), "{line}");
    }
}

#[test]
fn the_schema_refuses_what_is_no_record() {
    let schema = serde_json::to_value(record::schema()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let lines = lines();
    for (kind, field, bad) in [
        ("state", "type", Value::from("stat")),
        ("state", "old", Value::from("SYN-SENT")),
        ("state", "seq", Value::from(-1)),
        ("state", "owner", Value::Null),
        ("state", "cookie", Value::from(4711)),
        ("state", "local", Value::from("10.0.0.7")),
        ("connection", "end", Value::from("finished")),
        ("connection", "closed", Value::Null),
        ("connection", "bytes_sent", Value::from("1")),
        ("socket", "timewait", Value::Null),
        ("usage", "ports", Value::from(12)),
        ("usage", "ports", serde_json::json!({"total": 1})),
        ("usage", "interval_s", Value::Null),
        ("ledger", "sockets", Value::from(-1)),
        ("ledger", "table", Value::from(1)),
        ("connect_failed", "failures_so_far", Value::Null),
        ("bind_failed", "reason", Value::from("tuple_in_use")),
        ("pressure", "forecast", Value::Null),
        ("netns", "netns", Value::from("4026531840")),
        ("recording", "event", Value::from("thawed")),
        ("loss", "labels", Value::from("site=fra1")),
        ("loss", "dropped", serde_json::json!({"state": -1})),
        ("loss", "where", Value::from("outputs")),
        ("stats", "events", Value::Null),
        ("stats", "bpf", Value::from(1)),
        ("shed", "level", Value::from("everything")),
    ] {
        let mut line = lines.iter().find(|line| line["type"] == kind).cloned();
        let line = line.as_mut().unwrap();
        line[field] = bad;
        assert!(!validator.is_valid(line), "{line}");
    }
}

/// Lines that the output leaves out are numbered by themselves, and do not introduce processes to it.
#[test]
fn details_are_a_stream_of_their_own() {
    let mut lines = Lines::new(
        "web-3".into(),
        Clock::fixed(BOOT, BOOT),
        Processes::at(&PROC),
    );
    let transitions = given::transitions();
    lines.start(&given::start());
    for detail in [true, false, true, false] {
        lines.set_detail(detail);
        lines.effect(&transitions[0]);
    }
    let found: Vec<_> = lines
        .batch()
        .lines()
        .map(|line| {
            let value: Value = serde_json::from_slice(line.bytes).unwrap();
            assert_eq!(value["detail"] == true, line.detail);
            (
                line.detail,
                value["type"].clone(),
                value["seq"].as_u64().unwrap(),
            )
        })
        .collect();
    let expected = [
        (false, "start", 0),
        (true, "process", 0),
        (true, "state", 1),
        (false, "process", 1),
        (false, "state", 2),
        (true, "state", 2),
        (false, "state", 3),
    ];
    let expected = expected.map(|(detail, kind, seq)| (detail, kind.into(), seq));
    assert_eq!(found, expected);
}

#[test]
fn every_process_is_introduced_before_it_is_named() {
    let mut known = Vec::new();
    for line in lines() {
        if line["type"] == "process" {
            known.push(line["id"].clone());
        }
        for named in [&line["process"]["id"], &line["closed_by"]["id"]] {
            assert!(named.is_null() || known.contains(named), "{line}");
        }
    }
    assert_eq!(known.len(), 4);
}

#[test]
fn the_states_of_ports_add_up() {
    for line in lines().iter().filter(|line| line["type"] == "usage") {
        for group in ["ports", "serving"] {
            let Some(ports) = line[group].as_object() else {
                continue;
            };
            let count = |name: &str| ports[name].as_u64().unwrap();
            let sum: u64 = ports.keys().map(|name| count(name)).sum();
            assert_eq!(sum, 2 * count("total"), "{line}");
        }
    }
}

#[test]
fn totals_add_up() {
    let lines = lines();
    let stop = lines.last().unwrap();
    assert_eq!(stop["lines"], lines.len());
    assert_eq!(stop["events"], 6);
    // Lines count for their repeats.
    assert_eq!(stop["failures"], 11 + 1 + 11 + 11);
    assert_eq!(stop["bind_failures"], 11 + 11);
    assert_eq!(stop["lost"], 4 * 1234 + 2 * 15);
    for (seq, line) in lines.iter().enumerate() {
        assert_eq!(line["seq"], seq);
    }
}
