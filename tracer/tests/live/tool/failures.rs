//! Many failures, and how they are told: each, or counted. Their sum is always what the clients count.

use std::{
    fs,
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::{Test, test};
use crate::{
    actor::{Actor, Op},
    lines::{ConnectFailed, Keep, Line, Record},
    report::note,
    scenarios::stream::validate,
    scene::{Scene, V4},
    tracer::{Finished, Tracer},
};

pub(super) const ALL: &[Test] = &[
    test("coalesced_failures", coalesced),
    test("failure_storm", storm),
];

const PORTS: usize = 16;

/// A namespace without a free port towards the answer.
fn exhausted(args: &[&str], keep: Keep) -> Result<(Scene, SocketAddr, [Actor; 2])> {
    let scene = Scene::new(Arc::new(Tracer::started(args, keep)?))?;
    let netns = &scene.netns;
    netns.sysctl("ipv4/ip_local_port_range", "40000 40015")?;
    let server = scene.server(V4, 5774)?;
    let to = server.addr;
    let mut holder = scene.actor("holder")?;
    let times = u32::try_from(PORTS)?;
    let codes = holder.all(&Op::ConnectMany {
        v6: false,
        to,
        times,
    })?;
    ensure!(codes.iter().all(|code| *code == 0), "{codes:?}");
    Ok((scene, to, [server.actor, holder]))
}

fn failures(lines: &[Arc<Line>], pid: u32) -> Vec<ConnectFailed> {
    let failures = lines.iter().filter_map(|line| match &line.record {
        Record::ConnectFailed(failed) if failed.process.pid == pid => Some(failed.clone()),
        _ => None,
    });
    failures.collect()
}

/// What the clients counted is what was told, as far as nothing was lost.
fn accounted(finished: &Finished, netns: u64, clients: &[(u32, u64)]) -> Result<usize> {
    let stop = finished.check_totals()?;
    let told = finished.lines.counts().failures;
    ensure!(
        stop.failures == told,
        "stop says {} failures, the lines {told}",
        stop.failures
    );
    let lines = finished.lines.of(netns);
    let mut in_lines = 0;
    for (pid, times) in clients {
        let failures = failures(&lines, *pid);
        let sum: u64 = failures.iter().map(|failed| failed.why.times()).sum();
        ensure!(
            sum <= *times && sum + stop.lost >= *times,
            "{pid} failed {times} times, {sum} are told, {} events were lost",
            stop.lost
        );
        in_lines += failures.len();
    }
    Ok(in_lines)
}

/// Counted instead of told.
fn coalesced() -> Result<()> {
    const TIMES: u32 = 3000;
    let (scene, to, _kept) = exhausted(&["--coalesce-failures"], Keep::All)?;
    let mut clients = [scene.actor("one")?, scene.actor("other")?];
    for _ in 0..2 {
        for client in &mut clients {
            client.begin(&Op::ConnectMany {
                v6: false,
                to,
                times: TIMES,
            })?;
        }
        for client in &mut clients {
            let codes = client.answer()?;
            let failed = codes.iter().filter(|code| **code == -99).count();
            ensure!(failed == codes.len(), "{failed} of {} failed", codes.len());
        }
    }
    let began = Instant::now();
    let counts: Vec<_> = clients
        .iter()
        .map(|client| (client.pid, u64::from(2 * TIMES)))
        .collect();
    let netns = scene.netns.inode;
    let finished = scene.into_tracer()?.stop(Signal::TERM)?;
    let lines = accounted(&finished, netns, &counts)?;
    let all = usize::try_from(4 * TIMES)?;
    ensure!(lines < all / 10, "{lines} lines for {all} failures");
    note(format!(
        "{all} failures in {lines} lines, the end took {:?}",
        began.elapsed()
    ));
    validate(&finished.lines.all())
}

/// Two processes that fail as fast as they can. What that costs is told, and not judged.
fn storm() -> Result<()> {
    const RATE: u32 = 10_000;
    const TIME: Duration = Duration::from_secs(3);
    let (scene, to, _kept) = exhausted(&["--interval", "1"], Keep::Rare)?;
    let nobody = SocketAddr::new(V4, 5999);
    let mut clients = [scene.actor("one")?, scene.actor("other")?];
    // First connects that are refused: the same without failures.
    let mut counts = Vec::new();
    let mut told = Vec::new();
    for to in [nobody, to] {
        let before = cpu_time(scene.tracer.pid())?;
        for client in &mut clients {
            client.begin(&Op::Storm {
                to,
                threads: 2,
                rate: RATE,
                millis: u64::try_from(TIME.as_millis())?,
            })?;
        }
        counts.clear();
        let mut all = 0;
        for client in &mut clients {
            let answer = client.answer()?;
            let [failed, others] = answer.as_slice() else {
                anyhow::bail!("the storm answered {answer:?}");
            };
            counts.push((client.pid, u64::try_from(*failed)?));
            all += failed + others;
        }
        // It may lag behind.
        thread::sleep(Duration::from_millis(500));
        let used = cpu_time(scene.tracer.pid())?.saturating_sub(before);
        told.push(format!(
            "{} connects/s at {:.1} % of a CPU",
            all / i64::try_from(TIME.as_secs())?,
            100.0 * used.as_secs_f64() / TIME.as_secs_f64()
        ));
    }
    let sum: u64 = counts.iter().map(|(_, count)| count).sum();
    ensure!(sum > 0, "nothing failed");
    let netns = scene.netns.inode;
    let finished = scene.into_tracer()?.stop(Signal::TERM)?;
    accounted(&finished, netns, &counts)?;
    let lost = finished.stop_record()?.lost;
    note(format!(
        "refused: {}; failing: {}; {sum} failures, {lost} events lost",
        told[0], told[1]
    ));
    Ok(())
}

/// Of all threads, user and system, until now.
fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    // utime and stime are fields 14 and 15; the first after the name is 3.
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    // USER_HZ is 100 on every architecture that matters here.
    Ok(Duration::from_millis(10 * ticks))
}
