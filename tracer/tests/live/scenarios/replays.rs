//! A recorded run is replayed: every line comes as it was.

use std::{env, fs, process, process::Command, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::{
    exhaustion::{connect_many, fail_many},
    failure::every,
    timewait::close_first,
};
use crate::{
    lines::{Keep, Line, Record, is_input},
    report::note,
    scene::{Scene, V4},
    shared::{self, Backend},
    tracer::{Finished, binary},
};

const PORT: u16 = 5774;
const RANGE: &str = "40000 40007";
const LEFT: usize = 3;
const OPEN: usize = 5;
const FAILED: usize = 4;

/// Exhaustion, pressure, usage, a snapshot and the end.
pub(super) fn replays(backend: Backend) -> Result<()> {
    let args = ["--replayable", "--interval", "1", "--warn", "50"];
    let scene = Scene::new(Arc::new(shared::start(backend, &args, Keep::Recorded)?))?;
    scene.netns.sysctl("ipv4/ip_local_port_range", RANGE)?;
    scene.netns.sysctl("ipv4/tcp_tw_reuse", "0")?;
    let mut server = scene.server(V4, PORT)?;
    let mut client = scene.actor("client")?;
    for _ in 0..LEFT {
        close_first(&mut server, &mut client)?;
    }
    every(&connect_many(&mut client, server.addr, OPEN)?, OPEN, 0)?;
    fail_many(&mut client, server.addr, FAILED)?;
    wait(&scene, "connect_failed", |record| {
        matches!(record, Record::ConnectFailed(_))
    })?;
    wait(&scene, "pressure", |record| {
        matches!(record, Record::Pressure(_))
    })?;
    scene.tracer.snapshot()?;
    client.exit()?;
    wait(
        &scene,
        "usage of who has ended",
        |record| matches!(record, Record::Usage(usage) if usage.exited == Some(true)),
    )?;
    let Scene { tracer, netns, .. } = scene;
    let tracer = Arc::into_inner(tracer).context("the tracer is still in use")?;
    let finished = tracer.stop(Signal::TERM)?;
    finished.check_totals()?;
    // TIME_WAIT would end with it.
    drop(netns);
    same_again(&finished)
}

fn wait(scene: &Scene, what: &str, is: impl Fn(&Record) -> bool) -> Result<()> {
    let come = |lines: &[Arc<Line>]| lines.iter().any(|line| is(&line.record)).then_some(());
    let come = scene.tracer.lines.wait(scene.netns.inode, come);
    come.with_context(|| format!("no {what} line came"))
}

/// `tracer replay` makes the same lines from what was recorded of the run.
pub(crate) fn same_again(finished: &Finished) -> Result<()> {
    let recorded = finished.lines.recorded();
    let lines = recorded.split_inclusive('\n');
    let lines: String = lines.filter(|line| !is_input(line)).collect();
    let inputs = recorded.len() - lines.len();
    ensure!(inputs > 0, "nothing was recorded");
    let file = env::temp_dir().join(format!("tracer-replays-{}", process::id()));
    fs::write(&file, &recorded)?;
    let output = Command::new(binary()).arg("replay").arg(&file).output();
    fs::remove_file(&file)?;
    let output = output?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && said.is_empty(),
        "{}: {said}",
        output.status
    );
    let again = String::from_utf8(output.stdout)?;
    let differs = lines.lines().zip(again.lines()).find(|(was, is)| was != is);
    ensure!(differs.is_none(), "not as it was: {differs:?}");
    ensure!(
        again == lines,
        "{} bytes of {} came again",
        again.len(),
        lines.len()
    );
    note(format!(
        "{} bytes of lines, {inputs} bytes of inputs",
        lines.len()
    ));
    Ok(())
}
