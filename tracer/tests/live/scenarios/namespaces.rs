//! Network namespaces: the same addresses are others there, and what they hold ends with them.

use std::{
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::{Scenario, scenario};
use crate::{
    actor::{Actor, Op, Server},
    lines::{Connection, Keep, Line, PATIENCE, Record, SocketSeen, State},
    netns::Netns,
    rounds::add_up,
    scene::{Scene, V4, of_process, role},
    shared::{self, Backend},
};

pub(super) const ALL: &[Scenario] = &[scenario("same_tuple_twice", same_tuple_twice)];

const PORT: u16 = 5774;
const OWN: u16 = 20_000;

/// Both ends of a connection from [`OWN`] to [`PORT`].
struct Pair {
    server: Server,
    accepted: i64,
    client: Actor,
    socket: i64,
}

impl Pair {
    fn open(netns: &Netns, name: &str) -> Result<Self> {
        let path = netns.path();
        let addr = SocketAddr::new(V4, PORT);
        let mut server = Server::listen(Actor::spawn(&path, "server")?, addr, 64)?;
        let mut client = Actor::spawn(&path, name)?;
        let socket = client.bound(SocketAddr::new(V4, OWN))?;
        client.run(&Op::Connect {
            fd: socket,
            to: addr,
        })?;
        Ok(Self {
            accepted: server.accept()?,
            server,
            client,
            socket,
        })
    }

    /// The server last: no timewait socket is left at the client.
    fn close(&mut self) -> Result<()> {
        self.server.actor.close(self.accepted)?;
        self.client.run(&Op::ReadToEnd { fd: self.socket })?;
        self.client.close(self.socket)
    }
}

/// The second namespace is younger than the tracer too, and one connection's end is not the other's.
fn same_tuple_twice(scene: &Scene) -> Result<()> {
    let elsewhere = Netns::new()?;
    let mut here = Pair::open(&scene.netns, "here")?;
    let there = Pair::open(&elsewhere, "there")?;
    here.close()?;
    ended(scene, &here)?;
    let lines = scene.tracer.lines.of(elsewhere.inode);
    ensure!(
        over(&lines).is_empty(),
        "ended in the wrong namespace: {:?}",
        over(&lines)
    );
    let states = of_role(&lines, "client");
    let steps: Vec<_> = states.iter().map(State::step).collect();
    ensure!(
        steps == ["CLOSE>SYN_SENT", "SYN_SENT>ESTABLISHED"],
        "{steps:?}"
    );
    of_process(&states, &there.client)?;
    let mine = seen(scene, elsewhere.inode)?;
    let connected: Vec<_> = mine
        .iter()
        .filter(|seen| seen.state == "ESTABLISHED")
        .collect();
    ensure!(connected.len() == 2, "not the two ends: {mine:?}");
    for seen in connected {
        let actor = match seen.role.as_deref() {
            Some("client") => &there.client,
            _ => &there.server.actor,
        };
        ensure!(
            seen.process
                .as_ref()
                .is_some_and(|process| process.pid == actor.pid),
            "not {} {}: {seen:?}",
            actor.comm,
            actor.pid
        );
    }
    shared::keep(elsewhere);
    Ok(())
}

/// This connection alone has ended here, and is its client's.
fn ended(scene: &Scene, pair: &Pair) -> Result<()> {
    scene.expect(role("client"), &super::lifecycle::CLIENT_CLOSES_LAST)?;
    let over = over(&scene.settled()?);
    let pid = over
        .first()
        .and_then(|over| Some(over.process.as_ref()?.pid));
    ensure!(
        over.len() == 1 && pid == Some(pair.client.pid) && over[0].local.port == Some(OWN),
        "not the end of {}: {over:?}",
        pair.client.pid
    );
    Ok(())
}

fn over(lines: &[Arc<Line>]) -> Vec<Connection> {
    let over = lines.iter().filter_map(|line| match &line.record {
        Record::Connection(over) if over.peer.port != Some(crate::netns::MARK_PORT) => {
            Some(over.clone())
        }
        _ => None,
    });
    over.collect()
}

fn of_role(lines: &[Arc<Line>], wanted: &'static str) -> Vec<State> {
    let states = lines.iter().filter_map(|line| match &line.record {
        Record::State(state) if role(wanted)(state) => Some(state.clone()),
        _ => None,
    });
    states.collect()
}

/// What the tracer knows now of a namespace.
fn seen(scene: &Scene, netns: u64) -> Result<Vec<SocketSeen>> {
    scene.settled()?;
    let snapshot = scene.tracer.snapshot()?;
    let seen = snapshot.sockets.iter().filter(|seen| seen.netns == netns);
    Ok(seen.cloned().collect())
}

/// Waits until what is known of a namespace is as it should be.
fn wait_seen(
    scene: &Scene,
    netns: u64,
    right: impl Fn(&[SocketSeen]) -> bool,
) -> Result<Vec<SocketSeen>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = seen(scene, netns)?;
        if right(&seen) {
            return Ok(seen);
        }
        ensure!(Instant::now() < deadline, "known are {seen:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

const DOOMED: usize = 3;

/// A namespace takes its timewait sockets with it. The tracer is the trial's own: the number of the namespace
/// is free for the next one then.
pub(super) fn ends(backend: Backend) -> Result<()> {
    let tracer = shared::start(backend, &["--interval", "1"], Keep::All)?;
    let scene = Scene::new(Arc::new(tracer))?;
    let doomed = Netns::new()?;
    let inode = doomed.inode;
    let client = leave_behind(&doomed)?;
    let in_timewait = |seen: &[SocketSeen]| {
        let timewait = seen.iter().filter(|seen| seen.timewait);
        timewait.count() == DOOMED && seen.len() == DOOMED
    };
    wait_seen(&scene, inode, in_timewait)?;
    drop(doomed);
    wait_seen(&scene, inode, <[SocketSeen]>::is_empty)?;
    let over = over(&scene.tracer.lines.of(inode));
    let (clients, servers): (Vec<_>, Vec<_>) = over
        .into_iter()
        .partition(|over| over.role.as_deref() == Some("client"));
    ensure!(
        clients.len() == DOOMED && servers.len() == DOOMED,
        "{clients:?} and {servers:?}"
    );
    for over in &clients {
        let pid = over.process.as_ref().context("no process")?.pid;
        ensure!(
            pid == client && over.end == "fin" && over.time_wait_s.is_some() && !over.in_time_wait,
            "not of {client}: {over:?}"
        );
    }
    let finished = scene.into_tracer()?.stop(Signal::TERM)?;
    finished.check_totals()?;
    add_up(&finished.lines.rounds())
}

/// Timewait sockets, and nothing else, of a process that has gone; answers its pid.
fn leave_behind(netns: &Netns) -> Result<u32> {
    let path = netns.path();
    let addr = SocketAddr::new(V4, PORT);
    let mut server = Server::listen(Actor::spawn(&path, "server")?, addr, 64)?;
    let mut client = Actor::spawn(&path, "client")?;
    for _ in 0..DOOMED {
        super::timewait::close_first(&mut server, &mut client)?;
    }
    server.actor.exit()?;
    client.exit()?;
    Ok(client.pid)
}
