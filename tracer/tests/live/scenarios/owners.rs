//! Whose connection it is, when the process is not the one that runs at that moment.

use std::{env, slice, thread};

use anyhow::{Context as _, Result, ensure};

use super::{
    Scenario, leak,
    lifecycle::{CLIENT_CLOSES_FIRST, CLIENT_CLOSES_LAST},
    scenario,
};
use crate::{
    actor::{Actor, Op},
    lines::{NO_NETNS, Record, State},
    netns::Netns,
    scene::{Scene, V4, client_of, of_process, owned_by},
    shared,
};

pub(super) const ALL: &[Scenario] = &[
    scenario("process_record", process_record),
    scenario("thread", thread_connects),
    scenario("killed", killed),
    scenario("exited", exited),
    scenario("handed_over", handed_over),
    scenario("other_namespace", other_namespace),
    scenario("no_stranger", no_stranger),
];

const PORT: u16 = 5774;

fn process_record(scene: &Scene) -> Result<()> {
    let server = scene.server(V4, PORT)?;
    let mut client = scene.actor("a\n\"b\"\u{1b}\\")?;
    client.open(server.addr)?;
    let states = scene.expect(client_of(server.addr), &CLIENT_CLOSES_FIRST[..2])?;
    owned_by(&states, &client, "connect")?;
    let id = states[0].process.as_ref().context("no process")?.id.clone();
    let seen = scene.tracer.lines.wait(NO_NETNS, |lines| {
        lines.iter().find_map(|line| match &line.record {
            Record::Process(seen) if seen.id == id => Some(seen.clone()),
            _ => None,
        })
    });
    let seen = seen.with_context(|| format!("no process record for {id}"))?;
    let exe = env::current_exe()?.display().to_string();
    ensure!(
        seen.pid == client.pid
            && seen.comm == client.comm
            && seen.uid == 0
            && seen.exe.as_deref() == Some(exe.as_str())
            && seen.start.ends_with('Z'),
        "not {exe} {} {}: {seen:?}",
        client.pid,
        client.comm
    );
    Ok(())
}

/// The process is the thread group; the thread that called is named beside it.
fn thread_connects(scene: &Scene) -> Result<()> {
    let mut server = scene.server(V4, PORT)?;
    let mut client = scene.actor("client")?;
    let fd = client.socket(server.addr)?;
    let name = "some-thread".to_owned();
    let answer = client.all(&Op::ConnectInThread {
        fd,
        to: server.addr,
        name,
    })?;
    ensure!(
        answer.len() == 2 && answer[1] == 0,
        "connect gave {answer:?}"
    );
    let accepted = server.accept()?;
    client.close(fd)?;
    server.actor.run(&Op::ReadToEnd { fd: accepted })?;
    server.actor.close(accepted)?;
    for state in scene.expect(client_of(server.addr), &CLIENT_CLOSES_FIRST)? {
        let process = state.process.as_ref().context("no process")?;
        ensure!(
            process.pid == client.pid
                && i64::from(process.tid) == answer[0]
                && process.comm == "client",
            "not thread {} of {}: {state:?}",
            answer[0],
            client.pid
        );
    }
    Ok(())
}

/// What the kernel does for a dead process is still that process's.
fn killed(scene: &Scene) -> Result<()> {
    orphaned(scene, Actor::kill)
}

fn exited(scene: &Scene) -> Result<()> {
    orphaned(scene, Actor::exit)
}

fn orphaned(scene: &Scene, end: impl Fn(&mut Actor) -> Result<()>) -> Result<()> {
    let mut server = scene.server(V4, PORT)?;
    let (deaf, _filler) = scene.deaf_server(PORT + 1)?;
    let mut client = scene.actor("client")?;
    client.open(server.addr)?;
    client.open_pending(deaf.addr)?;
    let accepted = server.accept()?;
    end(&mut client)?;
    server.actor.run(&Op::ReadToEnd { fd: accepted })?;
    server.actor.close(accepted)?;
    let states = scene.expect(client_of(server.addr), &CLIENT_CLOSES_FIRST)?;
    owned_by(&states, &client, "connect")?;
    let pending = |state: &State| {
        let pid = state.process.as_ref().map(|process| process.pid);
        client_of(deaf.addr)(state) && pid == Some(client.pid)
    };
    scene.expect(pending, &["CLOSE>SYN_SENT", "SYN_SENT>CLOSE"])?;
    scene.expect_no_failure()
}

/// The last to close is another process, and the one that connected is long gone: it is still the
/// one that took the port.
fn handed_over(scene: &Scene) -> Result<()> {
    let mut server = scene.server(V4, PORT)?;
    let mut client = scene.actor("client")?;
    let fd = client.open(server.addr)?;
    let accepted = server.accept()?;
    client.run(&Op::HandOver { fd })?;
    client.exit()?;
    scene.expect(client_of(server.addr), &CLIENT_CLOSES_LAST[..2])?;
    server.actor.close(accepted)?;
    let states = scene.expect(client_of(server.addr), &CLIENT_CLOSES_LAST)?;
    owned_by(&states, &client, "connect")
}

/// A socket belongs to the namespace in which it was made, wherever its process is now.
fn other_namespace(scene: &Scene) -> Result<()> {
    let server = scene.server(V4, PORT)?;
    let elsewhere = Netns::new()?;
    let mut client = scene.actor("client")?;
    let fd = client.socket(server.addr)?;
    let netns = elsewhere.path();
    client.run(&Op::Enter { netns })?;
    client.run(&Op::Connect {
        fd,
        to: server.addr,
    })?;
    let states = scene.expect(client_of(server.addr), &CLIENT_CLOSES_LAST[..2])?;
    owned_by(&states, &client, "connect")?;
    let there = scene.tracer.lines.of(elsewhere.inode);
    ensure!(there.is_empty(), "lines of the wrong namespace: {there:?}");
    shared::keep(elsewhere);
    Ok(())
}

/// Most transitions happen in whatever task the interrupt hits: beside a process that burns every
/// CPU that is often this one, and never its doing.
fn no_stranger(scene: &Scene) -> Result<()> {
    let times = u32::try_from(leak::connects() / 500)?.clamp(200, 2000);
    let mut stranger = scene.actor("stranger")?;
    let threads = thread::available_parallelism()?.get();
    stranger.run(&Op::Spin { threads })?;
    let mut server = scene.server(V4, PORT)?;
    let mut client = scene.actor("client")?;
    server.actor.run(&Op::ServeExchange {
        fd: server.fd,
        times,
    })?;
    let done = client.run(&Op::Exchange {
        to: server.addr,
        times,
    })?;
    ensure!(
        done == i64::from(times),
        "{done} of {times} connections came about"
    );
    // Both sides go through five transitions each time, whoever closes first; and the listener's.
    let wanted = 10 * usize::try_from(times)? + 1;
    // Some port may be used again: a timewait socket's end is none of these.
    let states = scene.expect_count(|state| state.old != "TIME_WAIT", wanted)?;
    stranger.kill()?;
    for state in states {
        let (whose, owners) = match state.role.as_deref() {
            Some("client") => (&client, ["connect"].as_slice()),
            Some("listener") => (&server.actor, ["bind"].as_slice()),
            Some(_) => (&server.actor, ["inherited", "accept"].as_slice()),
            // Its first transition is one that the kernel skipped.
            None if state.process.is_none() => continue,
            None => (&client, ["snapshot"].as_slice()),
        };
        of_process(slice::from_ref(&state), whose)?;
        ensure!(owners.contains(&state.owner.as_str()), "owner: {state:?}");
    }
    Ok(())
}
