//! No free port towards a destination: every failing connect is one line, whoever it hits.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;

use super::{
    Scenario,
    failure::{EADDRNOTAVAIL, Expected, every, expect},
    scenario,
};
use crate::{
    actor::{Actor, Op, Server},
    dump,
    lines::{PATIENCE, State},
    scene::{Scene, V4, V6, client_of},
};

pub(super) const ALL: &[Scenario] = &[
    scenario("exhausted", two_processes),
    scenario("exhausted_in_parallel", in_parallel),
    scenario("exhausted_by_time_wait", by_time_wait),
    scenario("exhausted_ipv6", ipv6),
    scenario("exhausted_v4_mapped", v4_mapped),
    scenario("exhausted_nonblocking", nonblocking),
    scenario("exhausted_fast_open", fast_open),
    scenario("exhausted_in_thread", in_thread),
    scenario("exhausted_from_bound_address", from_bound_address),
    scenario("exhausted_then_elsewhere", then_elsewhere),
    scenario("exhausted_by_waiting", by_waiting),
];

pub(super) const PORTS: usize = 16;
pub(super) const PORT: u16 = 5774;
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

    pub(super) fn prepare(scene: &Scene, ip: IpAddr) -> Result<Self> {
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

pub(super) fn connect_many(client: &mut Actor, to: SocketAddr, times: usize) -> Result<Vec<i64>> {
    let times = u32::try_from(times)?;
    client.all(&Op::ConnectMany {
        v6: to.is_ipv6(),
        to,
        times,
    })
}

pub(super) fn fail_many(client: &mut Actor, to: SocketAddr, times: usize) -> Result<()> {
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

/// Many processes that fail at the same moment, more than there are CPUs, each in a search long
/// enough to be preempted in: where a hook has room for so many at a time, none may be lost.
fn in_parallel(scene: &Scene) -> Result<()> {
    const RANGE: usize = 512;
    const PROCESSES: usize = 8;
    const TIMES: usize = 100;
    let Exhausted {
        full, mut client, ..
    } = Exhausted::prepare(scene, V4)?;
    let to = full.addr;
    scene
        .netns
        .sysctl("ipv4/ip_local_port_range", "40000 40511")?;
    every(&connect_many(&mut client, to, RANGE)?, RANGE, 0)?;
    let mut clients = Vec::new();
    for _ in 0..PROCESSES {
        clients.push(scene.actor("one-of-many")?);
    }
    let times = u32::try_from(TIMES)?;
    for client in &mut clients {
        client.begin(&Op::ConnectMany {
            v6: false,
            to,
            times,
        })?;
    }
    for client in &mut clients {
        every(&client.answer()?, TIMES, EADDRNOTAVAIL)?;
    }
    let expected: Vec<_> = clients
        .iter()
        .map(|client| Expected::exhausted(client, to, TIMES))
        .collect();
    expect(scene, &expected)
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

/// Calls that wait for an answer have a port each, which some rungs see only when they return.
fn by_waiting(scene: &Scene) -> Result<()> {
    const WAITING: u32 = 5;
    // Before the tracer looks at the namespace. One port is for who fills the queue; of an odd number one may be left.
    let range = "ipv4/ip_local_port_range";
    scene.netns.sysctl(range, "40000 40005")?;
    let (server, filler) = scene.deaf_server(PORT)?;
    let to = server.addr;
    let mut waiting = Vec::new();
    for _ in 0..WAITING {
        let mut actor = scene.actor("waits")?;
        let fd = actor.socket(to)?;
        actor.begin(&Op::Connect { fd, to })?;
        waiting.push(actor);
    }
    let deadline = Instant::now() + PATIENCE;
    let asks = |row: &dump::Row| row.state == "SYN_SENT";
    while dump::dump(&scene.netns)?
        .iter()
        .filter(|row| asks(row))
        .count()
        < waiting.len()
    {
        ensure!(Instant::now() < deadline, "nobody waits");
        thread::sleep(Duration::from_millis(5));
    }
    let mut client = scene.actor("client")?;
    fail_many(&mut client, to, 1)?;
    let failed = scene.failures()?;
    let why = &failed.first().context("no failure")?.why;
    let budget = why.budget.as_ref().context("no budget")?;
    let held = why.holders.iter().flatten();
    let held: u32 = held
        .filter_map(|holder| holder.states.get("SYN_SENT"))
        .sum();
    ensure!(
        (budget.in_use, budget.free, held) == (WAITING + 1, 0, WAITING),
        "{budget:?}, {:?}",
        why.holders
    );
    drop(filler);
    Ok(())
}
