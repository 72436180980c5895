//! Exhaustion hit through io_uring: no connect system call is to be seen, and a worker thread of
//! the kernel may do the work.

use std::net::SocketAddr;

use anyhow::{Result, ensure};

use super::{
    Scenario,
    exhaustion::Exhausted,
    failure::{EADDRNOTAVAIL, Expected, every, expect},
    scenario,
};
use crate::{
    actor::{Actor, Op},
    report::skip,
    scene::{Scene, V4, V6, client_of},
};

pub(super) const ALL: &[Scenario] = &[
    scenario("uring_exhausted", inline),
    scenario("uring_exhausted_batch", batch),
    scenario("uring_exhausted_punted", punted),
    scenario("uring_exhausted_ipv6", ipv6),
    scenario("uring_connects", connects),
];

/// Connects on new sockets in one submission.
fn submit(client: &mut Actor, to: &[SocketAddr], punt: bool) -> Result<Vec<i64>> {
    let mut connects = Vec::new();
    for to in to {
        connects.push((client.socket(*to)?, *to));
    }
    submit_on(client, connects, punt)
}

/// As [`submit`], on these sockets. Skips the trial where the kernel has no io_uring.
pub(super) fn submit_on(
    client: &mut Actor,
    connects: Vec<(i64, SocketAddr)>,
    punt: bool,
) -> Result<Vec<i64>> {
    let wanted = connects.len();
    let results = client.all(&Op::Uring { connects, punt })?;
    if let [error] = results[..]
        && [-libc::ENOSYS, -libc::EPERM]
            .map(i64::from)
            .contains(&error)
    {
        return skip(format!(
            "this kernel has no io_uring to use (error {error})"
        ));
    }
    ensure!(
        results.len() == wanted,
        "{wanted} connects gave {results:?}"
    );
    Ok(results)
}

fn inline(scene: &Scene) -> Result<()> {
    let Exhausted {
        full, mut client, ..
    } = Exhausted::new(scene, V4)?;
    for _ in 0..10 {
        every(&submit(&mut client, &[full.addr], false)?, 1, EADDRNOTAVAIL)?;
    }
    expect(scene, &[Expected::exhausted(&client, full.addr, 10)])
}

/// Successes and failures of one submission must not be mixed up.
fn batch(scene: &Scene) -> Result<()> {
    let Exhausted {
        full,
        free,
        mut client,
    } = Exhausted::new(scene, V4)?;
    for _ in 0..4 {
        let to = [
            full.addr, free.addr, full.addr, full.addr, free.addr, full.addr,
        ];
        let results = submit(&mut client, &to, false)?;
        for (to, result) in to.iter().zip(&results) {
            let wanted = if *to == full.addr { EADDRNOTAVAIL } else { 0 };
            ensure!(*result == wanted, "{to}: {results:?}");
        }
    }
    expect(scene, &[Expected::exhausted(&client, full.addr, 16)])
}

fn punted(scene: &Scene) -> Result<()> {
    let Exhausted {
        full,
        free,
        mut client,
    } = Exhausted::new(scene, V4)?;
    let to = [full.addr, full.addr, free.addr, full.addr];
    for _ in 0..3 {
        let results = submit(&mut client, &to, true)?;
        ensure!(results[2] == 0, "{results:?}");
        every(&[results[0], results[1], results[3]], 3, EADDRNOTAVAIL)?;
    }
    expect(
        scene,
        &[Expected::exhausted(&client, full.addr, 9).by_any_thread()],
    )
}

fn ipv6(scene: &Scene) -> Result<()> {
    let Exhausted {
        full, mut client, ..
    } = Exhausted::new(scene, V6)?;
    every(
        &submit(&mut client, &[full.addr; 4], false)?,
        4,
        EADDRNOTAVAIL,
    )?;
    expect(scene, &[Expected::exhausted(&client, full.addr, 4)])
}

/// The owner of a connection made by a worker thread is the process that asked for it.
fn connects(scene: &Scene) -> Result<()> {
    let mut server = scene.server(V4, 5774)?;
    let mut client = scene.actor("client")?;
    for punt in [false, true] {
        every(&submit(&mut client, &[server.addr; 3], punt)?, 3, 0)?;
    }
    server.accept()?;
    let states = scene.expect_count(client_of(server.addr), 12)?;
    for state in &states {
        let process = state.process.as_ref();
        ensure!(
            process.is_some_and(|process| process.pid == client.pid && process.comm == "client"),
            "not the client's: {state:?}"
        );
    }
    scene.expect_no_failure()
}
