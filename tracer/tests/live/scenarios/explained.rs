//! A failure says why: how many ports there are, who has them, since when, and what to do.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;

use super::{
    Scenario,
    exhaustion::{Exhausted, PORTS, connect_many, fail_many},
    failure::every,
    scenario,
    timewait::close_first,
};
use crate::{
    actor::{Actor, Op},
    bpf::skipped_runs,
    lines::{Budget, ConnectFailed, Holder, Line, Record, Why},
    mix::{Batch, add_up},
    random::Random,
    report::{note, skip},
    scene::{Scene, V4, of},
    shared,
    tool::budget::explained,
};

use super::truth::seed;

pub(super) const ALL: &[Scenario] = &[
    scenario("failure_explained", in_full),
    scenario("failures_short", in_short),
    scenario("failure_explained_by_binds", by_binds),
    scenario("tuple_in_use_explained", by_tuple),
    scenario("no_source_explained", by_address),
    scenario("budget_at_failure", at_failure),
];

/// Where the kernel skips programs, what is known is not all, and nothing can be asked of it.
pub(super) fn sees_all(scene: &Scene) -> Result<()> {
    match skipped_runs(scene.tracer.pid())? {
        0 => Ok(()),
        runs => skip(format!("the kernel skipped {runs} runs of programs")),
    }
}

/// The failing connects of a process, with the numbers of their lines.
fn failures_of(lines: &[Arc<Line>], actor: &Actor) -> Vec<(u64, ConnectFailed)> {
    let failures = lines.iter().filter_map(|line| match &line.record {
        Record::ConnectFailed(failed) if failed.process.pid == actor.pid => {
            Some((line.seq, failed.clone()))
        }
        _ => None,
    });
    failures.collect()
}

pub(super) fn ids(why: &Why) -> Vec<&str> {
    why.advice.iter().map(|advice| advice.id.as_str()).collect()
}

/// It has advice, and each piece of it says all.
pub(super) fn is_advised(why: &Why) -> Result<()> {
    let whole = |text: &str| text.split_whitespace().count() >= 3;
    let words = why.advice.iter();
    ensure!(
        !why.advice.is_empty()
            && words.clone().all(|advice| !advice.id.is_empty())
            && words.clone().all(|advice| whole(&advice.why))
            && words.clone().all(|advice| !advice.how.is_empty()),
        "no advice: {:?}",
        why.advice
    );
    let mut ids = ids(why);
    ids.sort_unstable();
    let count = ids.len();
    ids.dedup();
    ensure!(ids.len() == count, "the same advice twice: {ids:?}");
    Ok(())
}

pub(super) fn holder_of<'a>(holders: &'a [Holder], actor: &Actor) -> Result<&'a Holder> {
    let is = |holder: &&Holder| {
        let process = holder.process.as_ref();
        process.is_some_and(|process| process.pid == actor.pid && process.comm == actor.comm)
    };
    let found = holders.iter().find(is);
    found.with_context(|| format!("{} is not among {holders:?}", actor.comm))
}

/// Ports of a process that has ended, which nobody else can name, and of one that lives.
fn in_full(scene: &Scene) -> Result<()> {
    const LEFT: usize = 10;
    const OPEN: usize = PORTS - LEFT;
    let Exhausted {
        mut full,
        mut client,
        ..
    } = Exhausted::prepare(scene, V4)?;
    let to = full.addr;
    let mut gone = scene.actor("gone")?;
    for _ in 0..LEFT {
        close_first(&mut full, &mut gone)?;
    }
    let ended = |state: &crate::lines::State| of(&gone)(state) && state.new == "TIME_WAIT";
    scene.expect_count(ended, LEFT)?;
    gone.exit()?;
    every(&connect_many(&mut client, to, OPEN)?, OPEN, 0)?;
    fail_many(&mut client, to, 3)?;
    let lines = scene.settled()?;
    sees_all(scene)?;
    let failures = failures_of(&lines, &client);
    ensure!(failures.len() == 3, "{failures:?}");
    let failed = &failures[0].1;
    let why = &failed.why;
    let wanted = Budget {
        ports: [40_000, 40_015],
        range: 16,
        reserved: 0,
        bound: 0,
        in_use: 16,
        time_wait: 10,
        reusable: 0,
        free: 0,
        uncertain: false,
    };
    ensure!(why.budget.as_ref() == Some(&wanted), "budget: {failed:?}");
    let holders = why.holders.as_deref().context("no holders")?;
    add_up(holders, &wanted)?;
    let row = |actor, exited, state: &str, ports: usize| -> Result<()> {
        let holder = holder_of(holders, actor)?;
        let ports = u32::try_from(ports)?;
        ensure!(
            holder.exited == Some(exited)
                && holder.ports == ports
                && holder.states == [(state.to_owned(), ports)].into(),
            "{holder:?}"
        );
        Ok(())
    };
    row(&client, false, "ESTABLISHED", OPEN)?;
    row(&gone, true, "TIME_WAIT", LEFT)?;
    ensure!(holders.len() == 2, "{holders:?}");
    // The tracer has seen how it began.
    ensure!(
        why.since.is_some() && failed.socket_range.is_none() && why.explained_by.is_none(),
        "{failed:?}"
    );
    is_advised(why)?;
    ensure!(ids(why)[0] == "reuse_connections", "{:?}", ids(why));
    counted(&failures)
}

fn counted(failures: &[(u64, ConnectFailed)]) -> Result<()> {
    for (number, (_, failed)) in failures.iter().enumerate() {
        ensure!(
            failed.why.failures_so_far == Some(number as u64 + 1) && failed.why.repeats.is_none(),
            "not the failure {} of this process: {failed:?}",
            number + 1
        );
    }
    Ok(())
}

/// Two processes fail again and again: each is told in full at first, and then at most once in a second.
fn in_short(scene: &Scene) -> Result<()> {
    const TIMES: usize = 200;
    let Exhausted {
        full, mut client, ..
    } = Exhausted::new(scene, V4)?;
    let to = full.addr;
    let mut second = scene.actor("second")?;
    let began = Instant::now();
    let times = u32::try_from(TIMES)?;
    for actor in [&mut client, &mut second] {
        actor.begin(&Op::ConnectMany {
            v6: false,
            to,
            times,
        })?;
    }
    for actor in [&mut client, &mut second] {
        every(&actor.answer()?, TIMES, super::failure::EADDRNOTAVAIL)?;
    }
    let took = began.elapsed();
    let lines = scene.settled()?;
    sees_all(scene)?;
    for actor in [&client, &second] {
        let failures = failures_of(&lines, actor);
        ensure!(
            failures.len() == TIMES,
            "{} lines instead of {TIMES}",
            failures.len()
        );
        counted(&failures)?;
        points_back(&failures, took)?;
    }
    Ok(())
}

/// The first is told in full, and each of the others too or it names one that is.
fn points_back(failures: &[(u64, ConnectFailed)], took: Duration) -> Result<()> {
    let mut full = BTreeMap::new();
    for (seq, failed) in failures {
        let why = &failed.why;
        match why.explained_by {
            None => {
                let whole = why.budget.is_some() && why.holders.is_some();
                ensure!(whole && !why.advice.is_empty(), "not in full: {failed:?}");
                full.insert(*seq, failed.peer.clone());
            }
            Some(by) => {
                let bare = why.budget.is_none() && why.holders.is_none() && why.since.is_none();
                ensure!(bare && why.advice.is_empty(), "not in short: {failed:?}");
                ensure!(
                    full.get(&by) == Some(&failed.peer),
                    "{by} is none of {full:?}: {failed:?}"
                );
            }
        }
    }
    let most = usize::try_from(took.as_secs())? + 1;
    ensure!(
        (1..=most).contains(&full.len()),
        "{} of {} are in full, in {took:?}",
        full.len(),
        failures.len()
    );
    Ok(())
}

/// Ports that somebody has bound are lost for every destination.
fn by_binds(scene: &Scene) -> Result<()> {
    let Exhausted {
        full, mut client, ..
    } = Exhausted::prepare(scene, V4)?;
    let mut binder = scene.actor("binder")?;
    for _ in 0..PORTS / 2 {
        let fd = binder.run(&Op::Socket { v6: false })?;
        let addr = SocketAddr::new(V4, 0);
        binder.run(&Op::Bind { fd, addr })?;
    }
    every(
        &connect_many(&mut client, full.addr, PORTS / 2)?,
        PORTS / 2,
        0,
    )?;
    fail_many(&mut client, full.addr, 1)?;
    let lines = scene.settled()?;
    sees_all(scene)?;
    let failures = failures_of(&lines, &client);
    let (_, failed) = failures.first().context("no failure")?;
    let budget = failed.why.budget.as_ref().context("no budget")?;
    let half = u32::try_from(PORTS / 2)?;
    ensure!(
        (budget.bound, budget.in_use, budget.free) == (half, half, 0) && budget.adds_up(),
        "{budget:?}"
    );
    let holders = failed.why.holders.as_deref().context("no holders")?;
    add_up(holders, budget)?;
    let binder = holder_of(holders, &binder)?;
    ensure!(
        binder.bound == half && binder.ports == half && binder.exited == Some(false),
        "{binder:?}"
    );
    is_advised(&failed.why)
}

/// The socket in the way, and whose it is.
fn by_tuple(scene: &Scene) -> Result<()> {
    let server = scene.server(V4, 5774)?;
    let local = SocketAddr::new(V4, 20_000);
    let (mut first, mut second) = (scene.actor("first")?, scene.actor("second")?);
    let to = server.addr;
    let fds = (first.bound(local)?, second.bound(local)?);
    first.run(&Op::Connect { fd: fds.0, to })?;
    second.fails(&Op::Connect { fd: fds.1, to }, Errno::ADDRNOTAVAIL)?;
    let lines = scene.settled()?;
    sees_all(scene)?;
    let failures = failures_of(&lines, &second);
    let (_, failed) = failures.first().context("no failure")?;
    let held_by = failed.why.held_by.as_ref().context("no held_by")?;
    let process = held_by.process.as_ref().context("nobody has it")?;
    ensure!(
        failed.reason == "tuple_in_use"
            && held_by.local.port == Some(local.port())
            && held_by
                .state
                .as_deref()
                .is_none_or(|state| state == "ESTABLISHED")
            && process.pid == first.pid
            && process.comm == first.comm,
        "{failed:?}"
    );
    is_advised(&failed.why)
}

/// No port was looked for: there is only advice.
fn by_address(scene: &Scene) -> Result<()> {
    scene.netns.sysctl("ipv6/conf/all/disable_ipv6", "1")?;
    scene.netns.sysctl("ipv6/conf/lo/disable_ipv6", "1")?;
    let mut client = scene.actor("client")?;
    let to = SocketAddr::new(crate::scene::V6, 5774);
    let fd = client.socket(to)?;
    client.fails(&Op::Connect { fd, to }, Errno::ADDRNOTAVAIL)?;
    let lines = scene.settled()?;
    sees_all(scene)?;
    let failures = failures_of(&lines, &client);
    let (_, failed) = failures.first().context("no failure")?;
    let why = &failed.why;
    ensure!(
        failed.reason == "no_source_address" && why.budget.is_none() && why.holders.is_none(),
        "{failed:?}"
    );
    is_advised(why)
}

/// Random mixes of holders, which the tracer has seen come: when no port is left, it says so, and whose they are.
fn at_failure(scene: &Scene) -> Result<()> {
    const MIXES: usize = 8;
    let seed = seed();
    let mut random = Random::new(seed);
    let batch = Batch::new(&mut random, MIXES)?;
    let mut wrong = Vec::new();
    let used = batch.each(|mix, probe| {
        let narrow = probe.fill_narrow(mix)?;
        let narrow = narrow.map_or(Ok(()), |(filled, range)| {
            explained(&scene.tracer, mix, filled, Some(range)).context("with an own range")
        });
        let filled = probe.fill(mix)?;
        let whole = explained(&scene.tracer, mix, filled, None);
        if let Err(error) = narrow.and(whole) {
            wrong.push(format!("{error:#}; {}", mix.in_words()));
        }
        Ok(())
    })?;
    used.into_iter().for_each(shared::keep);
    note(format!("{MIXES} mixes, {} wrong", wrong.len()));
    sees_all(scene)?;
    ensure!(
        wrong.is_empty(),
        "{} of {MIXES} are wrong, TRACER_LIVE_SEED={seed} gives them again; first {}",
        wrong.len(),
        wrong[0]
    );
    Ok(())
}
