//! What is left of a block of lines: small items whose names are numbers into the block's own lists, so that the one
//! thread that follows them in order has little to do.

use std::{borrow::Cow, collections::BTreeMap, hash::Hash, net::IpAddr};

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::line::{self, Budget, Settings, Tells, Text};
use crate::event::{Role, State};

/// No process is named.
pub const NOBODY: u32 = u32::MAX;

/// What a block of whole lines says.
#[derive(Debug, Default)]
pub struct Digest {
    pub lines: u64,
    pub items: Vec<Item>,
    /// Lines that can't be used: the number of the line in the block, from 0.
    pub faults: Vec<(u64, Fault)>,
    pub hosts: Vec<Box<str>>,
    pub processes: Vec<Process>,
    pub places: Vec<Place>,
    /// Lines of types that this version does not know: how many, and the first name.
    pub unknown: Option<(u64, String)>,
}

#[derive(Debug)]
pub struct Item {
    /// Number of the line in the block, from 0.
    pub line: u64,
    /// Nanoseconds since 1970.
    pub ts: i64,
    pub seq: Option<u64>,
    /// A copy of a line of that time, for what it introduces.
    pub repeated: bool,
    pub host: u32,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub host: u32,
    pub id: Box<str>,
    pub comm: Box<str>,
    pub pid: u32,
}

/// Where a connection leads, seen from its local address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub host: u32,
    pub netns: u32,
    /// `None`: bound ports, which are closed to all.
    pub to: Option<Route>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    pub local: IpAddr,
    pub peer: IpAddr,
    pub port: Option<u16>,
}

#[derive(Debug)]
pub enum What {
    State {
        place: u32,
        process: u32,
        old: State,
        new: State,
        /// It has a local port.
        has_port: bool,
        cookie: u64,
    },
    Connection {
        place: u32,
        process: u32,
        opened: Option<i64>,
        closed: i64,
        established: bool,
        /// It stayed in TIME_WAIT.
        waited: bool,
    },
    Failed(Box<Failed>),
    Pressure(Box<Pressure>),
    Usage(Box<Usage>),
    Process(Box<Identity>),
    Start(Box<Start>),
    Settings(Settings),
    Ledger {
        overflow: u64,
    },
    Loss {
        events: u64,
        place: Box<str>,
        resynced: bool,
    },
    Shed {
        lines: u64,
    },
    Stop {
        lines: u64,
        failures: u64,
        bind_failures: u64,
    },
    /// Of a snapshot, which a `ledger` line ends.
    Socket,
    /// It only counts.
    Other,
}

#[derive(Debug)]
pub struct Failed {
    /// Of a `bind()`: what was to be bound stands in place of the peer.
    pub place: u32,
    pub process: u32,
    pub bind: bool,
    pub reason: Box<str>,
    pub repeats: u64,
    pub told: Told,
}

/// What explains it.
#[derive(Debug, Default)]
pub struct Told {
    /// Of the range of the network namespace.
    pub budget: Option<Budget>,
    pub holders: Vec<Holder>,
    pub advice: Vec<Advice>,
}

#[derive(Debug)]
pub struct Holder {
    pub process: u32,
    /// It is the row of several processes.
    pub others: bool,
    pub states: Vec<(State, u32)>,
    pub bound: u32,
}

#[derive(Debug)]
pub struct Advice {
    pub id: Box<str>,
    pub why: Box<str>,
    pub how: Box<str>,
}

#[derive(Debug)]
pub struct Pressure {
    pub place: u32,
    pub level: Box<str>,
    pub used_percent: f64,
    pub open_rate: Option<f64>,
    pub exhausts_in_s: Option<f64>,
    pub told: Told,
}

#[derive(Clone, Debug)]
pub struct Usage {
    pub netns: u32,
    pub process: u32,
    pub exited: bool,
    pub states: Vec<(State, u32)>,
    pub bound: u32,
    pub opened: u32,
    pub closed: u32,
    pub failed: u32,
    pub top: Vec<Top>,
}

#[derive(Clone, Debug)]
pub struct Top {
    pub place: u32,
    pub ports: u32,
    pub time_wait: u32,
}

#[derive(Debug)]
pub struct Identity {
    pub process: u32,
    pub exe: Option<Box<str>>,
    pub started: Option<i64>,
}

#[derive(Debug)]
pub struct Start {
    pub tracer: Box<str>,
    pub kernel: Box<str>,
    pub netns: Vec<Settings>,
    /// By `--sample` or `--state` there are `state` lines of some connections or transitions only.
    pub is_sampled: bool,
}

/// Why a line can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not a line of tracer: how it fails.
    Garbage(String),
    Version(u64),
    /// Of a known type, but without what that needs.
    Unusable(String),
    /// The last line, without its end.
    Cut,
    /// So many bytes.
    TooLong(u64),
}

/// Reads the lines of `block`. `cut`: its last line may lack its end.
pub fn digest(block: &[u8], cut: bool) -> Digest {
    let mut digester = Digester::default();
    let mut start = 0;
    let ends = memchr::memchr_iter(b'\n', block);
    for end in ends.chain((!block.ends_with(b"\n")).then_some(block.len())) {
        let is_cut = cut && end == block.len();
        if start < block.len() {
            digester.line(&block[start..end], is_cut);
        }
        start = end + 1;
    }
    digester.out
}

/// Numbers for what repeats within a block.
#[derive(Default)]
struct Digester<'a> {
    out: Digest,
    hosts: HashMap<Cow<'a, str>, u32, FixedState>,
    processes: HashMap<(u32, Cow<'a, str>), u32, FixedState>,
    places: HashMap<(u32, u32, RawRoute<'a>), u32, FixedState>,
}

/// Local address, peer's address and port, unread.
type RawRoute<'a> = Option<(Cow<'a, str>, Cow<'a, str>, Option<u16>)>;

type Read<T = ()> = Result<T, Fault>;

impl<'a> Digester<'a> {
    fn line(&mut self, line: &'a [u8], is_cut: bool) {
        let number = self.out.lines;
        self.out.lines += 1;
        if line.trim_ascii().is_empty() {
            return;
        }
        if let Err(fault) = self.read(number, line) {
            let fault = if is_cut { Fault::Cut } else { fault };
            self.out.faults.push((number, fault));
        }
    }

    fn read(&mut self, number: u64, line: &'a [u8]) -> Read {
        let mut head = None;
        let kind = match kind(line) {
            Some(kind) => kind,
            None => {
                let head = head.insert(parse::<line::Head>(line, Fault::Garbage)?);
                if head.v != 1 {
                    return Err(Fault::Version(head.v));
                }
                head.r#type.as_bytes()
            }
        };
        match kind {
            b"state" => self.take(number, line, Self::state),
            b"connection" => self.take(number, line, Self::connection),
            b"connect_failed" => self.take(number, line, Self::connect_failed),
            b"bind_failed" => self.take(number, line, Self::bind_failed),
            b"pressure" => self.take(number, line, Self::pressure),
            b"usage" => self.take(number, line, Self::usage),
            b"process" => self.take(number, line, Self::process_line),
            b"start" => self.take(number, line, Self::start),
            b"netns" => self.take(number, line, Self::settings),
            b"ledger" => self.take(number, line, Self::ledger),
            b"loss" => self.take(number, line, Self::loss),
            b"stop" => self.take(number, line, Self::stop),
            b"shed" => self.take(number, line, Self::shed),
            b"socket" => self.take(number, line, Self::socket),
            b"stats" | b"recording" => self.take(number, line, Self::other),
            // What the other lines were made of: for replays.
            b"input" => Ok(()),
            unknown => {
                let name = String::from_utf8_lossy(unknown).chars().take(40).collect();
                self.take(number, line, Self::other)?;
                self.out.unknown.get_or_insert((0, name)).0 += 1;
                Ok(())
            }
        }
    }

    /// Adds the item that `tell` makes of the line.
    fn take<L: Tells<'a>>(
        &mut self,
        number: u64,
        line: &'a [u8],
        tell: impl FnOnce(&mut Self, u32, L) -> Read<What>,
    ) -> Read {
        let mut line: L = unusable(line)?;
        let stamp = line.stamp();
        let host = self.host(stamp.host);
        let what = tell(self, host, line)?;
        self.out.items.push(Item {
            line: number,
            ts: time(&stamp.ts)?,
            seq: stamp.seq,
            repeated: stamp.repeated,
            host,
            what,
        });
        Ok(())
    }

    fn state(&mut self, host: u32, line: line::StateLine<'a>) -> Read<What> {
        if matches!(line.role, Some(Role::Server | Role::Listener)) {
            // It takes no port of its own, or is bound, which the usage tells.
            return Ok(What::Other);
        }
        let has_port = line.local.port.is_some();
        Ok(What::State {
            place: self.place(host, line.netns, Some((line.local.ip, line.peer)))?,
            process: self.process(host, line.process),
            old: line.old,
            new: line.new,
            has_port,
            cookie: line.cookie.and_then(|text| text.parse().ok()).unwrap_or(0),
        })
    }

    fn connection(&mut self, host: u32, line: line::ConnectionLine<'a>) -> Read<What> {
        if line.role == Some(Role::Server) {
            return Ok(What::Other);
        }
        Ok(What::Connection {
            place: self.place(host, line.netns, Some((line.local.ip, line.peer)))?,
            process: self.process(host, line.process),
            opened: line.opened.map(|text| time(&text)).transpose()?,
            closed: time(&line.closed)?,
            established: line.established,
            waited: line.time_wait_s.is_some(),
        })
    }

    fn connect_failed(&mut self, host: u32, line: line::FailedLine<'a>) -> Read<What> {
        self.failed(host, line, false)
    }

    fn bind_failed(&mut self, host: u32, line: line::FailedLine<'a>) -> Read<What> {
        self.failed(host, line, true)
    }

    fn failed(&mut self, host: u32, line: line::FailedLine<'a>, bind: bool) -> Read<What> {
        let local = line.local;
        // What was to be bound has no peer: its own address stands in its place.
        let peer = line.peer.unwrap_or_else(|| local.clone());
        Ok(What::Failed(Box::new(Failed {
            place: self.place(host, line.netns, Some((local.ip, peer)))?,
            process: self.process(host, line.process),
            bind,
            reason: own(line.reason),
            repeats: line.repeats.unwrap_or(1),
            told: Told {
                // A range of the socket's own is not that of the others.
                budget: line.budget.filter(|_| line.socket_range.is_none()),
                holders: self.holders(host, line.holders),
                advice: advice(line.advice),
            },
        })))
    }

    fn pressure(&mut self, host: u32, line: line::PressureLine<'a>) -> Read<What> {
        Ok(What::Pressure(Box::new(Pressure {
            place: self.place(host, line.netns, line.local_ip.zip(line.peer))?,
            level: own(line.level),
            used_percent: line.used_percent,
            open_rate: line.open_rate,
            exhausts_in_s: line.exhausts_in_s,
            told: Told {
                budget: Some(line.budget),
                holders: self.holders(host, line.holders),
                advice: advice(line.advice),
            },
        })))
    }

    fn usage(&mut self, host: u32, line: line::UsageLine<'a>) -> Read<What> {
        let mut top = Vec::new();
        for each in line.top {
            top.push(Top {
                place: self.place(host, line.netns, Some((each.local_ip, each.peer)))?,
                ports: each.ports,
                time_wait: each.time_wait,
            });
        }
        Ok(What::Usage(Box::new(Usage {
            netns: line.netns,
            process: self.process(host, line.process),
            exited: line.exited,
            bound: line.ports.get("bound").copied().unwrap_or(0),
            states: states(&line.ports),
            opened: line.opened,
            closed: line.closed,
            failed: line.failed,
            top,
        })))
    }

    fn process_line(&mut self, host: u32, line: line::ProcessLine<'a>) -> Read<What> {
        let process = line::Process {
            id: line.id,
            pid: line.pid,
            comm: line.comm,
        };
        Ok(What::Process(Box::new(Identity {
            process: self.process(host, Some(process)),
            exe: line.exe.map(own),
            started: line.start.and_then(|text| super::time::parse(&text)),
        })))
    }

    fn start(_: &mut Self, _: u32, line: line::StartLine<'a>) -> Read<What> {
        Ok(What::Start(Box::new(Start {
            tracer: own(line.tracer),
            kernel: own(line.kernel),
            netns: line.netns,
            is_sampled: ["sample", "state"]
                .iter()
                .any(|option| line.filter.contains_key(*option)),
        })))
    }

    fn settings(_: &mut Self, _: u32, line: line::NetnsLine<'a>) -> Read<What> {
        Ok(What::Settings(line.now))
    }

    fn ledger(_: &mut Self, _: u32, line: line::LedgerLine<'a>) -> Read<What> {
        Ok(What::Ledger {
            overflow: line.overflow,
        })
    }

    fn loss(_: &mut Self, _: u32, line: line::LossLine<'a>) -> Read<What> {
        Ok(What::Loss {
            events: line.events,
            place: own(line.place),
            resynced: line.resynced,
        })
    }

    fn shed(_: &mut Self, _: u32, line: line::ShedLine<'a>) -> Read<What> {
        let lines = line.left_out.state.saturating_add(line.left_out.connection);
        Ok(What::Shed { lines })
    }

    fn stop(_: &mut Self, _: u32, line: line::StopLine<'a>) -> Read<What> {
        Ok(What::Stop {
            lines: line.lines,
            failures: line.failures,
            bind_failures: line.bind_failures,
        })
    }

    fn socket(_: &mut Self, _: u32, _: line::Any<'a>) -> Read<What> {
        Ok(What::Socket)
    }

    fn other(_: &mut Self, _: u32, _: line::Any<'a>) -> Read<What> {
        Ok(What::Other)
    }

    fn holders(&mut self, host: u32, holders: Vec<line::Holder<'a>>) -> Vec<Holder> {
        let rows = holders.into_iter().map(|holder| Holder {
            states: states(&holder.states),
            bound: holder.bound,
            others: holder.others.is_some(),
            process: self.process(host, holder.process),
        });
        rows.collect()
    }

    fn host(&mut self, name: Text<'a>) -> u32 {
        let hosts = &mut self.out.hosts;
        number(&mut self.hosts, name.0, |name| {
            push(hosts, bounded(name, 256))
        })
    }

    fn process(&mut self, host: u32, process: Option<line::Process<'a>>) -> u32 {
        let Some(line::Process { id, pid, comm }) = process else {
            return NOBODY;
        };
        let processes = &mut self.out.processes;
        number(&mut self.processes, (host, id.0), |(_, id)| {
            let process = Process {
                host,
                id: bounded(id, 256),
                comm: own(comm),
                pid,
            };
            push(processes, process)
        })
    }

    fn place(
        &mut self,
        host: u32,
        netns: u32,
        to: Option<(Text<'a>, line::Endpoint<'a>)>,
    ) -> Read<u32> {
        let raw = to.map(|(local, peer)| (local.0, peer.ip.0, peer.port));
        let key = (host, netns, raw);
        if let Some(known) = self.places.get(&key) {
            return Ok(*known);
        }
        let to = key.2.as_ref().map(route).transpose()?;
        let number = push(&mut self.out.places, Place { host, netns, to });
        self.places.insert(key, number);
        Ok(number)
    }
}

fn route((local, peer, port): &(Cow<str>, Cow<str>, Option<u16>)) -> Read<Route> {
    Ok(Route {
        local: address(local)?,
        peer: address(peer)?,
        port: *port,
    })
}

fn address(text: &str) -> Read<IpAddr> {
    let failed = |_| Fault::Unusable(format!("`{}` is not an IP address", brief(text)));
    text.parse().map_err(failed)
}

fn time(text: &str) -> Read<i64> {
    let failed = || Fault::Unusable(format!("`{}` is not a time", brief(text)));
    super::time::parse(text).ok_or_else(failed)
}

fn brief(text: &str) -> String {
    text.chars().take(40).collect()
}

/// The type, where the line begins as tracer begins it.
fn kind(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(br#"{"v":1,"type":""#)?;
    let end = memchr::memchr(b'"', rest.get(..rest.len().min(32))?)?;
    Some(&rest[..end])
}

fn parse<'a, T: serde::Deserialize<'a>>(line: &'a [u8], fault: fn(String) -> Fault) -> Read<T> {
    serde_json::from_slice(line).map_err(|error| fault(complaint(&error)))
}

/// A line that begins well may still be broken off, or mixed with another.
fn unusable<'a, T: serde::Deserialize<'a>>(line: &'a [u8]) -> Read<T> {
    serde_json::from_slice(line).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => Fault::Unusable(complaint(&error)),
        _ => Fault::Garbage(complaint(&error)),
    })
}

/// Without serde's own line number, which is always 1, and not longer than it helps.
fn complaint(error: &serde_json::Error) -> String {
    let text = error.to_string().replace(" at line 1 column ", " at byte ");
    text.chars().take(160).collect()
}

fn states(counts: &BTreeMap<Text, u32>) -> Vec<(State, u32)> {
    let known = counts
        .iter()
        .filter_map(|(name, count)| Some((state(name)?, *count)));
    known.collect()
}

fn state(name: &str) -> Option<State> {
    use serde::de::{IntoDeserializer, value};
    let deserializer: value::StrDeserializer<value::Error> = name.into_deserializer();
    serde::Deserialize::deserialize(deserializer).ok()
}

fn advice(advice: Vec<line::Advice>) -> Vec<Advice> {
    let all = advice.into_iter().map(|advice| Advice {
        id: own(advice.id),
        why: bounded(&advice.why, 4096),
        how: bounded(&advice.how, 4096),
    });
    all.collect()
}

/// Names are short; a hostile one must not fill the memory.
fn own(text: Text) -> Box<str> {
    bounded(&text, 256)
}

fn bounded(text: &str, bytes: usize) -> Box<str> {
    text[..text.floor_char_boundary(bytes)].into()
}

fn push<T>(list: &mut Vec<T>, item: T) -> u32 {
    list.push(item);
    list.len() as u32 - 1
}

/// The number of `key`; a new one is `made`.
fn number<K: Eq + Hash>(
    map: &mut HashMap<K, u32, FixedState>,
    key: K,
    made: impl FnOnce(&K) -> u32,
) -> u32 {
    if let Some(known) = map.get(&key) {
        return *known;
    }
    let number = made(&key);
    map.insert(key, number);
    number
}
