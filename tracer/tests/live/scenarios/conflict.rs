//! A source port chosen by the program, whose 4-tuple is taken: not exhaustion.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use rustix::io::Errno;

use super::{
    Scenario,
    exhaustion_uring::submit_on,
    failure::{EADDRNOTAVAIL, Expected, expect},
    scenario,
};
use crate::{
    actor::{Actor, Op, Server},
    scene::{Scene, V4, V6, client_of},
};

pub(super) const ALL: &[Scenario] = &[
    scenario("tuple_in_use", by_connect),
    scenario("tuple_in_use_ipv6", ipv6),
    scenario("tuple_in_use_uring", by_uring),
    scenario("tuple_in_use_uring_punted", by_uring_punted),
    scenario("tuple_in_use_fast_open", by_fast_open),
    scenario("tuple_in_use_then_elsewhere", then_elsewhere),
];

const SOURCE: u16 = 20_000;

/// A connection from an own source port, and a second socket on the same port.
fn conflict(server: &Server, client: &mut Actor, port: u16) -> Result<(SocketAddr, i64)> {
    let local = SocketAddr::new(server.addr.ip(), port);
    let first = client.bound(local)?;
    let second = client.bound(local)?;
    client.run(&Op::Connect {
        fd: first,
        to: server.addr,
    })?;
    Ok((local, second))
}

fn by_connect(scene: &Scene) -> Result<()> {
    let server = scene.server(V4, 5774)?;
    let mut client = scene.actor("client")?;
    let to = server.addr;
    let (local, fd) = conflict(&server, &mut client, SOURCE)?;
    for _ in 0..3 {
        client.fails(&Op::Connect { fd, to }, Errno::ADDRNOTAVAIL)?;
    }
    expect(scene, &[Expected::in_use(&client, local, to, 3)])
}

fn ipv6(scene: &Scene) -> Result<()> {
    let server = scene.server(V6, 5774)?;
    let mut client = scene.actor("client")?;
    let to = server.addr;
    let (local, fd) = conflict(&server, &mut client, SOURCE)?;
    client.fails(&Op::Connect { fd, to }, Errno::ADDRNOTAVAIL)?;
    expect(scene, &[Expected::in_use(&client, local, to, 1)])
}

/// Two conflicts and a success between them, in one submission.
fn by_uring(scene: &Scene) -> Result<()> {
    uring(scene, false)
}

fn by_uring_punted(scene: &Scene) -> Result<()> {
    uring(scene, true)
}

fn uring(scene: &Scene, punt: bool) -> Result<()> {
    let server = scene.server(V4, 5774)?;
    let mut client = scene.actor("client")?;
    let to = server.addr;
    let (local_a, a) = conflict(&server, &mut client, SOURCE)?;
    let (local_b, b) = conflict(&server, &mut client, SOURCE + 1)?;
    let free = client.bound(SocketAddr::new(V4, SOURCE + 2))?;
    let results = submit_on(&mut client, vec![(a, to), (free, to), (b, to)], punt)?;
    ensure!(results == [EADDRNOTAVAIL, 0, EADDRNOTAVAIL], "{results:?}");
    expect(
        scene,
        &[
            Expected::in_use(&client, local_a, to, 1).by_any_thread(),
            Expected::in_use(&client, local_b, to, 1).by_any_thread(),
        ],
    )
}

fn by_fast_open(scene: &Scene) -> Result<()> {
    let server = scene.server(V4, 5774)?;
    let mut client = scene.actor("client")?;
    let to = server.addr;
    let (local, fd) = conflict(&server, &mut client, SOURCE)?;
    client.fails(&Op::FastOpen { fd, to }, Errno::ADDRNOTAVAIL)?;
    expect(scene, &[Expected::in_use(&client, local, to, 1)])
}

/// The port is not the problem, the tuple is: another destination works from the same socket.
fn then_elsewhere(scene: &Scene) -> Result<()> {
    let server = scene.server(V4, 5774)?;
    let other = scene.server(V4, 5775)?;
    let mut client = scene.actor("client")?;
    let (local, fd) = conflict(&server, &mut client, SOURCE)?;
    client.fails(
        &Op::Connect {
            fd,
            to: server.addr,
        },
        Errno::ADDRNOTAVAIL,
    )?;
    client.run(&Op::Connect { fd, to: other.addr })?;
    expect(scene, &[Expected::in_use(&client, local, server.addr, 1)])?;
    scene.expect(
        client_of(other.addr),
        &["CLOSE>SYN_SENT", "SYN_SENT>ESTABLISHED"],
    )?;
    Ok(())
}
