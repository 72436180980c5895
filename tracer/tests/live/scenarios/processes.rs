//! Processes that are gone, or that come back as another one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
};

use anyhow::{Context as _, Result, ensure};

use super::{Scenario, scenario, truth::rounds};
use crate::{
    actor::{Actor, Op},
    lines::{NO_NETNS, Record, State},
    report::{note, skip},
    scene::{Scene, V4, client_of, of},
};

pub(super) const ALL: &[Scenario] = &[
    scenario("pid_reused", pid_reused),
    scenario("short_lived", short_lived),
];

const PORT: u16 = 5774;

/// The pid is the same, the process is another: what the first one has left stays its.
fn pid_reused(scene: &Scene) -> Result<()> {
    let mut server = scene.server(V4, PORT)?;
    let to = server.addr;
    let mut first = scene.actor("first")?;
    let fd = first.open(to)?;
    let accepted = server.accept()?;
    first.close(fd)?;
    server.actor.run(&Op::ReadToEnd { fd: accepted })?;
    server.actor.close(accepted)?;
    first.exit()?;
    let mut second = spawn_as(scene, "second", first.pid)?;
    second.open(to)?;
    let states = scene.expect_count(|state| client_of(to)(state) && of(&first)(state), 7)?;
    let named = |comm: &str| -> BTreeSet<&str> {
        let processes = states.iter().filter_map(|state| state.process.as_ref());
        let named = processes.filter(|process| process.comm == comm);
        named.map(|process| process.id.as_str()).collect()
    };
    let (one, other) = (named("first"), named("second"));
    ensure!(
        one.len() == 1 && other.len() == 1 && one != other,
        "the first is {one:?}, the second {other:?}: {states:?}"
    );
    scene.settled()?;
    let snapshot = scene.tracer.snapshot()?;
    for seen in &snapshot.sockets {
        let process = seen.process.as_ref().map(|process| process.id.as_str());
        let ours = seen.netns == scene.netns.inode && seen.peer.port == Some(to.port());
        let right = match seen.state.as_str() {
            "ESTABLISHED" => process == other.first().copied(),
            _ => process == one.first().copied(),
        };
        ensure!(!ours || right, "wrong process: {seen:?}");
    }
    introduced(scene, one.union(&other).copied().collect())
}

/// A process that gets this pid, which is free.
fn spawn_as(scene: &Scene, comm: &str, pid: u32) -> Result<Actor> {
    const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";
    // Others may be faster.
    for _ in 0..50 {
        if fs::write(LAST_PID, (pid - 1).to_string()).is_err() {
            return skip(format!("cannot write {LAST_PID}"));
        }
        let actor = scene.actor(comm)?;
        if actor.pid == pid {
            return Ok(actor);
        }
    }
    skip(format!("no process got pid {pid}"))
}

fn introduced(scene: &Scene, ids: BTreeSet<&str>) -> Result<()> {
    let lines = scene.tracer.lines.of(NO_NETNS);
    let introduced: BTreeSet<_> = lines
        .iter()
        .filter_map(|line| match &line.record {
            Record::Process(process) => Some(process.id.as_str()),
            _ => None,
        })
        .collect();
    ensure!(
        ids.is_subset(&introduced),
        "not all of {ids:?} were introduced"
    );
    Ok(())
}

/// Each is gone before anybody can look at it in `/proc`. None may be taken for another; that one is not
/// named at all may happen, and is told.
fn short_lived(scene: &Scene) -> Result<()> {
    let times = rounds() * 50;
    // No port twice.
    scene.netns.sysctl("ipv4/tcp_tw_reuse", "0")?;
    let mut server = scene.server(V4, PORT)?;
    server.actor.run(&Op::ServeOrders { fd: server.fd })?;
    let mut parent = scene.actor("client")?;
    let pids = brood(&mut parent, server.addr, times)?;
    let mine = |state: &State| client_of(server.addr)(state) && state.old != "CLOSE";
    let states = scene.expect_count(mine, 4 * times)?;
    let mut unknown = 0;
    for state in &states {
        let port = state.local.port.context("no port")?;
        let pid = pids.get(&port).context("a port that nobody had")?;
        match &state.process {
            None => unknown += 1,
            Some(process) => ensure!(
                process.pid == *pid && process.comm == "client" && state.owner == "connect",
                "not {pid}: {state:?}"
            ),
        }
    }
    note(format!(
        "{times} processes, {unknown} of {} transitions without owner",
        states.len()
    ));
    Ok(())
}

/// The pid of each port.
fn brood(parent: &mut Actor, to: SocketAddr, times: usize) -> Result<BTreeMap<u16, u32>> {
    let answer = parent.all(&Op::Brood {
        to,
        times: u32::try_from(times)?,
    })?;
    let mut pids = BTreeMap::new();
    for pair in answer.chunks_exact(2) {
        pids.insert(u16::try_from(pair[1])?, u32::try_from(pair[0])?);
    }
    ensure!(
        pids.len() == times && !pids.contains_key(&0),
        "{} of {times} connections came about, each from a port of its own",
        pids.len()
    );
    Ok(pids)
}
