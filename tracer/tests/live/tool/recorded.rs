//! The flight recorder: what it keeps, on a disk that is full, and after kills at random moments.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::{Test, stalled::Disk, test};
use crate::{
    actor::{Actor, Op, Server},
    bpf,
    lines::PATIENCE,
    netns::Netns,
    output::{Account, Dir, Load, Run, needs_no_kernel, scaled},
    random::Random,
    report::note,
    scenarios::truth::seed,
    scene::V4,
};

pub(super) const ALL: &[Test] = &[
    test("flight_recorder", flight_recorder),
    test("recorder_without_reader", recorder_without_reader),
    test("recorder_disk_full", recorder_disk_full),
    test("killed_under_load", killed_under_load),
];

/// The lines of a recording, every one of which must be whole.
fn lines(path: &Path) -> Result<Vec<Value>> {
    let bytes = zstd::decode_all(File::open(path)?)
        .with_context(|| format!("{} can't be read", path.display()))?;
    let text = String::from_utf8(bytes)?;
    ensure!(
        text.is_empty() || text.ends_with('\n'),
        "{} ends in a line",
        path.display()
    );
    let lines = text.lines().map(serde_json::from_str);
    Ok(lines.collect::<Result<_, _>>()?)
}

fn is_own(line: &&Value) -> bool {
    line["repeated"] != true
}

/// Makes connects fail in a namespace of four ports.
fn exhaust() -> Result<()> {
    let netns = Netns::new()?;
    netns.sysctl("ipv4/ip_local_port_range", "40000 40003")?;
    let server = Actor::spawn(&netns.path(), "server")?;
    let server = Server::listen(server, SocketAddr::new(V4, 5774), 16)?;
    let codes = Actor::spawn(&netns.path(), "client")?.all(&Op::ConnectMany {
        v6: false,
        to: server.addr,
        times: 8,
    })?;
    ensure!(
        codes.iter().filter(|code| **code != 0).count() == 4,
        "{codes:?}"
    );
    Ok(())
}

/// The first failure has what was before it kept, and what comes after it.
fn flight_recorder() -> Result<()> {
    let dir = Dir::new()?;
    let (out, recorder) = (dir.join("out"), dir.join("recorder"));
    let args = [
        "--output",
        out.to_str().context("not UTF-8")?,
        "--flight-recorder",
        recorder.to_str().context("not UTF-8")?,
        "--keep",
        "1m,8MiB",
        "--drain-timeout",
        "60s",
    ];
    let mut run = Run::start(&dir, &args)?;
    run.wait_for(&out)?;
    let mut load = Load::new()?;
    load.run(500)?;
    exhaust()?;
    let told = || Ok(fs::read_to_string(&out)?.contains(r#""event":"frozen""#));
    run.wait_until("nothing is kept", told)?;
    load.run(500)?;
    let status = run.stop(Signal::TERM)?;
    let kept = dir.files_of(&recorder, "tracer-")?;
    ensure!(kept.len() == 1, "{status}: kept are {kept:?}");
    ensure!(
        kept[0].to_string_lossy().ends_with("-failure.jsonl.zst"),
        "{kept:?}"
    );
    let recorded = lines(&kept[0])?;
    let text = fs::read_to_string(&out)?;
    Account::of(text.lines())?.is_complete()?;
    let all: Vec<Value> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let own: Vec<&Value> = recorded.iter().filter(is_own).collect();
    ensure!(
        own.iter().copied().eq(&all),
        "recorded are {} of {} lines",
        own.len(),
        all.len()
    );
    let repeated = recorded.iter().filter(|line| !is_own(line));
    ensure!(
        repeated.filter(|line| line["type"] == "start").count() == 1,
        "no start line"
    );
    Ok(())
}

/// Whoever reads standard output goes away: the run ends, and all of it has been recorded.
fn recorder_without_reader() -> Result<()> {
    let dir = Dir::new()?;
    let recorder = dir.join("recorder");
    let args = [
        "--flight-recorder",
        recorder.to_str().context("not UTF-8")?,
        "--keep",
        "10m,8MiB",
    ];
    let (reader, writer) = io::pipe()?;
    let mut run = Run::start_into(&dir, &args, writer.into())?;
    let mut reader = BufReader::new(reader);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    Load::new()?.run(100)?;
    drop(reader);
    let status = run.end()?;
    ensure!(status.success(), "{status}: {}", run.stderr()?);
    let mut recorded = Vec::new();
    for ring in dir.files_of(&recorder, "ring-")? {
        recorded.extend(lines(&ring)?);
    }
    let last = recorded.last().context("nothing is recorded")?;
    ensure!(last["type"] == "stop", "the last line is {last}");
    let own = recorded.iter().filter(is_own).count();
    ensure!(last["lines"] == own, "{own} lines are recorded: {last}");
    Ok(())
}

/// It pauses, says so, and goes on when there is room.
fn recorder_disk_full() -> Result<()> {
    needs_no_kernel()?;
    let dir = Dir::new()?;
    let disk = Disk::new(&dir)?;
    let ballast = disk.0.join("ballast");
    fs::write(&ballast, vec![0; (4 << 20) - (128 << 10)])?;
    let out = dir.join("out");
    let args = [
        "--output",
        out.to_str().context("not UTF-8")?,
        "--flight-recorder",
        disk.0.to_str().context("not UTF-8")?,
        "--keep",
        "10m,64MiB",
        "--interval",
        "1",
    ];
    let mut run = Run::start(&dir, &args)?;
    run.wait_for(&out)?;
    let mut load = Load::new()?;
    let said = |what: &str| Ok(fs::read_to_string(&out)?.contains(what));
    run.wait_until("it does not pause", || {
        load.run(1000)?;
        said(r#""event":"paused""#)
    })?;
    fs::remove_file(&ballast)?;
    run.wait_until("it does not go on", || said(r#""event":"resumed""#))?;
    run.stop(Signal::TERM)?;
    let account = Account::of(fs::read_to_string(&out)?.lines())?;
    ensure!(account.missing == 0, "the output misses lines: {account:?}");
    for ring in dir.files_of(&disk.0, "ring-")? {
        lines(&ring)?;
    }
    Ok(())
}

/// With this, half a line of the run before is ended, before the new run is ready for signals.
const NEWLINE: u64 = 1;

/// Whatever the moment: nothing stays in the kernel, at most one line of the output is torn, and what was recorded can
/// be read.
fn killed_under_load() -> Result<()> {
    let times = usize::try_from(scaled(6, 2)?)?;
    let dir = Dir::new()?;
    let (out, recorder) = (dir.join("out"), dir.join("recorder"));
    let args = [
        "--output",
        out.to_str().context("not UTF-8")?,
        "--flight-recorder",
        recorder.to_str().context("not UTF-8")?,
        "--keep",
        "10m,8MiB",
        "--drain-timeout",
        "60s",
    ];
    let mut random = Random::new(seed());
    let mut load = Load::new()?;
    let mut length = 0;
    for at in 0..times {
        let mut run = Run::start(&dir, &args)?;
        run.wait_until("no line comes", || {
            Ok(fs::metadata(&out).is_ok_and(|out| out.len() > length + NEWLINE))
        })?;
        let programs = bpf::held(run.pid(), "prog_id")?;
        load.begin(5000)?;
        thread::sleep(Duration::from_millis(random.below(1500) as u64));
        if at % 2 == 0 {
            run.signal(Signal::USR1)?;
            thread::sleep(Duration::from_millis(random.below(20) as u64));
        }
        run.stop(Signal::KILL)?;
        load.actor.answer()?;
        gone(&programs)?;
        length = fs::metadata(&out)?.len();
    }
    let mut run = Run::start(&dir, &args)?;
    run.wait_until("no line comes", || {
        Ok(fs::metadata(&out)?.len() > length + NEWLINE)
    })?;
    // A slow machine kills those before it has begun what they were asked for.
    run.signal(Signal::USR1)?;
    run.wait_until("nothing is put aside", || {
        Ok(!dir.files_of(&recorder, "tracer-")?.is_empty())
    })?;
    let status = run.stop(Signal::TERM)?;
    let text = fs::read_to_string(&out)?;
    let torn = text
        .lines()
        .filter(|line| serde_json::from_str::<Value>(line).is_err())
        .count();
    ensure!(torn <= times, "{torn} lines are torn");
    let stop = text.lines().last().context("no line")?;
    ensure!(
        stop.contains(r#""type":"stop""#),
        "{status}: the last line is {stop}"
    );
    let mut recorded = 0;
    for prefix in ["ring-", "tracer-"] {
        let files = dir.files_of(&recorder, prefix)?;
        ensure!(!files.is_empty(), "no file {prefix}");
        for file in files {
            ensure!(
                file.extension().is_some_and(|end| end == "zst"),
                "{} is left",
                file.display()
            );
            recorded += lines(&file)?.len();
        }
    }
    note(format!(
        "{times} kills, {torn} lines torn, {recorded} recorded"
    ));
    Ok(())
}

fn gone(programs: &BTreeSet<u32>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    ensure!(!programs.is_empty(), "a running tracer has no program");
    while programs.intersection(&bpf::programs()).next().is_some() {
        ensure!(Instant::now() < deadline, "programs are still there");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
