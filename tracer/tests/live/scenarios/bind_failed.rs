//! `bind()` and `listen()` that find no port, or one that somebody has.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;

use super::{
    Scenario,
    exhaustion::{Exhausted, PORTS},
    explained::{holder_of, is_advised, sees_all},
    scenario,
};
use crate::{
    actor::{Actor, Op},
    lines::{BindFailed, Record, State},
    mix::add_up,
    report::{Skip, skip},
    scene::{Scene, V4},
};

pub(super) const ALL: &[Scenario] = &[
    scenario("bind_exhausted", |scene| seen(scene, bind_exhausted)),
    scenario("bind_exhausted_again", |scene| seen(scene, exhausted_again)),
    scenario("bind_address_in_use", |scene| seen(scene, address_in_use)),
    scenario("bind_address_in_use_uring", |scene| seen(scene, by_uring)),
    scenario("bind_free_is_no_failure", |scene| seen(scene, no_failure)),
];

/// The failing binds of this namespace so far.
fn failures(scene: &Scene) -> Result<Vec<BindFailed>> {
    let lines = scene.settled()?;
    let failures = lines.iter().filter_map(|line| match &line.record {
        Record::BindFailed(failed) => Some(failed.clone()),
        _ => None,
    });
    Ok(failures.collect())
}

/// What is missing where the kernel skipped programs is none of the tracer's failures.
fn seen(scene: &Scene, run: fn(&Scene) -> Result<()>) -> Result<()> {
    run(scene).or_else(|error| {
        if !error.is::<Skip>() {
            sees_all(scene)?;
        }
        Err(error)
    })
}

/// Where no hook is to be had for it, `check` says so.
fn is_covered(scene: &Scene) -> Result<()> {
    match scene.tracer.coverage("bind") {
        Ok(_) => Ok(()),
        Err(error) => skip(format!("{error}")),
    }
}

fn is_by(failed: &BindFailed, actor: &Actor, reason: &str, port: Option<u16>) -> Result<()> {
    let process = &failed.process;
    ensure!(
        process.pid == actor.pid
            && process.comm == actor.comm
            && failed.owner == "bind"
            && (failed.errno, failed.error.as_str()) == (libc::EADDRINUSE, "EADDRINUSE")
            && failed.reason == reason
            && failed.family == "ipv4"
            && failed.local.port == port,
        "not {reason} at {port:?} of {}: {failed:?}",
        actor.comm
    );
    Ok(())
}

/// All ports of the range are bound: by `bind()` of one process, by `listen()` of another, there is none left.
fn bind_exhausted(scene: &Scene) -> Result<()> {
    is_covered(scene)?;
    let Exhausted { mut client, .. } = Exhausted::prepare(scene, V4)?;
    let any = ANY;
    bind_all(&mut client)?;
    for _ in 0..2 {
        let fd = client.socket(any)?;
        client.fails(&Op::Bind { fd, addr: any }, Errno::ADDRINUSE)?;
    }
    let mut second = scene.actor("second")?;
    let fd = second.socket(any)?;
    second.fails(&Op::Listen { fd, backlog: 1 }, Errno::ADDRINUSE)?;
    let failures = failures(scene)?;
    let [first, again, listen] = failures.as_slice() else {
        anyhow::bail!("not three failures: {failures:?}");
    };
    is_by(first, &client, "ports_exhausted", None)?;
    is_by(again, &client, "ports_exhausted", None)?;
    is_by(listen, &second, "ports_exhausted", None)?;
    ensure!(
        !first.listen && !again.listen && listen.listen,
        "bind() or listen(): {failures:?}"
    );
    ensure!(
        again.why.explained_by.is_some() && again.why.failures_so_far == Some(2),
        "{again:?}"
    );
    for failed in [first, listen] {
        let budget = failed.why.budget.as_ref().context("no budget")?;
        let holders = failed.why.holders.as_deref().context("no holders")?;
        let all = u32::try_from(PORTS)?;
        ensure!(
            budget.adds_up()
                && budget.free == 0
                && budget.bound == all
                && failed.why.since.is_none(),
            "{failed:?}"
        );
        add_up(holders, budget)?;
        let holder = holder_of(holders, &client)?;
        ensure!(holder.bound == all && holders.len() == 1, "{holders:?}");
        is_advised(&failed.why)?;
    }
    scene.expect_no_failure()
}

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

fn bind_all(client: &mut Actor) -> Result<()> {
    for _ in 0..PORTS {
        let fd = client.socket(ANY)?;
        client.run(&Op::Bind { fd, addr: ANY })?;
    }
    Ok(())
}

/// Of a socket that shows the port of an earlier connection, which somebody else has by now.
fn exhausted_again(scene: &Scene) -> Result<()> {
    is_covered(scene)?;
    let Exhausted {
        mut client, full, ..
    } = Exhausted::prepare(scene, V4)?;
    let fd = client.open(full.addr)?;
    client.run(&Op::Disconnect { fd })?;
    let mut other = scene.actor("other")?;
    bind_all(&mut other)?;
    client.fails(&Op::Listen { fd, backlog: 1 }, Errno::ADDRINUSE)?;
    let failures = failures(scene)?;
    let [failed] = failures.as_slice() else {
        anyhow::bail!("not one failure: {failures:?}");
    };
    is_by(failed, &client, "ports_exhausted", None)?;
    let budget = failed.why.budget.as_ref().context("no budget")?;
    ensure!(budget.bound == u32::try_from(PORTS)?, "{failed:?}");
    let tried = |state: &State| state.old == "LISTEN" || state.new == "LISTEN";
    let by_client = |state: &State| {
        tried(state) && state.process.as_ref().map(|process| process.pid) == Some(client.pid)
    };
    for state in scene.expect(by_client, &["CLOSE>LISTEN", "LISTEN>CLOSE"])? {
        ensure!(state.local.port.is_none(), "a port at last: {state:?}");
    }
    Ok(())
}

fn address_in_use(scene: &Scene) -> Result<()> {
    in_use(scene, |client, fd, addr| {
        client.fails(&Op::Bind { fd, addr }, Errno::ADDRINUSE)
    })
}

/// As [`address_in_use`], without the system call.
fn by_uring(scene: &Scene) -> Result<()> {
    in_use(scene, |client, fd, addr| {
        let result = client.try_do(&Op::UringBind { fd, addr })?;
        if result != -i64::from(libc::EADDRINUSE) {
            return skip(format!(
                "this kernel binds by io_uring not at all (error {result})"
            ));
        }
        Ok(())
    })
}

/// One bind fails, the client's, and the server has what it wants.
fn in_use(
    scene: &Scene,
    fail: impl FnOnce(&mut Actor, i64, SocketAddr) -> Result<()>,
) -> Result<()> {
    is_covered(scene)?;
    let addr = SocketAddr::new(V4, 20_000);
    let server = scene.server(V4, addr.port())?;
    let mut client = scene.actor("client")?;
    let fd = client.socket(addr)?;
    fail(&mut client, fd, addr)?;
    let failures = failures(scene)?;
    let [failed] = failures.as_slice() else {
        anyhow::bail!("not one failure: {failures:?}");
    };
    is_by(failed, &client, "address_in_use", Some(addr.port()))?;
    let held_by = failed.why.held_by.as_ref().context("no held_by")?;
    let process = held_by.process.as_ref().context("nobody has it")?;
    ensure!(
        held_by.local.port == Some(addr.port())
            && process.pid == server.actor.pid
            && !failed.listen,
        "{failed:?}"
    );
    Ok(())
}

/// What succeeds is none, nor is what fails for another reason.
fn no_failure(scene: &Scene) -> Result<()> {
    let mut client = scene.actor("client")?;
    client.bound(SocketAddr::new(V4, 0))?;
    let addr = SocketAddr::new(V4, 20_000);
    let fd = client.bound(addr)?;
    client.fails(&Op::Bind { fd, addr }, Errno::INVAL)?;
    let foreign = SocketAddr::from(([192, 0, 2, 1], 0));
    let fd = client.socket(foreign)?;
    client.fails(&Op::Bind { fd, addr: foreign }, Errno::ADDRNOTAVAIL)?;
    let failures = failures(scene)?;
    ensure!(failures.is_empty(), "{failures:?}");
    Ok(())
}
