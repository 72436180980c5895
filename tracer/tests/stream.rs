//! From events and dumps to lines, with the ledger between.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use serde_json::Value;
use tracer::{
    clock::Clock,
    event::{
        Comm, End, Endpoint, Event, Family, Kind, Owner, Reason, Role, Row, State, Task, Tuple,
    },
    host::process::Processes,
    record::Table,
    stream::{Batch, Stream},
};

const NETNS: u32 = 4_026_531_840;
const SECOND: u64 = 1_000_000_000;

fn task(pid: u32) -> Task {
    Task {
        pid,
        tid: pid,
        uid: 0,
        start_ns: 5 * SECOND,
        cgroup: 1,
        comm: Comm(*b"worker\0\0\0\0\0\0\0\0\0\0"),
    }
}

fn tuple() -> Tuple {
    let endpoint = |ip: &str, port| Endpoint {
        ip: ip.parse::<IpAddr>().unwrap(),
        port: Some(port),
    };
    Tuple {
        family: Family::Ipv4,
        local: endpoint("10.0.0.7", 40123),
        peer: endpoint("10.0.0.9", 5774),
    }
}

/// An event of the socket 1, a client of the process 812.
fn event(second: u64, kind: Kind) -> Event {
    Event {
        timestamps: false,
        socket_range: None,
        ts: second * SECOND,
        sock: 1,
        cookie: Some(4711),
        netns: NETNS,
        tuple: tuple(),
        held: Some(40123),
        role: Some(Role::Client),
        owner: Owner::Connect,
        task: Some(task(812)),
        kind,
    }
}

fn transition(second: u64, old: State, new: State) -> Event {
    let end = None;
    event(second, Kind::State { old, new, end })
}

/// The timewait socket 2 takes over.
fn takeover(second: u64) -> Event {
    let end = End {
        timewait: Some(2),
        sent: 100,
        received: 2000,
        ..End::default()
    };
    let kind = Kind::State {
        old: State::FinWait2,
        new: State::TimeWait,
        end: Some(end),
    };
    event(second, kind)
}

fn opened() -> [Event; 2] {
    [
        transition(1, State::Close, State::SynSent),
        transition(2, State::SynSent, State::Established),
    ]
}

fn closed() -> [Event; 4] {
    [
        transition(3, State::Established, State::FinWait1),
        event(3, Kind::ClosedBy),
        transition(4, State::FinWait1, State::FinWait2),
        takeover(5),
    ]
    .map(|mut event| {
        if event.kind == Kind::ClosedBy {
            event.task = Some(task(900));
        }
        event
    })
}

fn stream(events: &[Event]) -> Stream {
    let nowhere = Processes::at(Path::new("/nonexistent"));
    let mut stream = Stream::with("web-3".into(), Clock::fixed(0, 0), nowhere);
    for event in events {
        stream.event(event);
    }
    stream
}

/// The lines since the last call.
fn lines(stream: &mut Stream) -> Vec<Value> {
    let text = std::str::from_utf8(stream.lines()).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    stream.clear();
    lines
}

fn of_type<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["type"] == kind).collect()
}

#[test]
fn a_connection_is_told_once_its_time_wait_is_over() {
    let mut stream = stream(&[&opened()[..], &closed()].concat());
    let before = lines(&mut stream);
    assert_eq!(of_type(&before, "state").len(), 5);
    assert!(of_type(&before, "connection").is_empty());
    let mut end = transition(65, State::TimeWait, State::Close);
    end.sock = 2;
    stream.event(&end);
    let after = lines(&mut stream);
    let state = of_type(&after, "state")[0];
    assert_eq!(
        (&state["old"], &state["new"]),
        (&"TIME_WAIT".into(), &"CLOSE".into())
    );
    assert_eq!(state["process"]["pid"], 812);
    let connection = of_type(&after, "connection")[0];
    assert_eq!(connection["ts"], "1970-01-01T00:01:05.000000000Z");
    assert_eq!(connection["opened"], "1970-01-01T00:00:01.000000000Z");
    assert_eq!(connection["duration_ms"], 4000.0);
    assert_eq!(connection["time_wait_s"], 60.0);
    assert_eq!(connection["end"], "fin");
    assert_eq!(connection["closed_by"]["pid"], 900);
    assert_eq!(connection["bytes_received"], 2000);
    assert!(connection["in_time_wait"].is_null());
}

#[test]
fn usage_is_counted_anew_each_time() {
    let mut stream = stream(&opened());
    let exhausted = Kind::ConnectFailed {
        errno: 99,
        reason: Reason::PortsExhausted,
    };
    stream.event(&event(3, exhausted));
    lines(&mut stream);
    stream.add_overflow(3);
    stream.set_table(Table { used: 1, size: 8 });
    stream.usage(10 * SECOND);
    let first = lines(&mut stream);
    let usage = of_type(&first, "usage")[0];
    assert_eq!(usage["interval_s"], 10.0);
    assert_eq!(usage["process"]["pid"], 812);
    assert_eq!(usage["exited"], true);
    assert_eq!(usage["ports"]["ESTABLISHED"], 1);
    assert_eq!((&usage["opened"], &usage["failed"]), (&1.into(), &1.into()));
    let ledger = first.last().unwrap();
    assert_eq!(ledger["type"], "ledger");
    assert_eq!(
        (&ledger["sockets"], &ledger["overflow"]),
        (&1.into(), &3.into())
    );
    assert_eq!(ledger["table"]["size"], 8);
    stream.usage(12 * SECOND);
    let second = lines(&mut stream);
    let usage = of_type(&second, "usage")[0];
    assert_eq!(usage["interval_s"], 2.0);
    assert_eq!((&usage["opened"], &usage["failed"]), (&0.into(), &0.into()));
}

fn old_time_wait() -> Row {
    Row {
        timestamps: false,
        mode: None,
        connect_bind: None,
        sock: 7,
        cookie: None,
        netns: NETNS,
        tuple: tuple(),
        held: Some(40123),
        state: State::TimeWait,
        due: Some(41 * SECOND),
        holder: None,
    }
}

#[test]
fn the_first_comparison_seeds_and_later_ones_correct() {
    let mut stream = stream(&[]);
    let here = BTreeSet::from([NETNS]);
    stream.begin_resync(SECOND);
    stream.row(&old_time_wait());
    stream.end_resync(&here, &here, SECOND + 2_500_000);
    let first = lines(&mut stream);
    let seeded = &of_type(&first, "ledger")[0]["seeded"];
    assert_eq!(
        (&seeded["timewait"], &seeded["owned"]),
        (&1.into(), &0.into())
    );
    assert_eq!((&seeded["netns"], &seeded["ms"]), (&1.into(), &2.5.into()));

    stream.snapshot(11 * SECOND, &mut |_| Ok(())).unwrap();
    let snapshot = lines(&mut stream);
    let socket = of_type(&snapshot, "socket")[0];
    assert_eq!(
        (&socket["timewait"], &socket["process"]),
        (&true.into(), &Value::Null)
    );
    let due = socket["due_s"].as_f64().unwrap();
    assert!((29.9..=30.1).contains(&due), "{due}");

    stream.usage(11 * SECOND);
    let usage = lines(&mut stream);
    let usage = of_type(&usage, "usage")[0];
    assert!(usage["process"].is_null());
    assert!(usage["due_in_s"].is_number());

    stream.begin_resync(20 * SECOND);
    stream.end_resync(&here, &here, 20 * SECOND);
    let later = lines(&mut stream);
    assert!(of_type(&later, "ledger").is_empty());
    assert_eq!(of_type(&later, "state")[0]["corrected"], true);
    stream.usage(21 * SECOND);
    let ledger = lines(&mut stream).pop().unwrap();
    assert_eq!(
        (&ledger["resyncs"], &ledger["corrected"]),
        (&1.into(), &1.into())
    );
    assert!(ledger["seeded"].is_null());
}

#[test]
fn the_end_tells_what_is_in_time_wait_and_sums_up() {
    let mut stream = stream(&[&opened()[..], &closed()].concat());
    lines(&mut stream);
    stream.stop(15 * SECOND, &mut |_| Ok(())).unwrap();
    let mut end = lines(&mut stream);
    end.retain(|line| line["type"] != "process");
    let kinds: Vec<&str> = end
        .iter()
        .map(|line| line["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["connection", "usage", "ledger", "stop"]);
    assert_eq!(end[0]["in_time_wait"], true);
    assert_eq!(end[0]["time_wait_s"], 10.0);
    assert_eq!(end[1]["ports"]["TIME_WAIT"], 1);
    assert_eq!(end[3]["events"], 6);
}

#[test]
fn a_large_snapshot_is_written_in_pieces_and_loses_no_line() {
    let mut stream = stream(&[]);
    let here = BTreeSet::from([NETNS]);
    stream.begin_resync(0);
    for port in 1..=20_000 {
        let mut row = old_time_wait();
        row.sock = port.into();
        row.tuple.local.port = Some(port);
        stream.row(&row);
    }
    stream.end_resync(&here, &here, SECOND);
    lines(&mut stream);
    let (mut pieces, mut text) = (0, Vec::new());
    let mut write = |piece: &mut Batch| {
        let piece = piece.bytes();
        assert!(piece.len() < 2 << 20);
        assert!(piece.ends_with(b"\n"));
        pieces += 1;
        text.extend_from_slice(piece);
        Ok(())
    };
    stream.snapshot(SECOND, &mut write).unwrap();
    assert!(pieces > 2);
    text.extend_from_slice(stream.lines());
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text.lines().count(), 20_001);
    let closed = |_: &mut Batch| Err(std::io::ErrorKind::BrokenPipe.into());
    assert!(stream.snapshot(SECOND, &mut { closed }).is_err());
}
