//! What a scenario works with: a namespace, processes in it, and its part of the stream.

use std::{
    cell::Cell,
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    actor::{Actor, Server},
    bpf::skipped_runs,
    lines::{ConnectFailed, Coverage, Line, PATIENCE, Record, State, Usage},
    netns::{MARK_PORT, Netns},
    scenarios::Scenario,
    shared::{self, Backend},
    tracer::Tracer,
};

pub(crate) const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub(crate) const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// A mark that has not come after this long may be lost.
const MARK: Duration = Duration::from_secs(2);

/// Most servers here accept late or never: all connections of a scenario have room.
const BACKLOG: i32 = 1024;

pub(crate) struct Scene {
    pub tracer: Arc<Tracer>,
    pub netns: Netns,
    marks: Cell<usize>,
}

/// Runs a scenario with the shared tracer of its backend.
pub(crate) fn play(backend: Backend, scenario: &Scenario) -> Result<()> {
    let scene = Scene::new(shared::tracer(backend)?)?;
    let done = (scenario.run)(&scene);
    shared::keep(scene.netns);
    done
}

impl Scene {
    pub(crate) fn new(tracer: Arc<Tracer>) -> Result<Self> {
        Ok(Self {
            tracer,
            netns: Netns::new()?,
            marks: Cell::new(0),
        })
    }

    /// For a tracer that has been started since the marks were left.
    pub(crate) fn forget_marks(&self) {
        self.marks.set(0);
    }

    /// Gives the tracer back, when it is the scene's own.
    pub(crate) fn into_tracer(self) -> Result<Tracer> {
        Arc::into_inner(self.tracer).context("the tracer is still in use")
    }

    /// A process of this name in the namespace.
    pub(crate) fn actor(&self, comm: &str) -> Result<Actor> {
        Actor::spawn(&self.netns.path(), comm)
    }

    /// A process that listens.
    pub(crate) fn server(&self, ip: IpAddr, port: u16) -> Result<Server> {
        Server::listen(self.actor("server")?, SocketAddr::new(ip, port), BACKLOG)
    }

    /// A listener whose accept queue is full: it leaves every further SYN without an answer.
    /// The second process holds the connection that fills it.
    pub(crate) fn deaf_server(&self, port: u16) -> Result<(Server, Actor)> {
        let server = Server::listen(self.actor("server")?, SocketAddr::new(V4, port), 0)?;
        let mut filler = self.actor("filler")?;
        filler.open(server.addr)?;
        Ok((server, filler))
    }

    /// How this tracer sees failing connects.
    pub(crate) fn failure_coverage(&self) -> Result<Coverage> {
        self.tracer.coverage("connect_failure")
    }

    /// Waits until the transitions that `select` picks are exactly these.
    pub(crate) fn expect(
        &self,
        select: impl Fn(&State) -> bool,
        steps: &[&str],
    ) -> Result<Vec<State>> {
        let picked = |lines: &[Arc<Line>]| states(lines, &select);
        self.tracer.lines.wait(self.netns.inode, |lines| {
            (picked(lines).len() >= steps.len()).then_some(())
        });
        let found = picked(&self.settled()?);
        let found_steps: Vec<_> = found.iter().map(State::step).collect();
        let differ = |(at, step): &(usize, &String)| steps.get(*at) != Some(&step.as_str());
        let first = found_steps.iter().enumerate().find(differ);
        ensure!(
            found_steps == steps,
            "expected {steps:?}, the tracer said {found_steps:?}, first wrong {:?}; {} runs skipped",
            first.map(|(at, _)| &found[at]),
            skipped_runs(self.tracer.pid())?
        );
        Ok(found)
    }

    /// Waits for so many transitions that `select` picks; there may be no more, and no fewer than the
    /// kernel let the tracer see: whether those it did not are counted, the trial `stream` asks.
    pub(crate) fn expect_count(
        &self,
        select: impl Fn(&State) -> bool,
        count: usize,
    ) -> Result<Vec<State>> {
        let mut skipped = 0;
        self.tracer.lines.wait(self.netns.inode, |lines| {
            skipped = skipped_runs(self.tracer.pid()).unwrap_or_default();
            (states(lines, &select).len() + skipped >= count).then_some(())
        });
        let found = self.states(select)?;
        ensure!(
            found.len() <= count && found.len() + skipped >= count,
            "{} transitions instead of {count}, {skipped} runs skipped, last {:?}; in all {:?}",
            found.len(),
            found.last(),
            counts(&self.states(|_| true)?)
        );
        Ok(found)
    }

    /// Everything that the tracer says about this namespace until now, marks left out.
    pub(crate) fn settled(&self) -> Result<Vec<Arc<Line>>> {
        self.netns.mark()?;
        let marks = self.marks.get() + 1;
        self.marks.set(marks);
        let lines = self.tracer.lines.wait(self.netns.inode, |lines| {
            let seen = lines.iter().filter(|line| is_mark_end(line)).count();
            (seen >= marks).then(|| lines.to_vec())
        });
        let Some(mut lines) = lines else {
            let last = self.tracer.lines.of(self.netns.inode);
            bail!(
                "a refused connect was not seen; {} lines of this namespace, last {:?}; stderr: {}",
                last.len(),
                last.last(),
                self.tracer.stderr()
            );
        };
        lines.retain(|line| !is_mark(line) && !matches!(line.record, Record::Netns(_)));
        Ok(lines)
    }

    /// Waits until the tracer has told everything until now that it will ever tell. As [`Scene::settled`], where
    /// events may be lost, and marks with them.
    pub(crate) fn drained(&self) -> Result<()> {
        let (lines, netns) = (&self.tracer.lines, self.netns.inode);
        let seen = |lines: &[Arc<Line>]| lines.iter().filter(|line| is_mark_end(line)).count();
        let before = seen(&lines.of(netns));
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.netns.mark()?;
            let come = |lines: &[Arc<Line>]| Some(seen(lines)).filter(|seen| *seen > before);
            if let Some(seen) = lines.wait_at_most(MARK, netns, come) {
                self.marks.set(seen);
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "no refused connect is seen any more"
            );
        }
    }

    /// Transitions so far, of the sockets that `select` picks.
    pub(crate) fn states(&self, select: impl Fn(&State) -> bool) -> Result<Vec<State>> {
        Ok(states(&self.settled()?, &select))
    }

    /// Failing connects so far.
    pub(crate) fn failures(&self) -> Result<Vec<ConnectFailed>> {
        let lines = self.settled()?;
        let failures = lines.iter().filter_map(|line| match &line.record {
            Record::ConnectFailed(failed) => Some(failed.clone()),
            _ => None,
        });
        Ok(failures.collect())
    }

    pub(crate) fn expect_no_failure(&self) -> Result<()> {
        let failures = self.failures()?;
        ensure!(failures.is_empty(), "called a failure: {failures:?}");
        Ok(())
    }
}

fn states(lines: &[Arc<Line>], select: &impl Fn(&State) -> bool) -> Vec<State> {
    let states = lines.iter().filter_map(|line| match &line.record {
        Record::State(state) if !is_mark(line) && select(state) => Some(state.clone()),
        _ => None,
    });
    states.collect()
}

/// How often each role went through each transition.
pub(crate) fn counts(states: &[State]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for state in states {
        let role = state.role.as_deref().unwrap_or("?");
        *counts
            .entry(format!("{role} {}", state.step()))
            .or_default() += 1;
    }
    counts
}

fn is_mark(line: &Line) -> bool {
    match &line.record {
        Record::State(state) => state.peer.port == Some(MARK_PORT),
        Record::ConnectFailed(failed) => failed.peer.port == Some(MARK_PORT),
        Record::Connection(over) => over.peer.port == Some(MARK_PORT),
        Record::Usage(usage) => is_of_mark(usage),
        _ => false,
    }
}

/// An interval may end while the mark is on its way.
fn is_of_mark(usage: &Usage) -> bool {
    let [only] = usage.top.as_slice() else {
        return false;
    };
    only.peer.port == Some(MARK_PORT) && only.ports == usage.ports.total
}

fn is_mark_end(line: &Line) -> bool {
    // Its last line, and there without `state` lines, too.
    matches!(&line.record, Record::Connection(_) if is_mark(line))
}

/// Picks the transitions of a role.
pub(crate) fn role(role: &'static str) -> impl Fn(&State) -> bool {
    move |state| state.role.as_deref() == Some(role)
}

/// Picks the transitions of sockets that this process took.
pub(crate) fn of(actor: &Actor) -> impl Fn(&State) -> bool {
    let pid = actor.pid;
    move |state| {
        state
            .process
            .as_ref()
            .is_some_and(|process| process.pid == pid)
    }
}

/// Picks the transitions of client sockets to this destination.
pub(crate) fn client_of(peer: SocketAddr) -> impl Fn(&State) -> bool {
    let port = Some(peer.port());
    let ip = peer.ip().to_canonical().to_string();
    move |state| {
        let client = state.role.as_deref() == Some("client");
        client && state.peer.port == port && state.peer.ip == ip
    }
}

/// Every transition carries this process, which did it from its main thread.
pub(crate) fn owned_by(states: &[State], actor: &Actor, owner: &str) -> Result<()> {
    for state in states {
        let process = state.process.as_ref();
        let process = process.with_context(|| format!("no process in {state:?}"))?;
        ensure!(
            process.pid == actor.pid && process.tid == actor.pid && process.comm == actor.comm,
            "not {} {}: {state:?}",
            actor.comm,
            actor.pid
        );
        ensure!(
            process.id.starts_with(&format!("{}-", actor.pid)) && state.owner == owner,
            "wrong id or owner: {state:?}"
        );
    }
    Ok(())
}

/// The server's end of a connection, which it accepted before it was closed: the listener's until then. A server
/// that asks in that moment gets it before it is ESTABLISHED: the kernel queues it first (`tcp_check_req`, then
/// `tcp_child_process`, net/ipv4/tcp_minisocks.c).
pub(crate) fn served_by(states: &[State], server: &Actor) -> Result<()> {
    for state in states {
        let owner = match state.old.as_str() {
            "LISTEN" => "inherited",
            "SYN_RECV" if state.owner == "inherited" => "inherited",
            _ => "accept",
        };
        owned_by(std::slice::from_ref(state), server, owner)?;
    }
    Ok(())
}

/// Every transition carries this process, whichever thread it was and however that is known.
pub(crate) fn of_process(states: &[State], actor: &Actor) -> Result<()> {
    for state in states {
        let process = state.process.as_ref();
        ensure!(
            process.is_some_and(|process| process.pid == actor.pid && process.comm == actor.comm),
            "not {} {}: {state:?}",
            actor.comm,
            actor.pid
        );
    }
    Ok(())
}

/// Every transition shows these ends; the first of a client, before the kernel has chosen a port,
/// shows none.
pub(crate) fn ends(
    states: &[State],
    family: &str,
    local: SocketAddr,
    peer: SocketAddr,
) -> Result<()> {
    for state in states {
        let unborn = state.old == "CLOSE";
        let port = (!unborn).then_some(local.port());
        ensure!(
            state.family == family
                && state.local.ip == local.ip().to_canonical().to_string()
                && state.local.port == port
                && state.peer.ip == peer.ip().to_canonical().to_string()
                && state.peer.port == Some(peer.port()),
            "not {family} {local} -> {peer}: {state:?}"
        );
    }
    Ok(())
}
