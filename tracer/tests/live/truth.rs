//! Whether the tracer's ledger is what the kernel has: each socket, its state, its owner.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};

use crate::{
    actor::Held,
    bpf::skipped_runs,
    dump::{self, Row},
    lines::{Endpoint, PATIENCE, Record, SocketSeen},
    netns::Netns,
    scene::Scene,
};

/// A difference counts when it is there so often in a row: timers go on between the tracer's answer and
/// the kernel's.
const STABLE: usize = 3;
const PAUSE: Duration = Duration::from_millis(100);

/// How a socket is compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    place: Place,
    state: String,
    timewait: bool,
}

/// Where it is. What listens, or is only bound, has no peer, whatever a former connect left there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    family: String,
    local: (String, u16),
    peer: Option<(String, u16)>,
}

fn has_peer(state: &str) -> bool {
    !["LISTEN", "CLOSE"].contains(&state)
}

impl From<&Row> for Key {
    fn from(row: &Row) -> Self {
        let end = |addr: SocketAddr| (addr.ip().to_string(), addr.port());
        Self {
            place: Place {
                family: row.family.to_owned(),
                local: end(row.local),
                peer: has_peer(row.state).then(|| end(row.peer)),
            },
            state: row.state.to_owned(),
            timewait: row.timewait,
        }
    }
}

impl From<&SocketSeen> for Key {
    fn from(seen: &SocketSeen) -> Self {
        let end = |end: &Endpoint| (end.ip.clone(), end.port.unwrap_or_default());
        Self {
            place: Place {
                family: seen.family.clone(),
                local: end(&seen.local),
                peer: has_peer(&seen.state).then(|| end(&seen.peer)),
            },
            state: seen.state.clone(),
            timewait: seen.timewait,
        }
    }
}

impl From<Held> for Key {
    fn from(Held(addr): Held) -> Self {
        Self {
            place: Place {
                family: if addr.is_ipv6() { "ipv6" } else { "ipv4" }.to_owned(),
                local: (addr.ip().to_canonical().to_string(), addr.port()),
                peer: None,
            },
            state: "CLOSE".to_owned(),
            timewait: false,
        }
    }
}

/// A namespace and what is known of it.
pub(crate) struct Field<'a> {
    pub netns: &'a Netns,
    /// What the processes hold by `bind()` alone, for kernels that do not list it.
    pub held: Vec<Held>,
    /// What is wrong with the owner of a socket, if anything.
    pub judge: &'a dyn Fn(&SocketSeen, &[Row]) -> Option<String>,
}

/// What comparisons found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Numbers {
    pub comparisons: usize,
    pub sockets: usize,
    pub timewait: usize,
    /// Without an owner.
    pub unowned: usize,
    /// Differences that were gone when looked at again.
    pub passing: usize,
    /// The longest that it took until none was left.
    pub slowest: Duration,
}

impl Numbers {
    pub(crate) fn add(&mut self, other: Self) {
        self.comparisons += other.comparisons;
        self.sockets += other.sockets;
        self.timewait += other.timewait;
        self.unowned += other.unowned;
        self.passing += other.passing;
        self.slowest = self.slowest.max(other.slowest);
    }

    /// For the report.
    pub(crate) fn in_words(&self) -> String {
        let share = |part: usize| 100.0 * part as f64 / self.sockets.max(1) as f64;
        format!(
            "{} sockets in {} comparisons, {} timewait, no lasting difference, {} passing ones, \
             {:.2} % without owner, agreed after {} ms at most",
            self.sockets,
            self.comparisons,
            self.timewait,
            self.passing,
            share(self.unowned),
            self.slowest.as_millis()
        )
    }
}

/// How long the tracer may leave a difference: without a hook where timewait sockets end and change, that is
/// found out by comparison, once per interval, as is what was lost. Of a second each, they take longer on a machine that
/// emulates and has other things to do.
pub(crate) const INTERVALS: Duration = Duration::from_secs(20);

/// Compares until there is no difference. One that stays is an error: at once, if the tracer sees everything and
/// has lost nothing.
pub(crate) fn agree(scene: &Scene, fields: &[Field<'_>]) -> Result<Numbers> {
    let sees_all = sees_timewait(scene)?;
    agree_in_time(scene, fields, || Ok(sees_all && !has_lost(scene)?))
}

/// The same after a loss, which may not have been told yet.
pub(crate) fn agree_after_loss(scene: &Scene, fields: &[Field<'_>]) -> Result<Numbers> {
    agree_in_time(scene, fields, || Ok(false))
}

fn agree_in_time(
    scene: &Scene,
    fields: &[Field<'_>],
    sees_all: impl Fn() -> Result<bool>,
) -> Result<Numbers> {
    let began = Instant::now();
    let mut recent: Vec<BTreeSet<Difference>> = Vec::new();
    let mut passing = 0;
    loop {
        let found = compare(scene, fields)?;
        if found.differences.is_empty() {
            let mut numbers = found.numbers;
            numbers.passing = passing;
            numbers.slowest = began.elapsed();
            return Ok(numbers);
        }
        passing += found.differences.len();
        recent.push(found.differences);
        let lasting = lasting(&recent);
        let grace = if sees_all()? {
            Duration::ZERO
        } else {
            INTERVALS
        };
        if !lasting.is_empty() && began.elapsed() > grace {
            bail!(
                "{} lasting differences after {} ms, {}: {}",
                lasting.len(),
                began.elapsed().as_millis(),
                losses(scene)?,
                lasting
                    .iter()
                    .take(4)
                    .map(|each| each.told(scene))
                    .collect::<String>()
            );
        }
        ensure!(
            began.elapsed() < grace + PATIENCE,
            "always another difference, {}, last {:?}",
            losses(scene)?,
            recent.last()
        );
        thread::sleep(PAUSE);
    }
}

fn sees_timewait(scene: &Scene) -> Result<bool> {
    let backend = scene.tracer.coverage("time_wait")?.backend;
    Ok(backend.is_some_and(|backend| backend == "fexit"))
}

/// Whether something was lost, told yet or not.
pub(crate) fn has_lost(scene: &Scene) -> Result<bool> {
    Ok(!scene.tracer.losses().is_empty() || skipped_runs(scene.tracer.pid())? > 0)
}

fn losses(scene: &Scene) -> Result<String> {
    let skipped = skipped_runs(scene.tracer.pid())?;
    Ok(format!(
        "{skipped} runs skipped, lost {:?}",
        scene.tracer.losses()
    ))
}

/// What all of the last few comparisons found.
fn lasting(recent: &[BTreeSet<Difference>]) -> Vec<&Difference> {
    let Some(last) = recent.len().checked_sub(STABLE).map(|from| &recent[from..]) else {
        return Vec::new();
    };
    let in_all = |difference: &&Difference| last.iter().all(|each| each.contains(*difference));
    last[0].iter().filter(in_all).collect()
}

/// Something that tracer and kernel do not tell alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Difference {
    text: String,
    netns: u64,
    /// Of the socket, local and peer.
    ports: [Option<u16>; 2],
}

impl Difference {
    /// With what the tracer said of such a socket, of late. Only the last snapshot of it: there is one for each comparison.
    fn told(&self, scene: &Scene) -> String {
        let lines = scene.tracer.lines.of(self.netns);
        let mut is_seen = false;
        let of_it = lines.iter().rev().filter(|line| {
            let (local, peer) = match &line.record {
                Record::State(state) => (&state.local, &state.peer),
                // Without `state` lines these tell of it.
                Record::Connection(over) => (&over.local, &over.peer),
                Record::Socket(seen) if !is_seen => (&seen.local, &seen.peer),
                _ => return false,
            };
            let is_its = [local.port, peer.port] == self.ports;
            is_seen |= is_its && matches!(line.record, Record::Socket(_));
            is_its
        });
        let mut history: Vec<_> = of_it
            .take(8)
            .map(|line| format!("    {}", line.raw))
            .collect();
        history.reverse();
        format!("\n  {}\n{}", self.text, history.join("\n"))
    }
}

struct Comparison {
    differences: BTreeSet<Difference>,
    numbers: Numbers,
}

fn compare(scene: &Scene, fields: &[Field<'_>]) -> Result<Comparison> {
    scene.drained()?;
    let snapshot = scene.tracer.snapshot()?;
    let mut differences = BTreeSet::new();
    let mut numbers = Numbers::default();
    for field in fields {
        let seen = snapshot.sockets.iter();
        let seen: Vec<_> = seen
            .filter(|seen| seen.netns == field.netns.inode)
            .collect();
        let rows = dump::dump(field.netns)?;
        differences.extend(states(field, &rows, &seen));
        differences.extend(owners(field, &rows, &seen));
        numbers.add(Numbers {
            comparisons: 1,
            sockets: seen.len(),
            timewait: seen.iter().filter(|seen| seen.timewait).count(),
            unowned: seen.iter().filter(|seen| seen.process.is_none()).count(),
            ..Numbers::default()
        });
    }
    Ok(Comparison {
        differences,
        numbers,
    })
}

fn owners(field: &Field<'_>, rows: &[Row], seen: &[&SocketSeen]) -> Vec<Difference> {
    let wrong = seen.iter().filter_map(|seen| {
        (field.judge)(seen, rows).map(|text| Difference {
            text,
            netns: field.netns.inode,
            ports: [seen.local.port, seen.peer.port],
        })
    });
    wrong.collect()
}

/// Where tracer and kernel do not tell the same.
fn states(field: &Field<'_>, rows: &[Row], seen: &[&SocketSeen]) -> Vec<Difference> {
    let mut kernel: Vec<Key> = rows.iter().map(Key::from).collect();
    if !dump::lists_bound() {
        kernel.retain(|key| key.state != "CLOSE");
        kernel.extend(field.held.iter().copied().map(Key::from));
    }
    let mut tracer: Vec<Key> = seen.iter().map(|seen| Key::from(*seen)).collect();
    if !dump::lists_bound() {
        // A socket at a port of its own whose connection is over holds the port, too, and nobody lists it; another one
        // there, which is bound alone, may be listed.
        let mut listed = kernel.clone();
        tracer.retain(|key| key.state != "CLOSE" || take(&mut listed, key));
    }
    let mut places: BTreeMap<Place, (Vec<Key>, Vec<Key>)> = BTreeMap::new();
    for key in kernel {
        places.entry(key.place.clone()).or_default().0.push(key);
    }
    for key in tracer {
        places.entry(key.place.clone()).or_default().1.push(key);
    }
    let each = places.into_iter();
    each.flat_map(|(place, (kernel, tracer))| {
        let texts = at_one_place(&place, kernel, tracer).into_iter();
        texts.map(move |text| Difference {
            text,
            netns: field.netns.inode,
            ports: [Some(place.local.1), place.peer.as_ref().map(|peer| peer.1)],
        })
    })
    .collect()
}

/// Whether it was there; one of them is no more.
fn take(keys: &mut Vec<Key>, key: &Key) -> bool {
    let found = keys.iter().position(|other| other == key);
    found.map(|index| keys.swap_remove(index)).is_some()
}

fn at_one_place(place: &Place, mut kernel: Vec<Key>, mut tracer: Vec<Key>) -> Vec<String> {
    kernel.retain(|key| !take(&mut tracer, key));
    let brief = |key: &Key| {
        let kind = if key.timewait { " (timewait)" } else { "" };
        format!("{}{kind}", key.state)
    };
    let tell = |index| match (kernel.get(index).map(brief), tracer.get(index).map(brief)) {
        (Some(kernel), Some(tracer)) => format!("wrong: {tracer} is {kernel} at {place:?}"),
        (Some(kernel), None) => format!("missing: {kernel} at {place:?}"),
        (None, tracer) => format!("surplus: {} at {place:?}", tracer.unwrap_or_default()),
    };
    (0..kernel.len().max(tracer.len())).map(tell).collect()
}
