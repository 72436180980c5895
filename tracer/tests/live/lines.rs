//! What the tracer printed, read as it comes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::BufRead,
    mem,
    sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::rounds::{Round, Rounds};

/// How long a condition may take to come true. Emulated machines are up to twenty times slower than
/// real ones, and only a failing test waits this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waiting for the next line is also cut short now and then, so that a burst of lines costs one look
/// per interval and not one per line.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(crate) struct Line {
    pub raw: String,
    pub seq: u64,
    /// When it happened, as it says.
    pub ts: Timestamp,
    /// When it reached this reader.
    pub arrived: Instant,
    pub record: Record,
}

impl Line {
    /// A transition that was found out later than it happened.
    pub(crate) fn is_corrected(&self) -> bool {
        matches!(&self.record, Record::State(state) if state.corrected)
    }
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Record {
    Start(Start),
    State(State),
    ConnectFailed(ConnectFailed),
    BindFailed(BindFailed),
    Pressure(Pressure),
    Netns(Netns),
    Socket(SocketSeen),
    Connection(Connection),
    Usage(Usage),
    Ledger(Ledger),
    Process(ProcessSeen),
    Recording {},
    Loss(Loss),
    Stats(Stats),
    Shed(Shed),
    Stop(Stop),
}

impl Record {
    /// Ids of the processes that it names.
    pub(crate) fn processes(&self) -> Vec<&str> {
        fn id(process: &Option<Process>) -> Option<&str> {
            process.as_ref().map(|process| process.id.as_str())
        }
        let (one, other) = match self {
            Self::State(state) => (id(&state.process), None),
            Self::ConnectFailed(failed) => (Some(failed.process.id.as_str()), None),
            Self::BindFailed(failed) => (Some(failed.process.id.as_str()), None),
            Self::Socket(socket) => (id(&socket.process), None),
            Self::Connection(over) => (id(&over.process), id(&over.closed_by)),
            Self::Usage(usage) => (usage.process.as_ref().map(|whole| whole.id.as_str()), None),
            _ => (None, None),
        };
        let holders = self.holders().iter();
        let held = holders.filter_map(|holder| holder.process.as_ref());
        let held = held.map(|process| process.id.as_str());
        one.into_iter().chain(other).chain(held).collect()
    }

    fn holders(&self) -> &[Holder] {
        let explained = match self {
            Self::ConnectFailed(failed) => failed.why.holders.as_ref(),
            Self::BindFailed(failed) => failed.why.holders.as_ref(),
            Self::Pressure(pressure) => Some(&pressure.holders),
            _ => None,
        };
        explained.map_or(&[], Vec::as_slice)
    }

    fn netns(&self) -> u64 {
        match self {
            Self::State(state) => state.netns,
            Self::ConnectFailed(failed) => failed.netns,
            Self::BindFailed(failed) => failed.netns,
            Self::Pressure(pressure) => pressure.netns,
            Self::Netns(settings) => settings.netns,
            Self::Socket(socket) => socket.netns,
            Self::Connection(connection) => connection.netns,
            Self::Usage(usage) => usage.netns,
            _ => NO_NETNS,
        }
    }
}

/// Lines that belong to no network namespace are kept under this number; inodes start at 1.
pub(crate) const NO_NETNS: u64 = 0;

#[derive(Debug, Deserialize)]
pub(crate) struct Start {
    pub coverage: Vec<Coverage>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Coverage {
    pub capability: String,
    pub hook: Option<String>,
    pub backend: Option<String>,
    /// What this hook does not see on this kernel.
    #[serde(default)]
    pub limits: Vec<String>,
    #[serde(default)]
    pub refused: Vec<Refused>,
}

/// A better hook that could not be used.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Refused {
    pub reason: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct State {
    pub netns: u64,
    pub family: String,
    pub role: Option<String>,
    pub local: Endpoint,
    pub peer: Endpoint,
    pub old: String,
    pub new: String,
    pub cookie: Option<String>,
    pub process: Option<Process>,
    pub owner: String,
    /// Found by comparison with the kernel's sockets, and so later than it happened.
    #[serde(default)]
    pub corrected: bool,
}

impl State {
    /// The transition as one word, for comparisons and messages.
    pub(crate) fn step(&self) -> String {
        format!("{}>{}", self.old, self.new)
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ConnectFailed {
    pub netns: u64,
    pub family: String,
    pub local: Endpoint,
    pub peer: Endpoint,
    pub errno: i32,
    pub error: String,
    pub reason: String,
    pub process: Process,
    pub owner: String,
    /// IP_LOCAL_PORT_RANGE of the socket.
    pub socket_range: Option<[u16; 2]>,
    #[serde(flatten)]
    pub why: Why,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct BindFailed {
    pub netns: u64,
    pub family: String,
    pub local: Endpoint,
    pub errno: i32,
    pub error: String,
    pub reason: String,
    pub listen: bool,
    pub process: Process,
    pub owner: String,
    #[serde(flatten)]
    pub why: Why,
}

/// What explains a failure: all of it, or the number of the line that does.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Why {
    pub budget: Option<Budget>,
    pub holders: Option<Vec<Holder>>,
    #[serde(default, deserialize_with = "time_or_null")]
    pub since: Option<Timestamp>,
    pub failures_so_far: Option<u64>,
    #[serde(default)]
    pub advice: Vec<Advice>,
    pub held_by: Option<HeldBy>,
    pub explained_by: Option<u64>,
    /// For so many failures this line stands.
    pub repeats: Option<u64>,
}

impl Why {
    /// For how many failures the line stands.
    pub(crate) fn times(&self) -> u64 {
        self.repeats.unwrap_or(1)
    }
}

/// The ports of a range, from one destination's view.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Budget {
    pub ports: [u16; 2],
    pub range: u32,
    pub reserved: u32,
    pub bound: u32,
    pub in_use: u32,
    pub time_wait: u32,
    pub reusable: u32,
    pub free: u32,
    #[serde(default)]
    pub uncertain: bool,
}

impl Budget {
    pub(crate) fn taken(&self) -> u32 {
        self.in_use + self.bound
    }

    pub(crate) fn adds_up(&self) -> bool {
        self.range == u32::from(self.ports[1] - self.ports[0]) + 1
            && self.range == self.reserved + self.taken() + self.free
            && self.time_wait <= self.in_use
            && self.reusable <= self.free
    }
}

/// A process, or the rest of them, and its ports of a budget.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Holder {
    pub process: Option<WholeProcess>,
    pub exited: Option<bool>,
    /// So many more processes, in one row.
    pub others: Option<u64>,
    pub ports: u32,
    pub states: BTreeMap<String, u32>,
    pub bound: u32,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Advice {
    pub id: String,
    pub why: String,
    pub how: String,
}

/// The socket that is in the way.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct HeldBy {
    pub local: Endpoint,
    pub state: Option<String>,
    pub process: Option<WholeProcess>,
}

/// The settings of a namespace are others than before.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Netns {
    pub netns: u64,
}

/// A destination runs out of ports, or recovers.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Pressure {
    pub netns: u64,
    /// `None`, as the peer: the ports that are bound, and so closed to every destination.
    pub local_ip: Option<String>,
    pub peer: Option<Endpoint>,
    pub level: String,
    pub before: String,
    pub used_percent: f64,
    pub budget: Budget,
    pub open_rate: Option<f64>,
    pub window_s: Option<f64>,
    pub forecast: String,
    pub exhausts_in_s: Option<f64>,
    #[serde(default)]
    pub holders: Vec<Holder>,
    #[serde(default)]
    pub advice: Vec<Advice>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub ip: String,
    pub port: Option<u16>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Process {
    pub id: String,
    pub pid: u32,
    pub tid: u32,
    pub comm: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ProcessSeen {
    pub id: String,
    pub pid: u32,
    pub comm: String,
    pub exe: Option<String>,
    pub uid: u32,
    pub start: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Loss {
    pub events: u64,
    #[serde(rename = "where")]
    pub place: String,
    #[serde(default)]
    pub resynced: bool,
}

/// What the tracer costs.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Stats {
    pub interval_s: f64,
    pub events: u64,
    pub events_per_s: f64,
    pub rss_bytes: Option<u64>,
    pub ring: Option<Table>,
    pub table: Table,
    pub bpf: Option<Bpf>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Bpf {
    pub programs: Vec<Program>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Program {
    pub name: String,
    pub runs: u64,
    pub ns_per_run: f64,
}

/// What it leaves out.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Shed {
    pub level: String,
    pub before: String,
    pub cpu_percent: Option<f64>,
    pub left_out: LeftOut,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct LeftOut {
    pub state: u64,
}

/// A socket that the tracer knows at this moment.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct SocketSeen {
    pub netns: u64,
    pub family: String,
    pub role: Option<String>,
    pub local: Endpoint,
    pub peer: Endpoint,
    pub state: String,
    pub timewait: bool,
    pub cookie: Option<String>,
    pub process: Option<Process>,
    pub owner: String,
}

/// A connection that is over.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Connection {
    pub netns: u64,
    pub family: String,
    pub role: Option<String>,
    pub local: Endpoint,
    pub peer: Endpoint,
    pub cookie: Option<String>,
    pub process: Option<Process>,
    pub owner: String,
    pub closed_by: Option<Process>,
    #[serde(default, deserialize_with = "time_or_null")]
    pub opened: Option<Timestamp>,
    #[serde(deserialize_with = "time")]
    pub closed: Timestamp,
    pub duration_ms: Option<f64>,
    pub established: bool,
    pub end: String,
    pub bytes_sent: Option<u64>,
    pub bytes_received: Option<u64>,
    pub time_wait_s: Option<f64>,
    #[serde(default)]
    pub in_time_wait: bool,
}

/// What a process has, and what it did in an interval.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Usage {
    pub netns: u64,
    pub interval_s: f64,
    pub process: Option<WholeProcess>,
    pub exited: Option<bool>,
    pub ports: Ports,
    #[serde(default)]
    pub serving: Serving,
    pub opened: u64,
    pub closed: u64,
    pub failed: u64,
    pub top: Vec<Destination>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Ports {
    pub total: u64,
    pub bound: u64,
    #[serde(flatten)]
    pub states: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub(crate) struct Serving {
    pub total: u64,
    #[serde(flatten)]
    pub states: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Destination {
    pub local_ip: String,
    pub peer: Endpoint,
    pub ports: u64,
    pub time_wait: u64,
}

/// A process as such, not one of its threads.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct WholeProcess {
    pub id: String,
    pub pid: u32,
    pub comm: String,
}

/// How much the tracer knows.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Ledger {
    pub sockets: u64,
    pub timewait: u64,
    pub bound: u64,
    pub unowned: u64,
    pub processes: u64,
    pub netns: u64,
    pub overflow: u64,
    pub table: Option<Table>,
    pub seeded: Option<Seeded>,
}

/// Entries of the kernel-side table, and how many fit.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Table {
    pub used: u64,
    pub size: u64,
}

/// What was there when the tracer started.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Seeded {
    pub sockets: u64,
    pub timewait: u64,
    pub owned: u64,
}

/// All sockets of one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Those of the namespaces that are watched.
    pub sockets: Vec<SocketSeen>,
    /// Those of all namespaces as `ledger` counts them: all, timewait, bound, without owner.
    pub counted: [u64; 4],
    pub ledger: Ledger,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Stop {
    pub lines: u64,
    pub events: u64,
    pub lost: u64,
    pub failures: u64,
    #[serde(default)]
    pub bind_failures: u64,
}

/// The namespaces whose lines stay in memory: ours. What else the machine does may be a flood.
static WATCHED: LazyLock<Mutex<HashSet<u64>>> = LazyLock::new(Mutex::default);

pub(crate) fn watch(netns: u64) {
    watched().insert(netns);
}

/// Its lines are only counted from now on.
pub(crate) fn forget(netns: u64) {
    watched().remove(&netns);
}

fn watched() -> MutexGuard<'static, HashSet<u64>> {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many lines came, kept or not.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub lines: u64,
    /// Those that each stand for an event.
    pub events: u64,
    pub failures: u64,
    pub bind_failures: u64,
}

impl Counts {
    fn add(&mut self, record: &Record) {
        self.events += u64::from(match record {
            Record::State(state) => !state.corrected,
            Record::ConnectFailed(_) | Record::BindFailed(_) => true,
            _ => false,
        });
        match record {
            Record::ConnectFailed(failed) => self.failures += failed.why.times(),
            Record::BindFailed(failed) => self.bind_failures += failed.why.times(),
            _ => {}
        }
    }
}

/// Which lines stay in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    All,
    /// All but state transitions, which are only counted: for runs with millions of them.
    Rare,
    /// All, and beside them every line as it came, `input` lines too.
    Recorded,
    /// As `Rare`, and not the ends of connections either.
    Few,
}

impl Keep {
    fn only_counts(self, raw: &str) -> bool {
        let state = raw.contains(r#""type":"state""#);
        match self {
            Self::All | Self::Recorded => false,
            Self::Rare => state,
            Self::Few => state || raw.contains(r#""type":"connection""#),
        }
    }
}

#[derive(Default)]
struct Inner {
    all: Vec<Arc<Line>>,
    by_netns: HashMap<u64, Vec<Arc<Line>>>,
    counts: Counts,
    snapshots: Snapshots,
    rounds: Rounds,
    /// With [`Keep::Recorded`]: the whole stream.
    recorded: String,
    /// Lines that are not what they should be, with the reason.
    bad: Vec<String>,
    ended: bool,
}

#[derive(Default)]
struct Snapshots {
    taken: usize,
    last: Option<Arc<Snapshot>>,
    /// Of the one that is being printed.
    sockets: Vec<SocketSeen>,
    counted: [u64; 4],
}

impl Snapshots {
    fn add(&mut self, record: &Record) {
        match record {
            Record::Socket(socket) => {
                let bound = socket.state == "CLOSE";
                let kinds = [true, socket.timewait, bound, socket.owner == "none"];
                for (count, is) in self.counted.iter_mut().zip(kinds) {
                    *count += u64::from(is);
                }
                if watched().contains(&socket.netns) {
                    self.sockets.push(socket.clone());
                }
            }
            // A `ledger` line that comes by itself, at the end of an interval, is none.
            Record::Ledger(ledger) if self.counted[0] > 0 || ledger.sockets == 0 => {
                self.taken += 1;
                self.last = Some(Arc::new(Snapshot {
                    sockets: mem::take(&mut self.sockets),
                    counted: mem::take(&mut self.counted),
                    ledger: ledger.clone(),
                }));
            }
            _ => {}
        }
    }
}

#[derive(Default)]
pub(crate) struct Lines {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Held while nothing may be read.
    reading: Mutex<()>,
}

impl Lines {
    /// Stops reading for as long as the answer lives: the pipe fills, and then the tracer waits.
    pub(crate) fn pause(&self) -> MutexGuard<'_, ()> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads until the end of the stream.
    pub(crate) fn read(&self, stream: impl BufRead, keep: Keep) {
        for raw in stream.lines() {
            let Ok(raw) = raw else { break };
            drop(self.pause());
            if keep == Keep::Recorded {
                let recorded = &mut self.lock().recorded;
                *recorded += &raw;
                recorded.push('\n');
                if is_input(&raw) {
                    continue;
                }
            }
            if keep.only_counts(&raw) {
                self.lock().counts.lines += 1;
            } else {
                self.add(raw);
            }
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn add(&self, raw: String) {
        let arrived = Instant::now();
        let parsed = parse(&raw);
        let mut inner = self.lock();
        let expected = inner.counts.lines;
        inner.counts.lines += 1;
        match parsed {
            Err(error) => inner.bad.push(format!("{error}: {raw}")),
            Ok(line) if line.seq != expected => {
                inner.bad.push(format!("seq is not {expected}: {raw}"));
            }
            Ok(Common {
                ts, seq, record, ..
            }) => {
                inner.counts.add(&record);
                inner.snapshots.add(&record);
                inner.rounds.add(&record);
                let netns = record.netns();
                if netns != NO_NETNS && !watched().contains(&netns) {
                    return;
                }
                let line = Arc::new(Line {
                    raw,
                    seq,
                    ts,
                    arrived,
                    record,
                });
                inner.by_netns.entry(netns).or_default().push(line.clone());
                inner.all.push(line);
                drop(inner);
                self.changed.notify_all();
            }
        }
    }

    /// Waits until `look` finds what it looks for among the lines of a namespace.
    /// `None` when the stream ended or patience did.
    pub(crate) fn wait<T>(
        &self,
        netns: u64,
        look: impl FnMut(&[Arc<Line>]) -> Option<T>,
    ) -> Option<T> {
        self.wait_at_most(PATIENCE, netns, look)
    }

    pub(crate) fn wait_at_most<T>(
        &self,
        patience: Duration,
        netns: u64,
        mut look: impl FnMut(&[Arc<Line>]) -> Option<T>,
    ) -> Option<T> {
        self.wait_for(patience, |inner| {
            look(inner.by_netns.get(&netns).map_or(&[][..], Vec::as_slice))
        })
    }

    /// The rounds of `usage` lines that have come, of all namespaces.
    pub(crate) fn rounds(&self) -> Vec<Round> {
        self.lock().rounds.done().to_vec()
    }

    /// How many snapshots have come.
    pub(crate) fn snapshots(&self) -> usize {
        self.lock().snapshots.taken
    }

    /// Waits for one more than there were.
    pub(crate) fn wait_snapshot(&self, before: usize) -> Option<Arc<Snapshot>> {
        self.wait_for(PATIENCE, |inner| {
            let snapshots = &inner.snapshots;
            snapshots.last.clone().filter(|_| snapshots.taken > before)
        })
    }

    fn wait_for<T>(
        &self,
        patience: Duration,
        mut look: impl FnMut(&Inner) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + patience;
        let mut inner = self.lock();
        loop {
            if let Some(found) = look(&inner) {
                return Some(found);
            }
            if inner.ended || Instant::now() > deadline {
                return None;
            }
            drop(inner);
            std::thread::sleep(LOOK);
            let waited = self.changed.wait_timeout(self.lock(), LOOK * 20);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The lines of a namespace so far.
    pub(crate) fn of(&self, netns: u64) -> Vec<Arc<Line>> {
        self.lock()
            .by_netns
            .get(&netns)
            .cloned()
            .unwrap_or_default()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Line>> {
        self.lock().all.clone()
    }

    pub(crate) fn recorded(&self) -> String {
        self.lock().recorded.clone()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.lock().counts
    }

    pub(crate) fn bad(&self) -> Vec<String> {
        self.lock().bad.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What only a replay is interested in.
pub(crate) fn is_input(raw: &str) -> bool {
    raw.contains(r#""type":"input""#)
}

/// What every line has, whatever its type.
#[derive(Deserialize)]
struct Common {
    v: u32,
    #[serde(deserialize_with = "time")]
    ts: Timestamp,
    seq: u64,
    host: String,
    #[serde(flatten)]
    record: Record,
}

/// RFC 3339, and UTC.
fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(from)?;
    match text.parse() {
        Ok(time) if text.ends_with('Z') => Ok(time),
        _ => Err(D::Error::custom(format!("{text} is no time"))),
    }
}

fn time_or_null<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    #[derive(Deserialize)]
    struct Time(#[serde(deserialize_with = "time")] Timestamp);
    Ok(Option::<Time>::deserialize(from)?.map(|Time(time)| time))
}

fn parse(raw: &str) -> Result<Common, String> {
    let line: Common = serde_json::from_str(raw).map_err(|error| error.to_string())?;
    if line.v != 1 || line.host.is_empty() {
        return Err("v or host is not as agreed".into());
    }
    Ok(line)
}
