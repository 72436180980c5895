//! What the golden records are made from: every kind of line and every alternative in it at least once.

use std::{collections::BTreeMap, net::IpAddr, sync::LazyLock};

use tracer::{
    diagnosis::advice::Advice,
    event::{Comm, Endpoint, Event, Family, Kind, Owner, Reason, Role, State, Task, Tuple},
    kernel::plan::{Backend, Capability},
    ledger::{Connection, Destination, Effect, EndReason, Socket, Totals, Transition, Usage},
    pool::Settings,
    record::{
        self, Bpf, Budget, Cause, Coverage, Holder, KnownSocket, LeftOut, Level, Netns, Outlook,
        Pressure, Process, Program, Recording, RecordingEvent, Refused, Seeded, Shed, Shedding,
        Shortage, Start, Stats, Table, Told, Waiting, WholeProcess,
    },
};

pub(crate) const NETNS: u32 = 4_026_531_840;

/// When an event happened, and when the ledger is looked at: nanoseconds since boot.
const THEN: u64 = 61_000_000_007;
pub(crate) const NOW: u64 = 100_000_000_000;

static WORKER: LazyLock<Task> = LazyLock::new(|| task(812, b"worker"));
static HELPER: LazyLock<Task> = LazyLock::new(|| task(900, b"helper"));
static STRANGE: LazyLock<Task> = LazyLock::new(|| task(7, b"\"\\\n\x1b[31m\xff<b>"));
static CLOSER: LazyLock<Task> = LazyLock::new(|| task(901, b"closer"));

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

fn tuple() -> Tuple {
    Tuple {
        family: Family::Ipv4,
        local: endpoint("10.0.0.7", Some(40123)),
        peer: endpoint("10.0.0.9", Some(5774)),
    }
}

/// A client of the worker.
fn client(state: State) -> Socket<'static> {
    Socket {
        key: 1,
        cookie: Some(4711),
        netns: NETNS,
        tuple: tuple(),
        state,
        is_timewait: state == State::TimeWait,
        role: Some(Role::Client),
        owner: Owner::Connect,
        task: Some(&WORKER),
        due: None,
    }
}

/// Without an owner.
fn nobodys(socket: Socket<'static>) -> Socket<'static> {
    Socket {
        owner: Owner::None,
        task: None,
        ..socket
    }
}

fn listener() -> Socket<'static> {
    let mut socket = client(State::Listen);
    socket.role = Some(Role::Listener);
    socket.owner = Owner::Bind;
    socket.tuple.peer = endpoint("0.0.0.0", None);
    socket.task = Some(&STRANGE);
    socket
}

fn server(state: State, owner: Owner) -> Socket<'static> {
    Socket {
        role: Some(Role::Server),
        owner,
        task: Some(&HELPER),
        ..client(state)
    }
}

/// Seen first in the dump.
fn older(state: State) -> Socket<'static> {
    let mut socket = client(state);
    socket.role = None;
    socket.owner = Owner::Snapshot;
    socket.tuple.family = Family::Ipv6;
    socket.tuple.peer = endpoint("2001:db8::9", Some(443));
    socket
}

fn older_time_wait() -> Socket<'static> {
    Socket {
        cookie: None,
        due: Some(NOW + 41_234_567_890),
        ..nobodys(older(State::TimeWait))
    }
}

pub(crate) fn transitions() -> Vec<Effect<'static>> {
    use State::*;
    let transition = |old, socket: Socket<'static>| Transition {
        ts: THEN,
        old,
        new: socket.state,
        socket,
        corrected: false,
        opened: None,
    };
    let mut stranger = nobodys(server(SynRecv, Owner::None));
    stranger.cookie = None;
    let found = Transition {
        corrected: true,
        ..transition(Established, older(CloseWait))
    };
    let mut transitions = vec![
        transition(Close, client(SynSent)),
        transition(SynSent, client(Established)),
        transition(Established, client(FinWait1)),
        transition(FinWait1, client(FinWait2)),
        transition(FinWait1, client(Closing)),
        transition(FinWait2, client(TimeWait)),
        transition(TimeWait, client(Close)),
        transition(Listen, stranger),
        transition(SynRecv, server(Established, Owner::Inherited)),
        transition(Close, listener()),
        transition(LastAck, nobodys(older(Close))),
    ];
    transitions.push(found);
    transitions.into_iter().map(Effect::Transition).collect()
}

/// Each kind of failure, explained, and one that refers to an explanation.
pub(crate) fn failures() -> Vec<(Event, Told<'static>)> {
    let connect = |reason| Kind::ConnectFailed { errno: 99, reason };
    let bind = |listens| Kind::BindFailed { errno: 98, listens };
    let short = Told {
        failures_so_far: 2,
        explained_by: Some(9),
        ..Told::default()
    };
    let held = Told {
        held_by: Some(Box::new(KnownSocket::new(&taken(), Some(worker()), NOW))),
        ..explained()
    };
    let shortage = || Told {
        shortage: Some(shortage()),
        ..explained()
    };
    vec![
        failure(
            connect(Reason::PortsExhausted),
            "10.0.0.7",
            None,
            shortage(),
        ),
        failure(connect(Reason::PortsExhausted), "10.0.0.7", None, short),
        failure(connect(Reason::TupleInUse), "10.0.0.7", Some(40123), held),
        failure(connect(Reason::NoSourceAddress), "::", None, explained()),
        failure(bind(false), "10.0.0.7", None, shortage()),
        failure(bind(true), "0.0.0.0", Some(8080), explained()),
    ]
}

fn failure(kind: Kind, ip: &str, port: Option<u16>, told: Told<'static>) -> (Event, Told<'static>) {
    let event = Event {
        timestamps: false,
        socket_range: Some((32768, 32999)),
        ts: THEN,
        sock: 1,
        cookie: Some(4711),
        netns: NETNS,
        tuple: Tuple {
            local: endpoint(ip, port),
            ..tuple()
        },
        held: None,
        role: matches!(kind, Kind::ConnectFailed { .. }).then_some(Role::Client),
        owner: match kind {
            Kind::BindFailed { .. } => Owner::Bind,
            _ => Owner::Connect,
        },
        task: Some(WORKER.clone()),
        kind,
    };
    (event, told)
}

fn explained() -> Told<'static> {
    Told {
        failures_so_far: 12,
        repeats: Some(11),
        advice: Some(advice()),
        ..Told::default()
    }
}

fn advice() -> Vec<Advice> {
    vec![Advice {
        id: "unix_socket",
        why: "because".into(),
        how: "so".into(),
    }]
}

fn taken() -> Socket<'static> {
    Socket {
        due: Some(NOW + 1_500_000_000),
        ..client(State::TimeWait)
    }
}

fn worker() -> Process<'static> {
    Process {
        id: "812-5000000000",
        pid: 812,
        tid: 814,
        comm: "worker".into(),
        json: None,
    }
}

fn shortage() -> Shortage<'static> {
    Shortage {
        budget: budget(),
        holders: holders(),
        since: None,
        incomplete: true,
    }
}

fn budget() -> Budget {
    Budget {
        ports: [32768, 60999],
        range: 28232,
        reserved: 10,
        bound: 1,
        in_use: 28219,
        time_wait: 28000,
        reusable: 1,
        free: 2,
        uncertain: true,
    }
}

fn holders() -> Vec<Holder<'static>> {
    let worker = WholeProcess {
        id: "812-5000000000",
        pid: 812,
        comm: "worker".into(),
    };
    let states = |state, count| BTreeMap::from([(state, count)]);
    let row = |process, exited, others, states: BTreeMap<State, u32>, bound| Holder {
        process,
        exited,
        others,
        ports: states.values().sum::<u32>() + bound,
        states,
        bound,
    };
    vec![
        row(
            Some(worker),
            Some(true),
            None,
            states(State::TimeWait, 28_000),
            1,
        ),
        row(None, None, Some(3), states(State::Established, 219), 0),
    ]
}

pub(crate) fn pressures() -> Vec<Pressure<'static>> {
    let destination = Pressure {
        netns: NETNS,
        local_ip: "10.0.0.7".parse().ok(),
        peer: Some(endpoint("10.0.0.9", Some(5774))),
        level: Level::Warning,
        before: Level::Ok,
        used_percent: 70.1,
        budget: budget(),
        open_rate: Some(710.0),
        close_rate: Some(12.5),
        net_rate: Some(697.5),
        window_s: Some(10.0),
        forecast: Outlook::Exhausts,
        exhausts_in_s: Some(38.5),
        steady_state: None,
        holders: holders(),
        advice: advice(),
    };
    let pool = Pressure {
        local_ip: None,
        peer: None,
        netns: NETNS,
        level: Level::Ok,
        before: Level::Critical,
        used_percent: 12.0,
        budget: budget(),
        open_rate: None,
        close_rate: None,
        net_rate: None,
        window_s: None,
        forecast: Outlook::Never,
        exhausts_in_s: None,
        steady_state: Some(12),
        holders: Vec::new(),
        advice: Vec::new(),
    };
    vec![destination, pool]
}

pub(crate) fn settings() -> (Settings, Settings) {
    let now = Settings {
        range: (1024, 65535),
        tw_reuse_delay: Some(1000),
        ..Settings::default()
    };
    (Settings::default(), now)
}

pub(crate) fn connections() -> Vec<Effect<'static>> {
    let finished = || Connection {
        socket: client(State::TimeWait),
        opened: Some(THEN),
        established: true,
        closed: THEN + 1_234_567_899,
        reason: EndReason::Fin,
        closed_by: Some(&*WORKER),
        bytes: Some((1 << 53, 0)),
        time_wait: Some(60_123_456_789),
        in_time_wait: false,
    };
    let at_exit = Connection {
        time_wait: Some(500_000_000),
        in_time_wait: true,
        closed_by: Some(&*CLOSER),
        ..finished()
    };
    let older = Connection {
        socket: older(State::Established),
        opened: None,
        time_wait: None,
        reason: EndReason::Rst,
        closed_by: None,
        bytes: None,
        ..finished()
    };
    let ended = |reason, established| Connection {
        socket: server(State::Close, Owner::Accept),
        established,
        reason,
        time_wait: None,
        closed_by: None,
        bytes: Some((0, 0)),
        ..finished()
    };
    let unowned = Connection {
        socket: nobodys(client(State::SynSent)),
        ..ended(EndReason::Refused, false)
    };
    let connections = [
        finished(),
        at_exit,
        older,
        unowned,
        ended(EndReason::Timeout, true),
        ended(EndReason::Abandoned, false),
        ended(EndReason::Error, true),
        ended(EndReason::Unknown, true),
    ];
    connections.into_iter().map(Effect::Connection).collect()
}

pub(crate) fn sockets() -> Vec<Socket<'static>> {
    let mut bound = listener();
    bound.state = State::Close;
    bound.role = None;
    let orphan = Socket {
        is_timewait: true,
        ..client(State::FinWait2)
    };
    let overdue = Socket {
        due: Some(NOW - 1),
        ..older_time_wait()
    };
    vec![
        client(State::Established),
        server(State::Established, Owner::Accept),
        listener(),
        bound,
        orphan,
        client(State::TimeWait),
        older_time_wait(),
        overdue,
    ]
}

pub(crate) fn usages() -> Vec<Usage<'static>> {
    let top = |ports, time_wait| Destination {
        local_ip: tuple().local.ip,
        peer: tuple().peer,
        ports,
        time_wait,
    };
    let busy = Usage {
        task: Some(&*WORKER),
        netns: NETNS,
        ports: BTreeMap::from([
            (State::Established, 120),
            (State::SynSent, 0),
            (State::TimeWait, 27_880),
        ]),
        opened: 7100,
        closed: 7090,
        failed: 12,
        top: vec![top(27_990, 27_880), top(10, 0)],
        ..Usage::default()
    };
    let serving = Usage {
        task: Some(&*HELPER),
        netns: NETNS,
        bound: 2,
        serving: BTreeMap::from([(State::Established, 3), (State::CloseWait, 1)]),
        ..Usage::default()
    };
    let before_start = Usage {
        netns: NETNS,
        ports: BTreeMap::from([(State::TimeWait, 5)]),
        top: vec![top(5, 5)],
        due_in: Some(41_234_567_890),
        ..Usage::default()
    };
    let nobodys = Usage {
        netns: NETNS + 1,
        ports: BTreeMap::from([(State::Established, 1)]),
        ..Usage::default()
    };
    vec![busy, serving, before_start, nobodys]
}

pub(crate) fn ledgers() -> Vec<record::Ledger> {
    let totals = Totals {
        sockets: 28_010,
        timewait: 27_885,
        bound: 2,
        unowned: 6,
        processes: 2,
        netns: 2,
    };
    let seeded = Seeded {
        sockets: 28_010,
        timewait: 27_885,
        owned: 28_004,
        netns: 3,
        ms: 41.007,
    };
    let first = record::Ledger {
        seeded: Some(seeded),
        ..totals.into()
    };
    let later = record::Ledger {
        resyncs: 2,
        corrected: 17,
        overflow: 4,
        table: Some(Table {
            used: 1200,
            size: 262_144,
        }),
        ..totals.into()
    };
    vec![first, later]
}

pub(crate) fn start() -> Start {
    Start {
        filter: [("emit".into(), vec!["usage".into()])].into(),
        tracer: "0.1.0".into(),
        kernel: "6.12.1".into(),
        coverage: vec![
            Coverage {
                capability: Capability::Transitions,
                hook: Some("inet_sock_set_state".into()),
                backend: Some(Backend::TpBtf),
                refused: Vec::new(),
                limits: Vec::new(),
            },
            Coverage {
                capability: Capability::ConnectFailure,
                hook: None,
                backend: None,
                refused: vec![Refused {
                    hook: "inet_hash_connect".into(),
                    backend: Backend::Fexit,
                    reason: "load failed: Operation not permitted (os error 1)".into(),
                }],
                limits: vec!["something is not seen".into()],
            },
        ],
        netns: vec![Netns {
            netns: NETNS,
            range: Some([32768, 60999]),
            reserved: Some(0),
            tw_reuse: Some(2),
            tw_reuse_delay_ms: Some(1000),
            timestamps: Some(true),
            max_tw_buckets: None,
        }],
    }
}

/// The flight recorder keeps something, and can't.
pub(crate) fn recordings() -> [Recording; 2] {
    [
        Recording {
            event: RecordingEvent::Frozen,
            cause: Some(Cause::Failure),
            file: Some(
                "/var/lib/tracer/tracer-web-3-20260102T030405.000Z-failure.jsonl.zst".into(),
            ),
            error: None,
        },
        Recording {
            event: RecordingEvent::Paused,
            cause: None,
            file: None,
            error: Some("No space left on device (os error 28)".into()),
        },
    ]
}

/// Of a host where everything can be measured, and of one where little can.
pub(crate) fn stats() -> Vec<Stats> {
    let known = Stats {
        interval_s: 60.002,
        events: 61_234,
        events_per_s: 1020.5,
        lines: 45_120,
        lines_per_s: 752.0,
        lost: 12,
        cpu_percent: 1.4,
        rss_bytes: Some(14_680_064),
        ring: Some(Table {
            used: 40_960,
            size: 8_388_608,
        }),
        table: Table {
            used: 1200,
            size: 262_144,
        },
        output: Waiting {
            used: 4096,
            size: 67_108_864,
            dropped: 3,
        },
        bpf: Some(Bpf {
            sampled_s: 1.001,
            cpu_percent: 0.1,
            programs: vec![Program {
                name: "inet_sock_set_state".into(),
                runs: 1034,
                ns_per_run: 812.4,
            }],
        }),
    };
    let unknown = Stats {
        rss_bytes: None,
        ring: None,
        bpf: None,
        ..known.clone()
    };
    vec![known, unknown]
}

pub(crate) fn sheds() -> Vec<Shed> {
    let more = Shed {
        level: Shedding::Connection,
        before: Shedding::State,
        cpu_percent: Some(61.5),
        max_cpu_percent: 50.0,
        left_out: LeftOut {
            state: 40_123,
            connection: 0,
            usage_rounds: 0,
        },
    };
    let still = Shed {
        before: Shedding::Connection,
        cpu_percent: None,
        left_out: LeftOut {
            state: 7,
            connection: 5,
            usage_rounds: 0,
        },
        ..more.clone()
    };
    vec![more, still]
}
