//! A scripted run, written down as tracer does.

use std::{cell::Cell, collections::BTreeSet, net::IpAddr, time::Duration};

use tracer::{
    clock::Clock,
    diagnosis::{case::Host, pressure::Levels, surroundings::Surroundings},
    event::{
        Comm, End, Endpoint, Event, Family, Kind, Owner, Reason, Role, Row, State, Task, Tuple,
    },
    host::process::{Found, ProcessTable, Processes},
    kernel::plan::Capability,
    pool::Settings,
    record::{Coverage, Netns, Start, Table, Where},
    stream::{Diagnosis, Stream},
};

const NETNS: u32 = 4_026_531_840;
pub(crate) const SECOND: u64 = 1_000_000_000;
/// 2026-01-02T03:04:05Z at boot.
const BOOT: i64 = 1_767_323_045_000_000_000;

fn settings(high: u16) -> Settings {
    Settings {
        range: (40000, high),
        tw_reuse: 0,
        ..Settings::default()
    }
}

/// A host that answers otherwise each time.
struct Moody(Cell<u64>);

impl Moody {
    fn next(&self) -> u64 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }
}

impl ProcessTable for Moody {
    fn look_up(&self, task: &Task) -> Found {
        Found {
            exe: Some(format!("/bin/{}-{}", task.pid, self.next())),
            cgroup: Some("/system.slice/nginx.service".into()),
        }
    }

    fn is_alive(&self, _: &Task) -> Option<bool> {
        Some(self.next().is_multiple_of(2))
    }
}

impl Surroundings for Moody {
    fn settings(
        &mut self,
        netns: u32,
        _: Option<&Task>,
        now: u64,
        _: Duration,
    ) -> Option<Settings> {
        let grown = now >= 20 * SECOND;
        (netns == NETNS).then(|| settings(if grown { 40007 } else { 40003 }))
    }

    fn host(&mut self, _: u32, _: Option<&Task>, _: u64) -> Host {
        Host {
            listen_overflows: Some(self.next()),
            ..Host::default()
        }
    }
}

/// A run that is written down, and all of its output.
pub(crate) struct Recording {
    pub stream: Stream,
    text: Vec<u8>,
}

impl Recording {
    pub(crate) fn new(replayable: bool) -> Self {
        let processes = Processes::of(Box::new(Moody(Cell::new(0))));
        let mut stream = Stream::with("web-3".into(), Clock::fixed(BOOT, BOOT), processes);
        if replayable {
            stream.record_inputs();
        }
        stream.start(&start());
        let how = Diagnosis {
            coalesces: false,
            levels: Levels {
                warning: 50.0,
                critical: 90.0,
            },
            ..Diagnosis::default()
        };
        stream.diagnose(how, Box::new(Moody(Cell::new(100))));
        stream.set_settings(vec![(NETNS, Some(settings(40003)))]);
        Self {
            stream,
            text: Vec::new(),
        }
    }

    fn flush(&mut self) {
        self.text.extend_from_slice(self.stream.lines());
        self.stream.clear();
    }

    fn state(&mut self, at: u64, sock: u64, old: State, new: State) {
        self.stream.event(&event(at, sock, kind(old, new, None)));
    }

    fn open(&mut self, at: u64, sock: u64) {
        self.state(at, sock, State::Close, State::SynSent);
        self.stream.event(&event(at, sock, Kind::Port));
        self.state(at + 1000, sock, State::SynSent, State::Established);
    }

    /// Its TIME_WAIT goes on under another key.
    fn close(&mut self, at: u64, sock: u64) {
        self.state(at, sock, State::Established, State::FinWait1);
        self.state(at + 1000, sock, State::FinWait1, State::FinWait2);
        let end = End {
            timewait: Some(sock + 1000),
            sent: 7,
            received: 8,
            ..End::default()
        };
        let taken = kind(State::FinWait2, State::TimeWait, Some(end));
        self.stream.event(&event(at + 2000, sock, taken));
    }

    fn fail(&mut self, at: u64) {
        let exhausted = Kind::ConnectFailed {
            errno: 99,
            reason: Reason::PortsExhausted,
        };
        let mut failed = event(at, 99, exhausted);
        failed.tuple.local.port = None;
        self.stream.event(&failed);
    }

    pub(crate) fn finish(mut self, now: u64) -> Vec<u8> {
        let text = &mut self.text;
        text.extend_from_slice(self.stream.lines());
        self.stream.clear();
        self.stream
            .stop(now, &mut |lines| {
                text.extend_from_slice(lines.bytes());
                Ok(())
            })
            .unwrap();
        self.flush();
        self.text
    }
}

fn start() -> Start {
    Start {
        tracer: env!("CARGO_PKG_VERSION").into(),
        kernel: "6.12.0".into(),
        coverage: vec![Coverage {
            capability: Capability::Accept,
            hook: Some("inet_csk_accept".into()),
            backend: None,
            refused: Vec::new(),
            limits: vec!["none".into()],
        }],
        netns: vec![Netns::new(NETNS, Some(&settings(40003)))],
        filter: Default::default(),
    }
}

fn task(sock: u64) -> Task {
    let mut comm = [0; 16];
    comm[..4].copy_from_slice(b"n\xffg\"");
    Task {
        pid: 800 + sock as u32 % 2,
        tid: 800 + sock as u32 % 2,
        uid: 33,
        start_ns: 5 * SECOND,
        cgroup: u64::MAX,
        comm: Comm(comm),
    }
}

fn tuple(sock: u64) -> Tuple {
    let endpoint = |ip: &str, port| Endpoint {
        ip: ip.parse::<IpAddr>().unwrap(),
        port: Some(port),
    };
    Tuple {
        family: Family::Ipv4,
        local: endpoint("10.0.0.7", 40000 + (sock % 1000) as u16),
        peer: endpoint("10.0.0.9", 5774),
    }
}

pub(crate) fn kind(old: State, new: State, end: Option<End>) -> Kind {
    Kind::State { old, new, end }
}

pub(crate) fn event(ts: u64, sock: u64, kind: Kind) -> Event {
    let mut tuple = tuple(sock);
    let is_first = matches!(
        kind,
        Kind::State {
            new: State::SynSent,
            ..
        }
    );
    if is_first {
        tuple.local.port = None;
    }
    Event {
        ts,
        sock,
        cookie: Some(u64::MAX / 2 + sock % 1000),
        netns: NETNS,
        tuple,
        held: None,
        role: Some(Role::Client),
        owner: Owner::Connect,
        task: Some(task(sock)),
        kind,
        timestamps: true,
        socket_range: None,
    }
}

fn row(sock: u64) -> Row {
    Row {
        sock,
        cookie: None,
        netns: NETNS,
        tuple: tuple(sock),
        held: Some(tuple(sock).local.port.unwrap()),
        state: State::TimeWait,
        due: Some(41 * SECOND),
        holder: None,
        timestamps: true,
        mode: None,
        connect_bind: Some(true),
    }
}

/// All four ports, closed one after the other; failures, a snapshot, changed settings, a loss.
pub(crate) fn life(mut run: Recording, with_dump: bool) -> Vec<u8> {
    if with_dump {
        let here = BTreeSet::from([NETNS]);
        run.stream.begin_resync(SECOND);
        run.stream.row(&row(3));
        run.stream.end_resync(&here, &here, SECOND + 2_500_000);
        run.flush();
    }
    run.stream.set_table(Table { used: 1, size: 8 });
    for sock in 0..4 {
        run.open((2 + sock) * SECOND, sock);
        run.stream.watch((2 + sock) * SECOND + SECOND / 2);
    }
    run.fail(7 * SECOND);
    run.fail(7 * SECOND + 1000);
    run.flush();
    run.stream.usage(10 * SECOND);
    for sock in 0..3 {
        run.close((12 + sock) * SECOND, sock);
    }
    run.fail(18 * SECOND);
    run.stream.watch(18 * SECOND);
    if with_dump {
        let mut text = Vec::new();
        run.stream
            .snapshot(19 * SECOND, &mut |lines| {
                text.extend_from_slice(lines.bytes());
                Ok(())
            })
            .unwrap();
        run.text.extend(text);
    }
    run.stream.set_clock(Clock::fixed(BOOT + 5, BOOT - 5));
    run.stream.usage(20 * SECOND);
    run.fail(21 * SECOND);
    if with_dump {
        run.stream.lost();
        run.stream.begin_resync(22 * SECOND);
        run.stream.give_up_resync();
        run.stream.loss(12, Where::Ring, false);
        run.stream.add_overflow(2);
    }
    let mut ended = event(72 * SECOND, 1000, kind(State::TimeWait, State::Close, None));
    ended.task = None;
    ended.owner = Owner::None;
    run.stream.event(&ended);
    run.finish(75 * SECOND)
}

/// What `tracer replay` is to make of it.
pub(crate) fn without_inputs(text: &[u8]) -> String {
    let text = std::str::from_utf8(text).unwrap();
    let lines = text.split_inclusive('\n');
    lines
        .filter(|line| !line.contains(r#""type":"input""#))
        .collect()
}
