//! `tracer budget` says how many connects will succeed, and the tracer that runs agrees when none does.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde::Deserialize;

use super::{Test, refusals::refused, test};
use crate::{
    actor::{Actor, Op},
    lines::{Budget, ConnectFailed, Endpoint, Holder, Keep, Record},
    mix::{Batch, Filled, Mix, Probe, add_up, now},
    netns::Netns,
    random::Random,
    report::note,
    scenarios::truth::seed,
    scene::V4,
    tracer::{Tracer, binary},
};

pub(super) const ALL: &[Test] = &[
    test("mixes_have_all", mixes_have_all),
    test("budget_exact", budget_exact),
    test("budget_lists", budget_lists),
    test("budget_of_bound_ports", of_bound_ports),
    test("budget_refuses", budget_refuses),
];

/// Mixes that age together: few at a time, as TIME_WAIT lasts a minute, which an emulated machine needs for 20.
const BATCH: usize = 6;
/// So many are to be exact. Of all, some are asked too close to the moment when a TIME_WAIT becomes reusable, and
/// only have bounds; there is an end to their number.
const EXACT: usize = 60;
const MOST_BATCHES: usize = 30;

/// Of steps; some are rare.
const KINDS: usize = 13;

const NO_PORT: i64 = -(libc::EADDRNOTAVAIL as i64);

/// One destination, as `tracer budget --json` has it.
#[derive(Debug, Deserialize)]
struct Answer {
    netns: u64,
    local_ip: String,
    peer: Endpoint,
    budget: Budget,
    holders: Vec<Holder>,
}

fn ask(mix: &Mix, pid: u32) -> Result<Answer> {
    let (from, to) = (mix.local().to_string(), mix.destination().to_string());
    let mut command = Command::new(binary());
    command.args(["budget", "--json", "--to", &to, "--netns", &pid.to_string()]);
    // Without, it is the one that the kernel would choose.
    if mix.netns.inode.is_multiple_of(2) {
        command.args(["--from", &from]);
    }
    let output = command.output()?;
    ensure!(
        output.status.success(),
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let said = String::from_utf8(output.stdout)?;
    let answer: Answer = serde_json::from_str(&said).with_context(|| said.clone())?;
    let peer = mix.destination();
    ensure!(
        answer.netns == mix.netns.inode
            && answer.local_ip == from
            && answer.peer.ip == peer.ip().to_string()
            && answer.peer.port == Some(peer.port()),
        "not what was asked for: {said}"
    );
    ensure!(
        answer.budget.adds_up() && answer.budget.ports == mix.ports(),
        "does not add up: {said}"
    );
    add_up(&answer.holders, &answer.budget)?;
    Ok(answer)
}

/// What came out.
#[derive(Debug, Default)]
struct Score {
    exact: usize,
    /// Of those: one port may never be tried, and was not.
    fewer: usize,
    uncertain: usize,
    narrow: usize,
    /// A TIME_WAIT became reusable meanwhile: within bounds.
    aged: usize,
    wrong: Vec<anyhow::Error>,
    asked: Vec<Duration>,
}

impl fmt::Display for Score {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut asked = self.asked.clone();
        asked.sort_unstable();
        let median = asked.get(asked.len() / 2).copied().unwrap_or_default();
        write!(
            out,
            "{} mixes: {} exact ({} of an odd range, {} of these with one fewer), {} while a TIME_WAIT came of age, \
             {} with an own range of the socket first, {} wrong; `tracer budget` takes {} ms",
            self.asked.len(),
            self.exact,
            self.uncertain,
            self.fewer,
            self.aged,
            self.narrow,
            self.wrong.len(),
            median.as_millis()
        )
    }
}

impl Score {
    /// The answer, and what the kernel did.
    fn count(&mut self, mix: &Mix, began: Duration, answer: &Answer, filled: Filled) -> Result<()> {
        let budget = &answer.budget;
        let (free, connected) = (usize::try_from(budget.free)?, filled.connected);
        let least = free.saturating_sub(usize::from(budget.uncertain));
        ensure!(filled.error == NO_PORT, "the last connect gave {filled:?}");
        if mix.may_have_aged(began, now()) {
            ensure!(connected >= least, "{connected} connected after {answer:?}");
            self.aged += 1;
            return Ok(());
        }
        ensure!(
            (least..=free).contains(&connected),
            "{connected} connected after {answer:?}"
        );
        self.exact += 1;
        self.uncertain += usize::from(budget.uncertain);
        self.fewer += usize::from(connected < free);
        Ok(())
    }
}

/// The first failure of this process that the tracer tells.
fn failure(tracer: &Tracer, mix: &Mix, filled: Filled) -> Result<ConnectFailed> {
    let failed = tracer.lines.wait(mix.netns.inode, |lines| {
        lines.iter().find_map(|line| match &line.record {
            Record::ConnectFailed(failed) if failed.process.pid == filled.pid => {
                Some(failed.clone())
            }
            _ => None,
        })
    });
    failed.with_context(|| format!("no connect_failed of {filled:?}"))
}

/// What the tracer that runs says of each exhaustion of a mix.
pub(crate) fn explained(
    tracer: &Tracer,
    mix: &Mix,
    filled: Filled,
    range: Option<(u16, u16)>,
) -> Result<()> {
    ensure!(filled.error == NO_PORT, "the last connect gave {filled:?}");
    let at = now();
    let failed = failure(tracer, mix, filled)?;
    mix.judge(&failed, range, at)
        .with_context(|| format!("{failed:?}"))
}

fn one(tracer: &Tracer, mix: &mut Mix, probe: &mut Probe<'_>, score: &mut Score) -> Result<()> {
    if let Some((filled, range)) = probe.fill_narrow(mix)? {
        score.narrow += 1;
        explained(tracer, mix, filled, Some(range)).context("with an own range")?;
    }
    let last = score.asked.last().copied().unwrap_or_default();
    // Where one look takes seconds, no time is calm.
    if last < Duration::from_secs(1) {
        mix.wait_for_calm(last + last);
    }
    let (began, watch) = (now(), Instant::now());
    let answer = ask(mix, probe.pid());
    score.asked.push(watch.elapsed());
    let filled = probe.fill(mix)?;
    score.count(mix, began, &answer?, filled)?;
    explained(tracer, mix, filled, None)
}

fn budget_exact() -> Result<()> {
    let seed = seed();
    let mut random = Random::new(seed);
    let tracer = Tracer::started(&["--interval", "1"], Keep::All)?;
    let mut score = Score::default();
    // TIME_WAIT ends with its namespace, and the number of one that is gone is given to the next.
    let mut used = Vec::new();
    let began = Instant::now();
    for _ in 0..MOST_BATCHES {
        if score.exact >= EXACT {
            break;
        }
        let batch = Batch::new(&mut random, BATCH)?;
        used.extend(batch.each(|mix, probe| {
            let told = one(&tracer, mix, probe, &mut score);
            if let Err(error) = told {
                score.wrong.push(error.context(mix.in_words()));
            }
            Ok(())
        })?);
    }
    note(format!("{score}; {} s in all", began.elapsed().as_secs()));
    let finished = tracer.stop(Signal::TERM)?;
    finished.check_totals()?;
    let enough = score.exact + score.wrong.len() >= EXACT;
    ensure!(enough, "{score}: too few could be compared");
    let first = score.wrong.iter().take(3);
    let first: Vec<_> = first.map(|error| format!("{error:#}")).collect();
    ensure!(
        first.is_empty(),
        "{score}; the first of them, with TRACER_LIVE_SEED={seed} again: {}",
        first.join("; ")
    );
    Ok(())
}

/// What `tracer` says with these arguments.
fn said(args: &[&str]) -> Result<String> {
    let output = Command::new(binary()).args(args).output()?;
    ensure!(
        output.status.success(),
        "{args:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// A namespace with 16 ports, and connections: 10 to one destination, 4 to another, in a process of this name.
fn two_destinations() -> Result<(Netns, [Actor; 2])> {
    let netns = Netns::new()?;
    netns.sysctl("ipv4/ip_local_port_range", "40000 40015")?;
    let (mut server, mut client) = (
        Actor::spawn(&netns.path(), "server")?,
        Actor::spawn(&netns.path(), "list-client")?,
    );
    // The first listens inside the range.
    for (port, times) in [(40_003, 0), (5774, 10), (5775, 4)] {
        let to = SocketAddr::new(V4, port);
        let fd = server.bound(to)?;
        server.run(&Op::Listen { fd, backlog: 64 })?;
        for _ in 0..times {
            client.open(to)?;
        }
    }
    Ok((netns, [server, client]))
}

/// Every destination, by least free ports, for people and for programs.
fn budget_lists() -> Result<()> {
    #[derive(Debug, Deserialize)]
    struct List {
        destinations: Vec<Destination>,
    }
    #[derive(Debug, Deserialize)]
    struct Destination {
        netns: u64,
        peer: Endpoint,
        budget: Budget,
    }
    let (netns, [_server, client]) = two_destinations()?;
    let number = client.pid.to_string();
    let json = said(&["budget", "--json", "--netns", &number])?;
    let list: List = serde_json::from_str(&json).context(json)?;
    let rows: Vec<_> = list
        .destinations
        .iter()
        .map(|row| (row.peer.port, row.budget.free))
        .collect();
    // One of 16 is the listener's.
    ensure!(
        rows == [(Some(5774), 5), (Some(5775), 11)]
            && list.destinations.iter().all(|row| row.netns == netns.inode)
            && list.destinations.iter().all(|row| row.budget.adds_up()),
        "not 5 and 11 free: {list:?}"
    );
    let inode = netns.inode.to_string();
    // Where `connect()` goes from an unspecified address.
    for (netns, to) in [
        (&number, "127.0.0.1:5774"),
        (&inode, "127.0.0.1:5774"),
        (&number, "0.0.0.0:5774"),
    ] {
        let text = said(&["budget", "--to", to, "--netns", netns])?;
        ensure!(
            ["5774", "5", "10", "list-client", "ESTAB"]
                .iter()
                .all(|word| text.contains(word)),
            "not said: {text}"
        );
    }
    let text = said(&["budget", "--netns", &number])?;
    let at = |port: &str| {
        text.find(port)
            .with_context(|| format!("no {port}: {text}"))
    };
    ensure!(at(":5774")? < at(":5775")?, "not by least free: {text}");
    let text = said(&["budget", "--to", "127.0.0.1", "--netns", &number])?;
    ensure!(text.contains("5774") && text.contains("5775"), "{text}");
    Ok(())
}

/// Ports that are bound are taken, though no connection has them.
fn of_bound_ports() -> Result<()> {
    let netns = Netns::new()?;
    netns.sysctl("ipv4/ip_local_port_range", "40000 40003")?;
    let mut binder = Actor::spawn(&netns.path(), "binder")?;
    let pid = binder.pid.to_string();
    let text = said(&["budget", "--netns", &pid])?;
    ensure!(text == "no connection takes a port\n", "{text}");
    for port in 40_000..=40_003 {
        binder.bound(SocketAddr::new(V4, port))?;
    }
    let text = said(&["budget", "--netns", &pid])?;
    let expected = format!(
        "4 of 4 ports are bound in network namespace {}, and closed to every destination\n",
        netns.inode
    );
    ensure!(text == expected, "{text}");
    let json = said(&["budget", "--json", "--netns", &pid])?;
    let pool = format!(
        r#""pools":[{{"netns":{},"usable":4,"bound":4}}]"#,
        netns.inode
    );
    ensure!(json.contains(&pool), "{json}");
    Ok(())
}

fn budget_refuses() -> Result<()> {
    for args in [
        ["--to", "nonsense"],
        ["--to", "127.0.0.1:99999"],
        ["--from", "here"],
        ["--netns", "no-such-namespace"],
        ["--netns", "4000000000"],
    ] {
        let output = Command::new(binary()).arg("budget").args(args).output()?;
        let said = refused(&output)?;
        ensure!(said.contains(args[1]), "does not name {args:?}: {said}");
    }
    Ok(())
}

/// Without a tracer: each way to hold a port comes about, and every mix ends for the lack of one.
fn mixes_have_all() -> Result<()> {
    let seed = seed();
    let mut kinds = BTreeMap::<_, usize>::new();
    let (mut connected, mut narrow) = (Vec::new(), 0);
    let batch = Batch::new(&mut Random::new(seed), 24)?;
    batch.each(|mix, probe| {
        if let Some((filled, _)) = probe.fill_narrow(mix)? {
            ensure!(filled.error == NO_PORT, "{filled:?}");
            narrow += 1;
        }
        let filled = probe.fill(mix)?;
        ensure!(filled.error == NO_PORT, "{filled:?}");
        connected.push(filled.connected);
        for ((kind, done), times) in &mix.kinds {
            *kinds.entry((*kind, *done)).or_default() += times;
        }
        Ok(())
    })?;
    let done = kinds.keys().filter(|(_, done)| *done).count();
    ensure!(
        done >= KINDS - 2 && connected.iter().any(|count| *count > 0),
        "TRACER_LIVE_SEED={seed}: only {done} kinds came about: {kinds:?}"
    );
    note(format!(
        "{connected:?} connects in the mixes, {narrow} with an own range; {kinds:?}"
    ));
    Ok(())
}
