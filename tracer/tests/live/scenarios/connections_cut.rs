//! What is told of connections that end otherwise than by both sides closing, or that never come about.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;

use super::{
    Scenario,
    connections::{PORT, Pair, Wanted, connection, expect},
    scenario,
};
use crate::{
    actor::Op,
    lines::{Connection, Line},
    scene::{Scene, V4},
};

pub(super) const ALL: &[Scenario] = &[
    scenario("connection_reset", reset),
    scenario("connection_reset_by_server", reset_by_server),
    scenario("connection_never_accepted", never_accepted),
    scenario("connection_refused", refused),
    scenario("connection_timed_out", timed_out),
    scenario("connection_abandoned", abandoned),
    scenario("connection_without_a_port", without_a_port),
    scenario("connection_answered_too_late", answered_too_late),
];

fn reset(scene: &Scene) -> Result<()> {
    let mut pair = Pair::open(scene)?;
    pair.exchange(1000, 2000)?;
    pair.client.run(&Op::LingerZero { fd: pair.socket })?;
    pair.client.close(pair.socket)?;
    expect_reset(scene, &pair)
}

fn reset_by_server(scene: &Scene) -> Result<()> {
    let mut pair = Pair::open(scene)?;
    pair.exchange(1000, 2000)?;
    let fd = pair.accepted;
    pair.server.actor.run(&Op::LingerZero { fd })?;
    pair.server.actor.close(fd)?;
    expect_reset(scene, &pair)
}

/// Neither side has closed in the sense of TCP.
fn expect_reset(scene: &Scene, pair: &Pair) -> Result<()> {
    let client = Wanted::client(&pair.client).bytes(1000, 2000).cut("rst");
    let server = Wanted::server(pair.server.actor.pid).bytes(2000, 1000);
    expect(scene, &[client, server.cut("rst")])
}

/// The listener is closed, and the kernel resets what waits there.
fn never_accepted(scene: &Scene) -> Result<()> {
    let mut server = scene.server(V4, PORT)?;
    let mut client = scene.actor("client")?;
    client.open(server.addr)?;
    server.actor.close(server.fd)?;
    let unaccepted = Wanted {
        owner: "inherited",
        ..Wanted::server(server.actor.pid).cut("rst")
    };
    expect(scene, &[Wanted::client(&client).cut("rst"), unaccepted])
}

fn refused(scene: &Scene) -> Result<()> {
    let to = SocketAddr::new(V4, PORT);
    let mut client = scene.actor("client")?;
    let fd = client.socket(to)?;
    client.fails(&Op::Connect { fd, to }, Errno::CONNREFUSED)?;
    let client = Wanted::client(&client).cut("refused");
    expect(scene, &[client.not_established()])
}

fn timed_out(scene: &Scene) -> Result<()> {
    let (server, filler) = scene.deaf_server(PORT)?;
    let to = server.addr;
    let mut client = scene.actor("client")?;
    let fd = client.socket(to)?;
    // Milliseconds: the first repetition of the SYN comes too late.
    client.option(fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 500)?;
    client.fails(&Op::Connect { fd, to }, Errno::TIMEDOUT)?;
    let wanted = Wanted::client(&client).cut("timeout").not_established();
    expect(scene, &[wanted])?;
    drop(filler);
    Ok(())
}

fn abandoned(scene: &Scene) -> Result<()> {
    let (server, filler) = scene.deaf_server(PORT)?;
    let mut client = scene.actor("client")?;
    let fd = client.open_pending(server.addr)?;
    client.close(fd)?;
    let wanted = Wanted::client(&client).cut("abandoned").not_established();
    expect(scene, &[wanted])?;
    drop(filler);
    Ok(())
}

/// It fails before a packet is sent.
fn without_a_port(scene: &Scene) -> Result<()> {
    scene
        .netns
        .sysctl("ipv4/ip_local_port_range", "40000 40000")?;
    let server = scene.server(V4, PORT)?;
    let to = server.addr;
    let holder = {
        let mut holder = scene.actor("holder")?;
        holder.open(to)?;
        holder
    };
    let mut client = scene.actor("client")?;
    let fd = client.socket(to)?;
    client.fails(&Op::Connect { fd, to }, Errno::ADDRNOTAVAIL)?;
    let wanted = Wanted::client(&client).cut("abandoned").not_established();
    expect(scene, &[wanted])?;
    drop(holder);
    Ok(())
}

/// How often a client does not wait for its answer.
const HASTY: usize = 20;

/// The answer comes with the acknowledgement of the client's FIN, if the server is fast enough for that: the kernel resets
/// the connection then. Nothing is lost by it.
fn answered_too_late(scene: &Scene) -> Result<()> {
    let before = lost(scene);
    let mut server = scene.server(V4, PORT)?;
    let mut client = scene.actor("client")?;
    for _ in 0..HASTY {
        let fd = client.open(server.addr)?;
        let accepted = server.accept()?;
        client.run(&Op::Write { fd, bytes: 2 })?;
        client.close(fd)?;
        server.actor.run(&Op::Write {
            fd: accepted,
            bytes: 1000,
        })?;
        server.actor.close(accepted)?;
    }
    let inode = scene.netns.inode;
    let ends = scene.tracer.lines.wait(inode, |lines| {
        let ends = lines.iter().filter_map(|line| client_end(line));
        Some(ends.collect::<Vec<_>>()).filter(|ends| ends.len() >= HASTY)
    });
    let reset = ends.with_context(|| format!("not {HASTY} ends"))?;
    let reset = reset.iter().filter(|end| *end == "rst").count();
    ensure!(reset > 0, "the answer was too late each time");
    scene.settled()?;
    let lost = lost(scene) - before;
    ensure!(
        lost < reset as u64,
        "{reset} were reset, and {lost} events are said to be lost"
    );
    Ok(())
}

/// So many events in the whole run: the tracer serves other scenarios, too.
fn lost(scene: &Scene) -> u64 {
    let losses = scene.tracer.losses();
    losses.iter().map(|loss| loss.events).sum()
}

fn client_end(line: &Line) -> Option<String> {
    let is_client =
        |over: &&Connection| over.role.as_deref() == Some("client") && over.peer.port == Some(PORT);
    Some(connection(line).filter(is_client)?.end.clone())
}
