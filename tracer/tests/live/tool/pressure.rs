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
    let began = Instant::now();
    let mut fds = Vec::new();
    for number in 0..PORTS {
        thread::sleep((PACE * number).saturating_sub(began.elapsed()));
        fds.push(client.open(to)?);
    }
    let rate = f64::from(PORTS) / began.elapsed().as_secs_f64();
    let full = wait(&scene, to, "critical")?;
    // A reset frees the port at once.
    for fd in fds {
        client.run(&Op::LingerZero { fd })?;
        client.close(fd)?;
    }
    let all = wait(&scene, to, "ok")?;
    rises(&full, rate)?;
    falls(&all)?;
    note(told(&full, rate));
    let finished = scene.into_tracer()?.stop(Signal::TERM)?;
    finished.check_totals()?;
    validate(&finished.lines.all())
}

fn told(full: &[Pressure], rate: f64) -> String {
    let told = full.iter().map(|line| {
        format!(
            "{} at {:.0} %: {:?}/s, full in {:?} s (really {:.1} s)",
            line.level,
            line.used_percent,
            line.open_rate,
            line.exhausts_in_s,
            f64::from(line.budget.free) / rate
        )
    });
    format!(
        "{}; opened at {rate:.1}/s",
        told.collect::<Vec<_>>().join("; ")
    )
}

fn rises(full: &[Pressure], rate: f64) -> Result<()> {
    let [warning, critical] = full else {
        anyhow::bail!("not two lines: {full:?}");
    };
    for (line, level, before, percent) in [
        (warning, "warning", "ok", 70),
        (critical, "critical", "warning", 90),
    ] {
        ensure!(
            line.level == level && line.before == before,
            "not from {before} to {level}: {line:?}"
        );
        // The line is made when the level is crossed, not much later, except on an emulated machine.
        let budget = &line.budget;
        let crossed = line.used_percent >= f64::from(percent)
            && (percent..=percent + 15).contains(&budget.taken());
        ensure!(crossed && budget.adds_up(), "not at {percent} %: {line:?}");
        let percent = f64::from(100 * budget.taken()) / f64::from(PORTS);
        ensure!((line.used_percent - percent).abs() < 0.6, "{line:?}");
        add_up(&line.holders, budget)?;
        let open_rate = line.open_rate.context("no rate")?;
        ensure!(
            (rate / 2.0..rate * 2.0).contains(&open_rate),
            "opened at {rate}/s: {line:?}"
        );
        let left = line.exhausts_in_s.context("no time is given")?;
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
