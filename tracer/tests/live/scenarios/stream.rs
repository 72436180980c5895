//! The whole run of a backend's tracer, after all its scenarios.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::timewait;
use crate::{
    bpf::{skipped_runs, socket_owners},
    lines::{Line, PATIENCE, Record},
    scene::Scene,
    shared::{self, Backend},
    tracer::{Tracer, binary},
};

pub(crate) fn whole_run(backend: Backend) -> Result<()> {
    // There is something in the stream even if this trial is the only one.
    Scene::new(shared::tracer(backend)?)?.settled()?;
    let (tracer, used) = shared::take(backend)?;
    let skipped = skipped_runs(tracer.pid())?;
    let backend = tracer.coverage("time_wait")?.backend;
    let searched = backend.as_deref() == Some("raw_tracepoint");
    no_sockets_of_the_dead(&tracer, skipped)?;
    let finished = tracer.stop(Signal::TERM)?;
    drop(used);
    let stop = finished.check_totals()?;
    // What the kernel did not let it see is a loss, unless another program stood in; and nothing else was lost
    // but, where they are looked for in the hash table, timewait sockets that ended at once.
    let skipped = u64::try_from(skipped)?;
    let unfound = if searched {
        unfound(&finished.lines.all())
    } else {
        0
    };
    ensure!(
        stop.lost <= skipped + unfound,
        "{skipped} runs were skipped, {} lost: {:?}",
        stop.lost,
        finished.losses()
    );
    ensure!(finished.stderr.is_empty(), "stderr: {}", finished.stderr);
    let counts = finished.lines.counts();
    ensure!(
        stop.events >= counts.events
            && stop.failures == counts.failures
            && stop.bind_failures == counts.bind_failures,
        "{stop:?} after {counts:?}"
    );
    let lines = finished.lines.all();
    every_process_is_introduced(&lines)?;
    timewait::lasts_a_minute(&lines)?;
    validate(&lines)
}

/// So many timewait sockets may have ended between their begin and the look for them: one of a hundred.
fn unfound(lines: &[Arc<Line>]) -> u64 {
    let begins = |line: &&Arc<Line>| matches!(&line.record, Record::State(state) if state.new == "TIME_WAIT");
    let begun = lines.iter().filter(begins).count() as u64;
    10.max(begun / 100)
}

/// A socket that is gone leaves the table, however its process ended. The kernel may still be busy
/// with what the last scenario left, so this waits. Only an end that the tracer could not see may
/// leave something.
fn no_sockets_of_the_dead(tracer: &Tracer, skipped: usize) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let owners = socket_owners(tracer.pid())?;
        let dead = |pid: &u32| *pid != 0 && !Path::new(&format!("/proc/{pid}")).exists();
        let dead: Vec<_> = owners.into_iter().filter(dead).collect();
        if dead.len() <= skipped {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{} entries of processes that are gone: {dead:?}",
            dead.len()
        );
        thread::sleep(Duration::from_millis(50));
    }
}

fn every_process_is_introduced(lines: &[Arc<Line>]) -> Result<()> {
    let mut used = BTreeSet::new();
    let mut introduced = BTreeMap::<_, usize>::new();
    for line in lines {
        used.extend(line.record.processes());
        if let Record::Process(process) = &line.record {
            *introduced.entry(process.id.as_str()).or_default() += 1;
        }
    }
    for id in used {
        let times = introduced.get(id).copied().unwrap_or_default();
        ensure!(times == 1, "process {id} was introduced {times} times");
    }
    Ok(())
}

/// Every line is what `tracer schema` says.
pub(crate) fn validate(lines: &[Arc<Line>]) -> Result<()> {
    let output = Command::new(binary()).arg("schema").output()?;
    ensure!(output.status.success(), "tracer schema: {}", output.status);
    let schema = serde_json::from_slice(&output.stdout).context("the schema is not JSON")?;
    let validator = jsonschema::validator_for(&schema)?;
    for line in lines {
        let value = serde_json::from_str(&line.raw)?;
        if let Err(error) = validator.validate(&value) {
            anyhow::bail!("not as the schema says: {error}: {}", line.raw);
        }
    }
    let nonsense = serde_json::json!({"v": 1, "type": "state"});
    ensure!(!validator.is_valid(&nonsense), "the schema allows anything");
    Ok(())
}
