//! The life of sockets: each call of a flow makes one, and each step of it is an event, as the kernel side tells it.

use std::net::{IpAddr, Ipv4Addr};

use tracer::event::{End, Endpoint, Event, Family, Kind, Owner, Reason, Role, State, Tuple};

use super::{
    agenda::Step,
    host::Host,
    scene::{Act, Flow},
};

const MICROSECOND: u64 = 1000;
const MILLISECOND: u64 = 1000 * MICROSECOND;
/// How long the kernel keeps a 4-tuple in TIME_WAIT, and how much later its timer may run.
const TIME_WAIT: u64 = 60_000 * MILLISECOND;
const TIMER: u64 = 250 * MILLISECOND;
/// The way to the peer and back.
const ROUND_TRIP: (u64, u64) = (150 * MICROSECOND, 1500 * MICROSECOND);

const EADDRNOTAVAIL: i32 = 99;
const EADDRINUSE: i32 = 98;

const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const NOWHERE: Endpoint = Endpoint {
    ip: NOBODY,
    port: None,
};

/// A socket between two of its steps.
#[derive(Clone, Copy)]
pub(super) struct Connection {
    flow: usize,
    sock: u64,
    cookie: u64,
    local: Endpoint,
    peer: Endpoint,
    role: Option<Role>,
    /// CLOSE: it is only bound.
    state: State,
    /// The socket holds its port by itself, because it was bound.
    is_bound: bool,
}

impl Host {
    /// A flow makes its next call.
    pub(super) fn call(&mut self, number: usize, now: u64) {
        let flow = self.flows[number];
        match flow.act {
            Act::Connect { .. } => self.connect(number, &flow, now),
            Act::From(port) => self.connect_from(number, &flow, port, now),
            Act::Nowhere => self.find_no_address(number, now),
            Act::Bind { holds } => self.bind(number, &flow, holds, now),
            Act::Accept(port) => self.accept(number, port, now),
        }
    }

    fn connection(&mut self, flow: usize) -> Connection {
        let sock = self.new_sock();
        let Flow { local, peer, .. } = self.flows[flow];
        Connection {
            flow,
            sock,
            cookie: self.sockets,
            local: Endpoint {
                ip: local,
                port: None,
            },
            peer,
            role: Some(Role::Client),
            state: State::SynSent,
            is_bound: false,
        }
    }

    fn connect(&mut self, number: usize, flow: &Flow, now: u64) {
        let mut connection = self.connection(number);
        self.tell_state(&connection, State::Close, State::SynSent, None);
        let Self { ports, random, .. } = self;
        let ports = ports.get_mut(&flow.netns);
        let Some(port) = ports.and_then(|ports| ports.connect(flow.peer, random)) else {
            self.refuse(&connection, Reason::PortsExhausted, now);
            return;
        };
        connection.local.port = Some(port);
        self.tell(&connection, Kind::Port);
        self.tally
            .take(now, flow.netns, Some(flow.process), Some(flow.peer));
        self.follow(connection, now);
    }

    /// As `connect()` behind a `bind()` with SO_REUSEADDR.
    fn connect_from(&mut self, number: usize, flow: &Flow, port: u16, now: u64) {
        let mut connection = self.connection(number);
        connection.local.port = Some(port);
        connection.is_bound = true;
        self.tell_bound(&connection, Kind::Bound);
        self.tell_state(&connection, State::Close, State::SynSent, None);
        let ports = self.ports.get_mut(&flow.netns);
        if !ports.is_some_and(|ports| ports.take(flow.peer, port)) {
            self.refuse(&connection, Reason::TupleInUse, now);
            self.tell_bound(&connection, Kind::Released);
            return;
        }
        self.tally
            .take(now, flow.netns, Some(flow.process), Some(flow.peer));
        self.follow(connection, now);
    }

    /// The connection waits for the peer's answer.
    fn follow(&mut self, connection: Connection, now: u64) {
        let place = self.vacant.pop().unwrap_or(self.connections.len());
        match self.connections.get_mut(place) {
            Some(vacant) => *vacant = connection,
            None => self.connections.push(connection),
        }
        let at = now + self.round_trip();
        self.agenda.enter(at, Step::Next(place));
    }

    fn refuse(&mut self, connection: &Connection, reason: Reason, now: u64) {
        let end = End { ..End::default() };
        self.tell_state(connection, State::SynSent, State::Close, Some(end));
        self.fail(connection, reason, now);
    }

    /// Before the socket has left CLOSE.
    fn find_no_address(&mut self, number: usize, now: u64) {
        let connection = self.connection(number);
        self.fail(&connection, Reason::NoSourceAddress, now);
    }

    fn fail(&mut self, connection: &Connection, reason: Reason, now: u64) {
        let errno = EADDRNOTAVAIL;
        self.tell(connection, Kind::ConnectFailed { errno, reason });
        let name = match reason {
            Reason::PortsExhausted => "ports_exhausted",
            Reason::TupleInUse => "tuple_in_use",
            Reason::NoSourceAddress => "no_source_address",
            Reason::Unknown => "unknown",
        };
        let Flow { netns, process, .. } = self.flows[connection.flow];
        let why = ("connect", name, Some(connection.peer));
        self.tally.failed(now, netns, process, why);
    }

    fn bind(&mut self, number: usize, flow: &Flow, holds: (u64, u64), now: u64) {
        let mut connection = self.connection(number);
        connection.local.ip = NOBODY;
        connection.peer = NOWHERE;
        connection.role = None;
        connection.state = State::Close;
        connection.is_bound = true;
        let Self { ports, random, .. } = self;
        let ports = ports.get_mut(&flow.netns);
        let Some(port) = ports.and_then(|ports| ports.bind(random)) else {
            let (errno, listens) = (EADDRINUSE, false);
            self.tell_bound(&connection, Kind::BindFailed { errno, listens });
            let why = ("bind", "ports_exhausted", None);
            self.tally.failed(now, flow.netns, flow.process, why);
            return;
        };
        connection.local.port = Some(port);
        self.tell_bound(&connection, Kind::Bound);
        self.tally.take(now, flow.netns, Some(flow.process), None);
        let held = self.random.between(holds.0, holds.1) * MILLISECOND;
        self.follow(connection, now + held);
    }

    /// The kernel makes the socket, and the process takes it.
    fn accept(&mut self, number: usize, port: u16, now: u64) {
        let mut connection = self.connection(number);
        let client = connection.cookie;
        connection.local.port = Some(port);
        connection.peer = Endpoint {
            ip: Ipv4Addr::new(203, 0, 113, 1 + (client / 60_000 % 250) as u8).into(),
            port: Some(1024 + (client % 60_000) as u16),
        };
        connection.role = Some(Role::Server);
        connection.state = State::SynRecv;
        let mut event = self.event_of(&connection);
        (event.owner, event.task, event.cookie) = (Owner::None, None, None);
        event.kind = Kind::State {
            old: State::Listen,
            new: State::SynRecv,
            end: None,
        };
        self.stream.event(&event);
        self.follow(connection, now);
    }

    /// The next state of a connection, and when the one after that comes.
    pub(super) fn advance(&mut self, place: usize, now: u64) {
        use State::{Close, CloseWait, Established, FinWait1, FinWait2, LastAck, SynRecv, SynSent};
        let connection = self.connections[place];
        let next = match connection.state {
            SynSent | SynRecv => Established,
            Established if self.closes_first(&connection) => FinWait1,
            Established => CloseWait,
            FinWait1 => FinWait2,
            FinWait2 => State::TimeWait,
            CloseWait => LastAck,
            LastAck | State::TimeWait | Close => Close,
            other => other,
        };
        self.connections[place].state = next;
        let pause = match next {
            Established => self.establish(&connection, now),
            State::TimeWait => self.begin_time_wait(place),
            Close => {
                self.end(&connection, now);
                self.vacant.push(place);
                return;
            }
            _ => {
                self.tell_state(&connection, connection.state, next, None);
                self.round_trip() / 2
            }
        };
        self.agenda.enter(now + pause, Step::Next(place));
    }

    fn closes_first(&self, connection: &Connection) -> bool {
        match self.flows[connection.flow].act {
            Act::Connect { first, .. } => first,
            Act::From(_) => true,
            _ => false,
        }
    }

    /// Returns how long the connection will be used.
    fn establish(&mut self, connection: &Connection, now: u64) -> u64 {
        let Flow {
            netns,
            process,
            act,
            peer,
            ..
        } = self.flows[connection.flow];
        if connection.role == Some(Role::Client) {
            self.tell_state(connection, State::SynSent, State::Established, None);
            self.tally.opened(now, netns, process, peer);
        } else {
            let mut event = self.event_of(connection);
            (event.owner, event.task) = (Owner::None, None);
            event.kind = Kind::State {
                old: State::SynRecv,
                new: State::Established,
                end: None,
            };
            self.stream.event(&event);
            let state = State::Established;
            self.tell(connection, Kind::Accepted { state });
        }
        let (low, high) = match act {
            Act::Connect { holds, .. } => holds,
            _ => (10, 60),
        };
        self.random.between(low, high) * MILLISECOND
    }

    /// A timewait socket takes over. Returns how long that stays.
    fn begin_time_wait(&mut self, place: usize) -> u64 {
        let connection = self.connections[place];
        let timewait = self.new_sock();
        let mut end = self.end_of(&connection);
        end.timewait = Some(timewait);
        self.tell_state(&connection, State::FinWait2, State::TimeWait, Some(end));
        if connection.is_bound {
            self.tell_bound(&connection, Kind::Released);
        }
        self.connections[place].sock = timewait;
        self.connections[place].is_bound = false;
        let Flow { netns, process, .. } = self.flows[connection.flow];
        self.tally.wait(netns, Some(process), 1);
        TIME_WAIT + self.random.between(0, TIMER)
    }

    /// Payload of requests and answers.
    fn end_of(&mut self, connection: &Connection) -> End {
        let (less, more) = (
            self.random.between(200, 2000),
            self.random.between(500, 60_000),
        );
        let is_client = connection.role == Some(Role::Client);
        let (sent, received) = if is_client {
            (less, more)
        } else {
            (more, less)
        };
        End {
            sent,
            received,
            ..End::default()
        }
    }

    fn end(&mut self, connection: &Connection, now: u64) {
        let Flow {
            netns,
            process,
            peer,
            ..
        } = self.flows[connection.flow];
        match connection.state {
            State::Close => {
                self.tell_bound(connection, Kind::Released);
                self.give_back(connection, netns);
                self.tally.give_back(now, netns, Some(process), None);
                return;
            }
            State::TimeWait => {
                self.tell_state(connection, State::TimeWait, State::Close, None);
                self.tally.wait(netns, Some(process), -1);
            }
            old => {
                let end = self.end_of(connection);
                self.tell_state(connection, old, State::Close, Some(end));
            }
        }
        if connection.role == Some(Role::Client) {
            self.give_back(connection, netns);
            self.tally.give_back(now, netns, Some(process), Some(peer));
        }
    }

    fn give_back(&mut self, connection: &Connection, netns: u32) {
        if let (Some(ports), Some(port)) = (self.ports.get_mut(&netns), connection.local.port) {
            match connection.state {
                State::Close => ports.release(port),
                _ => ports.give_back(connection.peer, port),
            }
        }
    }

    fn round_trip(&mut self) -> u64 {
        self.random.between(ROUND_TRIP.0, ROUND_TRIP.1)
    }

    /// With its owner, and the port that it holds.
    fn event_of(&self, connection: &Connection) -> Event {
        let flow = &self.flows[connection.flow];
        let family = match connection.local.ip {
            IpAddr::V4(_) => Family::Ipv4,
            IpAddr::V6(_) => Family::Ipv6,
        };
        let tuple = Tuple {
            family,
            local: connection.local,
            peer: connection.peer,
        };
        let mut event = self.event(flow.netns, tuple);
        event.sock = connection.sock;
        event.cookie = Some(connection.cookie);
        event.held = connection.local.port;
        event.role = connection.role;
        event.owner = match connection.role {
            Some(Role::Client) => Owner::Connect,
            Some(_) => Owner::Accept,
            None => Owner::Bind,
        };
        event.task = Some(self.processes[flow.process].task.clone());
        event
    }

    fn tell(&mut self, connection: &Connection, kind: Kind) {
        let mut event = self.event_of(connection);
        event.kind = kind;
        self.stream.event(&event);
    }

    /// What is about the socket without a connection.
    fn tell_bound(&mut self, connection: &Connection, kind: Kind) {
        let mut event = self.event_of(connection);
        event.tuple.peer = NOWHERE;
        (event.role, event.owner) = (None, Owner::Bind);
        event.kind = kind;
        self.stream.event(&event);
    }

    fn tell_state(&mut self, connection: &Connection, old: State, new: State, end: Option<End>) {
        let mut event = self.event_of(connection);
        // The port has been given back, or passed to the timewait socket.
        if matches!(new, State::Close | State::TimeWait) && !connection.is_bound {
            event.held = None;
        }
        event.kind = Kind::State { old, new, end };
        self.stream.event(&event);
    }
}
