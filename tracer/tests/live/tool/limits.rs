//! Too little room: what is lost is counted and said.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Result, ensure};
use rustix::process::Signal;

use super::{Test, test};
use crate::{
    actor::Op,
    lines::{Keep, Record, State},
    scenarios::stream::validate,
    scene::{Scene, V4, of_process, owned_by, role},
    tracer::{Finished, Tracer},
};

pub(super) const ALL: &[Test] = &[
    test("tiny_ring", tiny_ring),
    test("slow_reader", slow_reader),
    test("tiny_table", tiny_table),
];

fn scene(args: &[&str]) -> Result<Scene> {
    Scene::new(Arc::new(Tracer::started(args, Keep::All)?))
}

/// Transitions that were seen when they happened.
fn states_of(finished: &Finished, netns: u64) -> usize {
    let lines = finished.lines.of(netns);
    lines
        .iter()
        .filter(|line| matches!(&line.record, Record::State(state) if !state.corrected))
        .count()
}

/// Refused connects of a burst: each has two transitions.
const BURST: usize = 5000;

fn burst(scene: &Scene) -> Result<()> {
    let to = SocketAddr::new(V4, 5999);
    let mut client = scene.actor("client")?;
    let refused = client.run(&Op::Refused {
        to,
        times: u64::try_from(BURST)?,
    })?;
    ensure!(
        refused == i64::try_from(BURST)?,
        "{refused} of {BURST} were refused"
    );
    Ok(())
}

/// Every event of the burst was printed or counted as lost in the ring, and some were lost.
fn accounted(finished: &Finished, netns: u64) -> Result<()> {
    let stop = finished.check_totals()?;
    let ring = finished.lost_at("ring");
    let seen = states_of(finished, netns);
    ensure!(
        ring > 0 && seen < 2 * BURST,
        "nothing was lost: {seen} seen"
    );
    ensure!(
        u64::try_from(seen)? + ring >= u64::try_from(2 * BURST)?,
        "{seen} seen and {ring} lost of {} events",
        2 * BURST
    );
    ensure!(
        stop.events >= u64::try_from(seen)?,
        "{} events, {seen} seen",
        stop.events
    );
    validate(&finished.lines.all())
}

/// A burst that no ring of one page holds.
fn tiny_ring() -> Result<()> {
    let scene = scene(&["--ring-size", "4096"])?;
    burst(&scene)?;
    let netns = scene.netns.inode;
    accounted(&scene.into_tracer()?.stop(Signal::TERM)?, netns)
}

/// A reader that takes nothing for a while holds up nobody but itself, and misses nothing while there is memory. A
/// signal that comes meanwhile is not forgotten.
fn slow_reader() -> Result<()> {
    let scene = scene(&["--drain-timeout", "60s"])?;
    let netns = scene.netns.inode;
    let lines = scene.tracer.lines.clone();
    let pause = lines.pause();
    burst(&scene)?;
    scene.tracer.signal(Signal::TERM)?;
    drop(pause);
    let finished = scene.into_tracer()?.finish()?;
    finished.check_totals()?;
    let lost = finished.lost_at("ring") + finished.lost_at("program");
    let seen = u64::try_from(states_of(&finished, netns))?;
    ensure!(
        finished.lost_at("output") == 0 && seen + lost >= u64::try_from(2 * BURST)?,
        "{seen} seen, lost {:?}",
        finished.losses()
    );
    Ok(())
}

/// More sockets than the table has room for: the others may be shown without an owner, and are counted.
fn tiny_table() -> Result<()> {
    const SOCKETS: u32 = 40;
    let scene = scene(&["--max-sockets", "8"])?;
    let server = scene.server(V4, 5774)?;
    let mut client = scene.actor("client")?;
    let many = Op::ConnectMany {
        v6: false,
        to: server.addr,
        times: SOCKETS,
    };
    let codes = client.all(&many)?;
    ensure!(codes.iter().all(|code| *code == 0), "{codes:?}");
    let established = |state: &State| state.step() == "SYN_SENT>ESTABLISHED";
    let states = scene.expect_count(established, usize::try_from(SOCKETS)?)?;
    let (owned, others): (Vec<_>, Vec<_>) = states
        .into_iter()
        .partition(|state| state.process.is_some());
    of_process(&owned, &client)?;
    ensure!(
        others.iter().all(|state| state.owner == "none"),
        "an owner without a process"
    );
    // What a table has no room for, it forgets from the second transition on: the first is the
    // connecting process's own.
    let first = scene.states(|state| role("client")(state) && state.new == "SYN_SENT")?;
    owned_by(&first, &client, "connect")?;
    let finished = scene.into_tracer()?.stop(Signal::TERM)?;
    finished.check_totals()?;
    let table = finished.lost_at("table");
    ensure!(
        table >= 32,
        "the table's losses are {table}: {:?}",
        finished.losses()
    );
    validate(&finished.lines.all())
}
