//! Golden records: what events become, field by field, and that the schema admits it.
//!
//! After an intended change: `UPDATE_GOLDEN=1 cargo test -p tracer --test records`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{env, fs, net::IpAddr, path::Path};

use serde_json::Value;
use tracer::{
    clock::Clock,
    event::{Comm, Endpoint, Event, Family, Kind, Owner, Reason, Role, State, Task, Tuple},
    host::process::Processes,
    kernel::plan::{Backend, Capability},
    record::{self, Coverage, Netns, Refused, Start, Where},
    stream::Stream,
};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/records.jsonl");

/// 2026-01-02T03:04:05Z at boot.
const BOOT: i64 = 1_767_323_045_000_000_000;

fn task(pid: u32, comm: &[u8]) -> Task {
    let mut bytes = [0; 16];
    bytes[..comm.len()].copy_from_slice(comm);
    Task {
        pid,
        tid: pid + 1,
        uid: 33,
        start_ns: 5_000_000_000,
        cgroup: u64::MAX,
        comm: Comm(bytes),
    }
}

fn endpoint(ip: &str, port: Option<u16>) -> Endpoint {
    Endpoint {
        ip: ip.parse::<IpAddr>().unwrap(),
        port,
    }
}

fn event(kind: Kind) -> Event {
    Event {
        ts: 61_000_000_007,
        sock: 1,
        cookie: Some(4711),
        netns: 4_026_531_840,
        tuple: Tuple {
            family: Family::Ipv4,
            local: endpoint("10.0.0.7", Some(40123)),
            peer: endpoint("10.0.0.9", Some(5774)),
        },
        role: Some(Role::Client),
        owner: Owner::Connect,
        task: Some(task(812, b"worker")),
        kind,
    }
}

fn failure(reason: Reason, local: Endpoint) -> Event {
    let mut event = event(Kind::ConnectFailed { errno: 99, reason });
    event.tuple.local = local;
    event
}

fn start() -> Start {
    Start {
        tracer: "0.1.0".into(),
        kernel: "6.12.1".into(),
        coverage: vec![
            Coverage {
                capability: Capability::Transitions,
                hook: Some("inet_sock_set_state"),
                backend: Some(Backend::TpBtf),
                refused: Vec::new(),
                limits: Vec::new(),
            },
            Coverage {
                capability: Capability::ConnectFailure,
                hook: None,
                backend: None,
                refused: vec![Refused {
                    hook: "inet_hash_connect",
                    backend: Backend::Fexit,
                    reason: "load failed: Operation not permitted (os error 1)".into(),
                }],
                limits: vec!["something is not seen".into()],
            },
        ],
        netns: vec![Netns {
            netns: 4_026_531_840,
            range: Some([32768, 60999]),
            reserved: Some(0),
            tw_reuse: Some(2),
            max_tw_buckets: None,
        }],
    }
}

/// Every kind of line and every alternative in it at least once. The lines that are dated with the time
/// of writing are made by the caller.
fn events() -> Vec<Event> {
    let transition = |old, new| event(Kind::State { old, new });
    let mut stranger = transition(State::Listen, State::SynRecv);
    stranger.role = Some(Role::Server);
    stranger.owner = Owner::None;
    stranger.task = None;
    stranger.cookie = None;
    let mut listener = transition(State::Close, State::Listen);
    listener.role = Some(Role::Listener);
    listener.owner = Owner::Bind;
    listener.tuple.peer = endpoint("0.0.0.0", None);
    listener.task = Some(task(7, b"\"\\\n\x1b[31m\xff<b>"));
    let mut older = transition(State::LastAck, State::Close);
    older.role = None;
    older.owner = Owner::None;
    older.task = None;
    older.tuple.family = Family::Ipv6;
    older.tuple.peer = endpoint("2001:db8::9", Some(443));
    vec![
        transition(State::Close, State::SynSent),
        transition(State::SynSent, State::Established),
        transition(State::Established, State::FinWait1),
        transition(State::FinWait1, State::FinWait2),
        transition(State::FinWait1, State::Closing),
        transition(State::FinWait2, State::TimeWait),
        transition(State::Established, State::CloseWait),
        stranger,
        listener,
        older,
        failure(Reason::PortsExhausted, endpoint("10.0.0.7", None)),
        failure(Reason::TupleInUse, endpoint("10.0.0.7", Some(40123))),
        failure(Reason::NoSourceAddress, endpoint("::", None)),
    ]
}

fn text() -> String {
    let clock = Clock::fixed(BOOT, BOOT);
    let nowhere = Processes::at(Path::new("/nonexistent"));
    let mut stream = Stream::with("web-3".into(), clock, nowhere);
    stream.start(&start());
    for event in events() {
        stream.event(&event);
    }
    for place in [Where::Ring, Where::Program, Where::Table, Where::Output] {
        stream.loss(1234, place);
    }
    stream.stop();
    String::from_utf8(stream.lines().to_vec()).unwrap()
}

fn lines() -> Vec<Value> {
    let text = text();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Lines that are not dated by an event are dated now: any time will do.
fn without_now(line: &str) -> String {
    if line.contains(r#""type":"state""#) || line.contains(r#""type":"connect_failed""#) {
        return line.into();
    }
    let (before, ts) = line.split_once(r#""ts":""#).unwrap();
    let (_, after) = ts.split_once('"').unwrap();
    format!(r#"{before}"ts":"…"{after}"#)
}

#[test]
fn records_are_as_agreed() {
    let lines: Vec<String> = text().lines().map(without_now).collect();
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
    let good = lines().swap_remove(2);
    assert_eq!(good["type"], "state");
    for (field, bad) in [
        ("type", Value::from("stat")),
        ("old", Value::from("SYN-SENT")),
        ("seq", Value::from(-1)),
        ("owner", Value::Null),
        ("cookie", Value::from(4711)),
        ("local", Value::from("10.0.0.7")),
    ] {
        let mut line = good.clone();
        line[field] = bad;
        assert!(!validator.is_valid(&line), "{line}");
    }
}

#[test]
fn totals_add_up() {
    let lines = lines();
    let stop = lines.last().unwrap();
    assert_eq!(stop["lines"], lines.len());
    assert_eq!(stop["events"], events().len());
    assert_eq!(stop["failures"], 3);
    assert_eq!(stop["lost"], 4 * 1234);
    for (seq, line) in lines.iter().enumerate() {
        assert_eq!(line["seq"], seq);
    }
}
