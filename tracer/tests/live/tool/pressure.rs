//! A destination that fills: it is told when it is nearly full, how soon it will be, and when it is over.

use std::{
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::{Test, test};
use crate::{
    actor::Op,
    lines::{Keep, Line, Pressure, Record},
    mix::add_up,
    report::note,
    scenarios::stream::validate,
    scene::{Scene, V4},
    tracer::Tracer,
};

pub(super) const ALL: &[Test] = &[test("pressure", pressure)];

const PORTS: u32 = 100;
/// Between two connects.
const PACE: Duration = Duration::from_millis(40);

fn of(lines: &[Arc<Line>], to: SocketAddr) -> Vec<Pressure> {
    let here = |pressure: &Pressure| {
        pressure.local_ip.as_deref() == Some("127.0.0.1")
            && pressure.peer.as_ref().and_then(|peer| peer.port) == Some(to.port())
    };
    let lines = lines.iter().filter_map(|line| match &line.record {
        Record::Pressure(pressure) if here(pressure) => Some(pressure.clone()),
        _ => None,
    });
    lines.collect()
}

/// All, once there is one of this level.
fn wait(scene: &Scene, to: SocketAddr, level: &str) -> Result<Vec<Pressure>> {
    let inode = scene.netns.inode;
    let is = |line: &Pressure| line.level == level;
    let come = |lines: &[Arc<Line>]| Some(of(lines, to)).filter(|found| found.iter().any(is));
    let found = scene.tracer.lines.wait(inode, come);
    let said = || format!("{:?}", of(&scene.tracer.lines.of(inode), to));
    found.with_context(|| format!("it is never {level}: {}", said()))
}

fn pressure() -> Result<()> {
    let args = ["--interval", "1", "--warn", "70", "--critical", "90"];
    let scene = Scene::new(Arc::new(Tracer::started(&args, Keep::All)?))?;
    scene
        .netns
        .sysctl("ipv4/ip_local_port_range", "40000 40099")?;
    scene.netns.sysctl("ipv4/tcp_tw_reuse", "0")?;
    let server = scene.server(V4, 5774)?;
    let mut client = scene.actor("client")?;
    let to = server.addr;
    let mut fds = Vec::new();
    let began = Instant::now();
    let mut rates = Vec::new();
    let mut full = Vec::new();
    // A bit above each level, and so long until it is told: a look at every port is not taken at every moment.
    for (level, ports) in [("warning", 75), ("critical", 95)] {
        while fds.len() < ports {
            thread::sleep(PACE);
            fds.push(client.open(to)?);
        }
        rates.push(fds.len() as f64 / began.elapsed().as_secs_f64());
        full = wait(&scene, to, level)?;
    }
    // A reset frees the port at once.
    for fd in fds {
        client.run(&Op::LingerZero { fd })?;
        client.close(fd)?;
    }
    let all = wait(&scene, to, "ok")?;
    rises(&full, &rates)?;
    falls(&all)?;
    note(told(&full, &rates));
    let finished = scene.into_tracer()?.stop(Signal::TERM)?;
    finished.check_totals()?;
    validate(&finished.lines.all())
}

fn told(full: &[Pressure], rates: &[f64]) -> String {
    let told = full.iter().zip(rates).map(|(line, rate)| {
        format!(
            "{} at {:.0} %: {:?}/s (really {rate:.1}/s), full in {:?} s (really {:.1} s)",
            line.level,
            line.used_percent,
            line.open_rate,
            line.exhausts_in_s,
            f64::from(line.budget.free) / rate
        )
    });
    told.collect::<Vec<_>>().join("; ")
}

fn rises(full: &[Pressure], rates: &[f64]) -> Result<()> {
    let ([warning, critical], [first, second]) = (full, rates) else {
        anyhow::bail!("not two lines: {full:?}");
    };
    for (line, level, before, percent, rate) in [
        (warning, "warning", "ok", 70, first),
        (critical, "critical", "warning", 90, second),
    ] {
        ensure!(
            line.level == level && line.before == before,
            "not from {before} to {level}: {line:?}"
        );
        let budget = &line.budget;
        let crossed = line.used_percent >= f64::from(percent)
            && (percent..=percent + 5).contains(&budget.taken());
        ensure!(crossed && budget.adds_up(), "not at {percent} %: {line:?}");
        let percent = f64::from(100 * budget.taken()) / f64::from(PORTS);
        ensure!((line.used_percent - percent).abs() < 0.6, "{line:?}");
        add_up(&line.holders, budget)?;
        let open_rate = line.open_rate.context("no rate")?;
        ensure!(
            (rate / 2.0..rate * 2.0).contains(&open_rate),
            "opened at {rate}/s: {line:?}"
        );
        let left = line
            .exhausts_in_s
            .with_context(|| format!("no time is given: {line:?}"))?;
        ensure!(
            line.forecast == "exhausts" && left > 0.0 && line.window_s.is_some(),
            "it fills: {line:?}"
        );
        ensure!(!line.advice.is_empty(), "no advice: {line:?}");
    }
    Ok(())
}

/// Down again, in one step or in two.
fn falls(all: &[Pressure]) -> Result<()> {
    let last = all.last().context("no line")?;
    let in_order = all.windows(2).all(|pair| pair[0].level == pair[1].before);
    ensure!(in_order && last.level == "ok", "{all:?}");
    Ok(())
}
