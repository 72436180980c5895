//! One socket that connects more than once: until it gets another port, it shows the one that it had.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use rustix::io::Errno;

use super::{
    Scenario,
    exhaustion::{Exhausted, PORT, PORTS, connect_many},
    failure::{Expected, every, expect},
    no_source::{GLOBAL, without_ipv6},
    scenario,
};
use crate::{
    actor::{Actor, Op},
    scene::{Scene, V4, V6, client_of, owned_by},
};

pub(super) const ALL: &[Scenario] = &[
    scenario("again_after_refusal", after_refusal),
    scenario("again_after_dissolution", after_dissolution),
    scenario("again_exhausted", exhausted),
    scenario("again_exhausted_from_bound_port", from_bound_port),
    scenario("again_without_source", without_source),
    scenario("again_as_listener", as_listener),
];

const NOBODY: u16 = 5999;

/// These steps, all the client's; with a port where one is said.
fn expect_steps(
    scene: &Scene,
    client: &Actor,
    to: SocketAddr,
    steps: &[(&str, bool)],
) -> Result<()> {
    let names: Vec<_> = steps.iter().map(|(step, _)| *step).collect();
    let states = scene.expect(client_of(to), &names)?;
    owned_by(&states, client, "connect")?;
    for (state, (_, has_port)) in states.iter().zip(steps) {
        ensure!(
            state.local.port.is_some() == *has_port && !state.corrected,
            "expected {steps:?}: {state:?}"
        );
    }
    Ok(())
}

/// As who waits for a server does.
fn after_refusal(scene: &Scene) -> Result<()> {
    let nobody = SocketAddr::new(V4, NOBODY);
    let server = scene.server(V4, PORT)?;
    let mut client = scene.actor("client")?;
    let fd = client.socket(nobody)?;
    for _ in 0..3 {
        client.fails(&Op::Connect { fd, to: nobody }, Errno::CONNREFUSED)?;
    }
    let to = server.addr;
    client.run(&Op::Connect { fd, to })?;
    let refused = [("CLOSE>SYN_SENT", false), ("SYN_SENT>CLOSE", true)];
    expect_steps(scene, &client, nobody, &refused.repeat(3))?;
    let connected = [("CLOSE>SYN_SENT", false), ("SYN_SENT>ESTABLISHED", true)];
    expect_steps(scene, &client, to, &connected)?;
    scene.expect_no_failure()
}

fn after_dissolution(scene: &Scene) -> Result<()> {
    let server = scene.server(V4, PORT)?;
    let to = server.addr;
    let mut client = scene.actor("client")?;
    let fd = client.socket(to)?;
    for _ in 0..3 {
        client.run(&Op::Connect { fd, to })?;
        client.run(&Op::Disconnect { fd })?;
    }
    let dissolved = [
        ("CLOSE>SYN_SENT", false),
        ("SYN_SENT>ESTABLISHED", true),
        ("ESTABLISHED>CLOSE", true),
    ];
    expect_steps(scene, &client, to, &dissolved.repeat(3))?;
    scene.expect_no_failure()
}

/// Somebody else has the port that it had, and all others.
fn exhausted(scene: &Scene) -> Result<()> {
    let Exhausted {
        full,
        mut client,
        free: _free,
    } = Exhausted::prepare(scene, V4)?;
    let to = full.addr;
    let fd = client.socket(to)?;
    client.run(&Op::Connect { fd, to })?;
    client.run(&Op::Disconnect { fd })?;
    let mut other = scene.actor("other")?;
    every(&connect_many(&mut other, to, PORTS)?, PORTS, 0)?;
    for _ in 0..3 {
        client.fails(&Op::Connect { fd, to }, Errno::ADDRNOTAVAIL)?;
    }
    expect(scene, &[Expected::exhausted(&client, to, 3)])?;
    let states = scene.states(client_of(to))?;
    let ended = states.iter().find(|state| state.corrected);
    ensure!(ended.is_none(), "somebody's connection ended: {ended:?}");
    // The others' are all still there.
    let snapshot = scene.tracer.snapshot()?;
    let held = snapshot.sockets.iter().filter(|seen| {
        let process = seen.process.as_ref();
        seen.netns == scene.netns.inode && process.is_some_and(|process| process.pid == other.pid)
    });
    let held = held.count();
    ensure!(held == PORTS, "{held} of {PORTS} connections are known");
    Ok(())
}

/// The port that it is bound to is its own each time.
fn from_bound_port(scene: &Scene) -> Result<()> {
    let server = scene.server(V4, PORT)?;
    let to = server.addr;
    let local = SocketAddr::new(V4, 20_000);
    let mut client = scene.actor("client")?;
    let first = client.bound(local)?;
    client.run(&Op::Connect { fd: first, to })?;
    let second = client.socket(to)?;
    client.run(&Op::Connect { fd: second, to })?;
    client.run(&Op::Disconnect { fd: second })?;
    client.run(&Op::ReuseAddress { fd: second })?;
    client.run(&Op::Bind {
        fd: second,
        addr: local,
    })?;
    for _ in 0..2 {
        client.fails(&Op::Connect { fd: second, to }, Errno::ADDRNOTAVAIL)?;
    }
    expect(scene, &[Expected::in_use(&client, local, to, 2)])
}

/// First no port, then no address: a port was not looked for the second time.
fn without_source(scene: &Scene) -> Result<()> {
    let Exhausted {
        full,
        mut client,
        free: _free,
    } = Exhausted::prepare(scene, V6)?;
    let (to, foreign) = (full.addr, SocketAddr::new(GLOBAL.into(), PORT));
    let mut other = scene.actor("other")?;
    every(&connect_many(&mut other, to, PORTS)?, PORTS, 0)?;
    let fd = client.socket(to)?;
    client.fails(&Op::Connect { fd, to }, Errno::ADDRNOTAVAIL)?;
    // Without addresses these could not be closed.
    other.exit()?;
    without_ipv6(scene)?;
    for _ in 0..2 {
        client.fails(&Op::Connect { fd, to: foreign }, Errno::ADDRNOTAVAIL)?;
    }
    expect(
        scene,
        &[
            Expected::exhausted(&client, to, 1),
            Expected::no_source(&client, foreign, 2),
        ],
    )
}

/// `listen()` without `bind()` takes a port of its own.
fn as_listener(scene: &Scene) -> Result<()> {
    let server = scene.server(V4, PORT)?;
    let mut client = scene.actor("client")?;
    let fd = client.socket(server.addr)?;
    let to = server.addr;
    client.run(&Op::Connect { fd, to })?;
    let past = client.local(fd, V4)?;
    client.run(&Op::Disconnect { fd })?;
    client.run(&Op::Listen { fd, backlog: 8 })?;
    let listens = client.local(fd, V4)?;
    ensure!(past != listens, "the same port by chance: {past}");
    let is_listener =
        |state: &crate::lines::State| state.new == "LISTEN" && state.local.port != Some(PORT);
    let states = scene.expect(is_listener, &["CLOSE>LISTEN"])?;
    owned_by(&states, &client, "bind")?;
    ensure!(
        states[0].local.port != Some(past.port()),
        "listens at the port that it had: {states:?}"
    );
    let snapshot = scene.tracer.snapshot()?;
    let ports = snapshot.sockets.iter().filter_map(|seen| {
        let is_ours = seen.netns == scene.netns.inode && seen.state == "LISTEN";
        is_ours.then_some(seen.local.port).flatten()
    });
    let ports: Vec<_> = ports.collect();
    ensure!(
        ports.contains(&listens.port()) && !ports.contains(&past.port()),
        "listens at {listens}: {ports:?}"
    );
    Ok(())
}
