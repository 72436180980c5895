//! What else than connections takes the ports away: settings, and other sockets' bindings.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use rustix::io::Errno;

use super::{
    Scenario,
    exhaustion::{Exhausted, PORT, PORTS, connect_many, fail_many},
    failure::{Expected, every, expect},
    scenario,
};
use crate::{
    actor::{Actor, Op},
    report::skip,
    scene::{Scene, V4, V6},
};

pub(super) const ALL: &[Scenario] = &[
    scenario("exhausted_by_own_range", by_own_range),
    scenario("exhausted_by_reservation", by_reservation),
    scenario("exhausted_by_binds", by_binds),
    scenario("exhausted_by_binds_listen", by_binds_listen),
];

/// A program may narrow the range for its socket.
fn by_own_range(scene: &Scene) -> Result<()> {
    // include/uapi/linux/in.h
    const IP_LOCAL_PORT_RANGE: i32 = 51;
    const TWO_PORTS: u32 = 40_001 << 16 | 40_000;
    let Exhausted {
        full, mut client, ..
    } = Exhausted::prepare(scene, V4)?;
    let to = full.addr;
    for number in 0..5 {
        let fd = client.socket(to)?;
        let narrow = Op::Option {
            fd,
            level: libc::IPPROTO_IP,
            name: IP_LOCAL_PORT_RANGE,
            value: TWO_PORTS,
        };
        if client.try_do(&narrow)? < 0 {
            return skip("this kernel has no IP_LOCAL_PORT_RANGE");
        }
        let connect = Op::Connect { fd, to };
        if number < 2 {
            client.run(&connect)?;
        } else {
            client.fails(&connect, Errno::ADDRNOTAVAIL)?;
        }
    }
    client.open(to)?;
    expect(scene, &[Expected::exhausted(&client, to, 3)])
}

fn by_reservation(scene: &Scene) -> Result<()> {
    let Exhausted {
        full, mut client, ..
    } = Exhausted::prepare(scene, V4)?;
    scene
        .netns
        .sysctl("ipv4/ip_local_reserved_ports", "40002-40015")?;
    every(&connect_many(&mut client, full.addr, 2)?, 2, 0)?;
    fail_many(&mut client, full.addr, 3)?;
    expect(scene, &[Expected::exhausted(&client, full.addr, 3)])
}

/// `listen()` wants a port too, and does not get one: not a connect.
fn by_binds_listen(scene: &Scene) -> Result<()> {
    let Exhausted { mut client, .. } = Exhausted::prepare(scene, V4)?;
    hold_all(&mut client)?;
    let fd = client.run(&Op::Socket { v6: false })?;
    client.fails(&Op::Listen { fd, backlog: 1 }, Errno::ADDRINUSE)?;
    let addr = SocketAddr::new(V4, 0);
    client.fails(&Op::Bind { fd, addr }, Errno::ADDRINUSE)?;
    scene.expect_no_failure()
}

fn hold_all(client: &mut Actor) -> Result<()> {
    for _ in 0..PORTS {
        let fd = client.run(&Op::Socket { v6: false })?;
        let addr = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        client.run(&Op::Bind { fd, addr })?;
    }
    Ok(())
}

/// Ports held by `bind()` are lost for every destination, of both families.
fn by_binds(scene: &Scene) -> Result<()> {
    let Exhausted {
        full,
        free,
        mut client,
    } = Exhausted::prepare(scene, V4)?;
    let v6 = scene.server(V6, PORT)?;
    hold_all(&mut client)?;
    let destinations = [full.addr, free.addr, v6.addr];
    let mut expected = Vec::new();
    for to in destinations {
        fail_many(&mut client, to, 3)?;
        expected.push(Expected::exhausted(&client, to, 3));
    }
    expect(scene, &expected)
}
