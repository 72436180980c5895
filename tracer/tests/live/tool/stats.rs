//! What tracer says of its own cost, and what it leaves out when that is too high.

use std::{
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::{
    Test,
    metrics::{free_port, sum, wait},
    test,
};
use crate::{
    actor::Op,
    lines::{Keep, Line, NO_NETNS, PATIENCE, Record, Shed, Stats},
    report::note,
    scenarios::stream::validate,
    scene::{Scene, V4},
    tracer::Tracer,
};

pub(super) const ALL: &[Test] = &[test("stats", stats), test("cpu_guard", cpu_guard)];

/// Nobody listens there.
const NOBODY: u16 = 5999;

fn all_stats(lines: &[Arc<Line>]) -> Vec<Stats> {
    let stats = lines.iter().filter_map(|line| match &line.record {
        Record::Stats(stats) => Some(stats.clone()),
        _ => None,
    });
    stats.collect()
}

/// Each line tells its interval, all of them together everything until then.
fn stats() -> Result<()> {
    const CONNECTS: u64 = 3000;
    let scene = Scene::new(Arc::new(Tracer::started(&["--stats", "1"], Keep::All)?))?;
    let to = SocketAddr::new(V4, NOBODY);
    let mut client = scene.actor("client")?;
    let told = |lines: &[Arc<Line>]| {
        all_stats(lines)
            .iter()
            .map(|stats| stats.events)
            .sum::<u64>()
    };
    let ran = |stats: &Stats| {
        stats
            .bpf
            .as_ref()
            .is_none_or(|bpf| bpf.programs.iter().any(|one| one.runs > 0))
    };
    // Until a sample was taken while there was something to count.
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut connects = 0;
    loop {
        connects += CONNECTS;
        let times = CONNECTS;
        ensure!(
            client.run(&Op::Refused { to, times })? == i64::try_from(CONNECTS)?,
            "not all refused"
        );
        let lines = scene.tracer.lines.of(NO_NETNS);
        if told(&lines) >= 2 * CONNECTS && all_stats(&lines).iter().any(&ran) {
            break;
        }
        ensure!(Instant::now() < deadline, "{:?}", all_stats(&lines));
        // The lines of all these connects come before the next `stats`.
        thread::sleep(Duration::from_millis(200));
    }
    let lines = &scene.tracer.lines;
    // Each refused connect has two transitions.
    let lost = scene
        .tracer
        .losses()
        .iter()
        .map(|loss| loss.events)
        .sum::<u64>();
    let everything = lines.wait(NO_NETNS, |lines| {
        (told(lines) + lost >= 2 * connects).then_some(())
    });
    everything.with_context(|| format!("{} of {}", told(&lines.of(NO_NETNS)), 2 * connects))?;
    for stats in all_stats(&lines.of(NO_NETNS)) {
        ensure!((0.4..30.0).contains(&stats.interval_s), "{stats:?}");
        let rate = stats.events as f64 / stats.interval_s;
        ensure!(
            (stats.events_per_s - rate).abs() <= 1.0 + rate / 100.0,
            "{stats:?}"
        );
        ensure!(
            stats.rss_bytes.is_some_and(|rss| rss > 1 << 20),
            "{stats:?}"
        );
        ensure!(stats.table.used <= stats.table.size, "{stats:?}");
    }
    let all = all_stats(&lines.of(NO_NETNS));
    let ring = all
        .iter()
        .filter_map(|stats| stats.ring)
        .map(|ring| ring.used)
        .max();
    ensure!(
        ring.is_some_and(|peak| peak > 0),
        "nothing ever waited in the ring: {all:?}"
    );
    let costs = all.iter().filter_map(|stats| stats.bpf.as_ref());
    let costs = costs
        .flat_map(|bpf| &bpf.programs)
        .filter(|program| program.runs > 100);
    let cost = costs
        .map(|program| format!("{} {:.0} ns", program.name, program.ns_per_run))
        .next();
    note(format!(
        "ring {} bytes at most, {}",
        ring.unwrap_or(0),
        cost.unwrap_or("no runs counted".into())
    ));
    let finished = scene.into_tracer()?.stop(Signal::TERM)?;
    finished.check_totals()?;
    validate(&finished.lines.all())
}

fn sheds(lines: &[Arc<Line>]) -> Vec<Shed> {
    let sheds = lines.iter().filter_map(|line| match &line.record {
        Record::Shed(shed) => Some(shed.clone()),
        _ => None,
    });
    sheds.collect()
}

/// A load that it may not have: `state` lines stay out, failures do not, and all comes back with the calm.
fn cpu_guard() -> Result<()> {
    let port = free_port()?;
    let metrics = port.to_string();
    let args = ["--max-cpu", "5", "--interval", "1", "--metrics", &metrics];
    let scene = Scene::new(Arc::new(Tracer::started(&args, Keep::Few)?))?;
    scene
        .netns
        .sysctl("ipv4/ip_local_port_range", "40000 40015")?;
    let server = scene.server(V4, 5774)?;
    let mut client = scene.actor("client")?;
    let many = Op::ConnectMany {
        v6: false,
        to: server.addr,
        times: 16,
    };
    client.all(&many)?;
    let (mut busy, mut busier) = (scene.actor("busy")?, scene.actor("busier")?);
    let lines = &scene.tracer.lines;
    let to = SocketAddr::new(V4, NOBODY);
    let deadline = Instant::now() + Duration::from_secs(60);
    while sheds(&lines.of(NO_NETNS)).is_empty() {
        let burst = Op::Refused { to, times: 2000 };
        busy.begin(&burst)?;
        busier.run(&burst)?;
        busy.answer()?;
        ensure!(
            Instant::now() < deadline,
            "nothing is left out: {}",
            scene.tracer.stderr()
        );
    }
    // Now, while something is left out.
    client.all(&Op::ConnectMany {
        v6: false,
        to: server.addr,
        times: 5,
    })?;
    let failures = |lines: &[Arc<Line>]| {
        let failed = lines
            .iter()
            .filter(|line| matches!(line.record, Record::ConnectFailed(_)));
        (failed.count() >= 5).then_some(())
    };
    lines
        .wait(scene.netns.inode, failures)
        .context("failures are left out")?;
    let restored = |lines: &[Arc<Line>]| {
        let last = sheds(lines).pop()?;
        (last.level == "nothing").then_some(last)
    };
    let calm = Duration::from_secs(120);
    let last = lines.wait_at_most(calm, NO_NETNS, restored);
    let all = sheds(&lines.of(NO_NETNS));
    last.with_context(|| format!("what is left out never comes back: {all:?}"))?;
    ensure!(
        all[0].level == "state" && all[0].before == "nothing",
        "{all:?}"
    );
    ensure!(
        all[0].cpu_percent.is_some_and(|percent| percent > 5.0),
        "{all:?}"
    );
    let left_out: u64 = all.iter().map(|shed| shed.left_out.state).sum();
    ensure!(left_out > 0, "{all:?}");
    let counted = wait(port, |page| {
        sum(page, "tracer_shed_level", "") == 0.0 && !page.is_empty()
    })?;
    let counted = sum(&counted, "tracer_shed_total", r#"type="state""#);
    ensure!(
        counted == left_out as f64,
        "{counted} counted, {left_out} told"
    );
    // Lines are back, and those that were left out have no number.
    let before = lines.counts().lines;
    busy.run(&Op::Refused { to, times: 10 })?;
    let deadline = Instant::now() + PATIENCE;
    while lines.counts().lines < before + 20 {
        ensure!(Instant::now() < deadline, "no lines come");
        thread::sleep(Duration::from_millis(10));
    }
    note(format!(
        "{left_out} state lines left out, {} lines about it",
        all.len()
    ));
    let finished = scene.into_tracer()?.stop(Signal::TERM)?;
    finished.check_totals()?;
    Ok(())
}
