//! Connections that come about: the transitions of both ends, and whose they are.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use rustix::io::Errno;

use super::{Scenario, scenario};
use crate::{
    actor::{Actor, Op, Server},
    lines::State,
    scene::{Scene, V4, V6, client_of, ends, owned_by, role, served_by},
};

pub(super) const ALL: &[Scenario] = &[
    scenario("client_closes", client_closes),
    scenario("server_closes", server_closes),
    scenario("half_close", half_close),
    scenario("reset", reset),
    scenario("nonblocking", nonblocking),
    scenario("self_connect", self_connect),
    scenario("ipv6", ipv6),
    scenario("v4_mapped", v4_mapped),
    scenario("raw_socket", raw_socket),
];

const PORT: u16 = 5774;

pub(super) const CLIENT_CLOSES_FIRST: [&str; 5] = [
    "CLOSE>SYN_SENT",
    "SYN_SENT>ESTABLISHED",
    "ESTABLISHED>FIN_WAIT1",
    "FIN_WAIT1>FIN_WAIT2",
    "FIN_WAIT2>TIME_WAIT",
];
pub(super) const CLIENT_CLOSES_LAST: [&str; 5] = [
    "CLOSE>SYN_SENT",
    "SYN_SENT>ESTABLISHED",
    "ESTABLISHED>CLOSE_WAIT",
    "CLOSE_WAIT>LAST_ACK",
    "LAST_ACK>CLOSE",
];
pub(super) const SERVER_CLOSES_FIRST: [&str; 5] = [
    "LISTEN>SYN_RECV",
    "SYN_RECV>ESTABLISHED",
    "ESTABLISHED>FIN_WAIT1",
    "FIN_WAIT1>FIN_WAIT2",
    "FIN_WAIT2>TIME_WAIT",
];
const SERVER_CLOSES_LAST: [&str; 5] = [
    "LISTEN>SYN_RECV",
    "SYN_RECV>ESTABLISHED",
    "ESTABLISHED>CLOSE_WAIT",
    "CLOSE_WAIT>LAST_ACK",
    "LAST_ACK>CLOSE",
];

/// A connection and the two processes that have its ends.
struct Pair {
    server: Server,
    accepted: i64,
    client: Actor,
    socket: i64,
    /// The client's end.
    local: SocketAddr,
    /// The destination as the client named it.
    to: SocketAddr,
    family: &'static str,
}

impl Pair {
    fn open(scene: &Scene, listen: IpAddr, to: IpAddr) -> Result<Self> {
        let mut server = scene.server(listen, PORT)?;
        let mut client = scene.actor("client")?;
        let to = SocketAddr::new(to, PORT);
        let socket = client.open(to)?;
        Ok(Self {
            accepted: server.accept()?,
            local: client.local(socket, to.ip())?,
            family: if to.is_ipv6() { "ipv6" } else { "ipv4" },
            server,
            client,
            socket,
            to,
        })
    }

    /// The end that is open sees the end of the other one, and follows.
    fn client_closes_first(&mut self) -> Result<()> {
        self.client.close(self.socket)?;
        self.server
            .actor
            .run(&Op::ReadToEnd { fd: self.accepted })?;
        self.server.actor.close(self.accepted)
    }

    fn server_closes_first(&mut self) -> Result<()> {
        self.server.actor.close(self.accepted)?;
        self.client.run(&Op::ReadToEnd { fd: self.socket })?;
        self.client.close(self.socket)
    }

    /// Exactly these transitions, each with the right ends and owner.
    fn expect(&self, scene: &Scene, client: &[&str], server: &[&str]) -> Result<()> {
        let states = scene.expect(role("client"), client)?;
        owned_by(&states, &self.client, "connect")?;
        ends(&states, self.family, self.local, self.to)?;
        let states = scene.expect(role("server"), server)?;
        served_by(&states, &self.server.actor)?;
        // At LISTEN->SYN_RECV the kernels before 6.18 have not filled the addresses in.
        let family = if self.server.addr.is_ipv6() {
            "ipv6"
        } else {
            "ipv4"
        };
        ends(&states[1..], family, self.server.addr, self.local)?;
        scene.expect_no_failure()
    }
}

fn client_closes(scene: &Scene) -> Result<()> {
    let mut pair = Pair::open(scene, V4, V4)?;
    pair.client_closes_first()?;
    pair.expect(scene, &CLIENT_CLOSES_FIRST, &SERVER_CLOSES_LAST)?;
    let fd = pair.server.fd;
    pair.server.actor.close(fd)?;
    let listener = scene.expect(role("listener"), &["CLOSE>LISTEN", "LISTEN>CLOSE"])?;
    owned_by(&listener, &pair.server.actor, "bind")?;
    at(&listener, pair.server.addr)
}

/// A listener is at its address from the first transition on.
fn at(listener: &[State], addr: SocketAddr) -> Result<()> {
    for state in listener {
        let ip = addr.ip().to_string();
        ensure!(
            state.local.ip == ip && state.local.port == Some(addr.port()),
            "not at {addr}: {state:?}"
        );
    }
    Ok(())
}

fn server_closes(scene: &Scene) -> Result<()> {
    let mut pair = Pair::open(scene, V4, V4)?;
    pair.server_closes_first()?;
    pair.expect(scene, &CLIENT_CLOSES_LAST, &SERVER_CLOSES_FIRST)
}

/// The client has said all, but listens on: the server's answer and end come later.
fn half_close(scene: &Scene) -> Result<()> {
    let mut pair = Pair::open(scene, V4, V4)?;
    pair.client.run(&Op::ShutdownWrite { fd: pair.socket })?;
    scene.expect(role("client"), &CLIENT_CLOSES_FIRST[..4])?;
    pair.server
        .actor
        .run(&Op::ReadToEnd { fd: pair.accepted })?;
    pair.server.actor.run(&Op::Send { fd: pair.accepted })?;
    pair.server.actor.close(pair.accepted)?;
    let answered = pair.client.run(&Op::ReadToEnd { fd: pair.socket })?;
    ensure!(answered == 1, "the answer had {answered} bytes");
    pair.client.close(pair.socket)?;
    pair.expect(scene, &CLIENT_CLOSES_FIRST, &SERVER_CLOSES_LAST)
}

fn reset(scene: &Scene) -> Result<()> {
    let mut pair = Pair::open(scene, V4, V4)?;
    pair.client.run(&Op::LingerZero { fd: pair.socket })?;
    pair.client.close(pair.socket)?;
    pair.server
        .actor
        .fails(&Op::ReadToEnd { fd: pair.accepted }, Errno::CONNRESET)?;
    pair.server.actor.close(pair.accepted)?;
    pair.expect(
        scene,
        &[
            "CLOSE>SYN_SENT",
            "SYN_SENT>ESTABLISHED",
            "ESTABLISHED>CLOSE",
        ],
        &[
            "LISTEN>SYN_RECV",
            "SYN_RECV>ESTABLISHED",
            "ESTABLISHED>CLOSE",
        ],
    )
}

fn nonblocking(scene: &Scene) -> Result<()> {
    let server = scene.server(V4, PORT)?;
    let mut client = scene.actor("client")?;
    let fd = client.open_pending(server.addr)?;
    client.run(&Op::Finish { fd })?;
    // Asking again is no second connect.
    client.run(&Op::Connect {
        fd,
        to: server.addr,
    })?;
    client.fails(
        &Op::Connect {
            fd,
            to: server.addr,
        },
        Errno::ISCONN,
    )?;
    let local = client.local(fd, V4)?;
    client.close(fd)?;
    // The server has not accepted, but the kernel has acknowledged for it. An orphan in FIN_WAIT2 becomes a
    // timewait socket at once, which is in FIN_WAIT2 too: nothing to be told.
    let states = scene.expect(client_of(server.addr), &CLIENT_CLOSES_FIRST[..4])?;
    owned_by(&states, &client, "connect")?;
    ends(&states, "ipv4", local, server.addr)?;
    scene.expect_no_failure()
}

fn ipv6(scene: &Scene) -> Result<()> {
    let mut pair = Pair::open(scene, V6, V6)?;
    pair.client_closes_first()?;
    pair.expect(scene, &CLIENT_CLOSES_FIRST, &SERVER_CLOSES_LAST)
}

/// An IPv6 socket that speaks IPv4: what goes over the wire is IPv4, and is shown so.
fn v4_mapped(scene: &Scene) -> Result<()> {
    let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped().into();
    let mut pair = Pair::open(scene, V4, mapped)?;
    pair.server_closes_first()?;
    pair.expect(scene, &CLIENT_CLOSES_LAST, &SERVER_CLOSES_FIRST)
}

/// A socket that meets itself, as happens to those who dial a dead port of the ephemeral range: no
/// listener takes part, and both sides of every transition are one socket.
fn self_connect(scene: &Scene) -> Result<()> {
    let mut client = scene.actor("client")?;
    let to = SocketAddr::new(V4, 20_000);
    let fd = client.bound(to)?;
    client.run(&Op::Connect { fd, to })?;
    client.close(fd)?;
    let steps = [
        "CLOSE>SYN_SENT",
        "SYN_SENT>SYN_RECV",
        "SYN_RECV>ESTABLISHED",
        "ESTABLISHED>FIN_WAIT1",
        "FIN_WAIT1>CLOSING",
        "CLOSING>TIME_WAIT",
    ];
    let states = scene.expect(|_| true, &steps)?;
    owned_by(&states, &client, "connect")?;
    ends(&states[1..], "ipv4", to, to)?;
    let clients = states.iter().filter(|state| role("client")(state)).count();
    ensure!(clients == steps.len(), "another role: {states:?}");
    scene.expect_no_failure()
}

/// It has TCP's protocol, and a number where TCP has a port (`inet_create`, net/ipv4/af_inet.c).
fn raw_socket(scene: &Scene) -> Result<()> {
    let mut client = scene.actor("client")?;
    let fd = client.run(&Op::RawSocket)?;
    let addr = SocketAddr::new(V4, 0);
    client.run(&Op::Bind { fd, addr })?;
    let to = SocketAddr::new(V4, PORT);
    client.run(&Op::Connect { fd, to })?;
    let lines = scene.settled()?;
    ensure!(lines.is_empty(), "{lines:?}");
    let snapshot = scene.tracer.snapshot()?;
    let seen = snapshot.sockets.iter();
    let seen: Vec<_> = seen
        .filter(|seen| seen.netns == scene.netns.inode)
        .collect();
    ensure!(seen.is_empty(), "{seen:?}");
    Ok(())
}
