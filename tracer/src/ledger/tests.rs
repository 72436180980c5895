//! Each rule by itself.

use std::net::IpAddr;

use super::{steps::Steps, *};
use crate::event::{Comm, End, Endpoint, Family, Reason};

mod races;

const NETNS: u32 = 7;

fn task(pid: u32) -> Task {
    Task {
        pid,
        tid: pid + 1000,
        uid: 0,
        start_ns: u64::from(pid),
        cgroup: 1,
        comm: Comm([b'a'; 16]),
    }
}

fn endpoint(ip: &str, port: u16) -> Endpoint {
    let ip: IpAddr = ip.parse().unwrap();
    Endpoint {
        ip,
        port: (port != 0).then_some(port),
    }
}

fn tuple(port: u16) -> Tuple {
    Tuple {
        family: Family::Ipv4,
        local: endpoint("10.0.0.1", port),
        peer: endpoint("10.0.0.2", 80),
    }
}

/// A state event of a client of process 1, to be changed with `..`.
fn event(ts: u64, sock: u64, kind: Kind) -> Event {
    Event {
        timestamps: true,
        socket_range: None,
        ts,
        sock,
        cookie: None,
        netns: NETNS,
        tuple: tuple(4000),
        held: None,
        role: Some(Role::Client),
        owner: Owner::Connect,
        task: Some(task(1)),
        kind,
    }
}

/// A client begins to connect, and has no port yet.
fn searching(ts: u64, sock: u64) -> Event {
    let mut event = event(ts, sock, state(State::Close, State::SynSent));
    event.tuple.local.port = None;
    event
}

fn server(event: Event) -> Event {
    Event {
        role: Some(Role::Server),
        owner: Owner::None,
        task: None,
        tuple: Tuple {
            local: endpoint("10.0.0.1", 80),
            peer: endpoint("10.0.0.2", 4000),
            ..event.tuple
        },
        ..event
    }
}

fn state(old: State, new: State) -> Kind {
    let end = (new == State::Close).then_some(End {
        sent: 3,
        received: 4,
        ..End::default()
    });
    Kind::State { old, new, end }
}

fn error(old: State, error: i32) -> Kind {
    let end = End {
        error,
        sent: 3,
        received: 4,
        ..End::default()
    };
    Kind::State {
        old,
        new: State::Close,
        end: Some(end),
    }
}

fn timewait(old: State, new: State, key: u64) -> Kind {
    let end = End {
        timewait: Some(key),
        sent: 3,
        received: 4,
        ..End::default()
    };
    Kind::State {
        old,
        new,
        end: Some(end),
    }
}

/// What is told, as text: `SYN_SENT>ESTABLISHED`, with `!` if it was corrected, or the reason of an end.
#[derive(Default)]
struct Tester {
    ledger: Ledger,
    told: Vec<String>,
}

impl Tester {
    fn put(&mut self, event: Event) -> &mut Self {
        let told = &mut self.told;
        self.ledger
            .ingest(&event, &mut |effect| told.push(text(&effect)));
        self
    }

    fn row(&mut self, row: &Row) -> &mut Self {
        let told = &mut self.told;
        self.ledger.row(row, &mut |effect| told.push(text(&effect)));
        self
    }

    fn end_resync(&mut self, now: u64) -> Resynced {
        let told = &mut self.told;
        let here = [NETNS].into();
        self.ledger
            .end_resync(&here, &here, now, &mut |effect| told.push(text(&effect)))
    }

    fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.told)
    }

    /// A connection of process 1 from port 4000, by events at 10 and 20.
    fn established(sock: u64) -> Self {
        let mut tester = Self::default();
        tester.put(searching(10, sock));
        tester.put(event(20, sock, state(State::SynSent, State::Established)));
        tester.told();
        tester
    }

    /// The same in TIME_WAIT since 30, as socket `timewait_key`.
    fn in_time_wait(sock: u64, timewait_key: u64) -> Self {
        let mut tester = Self::established(sock);
        let step = timewait(State::FinWait1, State::TimeWait, timewait_key);
        tester.put(event(30, sock, step));
        tester.told();
        tester
    }

    fn listener(&mut self, sock: u64, ip: &str, pid: u32) {
        let kind = state(State::Close, State::Listen);
        let tuple = Tuple {
            family: Family::Ipv4,
            local: endpoint(ip, 80),
            peer: endpoint("0.0.0.0", 0),
        };
        let event = Event {
            tuple,
            role: Some(Role::Listener),
            owner: Owner::Bind,
            task: Some(task(pid)),
            ..event(1, sock, kind)
        };
        self.put(event);
    }

    fn child(&mut self, sock: u64) -> (Owner, Option<u32>) {
        self.put(server(event(5, sock, state(State::Listen, State::SynRecv))));
        self.put(server(event(
            6,
            sock,
            state(State::SynRecv, State::Established),
        )));
        self.owner(sock)
    }

    fn owner(&self, sock: u64) -> (Owner, Option<u32>) {
        let found = self
            .ledger
            .sockets()
            .find(|socket| socket.key == sock)
            .unwrap();
        (found.owner, found.task.map(|task| task.pid))
    }

    fn keys(&self) -> Vec<u64> {
        let mut keys: Vec<_> = self.ledger.sockets().map(|socket| socket.key).collect();
        keys.sort_unstable();
        keys
    }
}

fn text(effect: &Effect<'_>) -> String {
    match effect {
        Effect::Transition(step) => {
            let mark = if step.corrected { "!" } else { "" };
            format!("{}>{}{mark}", name(step.old), name(step.new))
        }
        Effect::Connection(connection) => {
            let by = connection.closed_by.map(|task| task.pid);
            let held = connection.time_wait;
            format!("{:?} by {by:?} held {held:?}", connection.reason)
        }
    }
}

fn name(state: State) -> String {
    serde_json::to_value(state)
        .unwrap()
        .as_str()
        .unwrap()
        .into()
}

fn row(sock: u64, state: State) -> Row {
    Row {
        timestamps: true,
        mode: None,
        connect_bind: None,
        sock,
        cookie: None,
        netns: NETNS,
        tuple: tuple(4000),
        held: None,
        state,
        due: None,
        holder: None,
    }
}

/// Of the ports to where those events lead.
fn query(settings: &Settings, now: u64) -> Query<'_> {
    Query {
        netns: NETNS,
        local_ip: tuple(4000).local.ip,
        peer: Some(tuple(4000).peer),
        settings,
        socket_range: None,
        now,
    }
}

fn held_by(row: Row, pid: u32) -> Row {
    Row {
        holder: Some(task(pid)),
        ..row
    }
}

/// What is told when another socket of process 1 connects from port 4000, before the answer comes: it is the only one then.
fn told_of_taking(mut tester: Tester) -> Vec<String> {
    tester.put(searching(40, 0xb));
    tester.told();
    tester.put(event(41, 0xb, Kind::Port));
    assert_eq!(tester.keys(), [0xb]);
    tester.told()
}

#[test]
fn a_timewait_socket_ends_when_a_connect_takes_its_tuple() {
    let told = told_of_taking(Tester::in_time_wait(0xa, 0xc));
    assert_eq!(told, ["TIME_WAIT>CLOSE", "Fin by None held Some(11)"]);
}

#[test]
fn whose_tuple_another_socket_has_got_has_ended_unseen() {
    let told = told_of_taking(Tester::established(0xa));
    assert_eq!(told, ["ESTABLISHED>CLOSE!", "Unknown by None held None"]);
}

#[test]
fn a_timewait_socket_keeps_the_owner_until_it_ends() {
    let mut tester = Tester::established(1);
    tester.put(event(30, 1, state(State::Established, State::FinWait1)));
    tester.put(event(40, 1, state(State::FinWait1, State::FinWait2)));
    tester.put(event(50, 1, timewait(State::FinWait2, State::FinWait2, 2)));
    let steps = ["ESTABLISHED>FIN_WAIT1", "FIN_WAIT1>FIN_WAIT2"];
    assert_eq!(
        tester.told(),
        steps,
        "nothing changes when a timewait socket takes over"
    );
    assert_eq!(tester.keys(), [2]);
    let nobody = |kind| Event {
        owner: Owner::None,
        task: None,
        role: None,
        ..event(60, 2, kind)
    };
    tester.put(nobody(state(State::FinWait2, State::TimeWait)));
    tester.put(nobody(state(State::FinWait2, State::TimeWait)));
    assert_eq!(tester.told(), ["FIN_WAIT2>TIME_WAIT"], "re-armed");
    assert_eq!(tester.owner(2), (Owner::Connect, Some(1)));
    tester.put(nobody(state(State::FinWait2, State::Close)));
    assert_eq!(
        tester.told(),
        ["TIME_WAIT>CLOSE", "Fin by Some(1) held Some(10)"]
    );
    assert!(tester.keys().is_empty());
}

#[test]
fn a_connection_says_all_that_was_seen() {
    let mut tester = Tester::in_time_wait(1, 2);
    let mut seen = 0;
    let end = event(90, 2, state(State::TimeWait, State::Close));
    tester.ledger.ingest(&end, &mut |effect| {
        if let Effect::Connection(connection) = effect {
            seen += 1;
            assert_eq!(connection.opened, Some(10));
            assert_eq!((connection.closed, connection.time_wait), (30, Some(60)));
            assert_eq!(connection.bytes, Some((3, 4)));
            assert!(connection.established && !connection.in_time_wait);
            let socket = connection.socket;
            assert_eq!((socket.key, socket.state), (2, State::TimeWait));
            assert_eq!(socket.tuple, tuple(4000));
            assert_eq!(socket.task, Some(&task(1)));
        }
    });
    assert_eq!(seen, 1);
}

#[test]
fn a_missed_step_of_a_timewait_socket_is_made_up_for() {
    let mut tester = Tester::established(1);
    tester.put(event(30, 1, timewait(State::FinWait2, State::FinWait2, 2)));
    tester.put(event(60, 2, state(State::TimeWait, State::Close)));
    let steps = [
        "FIN_WAIT2>TIME_WAIT",
        "TIME_WAIT>CLOSE",
        "Fin by None held Some(30)",
    ];
    assert_eq!(tester.told(), steps);
}

#[test]
fn a_timewait_socket_at_the_very_address_of_its_socket_is_none() {
    let mut tester = Tester::established(1);
    tester.put(event(30, 1, timewait(State::FinWait2, State::TimeWait, 1)));
    assert_eq!(tester.told(), ["FIN_WAIT2>TIME_WAIT"]);
    assert_eq!(tester.keys(), [1]);
}

#[test]
fn who_reuses_a_tuple_ends_the_timewait_socket() {
    let mut tester = Tester::in_time_wait(1, 2);
    let step = state(State::SynSent, State::Established);
    tester.put(searching(40, 3)).told();
    // An IPv4-mapped address is the same address.
    let mut mapped = event(50, 3, step);
    mapped.tuple.family = Family::Ipv6;
    tester.put(mapped);
    let steps = [
        "TIME_WAIT>CLOSE",
        "Fin by None held Some(20)",
        "SYN_SENT>ESTABLISHED",
    ];
    assert_eq!(tester.told(), steps);
    assert_eq!(tester.keys(), [3]);
}

#[test]
fn a_full_socket_that_loses_its_tuple_has_ended_unseen() {
    let mut tester = Tester::established(1);
    tester.put(event(50, 3, state(State::SynSent, State::Established)));
    let steps = [
        "ESTABLISHED>CLOSE!",
        "Unknown by None held None",
        "SYN_SENT>ESTABLISHED",
    ];
    assert_eq!(tester.told(), steps);
    assert_eq!(tester.keys(), [3]);
}

#[test]
fn a_tuple_of_another_namespace_is_another() {
    let mut tester = Tester::established(1);
    let mut other = event(50, 3, state(State::SynSent, State::Established));
    other.netns = NETNS + 1;
    tester.put(other);
    assert_eq!(tester.keys(), [1, 3]);
}

#[test]
fn an_attempt_from_a_bound_port_takes_nothing_away() {
    let mut tester = Tester::in_time_wait(1, 2);
    let bound = |kind| Event {
        held: Some(4000),
        ..event(50, 3, kind)
    };
    tester.put(bound(Kind::Bound));
    tester.put(bound(state(State::Close, State::SynSent)));
    tester.put(bound(state(State::SynSent, State::Close)));
    assert_eq!(tester.keys(), [2, 3]);
    let steps = [
        "CLOSE>SYN_SENT",
        "SYN_SENT>CLOSE",
        "Abandoned by None held None",
    ];
    assert_eq!(tester.told(), steps);
}

/// The kernel side says that a connection from port 4000 is in this state.
struct Said(u64, State);

impl Steps for Said {
    fn each(&self, tell: &mut dyn FnMut(u64, [u16; 2], State)) {
        tell(self.0, [4000, 80], self.1);
    }

    fn forget(&self, _: &dyn Fn(u64) -> bool) {}
}

#[test]
fn a_step_that_was_lost_is_not_taken_back() {
    let mut tester = Tester::established(1);
    tester.ledger.expect_no_steps();
    let state_of = |tester: &Tester| tester.ledger.sockets().next().unwrap().state;
    tester.ledger.catch_up(&Said(1, State::FinWait1));
    assert_eq!(state_of(&tester), State::FinWait1);
    tester.ledger.begin_resync(100);
    tester.row(&row(1, State::FinWait2));
    tester.end_resync(110);
    assert_eq!(tester.told(), [""; 0]);
    tester.ledger.catch_up(&Said(1, State::FinWait1));
    assert_eq!(state_of(&tester), State::FinWait2);
}

#[test]
fn a_process_does_not_get_an_earlier_name_back() {
    let mut tester = Tester::established(1);
    tester.put(searching(20, 2));
    let renamed = |event: Event| {
        let task = event.task.as_ref().map(|task| Task {
            comm: Comm([b'b'; 16]),
            ..task.clone()
        });
        Event { task, ..event }
    };
    tester.put(renamed(searching(30, 3)));
    // What is remembered of the task since it began.
    tester.put(event(40, 1, state(State::LastAck, State::Close)));
    let socket = tester.ledger.sockets().next().unwrap();
    assert_eq!(socket.task.unwrap().comm, Comm([b'b'; 16]));
}

#[test]
fn who_waits_for_an_answer_has_a_port_that_is_not_known() {
    let mut tester = Tester::established(1);
    for sock in 2..4 {
        tester.put(searching(20, sock));
    }
    let mut elsewhere = searching(20, 4);
    elsewhere.tuple.peer.port = Some(81);
    tester.put(elsewhere);
    let settings = Settings {
        range: (4000, 4007),
        ..Settings::default()
    };
    let query = query(&settings, 30);
    let explained = tester.ledger.explain_failure(&query, 3);
    let budget = &explained.budget;
    assert_eq!((budget.in_use, budget.free), (2, 6));
    let states = [(State::Established, 1), (State::SynSent, 1)];
    assert_eq!(explained.holders[0].states, states.into());
    assert_eq!(tester.ledger.explain(&query).budget.free, 7);
}

#[test]
fn nobody_saw_ports_being_taken_that_a_run_finds() {
    let mut tester = Tester::default();
    let settings = Settings {
        range: (4000, 4003),
        ..Settings::default()
    };
    tester.ledger.set_settings(NETNS, &settings);
    tester.ledger.begin_resync(100);
    for port in 4000..4003 {
        let found = row(port.into(), State::Established);
        tester.row(&Row {
            tuple: tuple(port),
            ..found
        });
    }
    tester.end_resync(110);
    let way = Way {
        netns: NETNS,
        local_ip: tuple(4000).local.ip,
        peer: tuple(4000).peer,
    };
    let since = |tester: &Tester| tester.ledger.traffic(&way).unwrap().half.since();
    assert_eq!(since(&tester), None);
    for port in 4000..4003 {
        tester.put(event(200, port, state(State::Established, State::Close)));
    }
    for (port, ts) in [(4001, 300), (4002, 400), (4003, 500)] {
        let mut opened = event(ts, port.into(), state(State::Close, State::SynSent));
        opened.tuple = tuple(port);
        tester.put(opened);
    }
    assert_eq!(since(&tester), Some(400));
}

#[test]
fn an_address_that_is_used_again_ends_what_was_there() {
    let mut tester = Tester::established(1);
    tester.put(event(30, 1, state(State::Close, State::SynSent)));
    let steps = [
        "ESTABLISHED>CLOSE!",
        "Unknown by None held None",
        "CLOSE>SYN_SENT",
    ];
    assert_eq!(tester.told(), steps);
    // A server's first event is lost: it must not get the client's owner.
    tester.put(server(event(
        40,
        1,
        state(State::SynRecv, State::Established),
    )));
    assert_eq!(tester.owner(1), (Owner::None, None));
}

#[test]
fn a_bound_port_is_held_before_between_and_after_connections() {
    let mut tester = Tester::default();
    let bound = |ts, kind| Event {
        held: Some(4000),
        ..event(ts, 1, kind)
    };
    let mut bind = bound(1, Kind::Bound);
    bind.owner = Owner::Bind;
    tester.put(bind);
    assert_eq!(tester.owner(1), (Owner::Bind, Some(1)));
    tester.put(bound(10, state(State::Close, State::SynSent)));
    tester.put(bound(20, state(State::SynSent, State::Established)));
    tester.put(bound(30, timewait(State::FinWait2, State::TimeWait, 2)));
    assert_eq!(tester.keys(), [1, 2]);
    assert_eq!(tester.ledger.totals().bound, 1);
    let holder = tester
        .ledger
        .sockets()
        .find(|socket| socket.key == 1)
        .unwrap();
    assert_eq!((holder.state, holder.is_timewait), (State::Close, false));
    assert_eq!(holder.tuple.local.port, Some(4000));
    assert_eq!(holder.tuple.peer, endpoint("0.0.0.0", 0));
    tester.told();
    tester.put(bound(40, Kind::Released));
    assert_eq!(tester.keys(), [2]);
    assert_eq!(tester.told().len(), 0);
}

#[test]
fn a_socket_bound_at_a_listeners_address_is_another_one() {
    let mut tester = Tester::default();
    tester.listener(1, "0.0.0.0", 9);
    tester.told();
    // Its close was lost. `bind()` finds no role, where `listen()` would find that of a listener.
    tester.put(Event {
        tuple: Tuple {
            family: Family::Ipv4,
            local: endpoint("0.0.0.0", 80),
            peer: endpoint("0.0.0.0", 0),
        },
        held: Some(80),
        role: None,
        owner: Owner::Bind,
        ..event(40, 1, Kind::Bound)
    });
    assert_eq!(tester.told(), ["LISTEN>CLOSE!"]);
    assert_eq!(tester.owner(1), (Owner::Bind, Some(1)));
    assert_eq!(tester.ledger.totals().bound, 1);
}

#[test]
fn a_release_of_a_live_socket_means_that_its_close_was_lost() {
    let mut tester = Tester::established(1);
    tester.put(event(40, 1, Kind::Released));
    assert_eq!(
        tester.told(),
        ["ESTABLISHED>CLOSE!", "Unknown by None held None"]
    );
}

#[test]
fn a_port_comes_after_listen_without_bind() {
    let mut tester = Tester::default();
    let listener = |kind, port| {
        let mut event = event(1, 1, kind);
        event.role = Some(Role::Listener);
        event.owner = Owner::Bind;
        event.tuple.local = endpoint("0.0.0.0", port);
        event.tuple.peer = endpoint("0.0.0.0", 0);
        event
    };
    tester.put(listener(state(State::Close, State::Listen), 0));
    let mut bound = listener(Kind::Bound, 80);
    bound.held = Some(80);
    tester.put(bound);
    assert_eq!(tester.child(2), (Owner::Inherited, Some(1)));
    tester.told();
    tester.put(listener(state(State::Listen, State::Close), 80));
    assert_eq!(tester.told(), ["LISTEN>CLOSE"], "it is no connection");
}

/// Process 9 accepts the connection of socket 2, which holds a port or is over.
fn accepted(ts: u64, state: State, held: Option<u16>) -> Event {
    Event {
        owner: Owner::Accept,
        task: Some(task(9)),
        role: None,
        held,
        ..server(event(ts, 2, Kind::Accepted { state }))
    }
}

#[test]
fn a_connection_belongs_to_who_listens_until_it_is_accepted() {
    let mut tester = Tester::default();
    tester.listener(1, "0.0.0.0", 1);
    assert_eq!(tester.child(2), (Owner::Inherited, Some(1)));
    tester.put(accepted(7, State::Established, None));
    assert_eq!(tester.owner(2), (Owner::Accept, Some(9)));
    let found = tester
        .ledger
        .sockets()
        .find(|socket| socket.key == 2)
        .unwrap();
    assert_eq!(found.role, Some(Role::Server));
}

#[test]
fn nobody_is_named_when_several_may_have_listened() {
    let mut tester = Tester::default();
    tester.listener(1, "0.0.0.0", 1);
    tester.listener(2, "0.0.0.0", 2);
    assert_eq!(tester.child(3), (Owner::None, None));
    // Not later either, when only one of them is left.
    tester.put(event(8, 2, state(State::Listen, State::Close)));
    tester.ledger.begin_resync(100);
    assert_eq!(tester.end_resync(110).owned, 0);
}

#[test]
fn two_listeners_of_one_process_are_no_doubt() {
    let mut tester = Tester::default();
    tester.listener(1, "0.0.0.0", 1);
    tester.listener(2, "0.0.0.0", 1);
    assert_eq!(tester.child(3), (Owner::Inherited, Some(1)));
}

#[test]
fn the_very_address_goes_before_every_address() {
    let mut tester = Tester::default();
    tester.listener(1, "0.0.0.0", 1);
    tester.listener(2, "10.0.0.1", 2);
    tester.listener(3, "10.0.0.9", 3);
    assert_eq!(tester.child(4), (Owner::Inherited, Some(2)));
}

#[test]
fn accept_tells_of_a_connection_that_was_not_known_unless_it_is_over() {
    let mut tester = Tester::default();
    tester.put(accepted(7, State::Close, None));
    assert!(tester.keys().is_empty());
    tester.put(accepted(7, State::CloseWait, Some(80)));
    assert_eq!(tester.owner(2), (Owner::Accept, Some(9)));
}

/// The peer's RST comes while `accept()` returns, on another CPU: the state is not written yet.
#[test]
fn accept_does_not_revive_a_connection_whose_end_has_been_told() {
    let mut tester = Tester::default();
    tester.listener(1, "0.0.0.0", 1);
    tester.child(2);
    tester.put(server(event(7, 2, error(State::Established, 104))));
    tester.told();
    tester.put(accepted(8, State::Established, None));
    assert_eq!(tester.keys(), [1]);
    assert!(tester.told().is_empty());
}

#[test]
fn says_who_closed() {
    let shut = state(State::Established, State::FinWait1);
    let closed_by = Event {
        owner: Owner::None,
        task: Some(task(5)),
        ..event(25, 1, Kind::ClosedBy)
    };
    for before in [true, false] {
        let mut tester = Tester::established(1);
        if before {
            tester.put(closed_by.clone());
        }
        tester.put(event(30, 1, shut));
        if !before {
            tester.put(closed_by.clone());
        }
        tester.told();
        tester.put(event(50, 1, error(State::FinWait1, 104)));
        assert_eq!(tester.told()[1], "Rst by Some(5) held None");
    }
    let mut tester = Tester::established(1);
    tester.put(event(30, 1, shut)).told();
    tester.put(event(50, 1, state(State::FinWait2, State::Close)));
    assert_eq!(tester.told()[1], "Fin by Some(1) held None");
}

#[test]
fn names_every_end() {
    use EndReason::*;
    let cases = [
        (State::SynSent, 111, Refused),
        (State::SynSent, 110, Timeout),
        (State::SynSent, 104, Rst),
        (State::SynSent, 0, Abandoned),
        (State::SynSent, 113, Error),
        (State::Established, 104, Rst),
        (State::CloseWait, 32, Rst),
        (State::Established, 110, Timeout),
        (State::LastAck, 0, Fin),
        (State::Closing, 0, Fin),
        (State::FinWait2, 0, Fin),
        (State::FinWait1, 0, Rst),
        (State::Established, 0, Rst),
        (State::CloseWait, 0, Rst),
        (State::SynRecv, 0, Rst),
        (State::Established, 113, Error),
    ];
    for (old, errno, reason) in cases {
        let mut tester = Tester::established(1);
        tester.put(event(30, 1, error(old, errno)));
        let told = tester.told();
        assert!(
            told[1].starts_with(&format!("{reason:?} ")),
            "{old:?} {errno} {told:?}"
        );
        assert!(tester.keys().is_empty());
    }
}

#[test]
fn what_was_given_up_is_no_fin() {
    let mut tester = Tester::established(1);
    let end = End {
        given_up: true,
        ..End::default()
    };
    let kind = |old| Kind::State {
        old,
        new: State::Close,
        end: Some(end),
    };
    tester.put(event(30, 1, kind(State::FinWait2)));
    assert!(tester.told()[1].starts_with("Rst "));
    // Nor is it a timewait socket that nobody knows.
    let old = Event {
        role: None,
        ..event(40, 2, kind(State::FinWait2))
    };
    tester.put(old);
    assert!(tester.told()[1].starts_with("Rst "));
}

#[test]
fn sockets_that_are_older_are_met_with_their_first_event() {
    let mut tester = Tester::default();
    let old = |kind| Event {
        owner: Owner::None,
        task: None,
        role: None,
        ..event(30, 1, kind)
    };
    tester.put(old(state(State::Established, State::CloseWait)));
    assert_eq!(tester.keys(), [1]);
    tester.put(old(state(State::LastAck, State::Close)));
    assert_eq!(
        tester.told(),
        [
            "ESTABLISHED>CLOSE_WAIT",
            "LAST_ACK>CLOSE",
            "Fin by None held None"
        ]
    );
    tester.put(old(state(State::TimeWait, State::Close)));
    assert_eq!(
        tester.told(),
        ["TIME_WAIT>CLOSE"],
        "its connection was over before"
    );
}

#[test]
fn a_dump_adds_corrects_and_removes() {
    let mut tester = Tester::established(1);
    let mut gone = event(20, 5, state(State::SynSent, State::Established));
    gone.tuple = tuple(5000);
    tester.put(gone).told();
    tester.ledger.begin_resync(100);
    tester.row(&row(1, State::CloseWait));
    let mut server = row(2, State::Established);
    server.tuple.local.port = Some(80);
    let mut listener = row(3, State::Listen);
    listener.tuple.local = endpoint("0.0.0.0", 80);
    listener.tuple.peer = endpoint("0.0.0.0", 0);
    tester.row(&server).row(&held_by(listener, 3));
    let mut timewait = row(4, State::TimeWait);
    timewait.tuple = tuple(4444);
    timewait.due = Some(150);
    tester.row(&timewait);
    let found = tester.end_resync(110);
    let expected = Resynced {
        added: 3,
        removed: 1,
        changed: 1,
        owned: 2,
    };
    assert_eq!(found, expected);
    let steps = [
        "ESTABLISHED>CLOSE_WAIT!",
        "ESTABLISHED>CLOSE!",
        "Unknown by None held None",
    ];
    assert_eq!(tester.told(), steps);
    assert_eq!(tester.owner(2), (Owner::Inherited, Some(3)));
    let due = tester
        .ledger
        .sockets()
        .find(|socket| socket.key == 4)
        .unwrap()
        .due;
    assert_eq!(due, Some(150));
    let nobody = tester
        .ledger
        .usage(120)
        .into_iter()
        .find(|row| row.task.is_none());
    assert_eq!(nobody.unwrap().due_in, Some(30));
}

#[test]
fn an_event_during_the_dump_counts_more_than_a_row() {
    let mut tester = Tester::established(1);
    tester.ledger.begin_resync(100);
    tester.put(event(101, 1, state(State::Established, State::FinWait1)));
    let mut other = event(102, 9, state(State::LastAck, State::Close));
    other.tuple = tuple(5000);
    tester.put(other).told();
    tester.row(&row(1, State::Established));
    let mut other = held_by(row(9, State::LastAck), 3);
    other.tuple = tuple(5000);
    tester.row(&other);
    assert_eq!(tester.end_resync(110), Resynced::default());
    assert_eq!(tester.keys(), [1]);
    assert_eq!(tester.told().len(), 0);
}

#[test]
fn the_oldest_holder_is_the_owner_unless_it_is_known() {
    let mut tester = Tester::established(1);
    tester.ledger.begin_resync(100);
    tester.row(&held_by(row(1, State::Established), 8));
    let mut other = row(2, State::Established);
    other.tuple = tuple(5000);
    for pid in [6, 5, 7] {
        tester.row(&held_by(other.clone(), pid));
    }
    let found = tester.end_resync(110);
    assert_eq!((found.added, found.owned), (1, 1));
    assert_eq!(tester.owner(1), (Owner::Connect, Some(1)));
    assert_eq!(tester.owner(2), (Owner::Snapshot, Some(5)));
}

#[test]
fn an_incomplete_dump_removes_only_what_has_no_namespace_any_more() {
    let mut tester = Tester::established(1);
    let mut other = event(20, 2, state(State::SynSent, State::Established));
    other.netns = NETNS + 1;
    tester.put(other).told();
    tester.ledger.begin_resync(100);
    let alive = [NETNS].into();
    let found = tester
        .ledger
        .end_resync(&BTreeSet::new(), &alive, 110, &mut |_| ());
    assert_eq!(found.removed, 1);
    assert_eq!(tester.keys(), [1]);
}

#[test]
fn a_reborn_address_does_not_get_the_holder_of_the_socket_before() {
    let mut tester = Tester::established(1);
    tester.ledger.begin_resync(100);
    tester.put(event(101, 1, state(State::Established, State::Close)));
    tester.put(server(event(102, 1, state(State::Listen, State::SynRecv))));
    tester.row(&held_by(row(1, State::Established), 1));
    assert_eq!(tester.owner(1), (Owner::None, None));
}

#[test]
fn timewait_sockets_are_told_at_the_end_of_a_run() {
    let mut tester = Tester::in_time_wait(1, 2);
    let mut seen = Vec::new();
    tester.ledger.finish(100, &mut |effect| match effect {
        Effect::Connection(connection) => {
            seen.push((connection.in_time_wait, connection.time_wait));
        }
        Effect::Transition(_) => panic!("nothing has changed"),
    });
    assert_eq!(seen, [(true, Some(70))]);
}

#[test]
fn usage_adds_up() {
    let mut tester = Tester::in_time_wait(1, 2);
    for port in [5000, 5001] {
        let mut client = event(
            50,
            u64::from(port),
            state(State::SynSent, State::Established),
        );
        client.tuple = tuple(port);
        tester.put(client);
    }
    tester.listener(10, "0.0.0.0", 2);
    tester.child(11);
    let failed = Kind::ConnectFailed {
        errno: 99,
        reason: Reason::PortsExhausted,
    };
    let mut failure = event(60, 77, failed);
    failure.task = Some(task(3));
    tester.put(failure);
    let rows = tester.ledger.usage(100);
    let pids: Vec<_> = rows
        .iter()
        .map(|row| row.task.map(|task| task.pid))
        .collect();
    assert_eq!(pids, [Some(1), Some(2), Some(3)]);
    let ports = [(State::Established, 2), (State::TimeWait, 1)];
    assert_eq!(rows[0].ports, ports.into());
    assert_eq!((rows[0].opened, rows[0].closed, rows[0].failed), (3, 1, 0));
    let expected = Destination {
        local_ip: endpoint("10.0.0.1", 0).ip,
        peer: endpoint("10.0.0.2", 80),
        ports: 3,
        time_wait: 1,
    };
    assert_eq!(rows[0].top, [expected]);
    assert_eq!((rows[1].bound, rows[1].opened), (1, 1));
    assert_eq!(rows[1].serving, [(State::Established, 1)].into());
    assert_eq!(rows[2].failed, 1);
    let again = tester.ledger.usage(200);
    assert_eq!(
        again.len(),
        2,
        "who has nothing and did nothing is no longer listed"
    );
    assert_eq!((again[0].opened, again[0].closed), (0, 0));
}

#[test]
fn an_accepted_connection_counts_once_for_its_first_owner() {
    let mut tester = Tester::default();
    assert_eq!(tester.child(2), (Owner::None, None));
    let accepted = Event {
        owner: Owner::Accept,
        task: Some(task(9)),
        ..server(event(
            7,
            2,
            Kind::Accepted {
                state: State::Established,
            },
        ))
    };
    tester.put(accepted.clone()).put(accepted);
    let rows = tester.ledger.usage(100);
    assert_eq!((rows.len(), rows[0].opened), (1, 1));
}

#[test]
fn processes_are_forgotten_when_nothing_refers_to_them() {
    let mut tester = Tester::default();
    for pid in 1..=10_000 {
        let by = |kind| Event {
            task: Some(task(pid)),
            ..event(u64::from(pid), 1, kind)
        };
        tester.put(by(state(State::Close, State::SynSent)));
        tester.put(by(state(State::SynSent, State::Established)));
        let mut closer = by(Kind::ClosedBy);
        closer.task = Some(task(pid + 50_000));
        tester.put(closer);
        tester.put(by(state(State::Established, State::Close)));
        if pid % 100 == 0 {
            tester.ledger.usage(0);
            assert!(tester.ledger.owners.len() <= 100);
        }
    }
    tester.ledger.usage(0);
    assert_eq!(tester.ledger.owners.len(), 0);
}

#[test]
fn a_process_is_named_as_it_was_last_seen_and_each_socket_keeps_its_thread() {
    let mut tester = Tester::established(1);
    let mut other = event(50, 2, state(State::SynSent, State::Established));
    other.tuple = tuple(5000);
    let renamed = Task {
        tid: 2222,
        comm: Comm([b'b'; 16]),
        ..task(1)
    };
    other.task = Some(renamed.clone());
    tester.put(other);
    let last = event(60, 1, state(State::Established, State::CloseWait));
    let nobody = Event {
        owner: Owner::None,
        task: None,
        ..last
    };
    tester.ledger.ingest(&nobody, &mut |effect| {
        let Effect::Transition(step) = effect else {
            panic!("no end");
        };
        let expected = Task {
            tid: task(1).tid,
            ..renamed.clone()
        };
        assert_eq!(step.socket.task, Some(&expected));
    });
}
