//! A tiny kernel makes random histories; the ledger must know what the kernel knows.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr},
};

use proptest::prelude::*;

use super::{Budget, Effect, Ledger, Query, Resynced, Socket};
use crate::event::{
    Comm, End, Endpoint, Event, Family, Kind, Owner, Role, Row, State, Task, Tuple,
};
use crate::pool::{Rules, Settings};

/// Ports that are bound, those that `listen()` takes, and those that `connect()` chooses lie together.
const EXPLICIT: u16 = 2997;
const CHOSEN: u16 = 3000;
const LISTENING: u16 = 3003;
const RANGE: (u16, u16) = (2996, 3005);
const NAMESPACES: [u32; 2] = [7, 8];

#[derive(Clone, Debug)]
struct Sock {
    key: u64,
    cookie: u64,
    netns: u32,
    tuple: Tuple,
    state: State,
    is_timewait: bool,
    role: Option<Role>,
    owner: Owner,
    task: Option<Task>,
    /// Bound to a port of its own choice, which it keeps until it is destroyed.
    is_explicit: bool,
    /// Its port does not come from `connect()`.
    is_binder: bool,
    has_descriptor: bool,
}

/// One step: what, on which socket, and how.
type Step = (u8, u8, u8);

#[derive(Default)]
struct Kernel {
    now: u64,
    cookies: u64,
    socks: BTreeMap<u64, Sock>,
    queue: VecDeque<Event>,
    /// Cookies of connections that are over.
    finished: Vec<u64>,
    has_cookies: bool,
}

fn task(pid: u32, tid: u32) -> Task {
    Task {
        pid,
        tid,
        uid: 0,
        start_ns: u64::from(pid) * 10,
        cgroup: 1,
        comm: Comm([b'a'; 16]),
    }
}

fn endpoint(ip: u8, port: u16) -> Endpoint {
    let ip = match ip {
        0 => Ipv4Addr::UNSPECIFIED,
        last => Ipv4Addr::new(10, 0, 0, last),
    };
    Endpoint {
        ip: IpAddr::V4(ip),
        port: (port != 0).then_some(port),
    }
}

fn tuple(local: Endpoint, peer: Endpoint) -> Tuple {
    Tuple {
        family: Family::Ipv4,
        local,
        peer,
    }
}

fn is_complete(sock: &Sock) -> bool {
    !matches!(sock.state, State::Close | State::Listen)
}

impl Kernel {
    fn new(has_cookies: bool) -> Self {
        Self {
            has_cookies,
            ..Self::default()
        }
    }

    fn step(&mut self, (kind, pick, how): Step) {
        self.now += 10;
        match kind % 12 {
            0 => self.bind(pick, how),
            1 => self.listen(pick, how),
            2 | 3 => self.connect(pick, how),
            4 | 5 => self.incoming(pick, how),
            6 => self.accept(pick, how),
            _ => self.advance(pick, how),
        }
    }

    fn free_key(&self, how: u8) -> u64 {
        // Few addresses, so that they are used again soon.
        let mut key = 1 + u64::from(how % 8);
        while self.socks.contains_key(&key) {
            key += 1;
        }
        key
    }

    fn picked(&self, pick: u8, wanted: impl Fn(&Sock) -> bool) -> Option<Sock> {
        let found: Vec<_> = self.socks.values().filter(|sock| wanted(sock)).collect();
        let index = usize::from(pick).checked_rem(found.len())?;
        Some(found[index].clone())
    }

    fn fresh(&mut self, pick: u8, how: u8) -> Sock {
        self.cookies += 1;
        Sock {
            key: self.free_key(how),
            cookie: self.cookies,
            netns: NAMESPACES[usize::from(pick % 2)],
            tuple: tuple(endpoint(0, 0), endpoint(0, 0)),
            state: State::Close,
            is_timewait: false,
            role: None,
            owner: Owner::None,
            task: None,
            is_explicit: false,
            is_binder: false,
            has_descriptor: true,
        }
    }

    fn event(&mut self, sock: &Sock, kind: Kind) -> Event {
        self.now += 1;
        let stays = sock.is_explicit && !sock.is_timewait;
        Event {
            timestamps: true,
            socket_range: None,
            ts: self.now,
            sock: sock.key,
            cookie: self.has_cookies.then_some(sock.cookie),
            netns: sock.netns,
            tuple: sock.tuple,
            held: sock.tuple.local.port.filter(|_| stays),
            role: sock.role,
            owner: match sock.owner {
                Owner::Inherited => Owner::None,
                owner => owner,
            },
            task: sock.task.clone().filter(|_| sock.owner != Owner::Inherited),
            kind,
        }
    }

    fn emit(&mut self, sock: &Sock, kind: Kind) {
        let event = self.event(sock, kind);
        self.queue.push_back(event);
    }

    fn transition(&mut self, sock: &mut Sock, new: State) {
        let kind = Kind::State {
            old: sock.state,
            new,
            end: None,
        };
        sock.state = new;
        self.emit(sock, kind);
        self.socks.insert(sock.key, sock.clone());
    }

    fn own(sock: &mut Sock, owner: Owner, pick: u8) {
        sock.owner = owner;
        if owner != Owner::Accept && sock.task.is_some() {
            return;
        }
        sock.task = Some(task(u32::from(pick % 3) + 1, u32::from(pick)));
    }

    fn bind(&mut self, pick: u8, how: u8) {
        let mut sock = self.fresh(pick, how);
        let port = EXPLICIT + u16::from(how % 3);
        sock.tuple.local = endpoint(how / 3 % 3, port);
        sock.is_explicit = true;
        sock.is_binder = true;
        Self::own(&mut sock, Owner::Bind, pick);
        let mut event = self.event(&sock, Kind::Bound);
        event.held = Some(port);
        self.queue.push_back(event);
        self.socks.insert(sock.key, sock);
    }

    fn listen(&mut self, pick: u8, how: u8) {
        let bound = self.picked(pick, |sock| sock.state == State::Close);
        let mut sock = match bound {
            Some(sock) if how < 200 => sock,
            _ => self.fresh(pick, how),
        };
        sock.role = Some(Role::Listener);
        sock.is_binder = true;
        Self::own(&mut sock, Owner::Bind, pick);
        let is_bound = sock.tuple.local.port.is_some();
        self.transition(&mut sock, State::Listen);
        if !is_bound {
            sock.tuple.local.port = Some(LISTENING + u16::from(how % 2));
            let mut event = self.event(&sock, Kind::Bound);
            event.held = sock.tuple.local.port;
            self.queue.push_back(event);
            self.socks.insert(sock.key, sock);
        }
    }

    fn connect(&mut self, pick: u8, how: u8) {
        let bound = self.picked(pick, |sock| sock.state == State::Close);
        let mut sock = match bound {
            Some(sock) if how.is_multiple_of(4) => sock,
            _ => self.fresh(pick, how),
        };
        sock.role = Some(Role::Client);
        Self::own(&mut sock, Owner::Connect, pick);
        sock.tuple.peer = endpoint(100 + how % 2, 80);
        if sock.tuple.local.ip.is_unspecified() {
            sock.tuple.local.ip = endpoint(1 + how % 2, 0).ip;
        }
        self.transition(&mut sock, State::SynSent);
        if sock.tuple.local.port.is_none() {
            sock.tuple.local.port = Some(CHOSEN + u16::from(how / 16 % 3));
        }
        if !self.take_tuple(&sock) {
            if !sock.is_explicit {
                sock.tuple.local.port = None;
            }
            self.close(sock, 0);
            return;
        }
        self.socks.insert(sock.key, sock.clone());
        if how.is_multiple_of(3) {
            self.transition(&mut sock, State::Established);
        } else {
            self.emit(&sock, Kind::Port);
        }
    }

    /// False: somebody has the tuple. A timewait socket gives it away.
    fn take_tuple(&mut self, sock: &Sock) -> bool {
        let other = self.socks.values().find(|other| {
            is_complete(other)
                && (other.key, other.netns, other.tuple) != (sock.key, sock.netns, sock.tuple)
                && (other.netns, other.tuple) == (sock.netns, sock.tuple)
        });
        match other.cloned() {
            Some(other) if other.is_timewait => {
                self.end_timewait(other, 0);
                true
            }
            Some(_) => false,
            None => true,
        }
    }

    fn incoming(&mut self, pick: u8, how: u8) {
        let Some(listener) = self.picked(pick, |sock| sock.state == State::Listen) else {
            return;
        };
        let mut child = self.fresh(pick, how);
        child.netns = listener.netns;
        child.role = Some(Role::Server);
        child.is_binder = true;
        child.has_descriptor = false;
        let mut local = listener.tuple.local;
        if local.ip.is_unspecified() {
            local.ip = endpoint(1 + how % 2, 0).ip;
        }
        let whole = tuple(local, endpoint(200, 4000 + u16::from(how % 4)));
        child.tuple = whole;
        child.state = State::SynRecv;
        if !self.take_tuple(&child) {
            return;
        }
        // What older kernels say at this moment.
        child.tuple = tuple(endpoint(0, local.port.unwrap()), endpoint(0, 0));
        child.state = State::Listen;
        self.transition(&mut child, State::SynRecv);
        let agreed = self.listener_of(&child, |_| true);
        Self::inherit(&mut child, agreed.flatten());
        child.tuple = whole;
        self.socks.insert(child.key, child.clone());
        self.transition(&mut child, State::Established);
        let exact = self.listener_of(&child, |listener| listener.ip == local.ip);
        let any = self.listener_of(&child, |listener| listener.ip.is_unspecified());
        Self::inherit(&mut child, exact.or(any).flatten());
        self.socks.insert(child.key, child);
    }

    fn inherit(child: &mut Sock, task: Option<Task>) {
        if let Some(task) = task {
            child.owner = Owner::Inherited;
            child.task = Some(task);
        }
    }

    fn listener_of(&self, child: &Sock, fits: impl Fn(&Endpoint) -> bool) -> Option<Option<Task>> {
        let found: Vec<_> = self
            .socks
            .values()
            .filter(|sock| sock.state == State::Listen && sock.netns == child.netns)
            .filter(|sock| sock.tuple.local.port == child.tuple.local.port)
            .filter(|sock| fits(&sock.tuple.local))
            .map(|sock| sock.task.clone().unwrap())
            .collect();
        let first = found.first()?.clone();
        let agree = found.iter().all(|task| task.pid == first.pid);
        Some(agree.then_some(first))
    }

    fn accept(&mut self, pick: u8, how: u8) {
        let waiting = |sock: &Sock| {
            sock.role == Some(Role::Server) && sock.owner != Owner::Accept && !sock.is_timewait
        };
        if let Some(mut sock) = self.picked(pick, waiting) {
            Self::own(&mut sock, Owner::Accept, how);
            sock.has_descriptor = true;
            let mut event = self.event(&sock, Kind::Accepted { state: sock.state });
            event.held = sock.tuple.local.port;
            self.queue.push_back(event);
            self.socks.insert(sock.key, sock);
        }
    }

    fn advance(&mut self, pick: u8, how: u8) {
        use State::*;
        let Some(mut sock) = self.picked(pick, |_| true) else {
            return;
        };
        match (sock.state, how % 4) {
            _ if sock.is_timewait => self.advance_timewait(sock, how),
            (Close, _) => self.release(&sock),
            (Listen, _) => self.close(sock, 0),
            (SynSent, 0) => self.close(sock, 111),
            (SynSent, _) => self.transition(&mut sock, Established),
            (Established, 0) => self.reset(sock, how),
            (Established, 1) => self.transition(&mut sock, CloseWait),
            (Established, _) => self.shut_down(sock, FinWait1, how),
            (FinWait1, 0) => self.transition(&mut sock, Closing),
            (FinWait1, 1) => self.hand_over(sock, TimeWait, how),
            (FinWait1, _) => self.transition(&mut sock, FinWait2),
            (FinWait2, 0) | (Closing, 0) => self.close(sock, 0),
            (FinWait2, 1) => self.hand_over(sock, FinWait2, how),
            (FinWait2 | Closing, _) => self.hand_over(sock, TimeWait, how),
            (CloseWait, 0) => self.close(sock, 32),
            (CloseWait, _) => self.shut_down(sock, LastAck, how),
            (LastAck, _) => self.close(sock, 0),
            (SynRecv | TimeWait, _) => unreachable!(),
        }
    }

    fn shut_down(&mut self, mut sock: Sock, new: State, how: u8) {
        if how > 128 {
            let mut event = self.event(&sock, Kind::ClosedBy);
            event.owner = Owner::None;
            event.task = Some(task(77, 77));
            self.queue.push_back(event);
        }
        sock.has_descriptor = false;
        self.transition(&mut sock, new);
    }

    /// Perhaps as it is accepted: its port is gone, its state not written yet.
    fn reset(&mut self, sock: Sock, how: u8) {
        let waits = sock.role == Some(Role::Server) && sock.owner != Owner::Accept;
        let mut accepted = sock.clone();
        self.close(sock, 104);
        if waits && how > 128 {
            Self::own(&mut accepted, Owner::Accept, how);
            let state = accepted.state;
            self.emit(&accepted, Kind::Accepted { state });
        }
    }

    fn close(&mut self, sock: Sock, error: i32) {
        let end = End {
            error,
            sent: 1,
            received: 2,
            ..End::default()
        };
        let kind = Kind::State {
            old: sock.state,
            new: State::Close,
            end: Some(end),
        };
        self.emit(&sock, kind);
        if sock.state != State::Listen {
            self.finished.push(sock.cookie);
        }
        self.rest_or_go(sock);
    }

    fn rest_or_go(&mut self, mut sock: Sock) {
        self.socks.remove(&sock.key);
        if sock.is_explicit {
            sock.state = State::Close;
            sock.role = None;
            sock.tuple.peer = endpoint(0, 0);
            self.socks.insert(sock.key, sock);
        }
    }

    fn hand_over(&mut self, sock: Sock, new: State, how: u8) {
        let timewait = Sock {
            key: self.free_key(how / 4),
            is_timewait: true,
            state: new,
            has_descriptor: false,
            is_explicit: false,
            ..sock.clone()
        };
        let end = End {
            timewait: Some(timewait.key),
            sent: 1,
            received: 2,
            ..End::default()
        };
        let kind = Kind::State {
            old: sock.state,
            new,
            end: Some(end),
        };
        self.emit(&sock, kind);
        self.rest_or_go(sock);
        self.socks.insert(timewait.key, timewait);
    }

    fn advance_timewait(&mut self, mut sock: Sock, how: u8) {
        if how.is_multiple_of(2) {
            self.end_timewait(sock, how);
            return;
        }
        // Re-armed, perhaps.
        let kind = Kind::State {
            old: State::FinWait2,
            new: State::TimeWait,
            end: None,
        };
        sock.state = State::TimeWait;
        self.emit(&sock, kind);
        self.socks.insert(sock.key, sock);
    }

    fn end_timewait(&mut self, sock: Sock, how: u8) {
        let old = match sock.state {
            State::FinWait2 if how < 64 => State::FinWait2,
            _ => State::TimeWait,
        };
        let end = End::default();
        let kind = Kind::State {
            old,
            new: State::Close,
            end: Some(end),
        };
        self.emit(&sock, kind);
        self.finished.push(sock.cookie);
        self.socks.remove(&sock.key);
    }

    fn release(&mut self, sock: &Sock) {
        let mut event = self.event(sock, Kind::Released);
        event.held = sock.tuple.local.port;
        self.queue.push_back(event);
        self.socks.remove(&sock.key);
    }

    fn end_everything(&mut self) {
        for _ in 0..2000 {
            self.now += 1;
            self.advance(0, 2);
        }
        assert!(self.socks.is_empty());
    }

    fn budget(&self, netns: u32, local_ip: IpAddr, peer: Endpoint, reuses: bool) -> Budget {
        let mut budget = Budget {
            ports: RANGE,
            range: u32::from(RANGE.1 - RANGE.0) + 1,
            ..Budget::default()
        };
        for port in RANGE.0..=RANGE.1 {
            let owners = self
                .socks
                .values()
                .filter(|sock| sock.netns == netns && sock.tuple.local.port == Some(port));
            let mut owners = owners.collect::<Vec<_>>().into_iter();
            if owners.clone().any(|owner| owner.is_binder) {
                budget.bound += 1;
                continue;
            }
            match owners.find(|owner| (owner.tuple.local.ip, owner.tuple.peer) == (local_ip, peer))
            {
                None => budget.free += 1,
                Some(owner) if owner.state == State::TimeWait && reuses => {
                    budget.free += 1;
                    budget.reusable += 1;
                }
                Some(owner) => {
                    budget.in_use += 1;
                    budget.time_wait += u32::from(owner.state == State::TimeWait);
                }
            }
        }
        budget
    }

    fn rows(&self, key: u64) -> Vec<Row> {
        let Some(sock) = self.socks.get(&key) else {
            return Vec::new();
        };
        let row = Row {
            timestamps: true,
            mode: None,
            connect_bind: Some(!sock.is_binder),
            sock: key,
            cookie: self.has_cookies.then_some(sock.cookie),
            netns: sock.netns,
            tuple: sock.tuple,
            held: sock.tuple.local.port.filter(|_| !sock.is_timewait),
            state: sock.state,
            due: sock.is_timewait.then_some(self.now + 50),
            holder: None,
        };
        let mut rows = vec![row.clone()];
        if let Some(owner) = sock.task.clone().filter(|_| sock.has_descriptor) {
            // The child of a process, and the process.
            for holder in [task(owner.pid + 50, 1), owner] {
                let holder = Some(holder);
                rows.push(Row {
                    holder,
                    ..row.clone()
                });
            }
        }
        rows
    }
}

/// What the ledger tells, checked as it comes.
#[derive(Default)]
struct Told {
    connections: Vec<u64>,
    corrected: u64,
    states: BTreeMap<(u64, Option<Endpoint>), State>,
    is_lossy: bool,
}

impl Told {
    fn take(&mut self, effect: Effect<'_>) {
        match effect {
            Effect::Transition(step) => {
                let Socket {
                    cookie,
                    is_timewait,
                    tuple,
                    ..
                } = step.socket;
                let name = (cookie.unwrap_or(0), is_timewait.then_some(tuple.peer));
                self.corrected += u64::from(step.corrected);
                if step.new != State::Close {
                    assert_eq!(step.socket.state, step.new);
                }
                if let (Some(known), true) = (self.states.get(&name), name.0 != 0) {
                    let is_birth = step.old == State::Close;
                    assert!(is_birth || *known == step.old || self.is_lossy, "{step:?}");
                }
                self.states.insert(name, step.new);
                if step.new == State::Close {
                    self.states.remove(&name);
                }
            }
            Effect::Connection(connection) => {
                let closed = connection.closed;
                assert!(connection.opened.is_none_or(|opened| opened <= closed));
                self.connections.push(connection.socket.cookie.unwrap_or(0));
            }
        }
    }
}

fn drain(kernel: &mut Kernel, ledger: &mut Ledger, told: &mut Told) {
    for event in kernel.queue.drain(..) {
        ledger.ingest(&event, &mut |effect| told.take(effect));
    }
}

/// Ports may be unknown as long as a connection is being made.
fn same_tuple(ours: &Socket<'_>, theirs: &Sock) -> bool {
    let opens = matches!(ours.state, State::SynSent | State::SynRecv);
    let same = |ours: Endpoint, theirs: Endpoint| ours == theirs || (opens && ours.port.is_none());
    same(ours.tuple.local, theirs.tuple.local) && same(ours.tuple.peer, theirs.tuple.peer)
}

fn compare(kernel: &Kernel, ledger: &mut Ledger, is_exact: bool) {
    let mut known = BTreeSet::new();
    for ours in ledger.sockets() {
        assert!(known.insert(ours.key), "twice: {ours:?}");
        let theirs = kernel.socks.get(&ours.key);
        let theirs = theirs.unwrap_or_else(|| panic!("not in the kernel: {ours:?}"));
        assert_eq!(ours.state, theirs.state, "{ours:?} {theirs:?}");
        assert_eq!(ours.is_timewait, theirs.is_timewait, "{ours:?}");
        assert_eq!(ours.netns, theirs.netns);
        assert!(same_tuple(&ours, theirs), "{ours:?} {theirs:?}");
        assert_eq!(ours.task.is_none(), ours.owner == Owner::None);
        let (ours_is, theirs_is) = (ours.task.map(|task| task.pid), &theirs.task);
        let right = ours_is == theirs_is.as_ref().map(|task| task.pid);
        if is_exact {
            assert!(right, "{ours:?} {theirs:?}");
            assert_eq!(ours.owner, theirs.owner, "{ours:?} {theirs:?}");
        } else {
            // After a loss a server may be known by its listener only; and without a cookie nothing tells
            // apart two sockets that were at one address with the same destination.
            let inherited = ours.owner == Owner::Inherited || !kernel.has_cookies;
            assert!(
                right || inherited || ours_is.is_none(),
                "{ours:?} {theirs:?}"
            );
        }
    }
    let missing = kernel
        .socks
        .values()
        .find(|sock| !known.contains(&sock.key));
    assert!(missing.is_none(), "not in the ledger: {missing:?}");
    check_usage(ledger);
    if is_exact {
        check_budgets(kernel, ledger);
    }
}

fn check_budgets(kernel: &Kernel, ledger: &Ledger) {
    for netns in NAMESPACES {
        for (local, peer) in [(1, 100), (1, 101), (2, 100), (2, 101)] {
            check_budget(
                kernel,
                ledger,
                netns,
                endpoint(local, 0).ip,
                endpoint(peer, 80),
            );
        }
    }
}

fn check_budget(kernel: &Kernel, ledger: &Ledger, netns: u32, local_ip: IpAddr, peer: Endpoint) {
    for tw_reuse in [0, 1] {
        let settings = Settings {
            range: RANGE,
            tw_reuse,
            ..Settings::default()
        };
        let explained = ledger.explain(&Query {
            netns,
            local_ip,
            peer: Some(peer),
            settings: &settings,
            socket_range: None,
            now: kernel.now + 2_000_000_000,
        });
        let expected = kernel.budget(netns, local_ip, peer, tw_reuse == 1);
        assert_eq!(explained.budget, expected);
        let held = explained.holders.iter().map(|holder| holder.ports);
        assert_eq!(held.sum::<u32>(), expected.bound + expected.in_use);
        let waits = explained.releases.iter().sum::<u32>();
        assert_eq!(waits, expected.time_wait);
    }
}

fn check_usage(ledger: &mut Ledger) {
    let sockets = ledger.totals().sockets;
    let sum = |states: &BTreeMap<State, u64>| states.values().sum::<u64>();
    let rows = ledger.usage(0);
    let counted = rows
        .iter()
        .map(|row| sum(&row.ports) + sum(&row.serving) + row.bound);
    assert_eq!(counted.sum::<u64>(), sockets);
}

/// A dump during which `steps` happen.
fn resync(kernel: &mut Kernel, ledger: &mut Ledger, told: &mut Told, steps: &[Step]) -> Resynced {
    kernel.now += 1;
    ledger.begin_resync(kernel.now);
    let keys: Vec<u64> = kernel.socks.keys().copied().collect();
    let mut steps = steps.iter();
    let mut unread = Vec::new();
    for key in keys {
        unread.extend(kernel.rows(key));
        if let Some(step) = steps.next() {
            kernel.step(*step);
            if step.2 < 128 {
                continue;
            }
        }
        drain(kernel, ledger, told);
        for row in unread.drain(..) {
            ledger.row(&row, &mut |effect| told.take(effect));
        }
    }
    drain(kernel, ledger, told);
    for row in unread {
        ledger.row(&row, &mut |effect| told.take(effect));
    }
    let complete = NAMESPACES.into();
    kernel.now += 1;
    ledger.end_resync(&complete, &complete, kernel.now, &mut |effect| {
        told.take(effect)
    })
}

/// Ages are reckoned in seconds: a step of a history takes far less.
fn new_ledger() -> Ledger {
    let mut ledger = Ledger::new();
    ledger.set_rules(Rules {
        delays: false,
        ..Rules::default()
    });
    ledger
}

fn steps(at_most: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(any::<Step>(), 0..at_most)
}

/// Without it, and without cookies, a port that is bound at the same address later seems to be its own.
fn may_not_be_lost(event: &Event) -> bool {
    event.kind == Kind::Bound && event.role == Some(Role::Listener)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn a_history_without_loss_is_known_exactly(steps in steps(120), has_cookies: bool) {
        let (mut kernel, mut ledger) = (Kernel::new(has_cookies), new_ledger());
        let mut told = Told::default();
        for step in &steps {
            kernel.step(*step);
            drain(&mut kernel, &mut ledger, &mut told);
            compare(&kernel, &mut ledger, true);
        }
        let found = resync(&mut kernel, &mut ledger, &mut told, &[]);
        prop_assert_eq!(found, Resynced::default());
        kernel.end_everything();
        drain(&mut kernel, &mut ledger, &mut told);
        compare(&kernel, &mut ledger, true);
        prop_assert_eq!(told.corrected, 0);
        prop_assert_eq!(told.connections.len(), kernel.finished.len());
        if has_cookies {
            prop_assert_eq!(told.connections, kernel.finished);
        }
        ledger.usage(0);
        prop_assert_eq!(ledger.owners.len(), 0);
    }

    #[test]
    fn a_dump_amid_a_history_without_loss_changes_nothing(
        before in steps(60),
        during in steps(20),
        after in steps(30),
        has_cookies: bool,
    ) {
        let (mut kernel, mut ledger) = (Kernel::new(has_cookies), new_ledger());
        let mut told = Told::default();
        for step in &before {
            kernel.step(*step);
        }
        let found = resync(&mut kernel, &mut ledger, &mut told, &during);
        prop_assert_eq!(found, Resynced::default());
        compare(&kernel, &mut ledger, true);
        for step in &after {
            kernel.step(*step);
        }
        drain(&mut kernel, &mut ledger, &mut told);
        compare(&kernel, &mut ledger, true);
        prop_assert_eq!(told.corrected, 0);
    }

    #[test]
    fn a_dump_heals_every_loss(
        before in steps(80),
        lost in prop::collection::vec(any::<bool>(), 1..40),
        during in steps(20),
        after in steps(30),
        has_cookies: bool,
    ) {
        let (mut kernel, mut ledger) = (Kernel::new(has_cookies), new_ledger());
        let mut told = Told {
            is_lossy: true,
            ..Told::default()
        };
        for step in &before {
            kernel.step(*step);
        }
        let mut lost = lost.iter().cycle();
        kernel.queue.retain(|event| may_not_be_lost(event) || !lost.next().unwrap());
        resync(&mut kernel, &mut ledger, &mut told, &during);
        compare(&kernel, &mut ledger, false);
        let found = resync(&mut kernel, &mut ledger, &mut told, &[]);
        prop_assert_eq!(Resynced { owned: 0, ..found }, Resynced::default());
        // Of what came into being during the first dump, the second one tells who bound it.
        check_budgets(&kernel, &ledger);
        for step in &after {
            kernel.step(*step);
        }
        drain(&mut kernel, &mut ledger, &mut told);
        compare(&kernel, &mut ledger, false);
        if has_cookies {
            check_budgets(&kernel, &ledger);
        }
        kernel.end_everything();
        drain(&mut kernel, &mut ledger, &mut told);
        prop_assert_eq!(ledger.sockets().count(), 0);
        ledger.usage(0);
        ledger.usage(0);
        prop_assert_eq!(ledger.owners.len(), 0);
    }
}
