//! Nothing stays behind in the kernel's socket table.

use std::{env, net::SocketAddr, sync::Arc, thread};

use anyhow::{Result, ensure};
use rustix::process::Signal;

use crate::{
    actor::{Actor, Op},
    bpf::socket_owners,
    lines::Keep,
    scene::{Scene, V4},
    shared::{self, Backend},
};

const NOBODY: u16 = 5999;

/// How many connects the flood makes; fewer on slow machines.
pub(super) fn connects() -> u64 {
    let set = env::var("TRACER_LIVE_REFUSED").ok();
    set.and_then(|number| number.parse().ok())
        .unwrap_or(1_000_000)
}

/// After the shared tracer has ended, which would print all of it too. The table is small enough
/// that a leak of one in two hundred would fill it.
pub(crate) fn million_refused(backend: Backend) -> Result<()> {
    // The reader is slower than the flood: millions of lines wait for it.
    let options = [
        "--max-sockets",
        "4096",
        "--buffer",
        "4G",
        "--drain-timeout",
        "5m",
    ];
    let tracer = shared::start(backend, &options, Keep::Rare)?;
    let scene = Scene::new(Arc::new(tracer))?;
    let (server, mut holder) = (scene.server(V4, 5774)?, scene.actor("holder")?);
    holder.open(server.addr)?;
    let mut clients = flood(&scene)?;
    clients.push(holder);

    let owners = socket_owners(scene.tracer.pid())?;
    for client in &clients {
        let entries = owners.iter().filter(|pid| **pid == client.pid).count();
        // The connection that lives is there: the table is really what we look at.
        let wanted = usize::from(client.comm == "holder");
        ensure!(
            entries == wanted,
            "{entries} entries of {}, {wanted} expected",
            client.comm
        );
    }
    let finished = scene.into_tracer()?.stop(Signal::TERM)?;
    finished.check_totals()?;
    let full = finished
        .losses()
        .into_iter()
        .find(|loss| loss.place == "table");
    ensure!(full.is_none(), "the table was full: {full:?}");
    Ok(())
}

fn flood(scene: &Scene) -> Result<Vec<Actor>> {
    let workers = u64::try_from(thread::available_parallelism()?.get())?;
    let times = connects() / workers;
    let mut clients = Vec::new();
    for _ in 0..workers {
        let mut client = scene.actor("flood")?;
        client.begin(&Op::Refused {
            to: SocketAddr::new(V4, NOBODY),
            times,
        })?;
        clients.push(client);
    }
    for client in &mut clients {
        let refused = client.answer()?;
        ensure!(
            refused == [i64::try_from(times)?],
            "{refused:?} of {times} were refused"
        );
    }
    Ok(clients)
}
