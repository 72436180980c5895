//! What a connection leaves behind: how a timewait socket comes about and ends, and whose it is.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::io::Errno;

use super::{
    Scenario,
    lifecycle::{CLIENT_CLOSES_FIRST, SERVER_CLOSES_FIRST},
    scenario,
};
use crate::{
    actor::{Actor, Op, Server},
    dump,
    lines::{Line, PATIENCE, Record, SocketSeen},
    report::skip,
    scene::{Scene, V4, client_of, of, of_process, owned_by, role},
};

pub(super) const ALL: &[Scenario] = &[
    scenario("timewait_survives_its_process", survives_its_process),
    scenario("timewait_reused", reused),
    scenario("timewait_reused_by_its_peer", reused_by_its_peer),
    scenario("timewait_overflow", overflow),
    scenario("timewait_destroyed", destroyed),
    scenario("fin_wait2_times_out", fin_wait2_times_out),
    scenario("fin_wait2_is_reset", fin_wait2_is_reset),
    scenario("timewait_without_linger", without_linger),
];

const PORT: u16 = 5774;

/// Of a connection that the client closed first, until the server's end is open alone.
const HALF_CLOSED: &[&str] = CLIENT_CLOSES_FIRST.split_at(4).0;

/// A connection, closed by the client and then by the server.
pub(super) fn close_first(server: &mut Server, client: &mut Actor) -> Result<SocketAddr> {
    let fd = client.open(server.addr)?;
    let local = client.local(fd, server.addr.ip())?;
    let accepted = server.accept()?;
    client.close(fd)?;
    server.actor.run(&Op::ReadToEnd { fd: accepted })?;
    server.actor.close(accepted)?;
    Ok(local)
}

/// What the tracer knows now of sockets from `local` to `peer`.
fn known(scene: &Scene, local: SocketAddr, peer: SocketAddr) -> Result<Vec<SocketSeen>> {
    scene.settled()?;
    let snapshot = scene.tracer.snapshot()?;
    let sockets = snapshot.sockets.iter().filter(|seen| {
        seen.netns == scene.netns.inode
            && seen.local.port == Some(local.port())
            && seen.peer.port == Some(peer.port())
    });
    Ok(sockets.cloned().collect())
}

fn steps<'a>(first: &[&'a str], then: &[&'a str]) -> Vec<&'a str> {
    [first, then].concat()
}

fn survives_its_process(scene: &Scene) -> Result<()> {
    let mut server = scene.server(V4, PORT)?;
    let mut client = scene.actor("client")?;
    let local = close_first(&mut server, &mut client)?;
    let states = scene.expect(client_of(server.addr), &CLIENT_CLOSES_FIRST)?;
    owned_by(&states, &client, "connect")?;
    client.exit()?;
    ensure!(
        !Path::new(&format!("/proc/{}", client.pid)).exists(),
        "the client lives on"
    );
    let seen = known(scene, local, server.addr)?;
    let [seen] = seen.as_slice() else {
        bail!("not one socket: {seen:?}");
    };
    ensure!(
        seen.state == "TIME_WAIT"
            && seen.timewait
            && seen.owner == "connect"
            && seen.role.as_deref() == Some("client")
            && seen.process == states[0].process,
        "not the client's: {seen:?}"
    );
    Ok(())
}

/// The next `connect()` may take over the port, and does when there is no other.
fn reused(scene: &Scene) -> Result<()> {
    scene
        .netns
        .sysctl("ipv4/ip_local_port_range", "40000 40000")?;
    scene.netns.sysctl("ipv4/tcp_tw_reuse", "1")?;
    let mut server = scene.server(V4, PORT)?;
    let mut first = scene.actor("first")?;
    let mut second = scene.actor("second")?;
    let local = close_first(&mut server, &mut first)?;
    // Without a hook for it, that it has come to TIME_WAIT is known at the next interval only.
    scene.expect(of(&first), &CLIENT_CLOSES_FIRST)?;
    connect_when_possible(&mut second, server.addr)?;
    let steps = steps(&CLIENT_CLOSES_FIRST, &["TIME_WAIT>CLOSE"]);
    owned_by(&scene.expect(of(&first), &steps)?, &first, "connect")?;
    let seen = known(scene, local, server.addr)?;
    let [seen] = seen.as_slice() else {
        bail!("not one socket: {seen:?}");
    };
    let pid = seen.process.as_ref().map(|process| process.pid);
    ensure!(
        seen.state == "ESTABLISHED" && pid == Some(second.pid),
        "not the second's: {seen:?}"
    );
    Ok(())
}

/// Not before a second has passed since the last packet.
pub(super) fn connect_when_possible(client: &mut Actor, to: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let fd = client.socket(to)?;
    loop {
        match client.try_do(&Op::Connect { fd, to })? {
            0 => return Ok(()),
            code => ensure!(
                code == -i64::from(Errno::ADDRNOTAVAIL.raw_os_error()) && Instant::now() < deadline,
                "connect gave {code}"
            ),
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The server's timewait socket gives way to a SYN from the same port.
fn reused_by_its_peer(scene: &Scene) -> Result<()> {
    let mut server = scene.server(V4, PORT)?;
    let mut client = scene.actor("client")?;
    let to = server.addr;
    let local = SocketAddr::new(V4, 20_000);
    let fd = client.bound(local)?;
    client.run(&Op::Connect { fd, to })?;
    let accepted = server.accept()?;
    server.actor.close(accepted)?;
    client.run(&Op::ReadToEnd { fd })?;
    client.close(fd)?;
    scene.expect(role("server"), &SERVER_CLOSES_FIRST)?;
    let fd = client.bound(local)?;
    client.run(&Op::Connect { fd, to })?;
    let mut wanted = steps(
        &SERVER_CLOSES_FIRST,
        &["TIME_WAIT>CLOSE", "LISTEN>SYN_RECV", "SYN_RECV>ESTABLISHED"],
    );
    // Without a hook at its end, it is known from the new one that it must have come.
    let mut states = scene.expect_count(role("server"), wanted.len())?;
    of_process(&states, &server.actor)?;
    states.sort_by_key(crate::lines::State::step);
    let found: Vec<_> = states.iter().map(crate::lines::State::step).collect();
    wanted.sort_unstable();
    ensure!(found == wanted, "{found:?}");
    let seen = known(scene, to, local)?;
    ensure!(
        seen.len() == 1 && seen[0].state == "ESTABLISHED",
        "not one connection: {seen:?}"
    );
    Ok(())
}

/// With the table of timewait sockets full, the port is free at once.
fn overflow(scene: &Scene) -> Result<()> {
    scene.netns.sysctl("ipv4/tcp_max_tw_buckets", "0")?;
    let mut server = scene.server(V4, PORT)?;
    let mut client = scene.actor("client")?;
    let local = close_first(&mut server, &mut client)?;
    let rows = dump::dump(&scene.netns)?;
    ensure!(
        !rows.iter().any(|row| row.timewait),
        "the kernel keeps one: {rows:?}"
    );
    let over = |state: &crate::lines::State| of(&client)(state) && state.new == "CLOSE";
    let last = scene.expect_count(over, 1)?;
    // No tracepoint tells: there it is thought of as in TIME_WAIT, until the next comparison.
    ensure!(
        last[0].old == "FIN_WAIT2" || (last[0].old == "TIME_WAIT" && last[0].corrected),
        "{last:?}"
    );
    let seen = known(scene, local, server.addr)?;
    ensure!(seen.is_empty(), "still known: {seen:?}");
    Ok(())
}

fn destroyed(scene: &Scene) -> Result<()> {
    let mut server = scene.server(V4, PORT)?;
    let mut client = scene.actor("client")?;
    let local = close_first(&mut server, &mut client)?;
    scene.expect(client_of(server.addr), &CLIENT_CLOSES_FIRST)?;
    let rows = dump::dump(&scene.netns)?;
    let row = rows.iter().find(|row| row.timewait && row.local == local);
    match dump::destroy(&scene.netns, row.context("no timewait socket")?)? {
        Ok(()) => {}
        Err(Errno::OPNOTSUPP) => return skip("this kernel cannot destroy timewait sockets"),
        Err(error) => return Err(error.into()),
    }
    let steps = steps(&CLIENT_CLOSES_FIRST, &["TIME_WAIT>CLOSE"]);
    let states = scene.expect(client_of(server.addr), &steps)?;
    owned_by(&states, &client, "connect")
}

/// The peer never closes: an orphan waits for `tcp_fin_timeout`, and then it is gone.
fn fin_wait2_times_out(scene: &Scene) -> Result<()> {
    scene.netns.sysctl("ipv4/tcp_fin_timeout", "1")?;
    let mut server = scene.server(V4, PORT)?;
    let mut client = scene.actor("client")?;
    let fd = client.open(server.addr)?;
    server.accept()?;
    client.close(fd)?;
    let steps = steps(HALF_CLOSED, &["FIN_WAIT2>CLOSE"]);
    let states = scene.expect(client_of(server.addr), &steps)?;
    owned_by(&states, &client, "connect")
}

/// The peer says something, which nobody can receive.
fn fin_wait2_is_reset(scene: &Scene) -> Result<()> {
    let mut server = scene.server(V4, PORT)?;
    let mut client = scene.actor("client")?;
    let fd = client.open(server.addr)?;
    let accepted = server.accept()?;
    client.close(fd)?;
    scene.expect(client_of(server.addr), HALF_CLOSED)?;
    server.actor.run(&Op::Send { fd: accepted })?;
    let steps = steps(HALF_CLOSED, &["FIN_WAIT2>CLOSE"]);
    let states = scene.expect(client_of(server.addr), &steps)?;
    owned_by(&states, &client, "connect")
}

/// TCP_LINGER2 may forbid to wait for the peer's FIN, not what comes after it.
fn without_linger(scene: &Scene) -> Result<()> {
    let mut server = scene.server(V4, PORT)?;
    let mut client = scene.actor("client")?;
    let fd = client.open(server.addr)?;
    let accepted = server.accept()?;
    client.option(fd, libc::IPPROTO_TCP, libc::TCP_LINGER2, u32::MAX)?;
    client.run(&Op::ShutdownWrite { fd })?;
    server.actor.run(&Op::ReadToEnd { fd: accepted })?;
    server.actor.close(accepted)?;
    let states = scene.expect(client_of(server.addr), &CLIENT_CLOSES_FIRST)?;
    owned_by(&states, &client, "connect")?;
    client.close(fd)
}

/// The kernel's timer is due after 60 seconds, and comes up to two later.
const AT_LEAST: f64 = 59.9;
const AT_MOST: f64 = 63.0;
/// What is found out by comparison is known so much later.
const INTERVALS: f64 = 2.5;
/// What a scenario itself ends, it ends within this time.
const EARLY: f64 = 30.0;

/// Timewait sockets end in time. Costs nothing: other scenarios go on meanwhile.
pub(super) fn lasts_a_minute(lines: &[Arc<Line>]) -> Result<()> {
    let mut begun = HashMap::new();
    let mut whole = 0;
    for line in lines {
        let Record::State(state) = &line.record else {
            continue;
        };
        let ends = [&state.local, &state.peer].map(|end| (end.ip.clone(), end.port));
        // In the random lives a 4-tuple is also reused, destroyed, and dies with its namespace.
        if !ends.iter().any(|(_, port)| *port == Some(PORT)) {
            continue;
        }
        let key = (state.netns, ends);
        if state.new == "TIME_WAIT" {
            begun.insert(key, line);
        } else if state.old == "TIME_WAIT"
            && let Some(begin) = begun.remove(&key)
        {
            let lasted = seconds(begin, line);
            let late = begin.is_corrected() || line.is_corrected();
            let slack = if late { INTERVALS } else { 0.0 };
            let in_time = (AT_LEAST - slack..AT_MOST + slack).contains(&lasted);
            ensure!(
                lasted < EARLY || in_time,
                "it lasted {lasted:.1} s: {} {}",
                begin.raw,
                line.raw
            );
            whole += usize::from(in_time);
        }
    }
    let last = lines.last().context("no lines")?;
    for begin in begun.into_values() {
        let lasted = seconds(begin, last);
        ensure!(
            lasted < AT_MOST + INTERVALS,
            "no end after {lasted:.1} s: {}",
            begin.raw
        );
    }
    crate::report::note(format!("{whole} timewait sockets lasted a minute"));
    Ok(())
}

fn seconds(from: &Line, to: &Line) -> f64 {
    to.ts.duration_since(from.ts).as_secs_f64()
}
