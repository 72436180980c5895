//! How soon a line is there. Machines are noisy, and emulated ones slow: only the best of many is
//! held to a bound, and a generous one.

use std::{
    fs,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{Test, test};
use crate::{
    lines::{Keep, Record},
    scene::Scene,
    tracer::Tracer,
};

pub(super) const ALL: &[Test] = &[test("latency", latency)];

const TIMES: usize = 20;

fn latency() -> Result<()> {
    let scene = Scene::new(Arc::new(Tracer::started(&[], Keep::All)?))?;
    let mut delays = Vec::new();
    for _ in 0..TIMES {
        // Idle in between, as a host is where single lines matter.
        thread::sleep(Duration::from_millis(30));
        delays.push(delay(&scene, delays.len() + 1)?);
    }
    delays.sort_unstable();
    let (best, median) = (delays[0], delays[TIMES / 2]);
    println!(
        "a line takes {median:?} (median of {TIMES}, best {best:?}, worst {:?})",
        delays[TIMES - 1]
    );
    let bound = if emulated()? { 500 } else { 150 };
    ensure!(
        best < Duration::from_millis(bound),
        "the best of {TIMES} took {best:?}"
    );
    Ok(())
}

/// From the call that makes the event to the arrival of its line.
fn delay(scene: &Scene, number: usize) -> Result<Duration> {
    let began = Instant::now();
    scene.netns.mark()?;
    let arrived = scene.tracer.lines.wait(scene.netns.inode, |lines| {
        let states = lines.iter();
        let mut states = states.filter(|line| matches!(line.record, Record::State(_)));
        states.nth(2 * number - 1).map(|line| line.arrived)
    });
    Ok(arrived
        .context("a line did not come")?
        .duration_since(began))
}

fn emulated() -> Result<bool> {
    Ok(fs::read_to_string("/proc/cpuinfo")?.contains("QEMU"))
}
