//! Who has how many ports, who did what in each interval, and the whole in numbers.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;

use super::{
    exhaustion::{connect_many, fail_many},
    failure::every,
    stream::validate,
    timewait::close_first,
};
use crate::{
    actor::{Actor, Op, Server},
    bpf::{skipped_runs, socket_owners},
    lines::{Connection, Keep, Line, PATIENCE, Record, Usage},
    rounds::add_up,
    scene::{Scene, V4},
    shared::{self, Backend},
    tracer::{Finished, Tracer},
};

const PORT: u16 = 5774;
const OTHER_PORT: u16 = 5775;

/// The port range, all of which is taken towards [`PORT`].
const RANGE: &str = "40000 40007";
const OPEN: usize = 5;
const LEFT: usize = 3;

const OPEN_ELSEWHERE: usize = 3;
const FAILED: usize = 4;
const OVERFLOWED: usize = 6;

/// What a process is to have, and to have done.
struct Wanted {
    pid: u32,
    comm: String,
    exited: bool,
    ports: BTreeMap<String, u64>,
    bound: usize,
    serving: usize,
    opened: usize,
    closed: usize,
    failed: usize,
    /// Port, sockets, and those in TIME_WAIT.
    top: Vec<(u16, usize, usize)>,
}

impl Wanted {
    fn of(actor: &Actor) -> Self {
        Self {
            pid: actor.pid,
            comm: actor.comm.clone(),
            exited: false,
            ports: BTreeMap::new(),
            bound: 0,
            serving: 0,
            opened: 0,
            closed: 0,
            failed: 0,
            top: Vec::new(),
        }
    }

    fn ports(mut self, state: &str, count: usize) -> Self {
        self.ports.insert(state.to_owned(), count as u64);
        self
    }

    /// What it has, by its last line.
    fn has(&self, usage: &Usage) -> bool {
        let top: Vec<_> = usage
            .top
            .iter()
            .map(|there| {
                let local = there.local_ip == V4.to_string() && there.peer.ip == V4.to_string();
                let port = there.peer.port.filter(|_| local).unwrap_or_default();
                (port, there.ports, there.time_wait)
            })
            .collect();
        let wanted: Vec<_> = self
            .top
            .iter()
            .map(|(port, ports, time_wait)| (*port, *ports as u64, *time_wait as u64))
            .collect();
        let served = usage.serving.states.get("ESTABLISHED").copied();
        let process = usage.process.as_ref();
        process.is_some_and(|process| process.comm == self.comm)
            && usage.exited == Some(self.exited)
            && usage.ports.states == self.ports
            && usage.ports.bound == self.bound as u64
            && usage.serving.total == self.serving as u64
            && served.unwrap_or_default() == self.serving as u64
            && top == wanted
    }

    /// What it did, by the sum of all its lines.
    fn did(&self, lines: &[&Usage]) -> bool {
        let sum = |field: fn(&Usage) -> u64| lines.iter().map(|usage| field(usage)).sum::<u64>();
        sum(|usage| usage.opened) == self.opened as u64
            && sum(|usage| usage.closed) == self.closed as u64
            && sum(|usage| usage.failed) == self.failed as u64
    }

    fn is(&self, lines: &[Arc<Line>]) -> bool {
        let usages = usages_of(lines, self.pid);
        usages.last().is_some_and(|last| self.has(last)) && self.did(&usages)
    }
}

fn usages_of(lines: &[Arc<Line>], pid: u32) -> Vec<&Usage> {
    let usages = lines.iter().filter_map(|line| match &line.record {
        Record::Usage(usage) if usage.process.as_ref()?.pid == pid => Some(usage),
        _ => None,
    });
    usages.collect()
}

/// Waits until the lines of the namespace say so.
fn expect(scene: &Scene, wanted: &Wanted) -> Result<()> {
    let lines = &scene.tracer.lines;
    let come = |lines: &[Arc<Line>]| wanted.is(lines).then_some(());
    if lines.wait(scene.netns.inode, come).is_some() {
        return Ok(());
    }
    let lines = lines.of(scene.netns.inode);
    bail!(
        "not as wanted of {}, {} runs skipped: {:#?}",
        wanted.pid,
        skipped_runs(scene.tracer.pid())?,
        usages_of(&lines, wanted.pid)
    )
}

/// Everything happens in one run, because a start takes its time on an emulated machine.
pub(super) fn usage(backend: Backend) -> Result<()> {
    let tracer = shared::start(backend, &["--interval", "1"], Keep::All)?;
    let scene = Scene::new(Arc::new(tracer))?;
    let mut cast = Cast::new(&scene)?;
    cast.take_ports()?;
    let wanted = cast.wanted();
    for wanted in &wanted {
        expect(&scene, wanted)?;
    }
    overflow(&scene)?;
    table(&scene)?;
    let netns = scene.netns.inode;
    let (tracer, _netns) = apart(scene)?;
    let finished = tracer.stop(Signal::TERM)?;
    finished.check_totals()?;
    validate(&finished.lines.all())?;
    add_up(&finished.lines.rounds())?;
    seeded_once(&finished)?;
    for wanted in &wanted {
        ensure!(
            wanted.is(&finished.lines.of(netns)),
            "the last lines are not as wanted of {}: {:#?}",
            wanted.pid,
            usages_of(&finished.lines.of(netns), wanted.pid)
        );
    }
    told_at_the_end(&finished, netns, cast.gone.pid)
}

/// The tracer, and the namespace, which must outlive it: TIME_WAIT would end with it.
fn apart(scene: Scene) -> Result<(Tracer, crate::netns::Netns)> {
    let Scene { tracer, netns, .. } = scene;
    let tracer = Arc::into_inner(tracer).context("the tracer is still in use")?;
    Ok((tracer, netns))
}

struct Cast {
    server: Server,
    other: SocketAddr,
    client: Actor,
    gone: Actor,
}

impl Cast {
    fn new(scene: &Scene) -> Result<Self> {
        scene.netns.sysctl("ipv4/ip_local_port_range", RANGE)?;
        scene.netns.sysctl("ipv4/tcp_tw_reuse", "0")?;
        let mut server = scene.server(V4, PORT)?;
        let other = SocketAddr::new(V4, OTHER_PORT);
        let fd = server.actor.bound(other)?;
        server.actor.run(&Op::Listen { fd, backlog: 64 })?;
        Ok(Self {
            server,
            other,
            client: scene.actor("client")?,
            gone: scene.actor("gone")?,
        })
    }

    fn take_ports(&mut self) -> Result<()> {
        let to = self.server.addr;
        for _ in 0..LEFT {
            close_first(&mut self.server, &mut self.gone)?;
        }
        self.gone.exit()?;
        every(&connect_many(&mut self.client, to, OPEN)?, OPEN, 0)?;
        let other = connect_many(&mut self.client, self.other, OPEN_ELSEWHERE)?;
        every(&other, OPEN_ELSEWHERE, 0)?;
        fail_many(&mut self.client, to, FAILED)?;
        self.client.bound(SocketAddr::new(V4, 20_000))?;
        // One that is accepted, and others that wait.
        self.server.accept()?;
        Ok(())
    }

    fn wanted(&self) -> [Wanted; 3] {
        let connected = OPEN + OPEN_ELSEWHERE;
        let client = Wanted {
            bound: 1,
            opened: connected,
            failed: FAILED,
            top: vec![(PORT, OPEN, 0), (OTHER_PORT, OPEN_ELSEWHERE, 0)],
            ..Wanted::of(&self.client).ports("ESTABLISHED", connected)
        };
        let gone = Wanted {
            exited: true,
            opened: LEFT,
            closed: LEFT,
            top: vec![(PORT, LEFT, LEFT)],
            ..Wanted::of(&self.gone).ports("TIME_WAIT", LEFT)
        };
        let server = Wanted {
            bound: 2,
            serving: connected,
            opened: connected + LEFT,
            closed: LEFT,
            ..Wanted::of(&self.server.actor)
        };
        [client, gone, server]
    }
}

/// Connections that the kernel keeps no timewait socket of are counted.
fn overflow(scene: &Scene) -> Result<()> {
    let mut server = scene.server(V4, 5776)?;
    let mut client = scene.actor("overflow")?;
    let before = scene.tracer.snapshot()?.ledger.overflow;
    scene.netns.sysctl("ipv4/tcp_max_tw_buckets", "0")?;
    for _ in 0..OVERFLOWED {
        close_first(&mut server, &mut client)?;
    }
    wait("overflow", || {
        let ledger = scene.tracer.snapshot()?.ledger.clone();
        // Of the whole machine: others may have some too.
        let enough = ledger.overflow >= before + OVERFLOWED as u64;
        Ok((enough, format!("{ledger:?}")))
    })?;
    let over = over(&scene.settled()?, client.pid);
    let without = |over: &Connection| over.end == "fin" && over.time_wait_s.is_none();
    ensure!(
        over.len() == OVERFLOWED && over.iter().all(without),
        "not {OVERFLOWED} ends without TIME_WAIT: {over:#?}"
    );
    Ok(())
}

fn over(lines: &[Arc<Line>], pid: u32) -> Vec<Connection> {
    let over = lines.iter().filter_map(|line| match &line.record {
        Record::Connection(over) if over.process.as_ref()?.pid == pid => Some(over.clone()),
        _ => None,
    });
    over.collect()
}

/// The kernel-side table is as full as it is said to be, and lets go of what is gone. It is the machine's: what
/// else is going on moves it a little.
fn table(scene: &Scene) -> Result<()> {
    const MANY: u32 = 150;
    let used = || -> Result<u64> {
        let table = scene.tracer.snapshot()?.ledger.table;
        Ok(table.context("no table")?.used)
    };
    scene
        .netns
        .sysctl("ipv4/ip_local_port_range", "41000 42000")?;
    let before = used()?;
    let server = scene.server(V4, 5777)?;
    let mut client = scene.actor("many")?;
    let many = Op::ConnectMany {
        v6: false,
        to: server.addr,
        times: MANY,
    };
    every(&client.all(&many)?, MANY as usize, 0)?;
    let full = before + 2 * u64::from(MANY);
    wait("a full table", || {
        let used = used()?;
        Ok((used + 10 >= full, format!("{used} after {before}")))
    })?;
    let pids = [client.pid, server.actor.pid];
    drop((client, server));
    wait("an empty table", || {
        let used = used()?;
        let owners = socket_owners(scene.tracer.pid())?;
        let ours = owners.iter().filter(|pid| pids.contains(pid)).count();
        let fits = ours == 0 && used == owners.len() as u64;
        Ok((fits, format!("{used} of {}, {ours} ours", owners.len())))
    })
}

fn wait(what: &str, mut look: impl FnMut() -> Result<(bool, String)>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (done, found) = look()?;
        if done {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "no {what}: {found}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// With the first reading of the kernel's sockets.
fn seeded_once(finished: &Finished) -> Result<()> {
    let lines = finished.lines.all();
    let ledgers = lines.iter().filter_map(|line| match &line.record {
        Record::Ledger(ledger) => Some(ledger),
        _ => None,
    });
    let seeded: Vec<_> = ledgers.map(|ledger| ledger.seeded.as_ref()).collect();
    let times = seeded.iter().flatten().count();
    let first = seeded
        .first()
        .copied()
        .flatten()
        .context("the first says nothing")?;
    ensure!(times == 1, "seeded {times} times");
    ensure!(
        first.timewait <= first.sockets && first.owned <= first.sockets,
        "{first:?}"
    );
    Ok(())
}

/// What is in TIME_WAIT when the run ends is told, then what everybody has, then nothing.
fn told_at_the_end(finished: &Finished, netns: u64, gone: u32) -> Result<()> {
    let over = over(&finished.lines.of(netns), gone);
    let is_cut = |over: &Connection| {
        let held = over.time_wait_s.is_some_and(|held| held > 0.0);
        over.end == "fin" && over.in_time_wait && held && over.established
    };
    ensure!(
        over.len() == LEFT && over.iter().all(is_cut),
        "not {LEFT} ends in TIME_WAIT: {over:#?}"
    );
    let lines = finished.lines.all();
    let last: Vec<_> = lines
        .iter()
        .rev()
        .take(2)
        .map(|line| &line.record)
        .collect();
    ensure!(
        matches!(last[..], [Record::Stop(_), Record::Ledger(_)]),
        "the last lines are {last:?}"
    );
    let connections = |line: &Arc<Line>| matches!(line.record, Record::Connection(_));
    let usages = |line: &Arc<Line>| matches!(line.record, Record::Usage(_));
    ensure!(
        lines.iter().rposition(connections) < lines.iter().rposition(usages),
        "no usage after the last connection"
    );
    Ok(())
}
