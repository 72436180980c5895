//! What the tracer printed, read as it comes.

use std::{
    collections::{HashMap, HashSet},
    io::BufRead,
    sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::Deserialize;

/// How long a condition may take to come true. Emulated machines are up to twenty times slower than
/// real ones, and only a failing test waits this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waiting for the next line is also cut short now and then, so that a burst of lines costs one look
/// per interval and not one per line.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(crate) struct Line {
    pub raw: String,
    /// When it reached this reader.
    pub arrived: Instant,
    pub record: Record,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Record {
    Start(Start),
    State(State),
    ConnectFailed(ConnectFailed),
    Process(ProcessSeen),
    Loss(Loss),
    Stop(Stop),
}

impl Record {
    fn netns(&self) -> u64 {
        match self {
            Self::State(state) => state.netns,
            Self::ConnectFailed(failed) => failed.netns,
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
    pub process: Option<Process>,
    pub owner: String,
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
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Stop {
    pub lines: u64,
    pub events: u64,
    pub lost: u64,
    pub failures: u64,
}

/// The namespaces whose lines stay in memory: ours. What else the machine does may be a flood.
static WATCHED: LazyLock<Mutex<HashSet<u64>>> = LazyLock::new(Mutex::default);

pub(crate) fn watch(netns: u64) {
    watched().insert(netns);
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
}

impl Counts {
    fn add(&mut self, record: &Record) {
        self.events += u64::from(matches!(
            record,
            Record::State(_) | Record::ConnectFailed(_)
        ));
        self.failures += u64::from(matches!(record, Record::ConnectFailed(_)));
    }
}

/// Which lines stay in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    All,
    /// All but state transitions, which are only counted: for runs with millions of them.
    Rare,
}

#[derive(Default)]
struct Inner {
    all: Vec<Arc<Line>>,
    by_netns: HashMap<u64, Vec<Arc<Line>>>,
    counts: Counts,
    /// Lines that are not what they should be, with the reason.
    bad: Vec<String>,
    ended: bool,
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
            if keep == Keep::Rare && raw.contains(r#""type":"state""#) {
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
            Ok((seq, _)) if seq != expected => {
                inner.bad.push(format!("seq is not {expected}: {raw}"));
            }
            Ok((_, record)) => {
                inner.counts.add(&record);
                let netns = record.netns();
                if netns != NO_NETNS && !watched().contains(&netns) {
                    return;
                }
                let line = Arc::new(Line {
                    raw,
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
        mut look: impl FnMut(&[Arc<Line>]) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut inner = self.lock();
        loop {
            let lines = inner.by_netns.get(&netns).map_or(&[][..], Vec::as_slice);
            if let Some(found) = look(lines) {
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

/// What every line has, whatever its type.
#[derive(Deserialize)]
struct Common {
    v: u32,
    ts: String,
    seq: u64,
    host: String,
    #[serde(flatten)]
    record: Record,
}

fn parse(raw: &str) -> Result<(u64, Record), String> {
    let line: Common = serde_json::from_str(raw).map_err(|error| error.to_string())?;
    if line.v != 1 || line.host.is_empty() || !line.ts.ends_with('Z') {
        return Err("v, host or ts is not as agreed".into());
    }
    Ok((line.seq, line.record))
}
