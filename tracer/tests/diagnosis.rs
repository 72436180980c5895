//! Failures that explain themselves, and pressure before them: from events to lines.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tracer::{
    cli::Select,
    clock::Clock,
    diagnosis::{case::Host, surroundings::Surroundings},
    event::{Comm, End, Endpoint, Event, Family, Kind, Owner, Reason, Role, State, Task, Tuple},
    filter::Filter,
    host::process::Processes,
    pool::Settings,
    record::Kind as Kinds,
    stream::{Diagnosis, Stream},
};

const NETNS: u32 = 7;
const MS: u64 = 1_000_000;
const FIRST: u16 = 40_000;
const LAST: u16 = 40_015;

/// A host whose settings a test changes.
#[derive(Clone)]
struct Given(Arc<Mutex<Settings>>);

impl Given {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Settings {
            range: (FIRST, LAST),
            tw_reuse: 0,
            ..Settings::default()
        })))
    }
}

impl Surroundings for Given {
    fn settings(&mut self, _: u32, _: Option<&Task>, _: u64, _: Duration) -> Option<Settings> {
        Some(self.0.lock().unwrap().clone())
    }

    fn host(&mut self, _: u32, _: Option<&Task>, _: u64) -> Host {
        Host::default()
    }
}

struct Scene {
    stream: Stream,
    host: Given,
    now: u64,
    lines: Vec<Value>,
}

fn scene(coalesces: bool) -> Scene {
    let nowhere = Processes::at(Path::new("/nonexistent"));
    let mut stream = Stream::with("web-3".into(), Clock::fixed(0, 0), nowhere);
    let how = Diagnosis {
        coalesces,
        ..Diagnosis::default()
    };
    let host = Given::new();
    stream.diagnose(how, Box::new(host.clone()));
    Scene {
        stream,
        host,
        now: 1_000_000 * MS,
        lines: Vec::new(),
    }
}

fn endpoint(ip: &str, port: Option<u16>) -> Endpoint {
    let ip: IpAddr = ip.parse().unwrap();
    Endpoint { ip, port }
}

impl Scene {
    fn event(&mut self, pid: u32, sock: u64, port: Option<u16>, kind: Kind) -> Event {
        self.now += MS / 10;
        Event {
            ts: self.now,
            sock,
            cookie: Some(sock),
            netns: NETNS,
            tuple: Tuple {
                family: Family::Ipv4,
                local: endpoint("10.0.0.7", port),
                peer: endpoint("10.0.0.9", Some(80)),
            },
            held: None,
            role: Some(Role::Client),
            owner: Owner::Connect,
            task: Some(Task {
                pid,
                tid: pid,
                uid: 0,
                start_ns: 5,
                cgroup: 1,
                comm: Comm(*b"worker\0\0\0\0\0\0\0\0\0\0"),
            }),
            kind,
            timestamps: true,
            socket_range: None,
        }
    }

    fn tell(&mut self, event: &Event) {
        self.stream.event(event);
        self.gather();
    }

    fn gather(&mut self) {
        let text = String::from_utf8(self.stream.lines().to_vec()).unwrap();
        self.stream.clear();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        self.lines.extend(lines);
    }

    fn step(&mut self, pid: u32, port: u16, old: State, new: State, end: Option<End>) {
        let unborn = old == State::Close;
        let kind = Kind::State { old, new, end };
        let event = self.event(pid, port.into(), (!unborn).then_some(port), kind);
        self.tell(&event);
    }

    fn connect(&mut self, pid: u32, port: u16) {
        self.step(pid, port, State::Close, State::SynSent, None);
        self.step(pid, port, State::SynSent, State::Established, None);
    }

    fn close(&mut self, pid: u32, port: u16) {
        let end = End {
            timewait: Some(u64::from(port) + 100_000),
            ..End::default()
        };
        self.step(pid, port, State::Established, State::FinWait1, None);
        self.step(pid, port, State::FinWait1, State::FinWait2, None);
        self.step(pid, port, State::FinWait2, State::TimeWait, Some(end));
    }

    fn fail(&mut self, pid: u32) {
        let reason = Reason::PortsExhausted;
        let kind = Kind::ConnectFailed { errno: 99, reason };
        let event = self.event(pid, 1, None, kind);
        self.tell(&event);
    }

    fn wait(&mut self, ms: u64) {
        for _ in 0..ms / 250 {
            self.now += 250 * MS;
            self.stream.watch(self.now);
            self.gather();
        }
    }

    fn of_type(&self, kind: &str) -> Vec<&Value> {
        let lines = self.lines.iter();
        lines.filter(|line| line["type"] == kind).collect()
    }

    /// Of pressure, as they were told.
    fn levels(&self) -> Vec<String> {
        let lines = self.of_type("pressure");
        let level = |line: &&Value| line["level"].as_str().unwrap().to_owned();
        lines.iter().map(level).collect()
    }

    /// What happens to a socket that is only bound.
    fn bound(&mut self, pid: u32, port: u16, kind: Kind) {
        let mut event = self.event(pid, port.into(), Some(port), kind);
        (event.held, event.role, event.owner) = (Some(port), None, Owner::Bind);
        event.tuple.peer = endpoint("0.0.0.0", None);
        self.tell(&event);
    }

    fn usage(&mut self) {
        self.now += 10_000 * MS;
        self.stream.usage(self.now);
        self.gather();
    }

    fn stop(&mut self) -> Value {
        self.stream.stop(self.now, &mut |_| Ok(())).unwrap();
        self.gather();
        self.of_type("stop")[0].clone()
    }
}

/// Six ports in TIME_WAIT of one process, the others of another.
fn full(coalesces: bool) -> Scene {
    let mut scene = scene(coalesces);
    for port in FIRST..FIRST + 6 {
        scene.connect(900, port);
        scene.close(900, port);
    }
    for port in FIRST + 6..=LAST {
        scene.connect(812, port);
    }
    scene
}

#[test]
fn the_first_failure_tells_who_has_the_ports() {
    let mut scene = full(false);
    scene.fail(812);
    let failed = scene.of_type("connect_failed")[0].clone();
    let budget = &failed["budget"];
    let count = |name: &str| budget[name].as_u64().unwrap();
    assert_eq!((count("free"), count("in_use")), (0, 16));
    assert_eq!((count("time_wait"), count("bound")), (6, 0));
    let holders = failed["holders"].as_array().unwrap();
    let rows: Vec<_> = holders
        .iter()
        .map(|row| (&row["process"]["pid"], &row["ports"], &row["states"]))
        .collect();
    assert_eq!(*rows[0].0, 812);
    assert_eq!(rows[0].2["ESTABLISHED"], 10);
    assert_eq!((rows[1].0, rows[1].1), (&900.into(), &6.into()));
    assert_eq!(rows[1].2["TIME_WAIT"], 6);
    assert_eq!(holders[1]["exited"], true);
    assert!(failed["since"].is_string());
    assert!(!failed["advice"].as_array().unwrap().is_empty());
    assert!(failed["explained_by"].is_null());
}

#[test]
fn failures_in_a_row_refer_to_the_explained_one() {
    let mut scene = full(false);
    for _ in 0..50 {
        scene.fail(812);
        scene.fail(900);
    }
    scene.now += 1000 * MS;
    scene.fail(812);
    let failed = scene.of_type("connect_failed");
    assert_eq!(failed.len(), 101);
    let full: Vec<_> = failed
        .iter()
        .filter(|line| line["explained_by"].is_null())
        .collect();
    assert_eq!(full.len(), 3);
    for line in failed.iter().filter(|line| line["budget"].is_null()) {
        let explained = full
            .iter()
            .rfind(|full| full["seq"] == line["explained_by"])
            .unwrap();
        assert_eq!(explained["process"]["id"], line["process"]["id"]);
        assert!(line["holders"].is_null() && line["advice"].is_null());
    }
    assert_eq!(failed[100]["failures_so_far"], 51);
    assert_eq!(scene.stop()["failures"], 101);
}

#[test]
fn counted_failures_add_up() {
    let mut scene = full(true);
    for _ in 0..50 {
        scene.fail(812);
    }
    scene.wait(1500);
    scene.fail(812);
    scene.fail(812);
    scene.fail(900);
    let stop = scene.stop();
    let failed = scene.of_type("connect_failed");
    // The first, those that were counted, the one after a second, its follower at the end, and another process's.
    assert_eq!(failed.len(), 5);
    let repeats = |line: &Value| line["repeats"].as_u64().unwrap_or(1);
    let sum: u64 = failed.iter().map(|line| repeats(line)).sum();
    assert_eq!(sum, 53);
    assert_eq!(failed[1]["repeats"], 49);
    assert_eq!(failed[1]["explained_by"], failed[0]["seq"]);
    assert_eq!(stop["failures"], 53);
}

#[test]
fn a_failure_at_one_port_does_not_explain_another() {
    for coalesces in [false, true] {
        let mut scene = full(coalesces);
        let errno = 98;
        for port in [80, 443, 80] {
            let kind = Kind::BindFailed {
                errno,
                listens: false,
            };
            let mut event = scene.event(812, 1, Some(port), kind);
            event.tuple.peer = endpoint("0.0.0.0", None);
            scene.tell(&event);
        }
        let failed = scene.of_type("bind_failed");
        let explained: Vec<_> = failed.iter().map(|line| &line["explained_by"]).collect();
        assert!(explained[0].is_null() && explained[1].is_null());
        // The third is the first one's again.
        assert_eq!(explained.get(2), (!coalesces).then_some(&&failed[0]["seq"]));
    }
}

/// The output gets lines of this kind only, a flight recorder all.
fn recorded(coalesces: bool, emit: Kinds) -> Scene {
    let mut scene = full(coalesces);
    let select = Select {
        emit: vec![emit],
        ..Select::default()
    };
    let mut filter = Filter::with(&select, Vec::new());
    filter.record_all();
    scene.stream.select(filter);
    scene.lines.clear();
    scene
}

#[test]
fn counted_failures_are_told_to_whom_the_others_are() {
    for (emit, wanted) in [(Kinds::ConnectFailed, true), (Kinds::State, false)] {
        let mut scene = recorded(true, emit);
        for _ in 0..50 {
            scene.fail(812);
        }
        // The line before is for the others.
        scene.connect(901, LAST);
        scene.wait(1500);
        let stop = scene.stop();
        let failed = scene.of_type("connect_failed");
        assert_eq!((failed.len(), &failed[1]["repeats"]), (2, &49.into()));
        for line in &failed {
            assert_eq!(line["detail"].is_null(), wanted, "{line}");
        }
        assert_eq!(failed[1]["explained_by"], failed[0]["seq"]);
        let told = if wanted { 50 } else { 0 };
        assert_eq!(stop["failures"], told, "what its lines say");
    }
}

#[test]
fn pressure_comes_and_goes() {
    let mut scene = scene(false);
    for port in FIRST..FIRST + 14 {
        scene.connect(812, port);
        scene.wait(500);
    }
    assert_eq!(scene.levels(), ["warning"]);
    let warning = scene.of_type("pressure")[0].clone();
    assert_eq!(warning["forecast"], "exhausts");
    // Two a second, and four are left.
    let rate = warning["open_rate"].as_f64().unwrap();
    assert!((1.5..2.5).contains(&rate), "{warning}");
    let left = warning["exhausts_in_s"].as_f64().unwrap();
    assert!((1.0..4.0).contains(&left), "{warning}");
    scene.connect(812, FIRST + 14);
    scene.wait(1250);
    assert_eq!(scene.levels(), ["warning", "critical"]);
    for port in FIRST..FIRST + 15 {
        let end = End {
            error: 104,
            ..End::default()
        };
        scene.step(812, port, State::Established, State::Close, Some(end));
    }
    scene.wait(1250);
    assert_eq!(scene.levels(), ["warning", "critical", "ok"]);
}

#[test]
fn the_pressure_of_bound_ports_goes_with_the_last_of_them() {
    let mut scene = scene(false);
    for kind in [Kind::Bound, Kind::Released] {
        for port in FIRST..FIRST + 14 {
            scene.bound(812, port, kind);
        }
        // Counted since the last round is nothing the second time.
        scene.usage();
        scene.usage();
    }
    assert_eq!(scene.levels(), ["warning", "ok"]);
}

#[test]
fn a_changed_setting_is_told_and_counts_at_once() {
    let mut scene = full(false);
    scene.host.0.lock().unwrap().range = (FIRST, LAST + 16);
    scene.fail(812);
    let failed = scene.of_type("connect_failed")[0].clone();
    assert_eq!(failed["budget"]["free"], 16);
    let told = scene.of_type("netns");
    assert!(told[0]["before"].is_null());
    assert_eq!(told[1]["range"][1], LAST + 16);
    assert_eq!(told[1]["before"]["range"][1], LAST);
}

#[test]
fn what_was_bound_before_the_destination_is_taken_from_all() {
    let mut scene = scene(false);
    scene.bound(812, FIRST, Kind::Bound);
    scene.fail(900);
    let failed = scene.of_type("connect_failed")[0].clone();
    assert_eq!(failed["budget"]["bound"], 1);
    assert_eq!(failed["holders"][0]["bound"], 1);
    // Somebody binds while it is full: the pool of the address is told.
    let kind = Kind::BindFailed {
        errno: 98,
        listens: false,
    };
    let mut refused = scene.event(900, 2, None, kind);
    refused.owner = Owner::Bind;
    scene.tell(&refused);
    let failed = scene.of_type("bind_failed")[0].clone();
    assert_eq!(failed["reason"], "ports_exhausted");
    assert_eq!(failed["budget"]["bound"], 1);
    assert_eq!(failed["budget"]["free"], 15);
    assert_eq!(scene.stop()["bind_failures"], 1);
}
