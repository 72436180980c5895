//! Beside another one, ended in every way, and with nobody listening.

use std::{
    collections::BTreeSet,
    io::{self, BufRead as _, BufReader},
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    slice,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::{Test, test};
use crate::{
    actor::{Actor, Op},
    bpf,
    lines::{Keep, Line, PATIENCE, Record, State},
    netns::Netns,
    random::Random,
    report::note,
    scenarios::{stream::validate, truth::seed},
    scene::{Scene, V4, of_process, role},
    tracer::{Started, Tracer, binary},
};

pub(super) const ALL: &[Test] = &[
    test("second_instance", second_instance),
    test("older_sockets", older_sockets),
    test("sigterm", || ends_on(Signal::TERM)),
    test("sigint", || ends_on(Signal::INT)),
    test("sighup", || ends_on(Signal::HUP)),
    test("nohup", nohup),
    test("stdout_closed", stdout_closed),
    test("killed_leaves_nothing", killed_leaves_nothing),
    test("killed_at_any_moment", killed_at_any_moment),
];

fn scene() -> Result<Scene> {
    Scene::new(Arc::new(Tracer::started(&[], Keep::All)?))
}

fn second_instance() -> Result<()> {
    let mut one = scene()?;
    let other = Arc::new(Tracer::started(&[], Keep::All)?);
    let server = one.server(V4, 5774)?;
    let mut client = one.actor("client")?;
    let fd = client.open(server.addr)?;
    client.close(fd)?;
    let seen = one.expect_count(|_| true, 8);
    // The listener's first, four of the client's, and three of the child's that nobody accepted.
    let seen = seen?;
    ensure!(!one.states(role("client"))?.is_empty(), "no client");
    // `one` has left its marks in both streams.
    one.tracer = other;
    let other_seen = one.expect_count(|_| true, seen.len())?;
    let brief = |states: &[State]| -> Vec<_> {
        states
            .iter()
            .map(|s| (s.step(), s.local.clone(), s.peer.clone()))
            .collect()
    };
    ensure!(
        brief(&seen) == brief(&other_seen),
        "{seen:?} is not {other_seen:?}"
    );
    Ok(())
}

/// Sockets that were there before the tracer: they belong to who has them when it starts. That one is a
/// server's the listener on its port tells; of the others, who called whom it can't know.
fn older_sockets() -> Result<()> {
    let mut scene = scene()?;
    let mut server = scene.server(V4, 5774)?;
    let mut client = scene.actor("client")?;
    let fd = client.open(server.addr)?;
    let accepted = server.accept()?;
    scene.settled()?;
    scene.tracer = Arc::new(Tracer::started(&[], Keep::All)?);
    scene.forget_marks();
    scene.tracer.snapshot()?;
    client.close(fd)?;
    server.actor.run(&Op::ReadToEnd { fd: accepted })?;
    server.actor.close(accepted)?;
    let ended = scene.expect_count(|state| state.old != "CLOSE", 6)?;
    let served = |state: &&State| state.local.port == Some(server.addr.port());
    let right = |state: &State| match state.role.as_deref() {
        None => true,
        Some(role) => role == "server" && served(&state),
    };
    ensure!(ended.iter().all(right), "a role from nowhere: {ended:?}");
    for state in &ended {
        let actor = if served(&state) {
            &server.actor
        } else {
            &client
        };
        of_process(slice::from_ref(state), actor)?;
        ensure!(state.owner == "snapshot", "owner: {state:?}");
    }
    // The old listener has new children, and these are known from their first transition on.
    client.open(server.addr)?;
    let new = |state: &State| served(&state) && state.owner != "snapshot";
    scene.expect(new, &["LISTEN>SYN_RECV", "SYN_RECV>ESTABLISHED"])?;
    Ok(())
}

/// A tracer that begins with this disposition of SIGHUP, whatever this process has: it may have been started with `nohup`.
fn with_hangup(disposition: libc::sighandler_t) -> Result<Tracer> {
    let mut command = Command::new(binary());
    let set = move || {
        // SAFETY: nothing of this process is called by it.
        match unsafe { libc::signal(libc::SIGHUP, disposition) } {
            libc::SIG_ERR => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: a system call only.
    unsafe { command.pre_exec(set) };
    match Tracer::start_as(command, Keep::All)? {
        Started::Running(tracer) => Ok(tracer),
        _ => bail!("the tracer did not start"),
    }
}

/// As `nohup` starts it: it goes on when its terminal has gone.
fn nohup() -> Result<()> {
    let tracer = with_hangup(libc::SIG_IGN)?;
    tracer.signal(Signal::HUP)?;
    // Of signals that wait any may be heard first.
    for _ in 0..5 {
        tracer.snapshot()?;
    }
    tracer.stop(Signal::TERM)?.check_totals()?;
    Ok(())
}

fn ends_on(signal: Signal) -> Result<()> {
    let scene = Scene::new(Arc::new(with_hangup(libc::SIG_DFL)?))?;
    let mut client = scene.actor("client")?;
    let server = scene.server(V4, 5774)?;
    client.open(server.addr)?;
    scene.settled()?;
    let finished = scene.into_tracer()?.stop(signal)?;
    let stop = finished.check_totals()?;
    ensure!(stop.lines > 4, "only {} lines", stop.lines);
    validate(&finished.lines.all())
}

/// As `tracer | head -1` has it.
fn stdout_closed() -> Result<()> {
    let mut child = Command::new(binary())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut first = String::new();
    let mut stdout = BufReader::new(child.stdout.take().context("no stdout")?);
    stdout.read_line(&mut first)?;
    ensure!(
        first.contains(r#""type":"start""#),
        "the first line is {first:?}"
    );
    drop(stdout);
    // Nothing happens meanwhile that it could fail to write: on an idle host too it must not linger.
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
        }
        thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(0),
        "{}; stderr: {stderr}",
        output.status
    );
    ensure!(stderr.is_empty(), "stderr: {stderr}");
    Ok(())
}

fn killed_leaves_nothing() -> Result<()> {
    let tracer = Tracer::started(&[], Keep::All)?;
    let programs = bpf::held(tracer.pid(), "prog_id")?;
    ensure!(!programs.is_empty(), "a running tracer has no program");
    ensure!(
        programs.is_subset(&bpf::programs()),
        "not all of {programs:?} are listed"
    );
    let finished = tracer.stop(Signal::KILL)?;
    ensure!(finished.status.code().is_none(), "{}", finished.status);
    all_gone(&programs)?;
    whole_lines(&finished.lines.all())
}

/// Soon; a link goes with its program.
fn all_gone(programs: &BTreeSet<u32>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: Vec<_> = programs.intersection(&bpf::programs()).copied().collect();
        if left.is_empty() {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "programs {left:?} are still there"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// While it loads, attaches, drops its privileges, or is full of events.
fn killed_at_any_moment() -> Result<()> {
    const TIMES: usize = 8;
    let netns = Netns::new()?;
    let mut random = Random::new(seed());
    let mut held = 0;
    for _ in 0..TIMES {
        let mut client = Actor::spawn(&netns.path(), "client")?;
        let to = SocketAddr::new(V4, 5999);
        client.begin(&Op::Refused {
            to,
            times: u64::MAX,
        })?;
        let mut tracer = Command::new(binary())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        thread::sleep(Duration::from_millis(10 + random.next() % 2000));
        let pid = Pid::from_child(&tracer);
        // So that what it holds is what it dies with.
        kill_process(pid, Signal::STOP)?;
        let programs = bpf::held(tracer.id(), "prog_id")?;
        held += programs.len();
        tracer.kill()?;
        tracer.wait()?;
        all_gone(&programs)?;
    }
    ensure!(held > 0, "it was always too early");
    note(format!("{held} programs gone with {TIMES} tracers"));
    Ok(())
}

/// What was printed before the end is whole.
fn whole_lines(lines: &[Arc<Line>]) -> Result<()> {
    let started = matches!(
        lines.first().map(|line| &line.record),
        Some(Record::Start(_))
    );
    ensure!(started, "the first line is not `start`");
    validate(lines)
}
