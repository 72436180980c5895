//! What the tracer is measured with: the kernel's dump, and the world that fills it. Without a tracer.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;

use super::{Test, test};
use crate::{
    actor::{Actor, Op, Server},
    dump::{self, Row},
    lines::PATIENCE,
    netns::Netns,
    report::note,
    scene::V4,
    world::World,
};

pub(super) const ALL: &[Test] = &[
    test("dump_tells_all", dump_tells_all),
    test("world_has_all", world_has_all),
];

/// One socket of each kind, and each is found as what it is.
fn dump_tells_all() -> Result<()> {
    let netns = Netns::new()?;
    let actor = Actor::spawn(&netns.path(), "server")?;
    let mut server = Server::listen(actor, SocketAddr::new(V4, 5774), 8)?;
    let mut client = Actor::spawn(&netns.path(), "client")?;
    let mut fds = Vec::new();
    for _ in 0..3 {
        fds.push((client.open(server.addr)?, server.accept()?));
    }
    client.close(fds[0].0)?;
    server.actor.run(&Op::ReadToEnd { fd: fds[0].1 })?;
    server.actor.close(fds[0].1)?;
    client.close(fds[1].0)?;
    server.actor.run(&Op::ReadToEnd { fd: fds[1].1 })?;
    let local = client.local(fds[2].0, V4)?;
    client.bound(SocketAddr::new(V4, 20_000))?;

    let rows = settled(&netns)?;
    let bound = rows.iter().filter(|row| row.state == "CLOSE");
    let wanted = usize::from(dump::lists_bound());
    ensure!(
        bound.filter(|row| row.local.port() == 20_000).count() == wanted,
        "{rows:?}"
    );
    let row = rows.iter().find(|row| row.local == local);
    let row = row.context("no socket of the client")?;
    ensure!(row.is_open_in(client.pid), "not the client's: {row:?}");
    can_destroy(&netns, row)
}

/// Waits for the last acknowledgement, which the kernel may delay.
fn settled(netns: &Netns) -> Result<Vec<Row>> {
    let wanted = [
        (("CLOSE_WAIT", false), 1),
        (("ESTABLISHED", false), 2),
        (("FIN_WAIT2", true), 1),
        (("LISTEN", false), 1),
        (("TIME_WAIT", true), 1),
    ];
    let deadline = Instant::now() + PATIENCE;
    loop {
        let rows = dump::dump(netns)?;
        let found: Vec<_> = states(&rows)
            .into_iter()
            .filter(|(state, _)| *state != ("CLOSE", false))
            .collect();
        if found == wanted {
            return Ok(rows);
        }
        ensure!(Instant::now() < deadline, "{rows:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn can_destroy(netns: &Netns, row: &Row) -> Result<()> {
    let done = dump::destroy(netns, row)?;
    if done == Err(Errno::OPNOTSUPP) {
        note("this kernel destroys no sockets".to_owned());
        return Ok(());
    }
    let rows = dump::dump(netns)?;
    ensure!(
        done == Ok(()) && !rows.iter().any(|other| other.cookie == row.cookie),
        "{done:?}, and there is still {row:?}"
    );
    Ok(())
}

fn world_has_all() -> Result<()> {
    let netns = Netns::new()?;
    let mut world = World::new(&netns, 1)?;
    let mut all = BTreeMap::new();
    for _ in 0..4 {
        world.churn(60)?;
        world.tend_idle()?;
        world.destroy_some(&netns)?;
        for (state, times) in states(&dump::dump(&netns)?) {
            *all.entry(state).or_insert(0) += times;
        }
    }
    world.replace_client(&netns)?;
    world.churn(10)?;
    let held = world.held()?.len();
    for state in ["ESTABLISHED", "CLOSE_WAIT", "LISTEN", "SYN_SENT"] {
        ensure!(all.contains_key(&(state, false)), "no {state}: {all:?}");
    }
    for state in ["TIME_WAIT", "FIN_WAIT2"] {
        ensure!(all.contains_key(&(state, true)), "no {state}: {all:?}");
    }
    note(format!("{all:?}, {held} bound"));
    Ok(())
}

fn states(rows: &[Row]) -> BTreeMap<(&'static str, bool), usize> {
    let mut states = BTreeMap::new();
    for row in rows {
        *states.entry((row.state, row.timewait)).or_default() += 1;
    }
    states
}
