//! The same errno for the lack of an address: no port was ever looked for.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Result, ensure};
use rustix::io::Errno;

use super::{
    Scenario,
    exhaustion_uring::submit_on,
    failure::{EADDRNOTAVAIL, Expected, every, expect},
    scenario,
    unfinished::open_deferred,
};
use crate::{
    actor::Op,
    report::skip,
    scene::{Scene, V4, V6},
};

pub(super) const ALL: &[Scenario] = &[
    scenario("no_source_address", by_connect),
    scenario("no_source_address_uring", by_uring),
    scenario("no_source_address_udp", udp),
    scenario("no_source_after_given_up", after_given_up),
    scenario("no_source_after_deferred", after_deferred),
    scenario("bind_to_foreign_address", foreign_bind),
    scenario("bind_to_foreign_address_uring", foreign_bind_uring),
];

pub(super) const GLOBAL: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

pub(super) fn without_ipv6(scene: &Scene) -> Result<()> {
    scene.netns.sysctl("ipv6/conf/all/disable_ipv6", "1")?;
    scene.netns.sysctl("ipv6/conf/lo/disable_ipv6", "1")
}

fn by_connect(scene: &Scene) -> Result<()> {
    without_ipv6(scene)?;
    let mut client = scene.actor("client")?;
    let mut expected = Vec::new();
    for (ip, times) in [(V6, 3), (GLOBAL.into(), 2)] {
        let to = SocketAddr::new(ip, 5774);
        for _ in 0..times {
            let fd = client.socket(to)?;
            client.fails(&Op::Connect { fd, to }, Errno::ADDRNOTAVAIL)?;
        }
        expected.push(Expected::no_source(&client, to, times));
    }
    expect(scene, &expected)?;
    let states = scene.states(|_| true)?;
    ensure!(
        states.is_empty(),
        "a transition although nothing was begun: {states:?}"
    );
    Ok(())
}

fn by_uring(scene: &Scene) -> Result<()> {
    let coverage = scene.failure_coverage()?;
    if let Some(limit) = coverage
        .limits
        .iter()
        .find(|limit| limit.contains("io_uring"))
    {
        return skip(format!("the tracer says so: {limit}"));
    }
    without_ipv6(scene)?;
    let mut client = scene.actor("client")?;
    let to = SocketAddr::new(V6, 5774);
    let mut connects = Vec::new();
    for _ in 0..3 {
        connects.push((client.socket(to)?, to));
    }
    every(&submit_on(&mut client, connects, false)?, 3, EADDRNOTAVAIL)?;
    let mut expected = Expected::no_source(&client, to, 3);
    if coverage.backend.as_deref() == Some("tracepoint") {
        expected = expected.peer_port_may_lack();
    }
    expect(scene, &[expected])
}

/// The tracer is about TCP.
fn udp(scene: &Scene) -> Result<()> {
    without_ipv6(scene)?;
    let mut client = scene.actor("client")?;
    let fd = client.run(&Op::UdpSocket { v6: true })?;
    let to = SocketAddr::new(V6, 5774);
    client.fails(&Op::Connect { fd, to }, Errno::ADDRNOTAVAIL)?;
    let lines = scene.settled()?;
    ensure!(lines.is_empty(), "{lines:?}");
    Ok(())
}

/// A connect from a bound port that is given up, then others of the same thread that fail with this
/// errno: neither lends its reason or address to the other.
fn after_given_up(scene: &Scene) -> Result<()> {
    without_ipv6(scene)?;
    let (server, _filler) = scene.deaf_server(5774)?;
    let mut client = scene.actor("client")?;
    let fd = client.bound(SocketAddr::new(V4, 20_000))?;
    client.run(&Op::Nonblocking { fd })?;
    client.fails(
        &Op::Connect {
            fd,
            to: server.addr,
        },
        Errno::INPROGRESS,
    )?;
    client.close(fd)?;
    let to = SocketAddr::new(V6, 5774);
    let datagram = client.run(&Op::UdpSocket { v6: true })?;
    client.fails(&Op::Connect { fd: datagram, to }, Errno::ADDRNOTAVAIL)?;
    let stream = client.socket(to)?;
    client.fails(&Op::Connect { fd: stream, to }, Errno::ADDRNOTAVAIL)?;
    expect(scene, &[Expected::no_source(&client, to, 1)])
}

fn foreign_bind(scene: &Scene) -> Result<()> {
    let mut client = scene.actor("client")?;
    for addr in [
        SocketAddr::from(([192, 0, 2, 1], 0)),
        SocketAddr::new(GLOBAL.into(), 20_000),
    ] {
        let fd = client.socket(addr)?;
        client.fails(&Op::Bind { fd, addr }, Errno::ADDRNOTAVAIL)?;
    }
    let lines = scene.settled()?;
    ensure!(lines.is_empty(), "{lines:?}");
    Ok(())
}

fn foreign_bind_uring(scene: &Scene) -> Result<()> {
    let mut client = scene.actor("client")?;
    let addr = SocketAddr::from(([192, 0, 2, 1], 0));
    let fd = client.socket(addr)?;
    let result = client.try_do(&Op::UringBind { fd, addr })?;
    if result != EADDRNOTAVAIL {
        return skip(format!(
            "this kernel binds by io_uring not at all (error {result})"
        ));
    }
    let lines = scene.settled()?;
    ensure!(lines.is_empty(), "{lines:?}");
    Ok(())
}

/// A connect whose SYN was to go out with the data, dissolved before there were any, and the same
/// socket's next attempt.
fn after_deferred(scene: &Scene) -> Result<()> {
    without_ipv6(scene)?;
    let mut client = scene.actor("client")?;
    let server = scene.server(V4, 5774)?;
    let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped().into();
    let fd = open_deferred(scene, &mut client, SocketAddr::new(mapped, 5774))?;
    client.run(&Op::Disconnect { fd })?;
    let to = SocketAddr::new(V6, 5774);
    client.fails(&Op::Connect { fd, to }, Errno::ADDRNOTAVAIL)?;
    expect(scene, &[Expected::no_source(&client, to, 1)])?;
    drop(server);
    Ok(())
}
