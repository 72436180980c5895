//! Connects that come to nothing for other reasons than a port: none may be called a failure.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use rustix::io::Errno;

use super::{Scenario, lifecycle::CLIENT_CLOSES_FIRST, scenario};
use crate::{
    actor::{Actor, Op},
    scene::{Scene, V4, client_of, owned_by},
};

pub(super) const ALL: &[Scenario] = &[
    scenario("refused", refused),
    scenario("refused_from_bound_port", refused_from_bound_port),
    scenario("timed_out", timed_out),
    scenario("closed_in_syn_sent", closed_in_syn_sent),
    scenario("disconnected_in_syn_sent", disconnected_in_syn_sent),
    scenario("given_up_from_bound_port", given_up_from_bound_port),
    scenario("shut_down_in_syn_sent", shut_down_in_syn_sent),
    scenario("deferred_and_shut_down", deferred_and_shut_down),
    scenario("deferred_and_closed", deferred_and_closed),
    scenario("disconnected", disconnected),
    scenario("fast_open", fast_open),
];

const PORT: u16 = 5774;
const NOBODY: u16 = 5999;
const NOT_ESTABLISHED: [&str; 2] = ["CLOSE>SYN_SENT", "SYN_SENT>CLOSE"];

/// The client's only socket had a port, was its own, and no failure was seen.
fn expect_given_up(
    scene: &Scene,
    client: &Actor,
    to: SocketAddr,
    bound: Option<u16>,
) -> Result<()> {
    let mine = |state: &crate::lines::State| {
        client_of(to)(state) && state.process.as_ref().is_some_and(|p| p.pid == client.pid)
    };
    let states = scene.expect(mine, &NOT_ESTABLISHED)?;
    owned_by(&states, client, "connect")?;
    let ports: Vec<_> = states.iter().map(|state| state.local.port).collect();
    ensure!(
        ports[0] == bound,
        "port {:?} before one was chosen",
        ports[0]
    );
    ensure!(ports[1].is_some(), "no port although a SYN went out");
    ensure!(
        bound.is_none() || ports[1] == bound,
        "not from {bound:?}: {ports:?}"
    );
    scene.expect_no_failure()
}

fn refused(scene: &Scene) -> Result<()> {
    let to = SocketAddr::new(V4, NOBODY);
    let mut client = scene.actor("client")?;
    let fd = client.socket(to)?;
    client.fails(&Op::Connect { fd, to }, Errno::CONNREFUSED)?;
    expect_given_up(scene, &client, to, None)
}

fn refused_from_bound_port(scene: &Scene) -> Result<()> {
    let to = SocketAddr::new(V4, NOBODY);
    let mut client = scene.actor("client")?;
    let fd = client.bound(SocketAddr::new(V4, 20_000))?;
    client.fails(&Op::Connect { fd, to }, Errno::CONNREFUSED)?;
    expect_given_up(scene, &client, to, Some(20_000))
}

/// The end comes from a timer, in whatever task runs then.
fn timed_out(scene: &Scene) -> Result<()> {
    let (server, _filler) = scene.deaf_server(PORT)?;
    let mut client = scene.actor("client")?;
    let fd = client.socket(server.addr)?;
    let to = server.addr;
    client.fails(&Op::Connect { fd, to }, Errno::TIMEDOUT)?;
    expect_given_up(scene, &client, to, None)
}

fn closed_in_syn_sent(scene: &Scene) -> Result<()> {
    let (server, _filler) = scene.deaf_server(PORT)?;
    let mut client = scene.actor("client")?;
    let fd = client.open_pending(server.addr)?;
    client.close(fd)?;
    expect_given_up(scene, &client, server.addr, None)
}

fn disconnected_in_syn_sent(scene: &Scene) -> Result<()> {
    let (server, _filler) = scene.deaf_server(PORT)?;
    let mut client = scene.actor("client")?;
    let fd = client.open_pending(server.addr)?;
    client.run(&Op::Disconnect { fd })?;
    expect_given_up(scene, &client, server.addr, None)
}

/// With tracepoints alone this differs from a taken tuple in the result of the system call only.
/// The same thread then fails with the same errno on another socket, which must not be mixed up.
fn given_up_from_bound_port(scene: &Scene) -> Result<()> {
    let (server, _filler) = scene.deaf_server(PORT)?;
    let to = server.addr;
    let mut client = scene.actor("client")?;
    let fd = client.bound(SocketAddr::new(V4, 20_000))?;
    client.run(&Op::Nonblocking { fd })?;
    client.fails(&Op::Connect { fd, to }, Errno::INPROGRESS)?;
    client.close(fd)?;
    let foreign = client.socket(to)?;
    let addr = SocketAddr::new([192, 0, 2, 1].into(), 0);
    client.fails(&Op::Bind { fd: foreign, addr }, Errno::ADDRNOTAVAIL)?;
    expect_given_up(scene, &client, to, Some(20_000))
}

/// An established connection that is dissolved by its own side.
fn disconnected(scene: &Scene) -> Result<()> {
    let mut server = scene.server(V4, PORT)?;
    let mut client = scene.actor("client")?;
    let fd = client.open(server.addr)?;
    let accepted = server.accept()?;
    client.run(&Op::Disconnect { fd })?;
    server
        .actor
        .fails(&Op::ReadToEnd { fd: accepted }, Errno::CONNRESET)?;
    let steps = [
        "CLOSE>SYN_SENT",
        "SYN_SENT>ESTABLISHED",
        "ESTABLISHED>CLOSE",
    ];
    let states = scene.expect(client_of(server.addr), &steps)?;
    owned_by(&states, &client, "connect")?;
    scene.expect_no_failure()
}

/// `sendto()` that connects: no connect system call is to be seen.
fn fast_open(scene: &Scene) -> Result<()> {
    let mut server = scene.server(V4, PORT)?;
    let mut client = scene.actor("client")?;
    let fd = client.socket(server.addr)?;
    client.run(&Op::FastOpen {
        fd,
        to: server.addr,
    })?;
    let accepted = server.accept()?;
    client.close(fd)?;
    server.actor.run(&Op::ReadToEnd { fd: accepted })?;
    server.actor.close(accepted)?;
    let states = scene.expect(client_of(server.addr), &CLIENT_CLOSES_FIRST)?;
    owned_by(&states, &client, "connect")?;
    scene.expect_no_failure()
}

fn shut_down_in_syn_sent(scene: &Scene) -> Result<()> {
    let (server, _filler) = scene.deaf_server(PORT)?;
    let mut client = scene.actor("client")?;
    let fd = client.open_pending(server.addr)?;
    client.run(&Op::ShutdownWrite { fd })?;
    expect_given_up(scene, &client, server.addr, None)
}

/// A socket whose `connect()` has succeeded without a SYN: that is to go out with the first data.
pub(super) fn open_deferred(scene: &Scene, client: &mut Actor, to: SocketAddr) -> Result<i64> {
    // A client that needs no cookie of the server (`TFO_CLIENT_NO_COOKIE`).
    scene.netns.sysctl("ipv4/tcp_fastopen", "5")?;
    let fd = client.socket(to)?;
    client.option(fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1)?;
    client.run(&Op::Connect { fd, to })?;
    Ok(fd)
}

fn deferred_and_shut_down(scene: &Scene) -> Result<()> {
    let server = scene.server(V4, PORT)?;
    let mut client = scene.actor("client")?;
    let fd = open_deferred(scene, &mut client, server.addr)?;
    client.run(&Op::ShutdownWrite { fd })?;
    expect_given_up(scene, &client, server.addr, None)
}

fn deferred_and_closed(scene: &Scene) -> Result<()> {
    let server = scene.server(V4, PORT)?;
    let mut client = scene.actor("client")?;
    let fd = open_deferred(scene, &mut client, server.addr)?;
    client.close(fd)?;
    expect_given_up(scene, &client, server.addr, None)
}
