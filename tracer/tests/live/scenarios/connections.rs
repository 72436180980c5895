//! What is told of a connection when it is over: once for each end, and in every detail.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Scenario, scenario, timewait::connect_when_possible};
use crate::{
    actor::{Actor, Op, Server},
    bpf::skipped_runs,
    lines::{Connection, Line, Process, Record},
    netns::MARK_PORT,
    scene::{Scene, V4, V6},
};

pub(super) const ALL: &[Scenario] = &[
    scenario("connection_client_closes", client_closes),
    scenario("connection_server_closes", server_closes),
    scenario("connection_half_close", half_close),
    scenario("connection_ipv6", ipv6),
    scenario("connection_closed_by_heir", closed_by_heir),
    scenario("connection_closed_by_receiver", closed_by_receiver),
    scenario(
        "connection_closed_first_by_receiver",
        closed_first_by_receiver,
    ),
    scenario("connection_orphaned", orphaned),
    scenario("connection_fast_open", fast_open),
    scenario("connection_accepted_elsewhere", accepted_elsewhere),
];

pub(super) const PORT: u16 = 5774;

/// Several segments on a loopback interface, and more than a socket buffers at first.
const MUCH: usize = 200_001;
const LITTLE: usize = 7;

/// Times of different lines: the tracer reads the time of day anew now and then.
const CLOCK_MS: f64 = 20.0;

/// One end of a connection, as it is to be told of.
pub(super) struct Wanted<'a> {
    pub role: &'a str,
    pub pid: u32,
    pub owner: &'a str,
    pub end: &'a str,
    pub established: bool,
    pub sent: usize,
    pub received: usize,
    pub closed_by: Option<u32>,
    pub time_wait: bool,
}

impl<'a> Wanted<'a> {
    /// A client's end that it closed itself, and last.
    pub(super) fn client(client: &Actor) -> Self {
        Self {
            role: "client",
            pid: client.pid,
            owner: "connect",
            end: "fin",
            established: true,
            sent: 0,
            received: 0,
            closed_by: Some(client.pid),
            time_wait: false,
        }
    }

    /// As [`Wanted::client`], of who accepted.
    pub(super) fn server(pid: u32) -> Self {
        Self {
            role: "server",
            pid,
            owner: "accept",
            closed_by: Some(pid),
            end: "fin",
            established: true,
            sent: 0,
            received: 0,
            time_wait: false,
        }
    }

    pub(super) fn bytes(self, sent: usize, received: usize) -> Self {
        Self {
            sent,
            received,
            ..self
        }
    }

    pub(super) fn with_time_wait(self) -> Self {
        Self {
            time_wait: true,
            ..self
        }
    }

    pub(super) fn closed_by(self, pid: u32) -> Self {
        Self {
            closed_by: Some(pid),
            ..self
        }
    }

    /// Ended without a FIN from this side.
    pub(super) fn cut(self, end: &'a str) -> Self {
        Self {
            end,
            closed_by: None,
            ..self
        }
    }

    pub(super) fn not_established(self) -> Self {
        Self {
            established: false,
            ..self
        }
    }

    fn is(&self, over: &Connection) -> bool {
        let pid = |process: &Option<Process>| process.as_ref().map(|one| one.pid);
        over.role.as_deref() == Some(self.role)
            && pid(&over.process) == Some(self.pid)
            && over.owner == self.owner
            && over.end == self.end
            && over.established == self.established
            && over.bytes_sent == Some(self.sent as u64)
            && over.bytes_received == Some(self.received as u64)
            && pid(&over.closed_by) == self.closed_by
            && over.time_wait_s.is_some() == self.time_wait
            && !over.in_time_wait
    }
}

/// These connections and no others are over in this namespace, one of each role at most; each is told of
/// once, rightly, and at the times that the transitions give.
pub(super) fn expect(scene: &Scene, wanted: &[Wanted<'_>]) -> Result<()> {
    scene.tracer.lines.wait(scene.netns.inode, |lines| {
        let over = lines.iter().filter(|line| is_over(line));
        (over.count() >= wanted.len()).then_some(())
    });
    let lines = scene.settled()?;
    let over: Vec<_> = lines.iter().filter(|line| is_over(line)).collect();
    let raw = || {
        over.iter()
            .map(|line| line.raw.as_str())
            .collect::<Vec<_>>()
    };
    ensure!(
        over.len() == wanted.len(),
        "{} connections instead of {}, {} runs skipped: {:#?}",
        over.len(),
        wanted.len(),
        skipped_runs(scene.tracer.pid())?,
        raw()
    );
    for wanted in wanted {
        let found = over
            .iter()
            .find(|line| connection(line).is_some_and(|over| wanted.is(over)));
        let line = found.with_context(|| {
            let Wanted { role, pid, .. } = wanted;
            let Wanted { end, sent, received, closed_by, .. } = wanted;
            format!(
                "no {role} of {pid} with {end}, {sent} and {received} bytes, closed by {closed_by:?}: {:#?}",
                raw()
            )
        })?;
        let mine: Vec<_> = lines
            .iter()
            .filter(|line| is_step_of(line, wanted))
            .collect();
        if let Err(error) = in_time(line, &mine) {
            let steps: Vec<_> = mine.iter().map(|line| line.raw.as_str()).collect();
            bail!("{error:#}; the transitions are {steps:#?}");
        }
    }
    Ok(())
}

pub(super) fn connection(line: &Line) -> Option<&Connection> {
    match &line.record {
        Record::Connection(over) => Some(over),
        _ => None,
    }
}

fn is_over(line: &Line) -> bool {
    connection(line)
        .is_some_and(|over| over.peer.port != Some(MARK_PORT) && !is_next(over.process.as_ref()))
}

/// A transition of this end. Before a connection is accepted it is another process's perhaps.
fn is_step_of(line: &Line, wanted: &Wanted<'_>) -> bool {
    let Record::State(state) = &line.record else {
        return false;
    };
    let process = state.process.as_ref();
    let mine = wanted.role == "server" || process.is_some_and(|process| process.pid == wanted.pid);
    state.role.as_deref() == Some(wanted.role) && mine && !is_next(process)
}

/// Who takes over a port tries until it may: its attempts do not count.
const NEXT: &str = "next";

fn is_next(process: Option<&Process>) -> bool {
    process.is_some_and(|process| process.comm == NEXT)
}

/// A connection is where its last transition was.
fn in_place(over: &Connection, steps: &[&Arc<Line>]) -> Result<()> {
    let last = steps.iter().rev().find_map(|line| match &line.record {
        Record::State(state) if state.new == "CLOSE" => Some(state),
        _ => None,
    });
    let last = last.context("no last transition")?;
    ensure!(
        over.cookie == last.cookie
            && over.family == last.family
            && over.local == last.local
            && over.peer == last.peer,
        "{over:?} is not where {last:?} was"
    );
    Ok(())
}

/// The times of a connection against its transitions; what came after its end may be another's.
fn in_time(line: &Line, steps: &[&Arc<Line>]) -> Result<()> {
    let over = connection(line).context("no connection")?;
    in_place(over, steps)?;
    let opened = over.opened.context("no beginning")?;
    let lasted = over.duration_ms.context("no duration")?;
    let at = |wanted: &[&str]| {
        let found = steps.iter().find(|line| {
            matches!(&line.record, Record::State(state) if wanted.contains(&state.step().as_str()))
        });
        found.map(|line| line.ts)
    };
    let ms =
        |from: jiff::Timestamp, to: jiff::Timestamp| to.duration_since(from).as_secs_f64() * 1e3;
    let near = |one, other| ms(one, other).abs() < CLOCK_MS;
    let first = at(&["CLOSE>SYN_SENT", "LISTEN>SYN_RECV"]).context("no first transition")?;
    ensure!(
        near(opened, first),
        "opened at {opened}, first seen at {first}"
    );
    let difference = (ms(opened, over.closed) - lasted).abs();
    ensure!(
        difference < 0.002,
        "{lasted} ms are not from opened to closed: {}",
        line.raw
    );
    let last = steps
        .iter()
        .find(|line| matches!(&line.record, Record::State(state) if state.new == "CLOSE"));
    let last = last.context("no last transition")?.ts;
    let held = over.time_wait_s.unwrap_or_default();
    ensure!(
        near(line.ts, last),
        "the line is of {}, the last transition of {last}",
        line.ts
    );
    ensure!(
        (ms(over.closed, line.ts) - held * 1e3).abs() < 2.0,
        "{held} s are not from closed to the end: {}",
        line.raw
    );
    // An orphan becomes a timewait socket in FIN_WAIT2, without a transition that could be seen.
    let from = at(&["FIN_WAIT1>FIN_WAIT2"]).unwrap_or(last);
    let to = at(&["FIN_WAIT2>TIME_WAIT"]).unwrap_or(last);
    ensure!(
        ms(from, over.closed) > -CLOCK_MS && ms(over.closed, to) > -CLOCK_MS,
        "closed at {}, not from {from} to {to}",
        over.closed
    );
    Ok(())
}

/// A connection and the processes at its ends.
pub(super) struct Pair {
    pub server: Server,
    pub accepted: i64,
    pub client: Actor,
    pub socket: i64,
}

impl Pair {
    pub(super) fn open(scene: &Scene) -> Result<Self> {
        Self::open_from(scene, V4, None)
    }

    fn open_from(scene: &Scene, ip: IpAddr, local: Option<u16>) -> Result<Self> {
        let mut server = scene.server(ip, PORT)?;
        let mut client = scene.actor("client")?;
        let to = server.addr;
        let socket = match local {
            Some(port) => client.bound(SocketAddr::new(ip, port))?,
            None => client.socket(to)?,
        };
        client.run(&Op::Connect { fd: socket, to })?;
        Ok(Self {
            accepted: server.accept()?,
            server,
            client,
            socket,
        })
    }

    /// The client sends so much, the server answers with so much, and each has read it all.
    pub(super) fn exchange(&mut self, there: usize, back: usize) -> Result<()> {
        self.send(there)?;
        self.answer(back)
    }

    fn send(&mut self, bytes: usize) -> Result<()> {
        let (fd, accepted) = (self.socket, self.accepted);
        self.client.begin(&Op::Write { fd, bytes })?;
        self.server.actor.run(&Op::Read {
            fd: accepted,
            bytes,
        })?;
        done(&mut self.client)
    }

    fn answer(&mut self, bytes: usize) -> Result<()> {
        let (fd, accepted) = (self.socket, self.accepted);
        self.server.actor.begin(&Op::Write {
            fd: accepted,
            bytes,
        })?;
        self.client.run(&Op::Read { fd, bytes })?;
        done(&mut self.server.actor)
    }

    fn client_closes(&mut self) -> Result<()> {
        self.client.close(self.socket)?;
        self.server_follows()
    }

    fn server_closes(&mut self) -> Result<()> {
        self.server.actor.close(self.accepted)?;
        self.client.run(&Op::ReadToEnd { fd: self.socket })?;
        self.client.close(self.socket)
    }

    fn server_follows(&mut self) -> Result<()> {
        let fd = self.accepted;
        self.server.actor.run(&Op::ReadToEnd { fd })?;
        self.server.actor.close(fd)
    }
}

/// What was begun has succeeded.
fn done(actor: &mut Actor) -> Result<()> {
    let answer = actor.answer()?;
    ensure!(answer == [0], "{} answered {answer:?}", actor.comm);
    Ok(())
}

/// Every client gets the same port, as soon as it may: that ends the TIME_WAIT of the one before.
fn one_port(scene: &Scene) -> Result<()> {
    let netns = &scene.netns;
    netns.sysctl("ipv4/ip_local_port_range", "40000 40000")?;
    netns.sysctl("ipv4/tcp_tw_reuse", "1")
}

fn client_closes(scene: &Scene) -> Result<()> {
    one_port(scene)?;
    closes_first(scene, Pair::open(scene)?)
}

fn ipv6(scene: &Scene) -> Result<()> {
    one_port(scene)?;
    closes_first(scene, Pair::open_from(scene, V6, None)?)
}

fn closes_first(scene: &Scene, mut pair: Pair) -> Result<()> {
    pair.exchange(LITTLE, MUCH)?;
    pair.client_closes()?;
    let mut next = scene.actor(NEXT)?;
    let server = Wanted::server(pair.server.actor.pid).bytes(MUCH, LITTLE);
    expect(scene, &[server])?;
    connect_when_possible(&mut next, pair.server.addr)?;
    let client = Wanted::client(&pair.client).bytes(LITTLE, MUCH);
    let server = Wanted::server(pair.server.actor.pid).bytes(MUCH, LITTLE);
    expect(scene, &[client.with_time_wait(), server])
}

/// A port that a client has bound, so that it can come again from there: a server's timewait socket gives way to
/// its SYN.
const OWN: u16 = 20_000;

fn come_again(client: &mut Actor, to: SocketAddr) -> Result<()> {
    let fd = client.bound(SocketAddr::new(to.ip(), OWN))?;
    client.run(&Op::Connect { fd, to })?;
    Ok(())
}

fn server_closes(scene: &Scene) -> Result<()> {
    let mut pair = Pair::open_from(scene, V4, Some(OWN))?;
    pair.exchange(MUCH, LITTLE)?;
    pair.server_closes()?;
    expect(scene, &[Wanted::client(&pair.client).bytes(MUCH, LITTLE)])?;
    come_again(&mut pair.client, pair.server.addr)?;
    let client = Wanted::client(&pair.client).bytes(MUCH, LITTLE);
    let server = Wanted::server(pair.server.actor.pid).bytes(LITTLE, MUCH);
    expect(scene, &[client, server.with_time_wait()])
}

/// The client has said all, and then the server begins.
fn half_close(scene: &Scene) -> Result<()> {
    one_port(scene)?;
    let mut pair = Pair::open(scene)?;
    pair.send(LITTLE)?;
    pair.client.run(&Op::ShutdownWrite { fd: pair.socket })?;
    let fd = pair.accepted;
    pair.server.actor.run(&Op::ReadToEnd { fd })?;
    pair.answer(MUCH)?;
    pair.server.actor.close(fd)?;
    pair.client.run(&Op::ReadToEnd { fd: pair.socket })?;
    pair.client.close(pair.socket)?;
    let mut next = scene.actor(NEXT)?;
    connect_when_possible(&mut next, pair.server.addr)?;
    let client = Wanted::client(&pair.client).bytes(LITTLE, MUCH);
    let server = Wanted::server(pair.server.actor.pid).bytes(MUCH, LITTLE);
    expect(scene, &[client.with_time_wait(), server])
}

/// Who connected has given the socket to a process of its own making, which closes it when the server has.
fn closed_by_heir(scene: &Scene) -> Result<()> {
    let mut pair = Pair::open(scene)?;
    pair.exchange(LITTLE, LITTLE)?;
    let heir = pair.client.run(&Op::HandOver { fd: pair.socket })?;
    pair.server.actor.close(pair.accepted)?;
    let client = Wanted::client(&pair.client).bytes(LITTLE, LITTLE);
    expect(scene, &[client.closed_by(u32::try_from(heir)?)])
}

/// Another process has received the descriptor, and keeps it until the one that connected has ended.
fn closed_by_receiver(scene: &Scene) -> Result<()> {
    let mut pair = Pair::open(scene)?;
    pair.exchange(LITTLE, LITTLE)?;
    let taker = give_away(&mut pair)?;
    pair.server.actor.close(pair.accepted)?;
    pair.client.exit()?;
    let client = Wanted::client(&pair.client).bytes(LITTLE, LITTLE);
    expect(scene, &[client.closed_by(taker)])
}

fn closed_first_by_receiver(scene: &Scene) -> Result<()> {
    one_port(scene)?;
    let mut pair = Pair::open(scene)?;
    pair.exchange(LITTLE, LITTLE)?;
    let taker = give_away(&mut pair)?;
    pair.client.exit()?;
    pair.server_follows()?;
    let mut next = scene.actor(NEXT)?;
    connect_when_possible(&mut next, pair.server.addr)?;
    let client = Wanted::client(&pair.client).bytes(LITTLE, LITTLE);
    let server = Wanted::server(pair.server.actor.pid).bytes(LITTLE, LITTLE);
    expect(scene, &[client.closed_by(taker).with_time_wait(), server])
}

/// The client gives its socket to a process that holds it as long as the client lives.
fn give_away(pair: &mut Pair) -> Result<u32> {
    let fd = pair.socket;
    let taker = pair.client.run(&Op::Taker)?;
    pair.client.run(&Op::Give { fd, serve: false })?;
    pair.client.close(fd)?;
    Ok(u32::try_from(taker)?)
}

/// The peer does not close, and the kernel does not wait for long: there is no FIN to be counted.
fn orphaned(scene: &Scene) -> Result<()> {
    scene.netns.sysctl("ipv4/tcp_fin_timeout", "1")?;
    let mut pair = Pair::open(scene)?;
    pair.exchange(LITTLE, MUCH)?;
    pair.client.close(pair.socket)?;
    let client = Wanted::client(&pair.client).bytes(LITTLE, MUCH);
    expect(scene, &[client.with_time_wait()])
}

/// The first byte comes with the SYN.
fn fast_open(scene: &Scene) -> Result<()> {
    // Client and server, without cookies, and for every listener.
    let everything = (1 | 2 | 4 | 0x200 | 0x400).to_string();
    scene.netns.sysctl("ipv4/tcp_fastopen", &everything)?;
    let mut server = scene.server(V4, PORT)?;
    let mut client = scene.actor("client")?;
    let to = server.addr;
    let fd = client.socket(to)?;
    client.run(&Op::FastOpen { fd, to })?;
    let accepted = server.accept()?;
    let bytes = LITTLE;
    client.run(&Op::Write { fd, bytes })?;
    let bytes = LITTLE + 1;
    let accepting = &mut server.actor;
    accepting.run(&Op::Read {
        fd: accepted,
        bytes,
    })?;
    accepting.run(&Op::Write {
        fd: accepted,
        bytes,
    })?;
    client.run(&Op::Read { fd, bytes })?;
    client.run(&Op::LingerZero { fd })?;
    client.close(fd)?;
    let server = Wanted::server(server.actor.pid).bytes(bytes, bytes);
    let client = Wanted::client(&client).bytes(bytes, bytes);
    expect(scene, &[client.cut("rst"), server.cut("rst")])
}

/// One process listens, another accepts; it closes at a byte that is no order.
fn accepted_elsewhere(scene: &Scene) -> Result<()> {
    let mut server = scene.server(V4, PORT)?;
    let to = server.addr;
    let taker = u32::try_from(server.actor.run(&Op::Taker)?)?;
    let fd = server.fd;
    server.actor.run(&Op::Give { fd, serve: true })?;
    let mut client = scene.actor("client")?;
    let fd = client.bound(SocketAddr::new(V4, OWN))?;
    client.run(&Op::Connect { fd, to })?;
    client.run(&Op::Send { fd })?;
    client.run(&Op::ReadToEnd { fd })?;
    client.close(fd)?;
    expect(scene, &[Wanted::client(&client).bytes(1, 0)])?;
    come_again(&mut client, to)?;
    let client = Wanted::client(&client).bytes(1, 0);
    let server = Wanted::server(taker).bytes(0, 1).with_time_wait();
    expect(scene, &[client, server])
}
