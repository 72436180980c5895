//! Which failures are explained at length, and which refer to such an explanation.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use crate::event::{Endpoint, Event, Kind, Reason};

/// How often failures of one process to one destination are explained at length.
const EVERY: u64 = Duration::from_secs(1).as_nanos() as u64;

/// Who has not failed for so long is forgotten, count and all.
const MEMORY: u64 = Duration::from_secs(3600).as_nanos() as u64;

/// So many are remembered; then those are forgotten that failed before the last minute, and if all did since, all.
const MOST: usize = 16_384;

/// What makes failures the same: who failed, and at what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attempt {
    pub netns: u32,
    /// Pid and start time; `None`: nobody can be named.
    pub process: Option<(u32, u64)>,
    pub call: Call,
    pub local_ip: IpAddr,
    pub peer: Endpoint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    Connect(Reason),
    /// To whatever port there is.
    Bind,
    /// To one port.
    BindPort,
    /// As `Bind`.
    Listen,
}

/// What is to be told of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything.
    Explain,
    /// That the line with this number explains it.
    Refer(u64),
    /// Nothing: it is counted, and told with others (`--coalesce-failures`).
    Count,
}

/// Failures of one kind that are told together.
#[derive(Clone, Debug, PartialEq)]
pub struct Gathered {
    /// The last of them.
    pub event: Event,
    pub repeats: u64,
    /// Of this attempt, these included.
    pub so_far: u64,
    pub explained_by: Option<u64>,
}

#[derive(Default)]
pub struct Failures {
    known: HashMap<Attempt, Known>,
    coalesces: bool,
}

struct Known {
    /// When the last one was, and when the last one was that was explained; and the number of that line.
    last: u64,
    explained: u64,
    line: Option<u64>,
    so_far: u64,
    /// Not told yet.
    gathered: u64,
    latest: Option<Event>,
}

impl Attempt {
    /// `None`: the event is no failure.
    pub fn of(event: &Event) -> Option<Self> {
        let call = match event.kind {
            Kind::ConnectFailed { reason, .. } => Call::Connect(reason),
            Kind::BindFailed { .. } if event.tuple.local.port.is_some() => Call::BindPort,
            Kind::BindFailed { listens: true, .. } => Call::Listen,
            Kind::BindFailed { listens: false, .. } => Call::Bind,
            _ => return None,
        };
        Some(Self {
            netns: event.netns,
            process: event.task.as_ref().map(|task| (task.pid, task.start_ns)),
            call,
            local_ip: event.tuple.local.ip,
            peer: event.tuple.peer,
        })
    }
}

impl Failures {
    pub fn new(coalesces: bool) -> Self {
        Self {
            coalesces,
            ..Self::default()
        }
    }

    /// One more of which nothing is to be told.
    pub fn count(&mut self, attempt: Attempt, now: u64) {
        self.known(attempt, now);
    }

    /// One more, and how many that makes.
    pub fn judge(&mut self, attempt: Attempt, event: &Event) -> (Verdict, u64) {
        let coalesces = self.coalesces;
        let known = self.known(attempt, event.ts);
        let verdict = match known.line {
            Some(line) if event.ts.saturating_sub(known.explained) < EVERY => {
                if coalesces {
                    known.gathered += 1;
                    known.latest = Some(event.clone());
                    Verdict::Count
                } else {
                    Verdict::Refer(line)
                }
            }
            _ => Verdict::Explain,
        };
        (verdict, known.so_far)
    }

    /// What is known of the attempt, with this failure.
    fn known(&mut self, attempt: Attempt, now: u64) -> &mut Known {
        if self.known.len() >= MOST && !self.known.contains_key(&attempt) {
            self.forget_before(now.saturating_sub(MEMORY / 60));
            if self.known.len() >= MOST {
                self.known.retain(|_, known| known.gathered > 0);
            }
        }
        let known = self.known.entry(attempt).or_insert(Known {
            last: now,
            explained: 0,
            line: None,
            so_far: 0,
            gathered: 0,
            latest: None,
        });
        known.last = now;
        known.so_far += 1;
        known
    }

    /// How many failures of the attempt have been counted and not told: whoever asks tells them.
    pub fn take_gathered(&mut self, attempt: &Attempt) -> u64 {
        let known = self.known.get_mut(attempt);
        known.map_or(0, |known| {
            known.latest = None;
            std::mem::take(&mut known.gathered)
        })
    }

    /// The line with this number explains the attempt, which failed at `ts`.
    pub fn explained(&mut self, attempt: &Attempt, ts: u64, line: u64) {
        if let Some(known) = self.known.get_mut(attempt) {
            known.explained = ts;
            known.line = Some(line);
        }
    }

    /// Failures that were only counted, the last of them before `before`, in the order of time.
    pub fn gathered(&mut self, before: u64) -> Vec<Gathered> {
        let pending = self.known.values_mut();
        let pending = pending.filter(|known| known.gathered > 0 && known.explained < before);
        let gathered = pending.filter_map(|known| {
            Some(Gathered {
                event: known.latest.take()?,
                repeats: std::mem::take(&mut known.gathered),
                so_far: known.so_far,
                explained_by: known.line,
            })
        });
        let mut gathered: Vec<_> = gathered.collect();
        gathered.sort_unstable_by_key(|gathered| (gathered.event.ts, gathered.event.sock));
        gathered
    }

    /// To be called now and then.
    pub fn tick(&mut self, now: u64) {
        self.forget_before(now.saturating_sub(MEMORY));
    }

    fn forget_before(&mut self, ts: u64) {
        self.known
            .retain(|_, known| known.last >= ts || known.gathered > 0);
    }
}

/// How long counted failures wait to be told.
pub const GATHERING: u64 = EVERY;
