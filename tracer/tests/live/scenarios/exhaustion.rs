//! No free port towards a destination: every failing connect is one line, whoever it hits.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use rustix::io::Errno;

use super::{
    Scenario,
    failure::{EADDRNOTAVAIL, Expected, every, expect},
    scenario,
};
use crate::{
    actor::{Actor, Op, Server},
    lines::State,
    report::skip,
    scene::{Scene, V4, V6, client_of},
};

pub(super) const ALL: &[Scenario] = &[
    scenario("exhausted", two_processes),
    scenario("exhausted_by_time_wait", by_time_wait),
    scenario("exhausted_ipv6", ipv6),
    scenario("exhausted_v4_mapped", v4_mapped),
    scenario("exhausted_nonblocking", nonblocking),
    scenario("exhausted_fast_open", fast_open),
    scenario("exhausted_in_thread", in_thread),
    scenario("exhausted_from_bound_address", from_bound_address),
    scenario("exhausted_by_own_range", by_own_range),
    scenario("exhausted_by_reservation", by_reservation),
    scenario("exhausted_then_elsewhere", then_elsewhere),
    scenario("exhausted_by_binds", by_binds),
    scenario("exhausted_by_binds_listen", by_binds_listen),
];

pub(super) const PORTS: usize = 16;
const PORT: u16 = 5774;
const OTHER_PORT: u16 = 5775;

/// A namespace with a small port range, two destinations, and a client that holds every port
/// towards the first.
pub(super) struct Exhausted {
    pub full: Server,
    pub free: Server,
    pub client: Actor,
}

impl Exhausted {
    pub(super) fn new(scene: &Scene, ip: IpAddr) -> Result<Self> {
        let mut exhausted = Self::prepare(scene, ip)?;
        let to = exhausted.full.addr;
        let codes = connect_many(&mut exhausted.client, to, PORTS)?;
        every(&codes, PORTS, 0)?;
        Ok(exhausted)
    }

    fn prepare(scene: &Scene, ip: IpAddr) -> Result<Self> {
        scene
            .netns
            .sysctl("ipv4/ip_local_port_range", "40000 40015")?;
        scene.netns.sysctl("ipv4/tcp_tw_reuse", "0")?;
        Ok(Self {
            full: scene.server(ip, PORT)?,
            free: scene.server(ip, OTHER_PORT)?,
            client: scene.actor("client")?,
        })
    }
}

fn connect_many(client: &mut Actor, to: SocketAddr, times: usize) -> Result<Vec<i64>> {
    let times = u32::try_from(times)?;
    client.all(&Op::ConnectMany {
        v6: to.is_ipv6(),
        to,
        times,
    })
}

fn fail_many(client: &mut Actor, to: SocketAddr, times: usize) -> Result<()> {
    every(&connect_many(client, to, times)?, times, EADDRNOTAVAIL)
}

fn two_processes(scene: &Scene) -> Result<()> {
    let Exhausted {
        full,
        free,
        mut client,
    } = Exhausted::new(scene, V4)?;
    let mut second = scene.actor("second")?;
    for _ in 0..4 {
        fail_many(&mut client, full.addr, 5)?;
        every(&connect_many(&mut second, free.addr, 2)?, 2, 0)?;
        fail_many(&mut second, full.addr, 5)?;
        every(&connect_many(&mut client, free.addr, 2)?, 2, 0)?;
    }
    expect(
        scene,
        &[
            Expected::exhausted(&client, full.addr, 20),
            Expected::exhausted(&second, full.addr, 20),
        ],
    )?;
    // The transitions of the failed ones are there too, without a port.
    let failed = |state: &State| client_of(full.addr)(state) && state.step() == "SYN_SENT>CLOSE";
    let failed = scene.states(failed)?;
    ensure!(
        failed.len() == 40,
        "{} failed transitions instead of 40",
        failed.len()
    );
    let with_port = failed.iter().find(|state| state.local.port.is_some());
    ensure!(
        with_port.is_none(),
        "a port where none was found: {with_port:?}"
    );
    Ok(())
}

/// The usual way into it: connections that are over.
fn by_time_wait(scene: &Scene) -> Result<()> {
    let Exhausted {
        mut full,
        mut client,
        ..
    } = Exhausted::prepare(scene, V4)?;
    for _ in 0..PORTS {
        let fd = client.open(full.addr)?;
        let accepted = full.accept()?;
        client.close(fd)?;
        full.actor.run(&Op::ReadToEnd { fd: accepted })?;
        full.actor.close(accepted)?;
    }
    fail_many(&mut client, full.addr, 10)?;
    expect(scene, &[Expected::exhausted(&client, full.addr, 10)])
}

fn ipv6(scene: &Scene) -> Result<()> {
    let Exhausted {
        full,
        free,
        mut client,
    } = Exhausted::new(scene, V6)?;
    fail_many(&mut client, full.addr, 10)?;
    every(&connect_many(&mut client, free.addr, 2)?, 2, 0)?;
    expect(scene, &[Expected::exhausted(&client, full.addr, 10)])
}

/// IPv6 sockets that speak IPv4 take their ports from the same tuples as IPv4 sockets.
fn v4_mapped(scene: &Scene) -> Result<()> {
    let Exhausted {
        full, mut client, ..
    } = Exhausted::new(scene, V4)?;
    let to = SocketAddr::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), PORT);
    fail_many(&mut client, to, 10)?;
    fail_many(&mut client, full.addr, 1)?;
    expect(
        scene,
        &[
            Expected::exhausted(&client, to, 10),
            Expected::exhausted(&client, full.addr, 1),
        ],
    )
}

fn nonblocking(scene: &Scene) -> Result<()> {
    let Exhausted {
        full, mut client, ..
    } = Exhausted::new(scene, V4)?;
    for _ in 0..5 {
        let fd = client.socket(full.addr)?;
        client.run(&Op::Nonblocking { fd })?;
        client.fails(&Op::Connect { fd, to: full.addr }, Errno::ADDRNOTAVAIL)?;
    }
    expect(scene, &[Expected::exhausted(&client, full.addr, 5)])
}

fn fast_open(scene: &Scene) -> Result<()> {
    let Exhausted {
        full, mut client, ..
    } = Exhausted::new(scene, V4)?;
    for _ in 0..5 {
        let fd = client.socket(full.addr)?;
        client.fails(&Op::FastOpen { fd, to: full.addr }, Errno::ADDRNOTAVAIL)?;
    }
    expect(scene, &[Expected::exhausted(&client, full.addr, 5)])
}

fn in_thread(scene: &Scene) -> Result<()> {
    let Exhausted {
        full, mut client, ..
    } = Exhausted::new(scene, V4)?;
    let fd = client.socket(full.addr)?;
    let name = "some-thread".to_owned();
    let answer = client.all(&Op::ConnectInThread {
        fd,
        to: full.addr,
        name,
    })?;
    ensure!(
        answer.get(1) == Some(&EADDRNOTAVAIL),
        "connect gave {answer:?}"
    );
    expect(
        scene,
        &[Expected::exhausted(&client, full.addr, 1).by_any_thread()],
    )?;
    let tid = scene.failures()?[0].process.tid;
    ensure!(
        i64::from(tid) == answer[0],
        "thread {tid} instead of {}",
        answer[0]
    );
    Ok(())
}

/// The range is per source address: one of them is full, the others are not.
fn from_bound_address(scene: &Scene) -> Result<()> {
    let Exhausted {
        full, mut client, ..
    } = Exhausted::prepare(scene, V4)?;
    let addr = SocketAddr::new([127, 0, 0, 5].into(), 0);
    let to = full.addr;
    for _ in 0..PORTS {
        let fd = client.bound_without_port(addr)?;
        client.run(&Op::Connect { fd, to })?;
    }
    for _ in 0..5 {
        let fd = client.bound_without_port(addr)?;
        client.fails(&Op::Connect { fd, to }, Errno::ADDRNOTAVAIL)?;
    }
    client.open(to)?;
    expect(
        scene,
        &[Expected::exhausted_from(&client, addr.ip(), to, 5)],
    )
}

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

/// A socket whose connect failed is as good as new: it fails again, and connects elsewhere.
fn then_elsewhere(scene: &Scene) -> Result<()> {
    let Exhausted {
        full,
        free,
        mut client,
    } = Exhausted::new(scene, V4)?;
    let fd = client.socket(full.addr)?;
    for _ in 0..3 {
        client.fails(&Op::Connect { fd, to: full.addr }, Errno::ADDRNOTAVAIL)?;
    }
    client.run(&Op::Connect { fd, to: free.addr })?;
    expect(scene, &[Expected::exhausted(&client, full.addr, 3)])?;
    scene.expect(
        client_of(free.addr),
        &["CLOSE>SYN_SENT", "SYN_SENT>ESTABLISHED"],
    )?;
    Ok(())
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
