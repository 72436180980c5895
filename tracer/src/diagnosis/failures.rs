//! Which failures are explained at length, and which refer to such an explanation.

use std::{collections::HashMap, mem::take, time::Duration};

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
    pub local: Endpoint,
    pub peer: Endpoint,
    /// IP_LOCAL_PORT_RANGE of the socket.
    pub socket_range: Option<(u16, u16)>,
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
    pub audience: Audience,
    pub repeats: u64,
    /// Of this attempt, these included.
    pub so_far: u64,
    pub explained_by: Option<u64>,
}

/// Whose lines a failure is in. Those for the flight recorder only have numbers of their own, and explain no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    All,
    Recorder,
}

#[derive(Default)]
pub struct Failures {
    known: HashMap<Attempt, Known>,
    coalesces: bool,
}

struct Known {
    /// When the last one was.
    last: u64,
    so_far: u64,
    /// For each [`Audience`].
    told: [Told; 2],
}

#[derive(Default)]
struct Told {
    /// When the last one was that was explained, and the number of that line.
    explained: u64,
    line: Option<u64>,
    /// Not told yet.
    gathered: u64,
    latest: Option<Event>,
}

impl Known {
    fn is_pending(&self) -> bool {
        self.told.iter().any(|told| told.gathered > 0)
    }
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
            local: event.tuple.local,
            peer: event.tuple.peer,
            socket_range: event.socket_range,
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
    pub fn judge(&mut self, attempt: Attempt, event: &Event, audience: Audience) -> (Verdict, u64) {
        let coalesces = self.coalesces;
        let known = self.known(attempt, event.ts);
        let told = &mut known.told[audience as usize];
        let verdict = match told.line {
            Some(line) if event.ts.saturating_sub(told.explained) < EVERY => {
                if coalesces {
                    told.gathered += 1;
                    told.latest = Some(event.clone());
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
                self.known.retain(|_, known| known.is_pending());
            }
        }
        let known = self.known.entry(attempt).or_insert(Known {
            last: now,
            so_far: 0,
            told: <[Told; 2]>::default(),
        });
        known.last = now;
        known.so_far += 1;
        known
    }

    /// How many failures of the attempt have been counted and not told: whoever asks tells them.
    pub fn take_gathered(&mut self, attempt: &Attempt, audience: Audience) -> u64 {
        self.told(attempt, audience).map_or(0, |told| {
            told.latest = None;
            take(&mut told.gathered)
        })
    }

    /// The line with this number explains the attempt, which failed at `ts`.
    pub fn explained(&mut self, attempt: &Attempt, audience: Audience, ts: u64, line: u64) {
        if let Some(told) = self.told(attempt, audience) {
            told.explained = ts;
            told.line = Some(line);
        }
    }

    fn told(&mut self, attempt: &Attempt, audience: Audience) -> Option<&mut Told> {
        let known = self.known.get_mut(attempt)?;
        Some(&mut known.told[audience as usize])
    }

    /// Failures that were only counted, the last of them before `before`, in the order of time.
    pub fn gathered(&mut self, before: u64) -> Vec<Gathered> {
        let mut gathered = Vec::new();
        for known in self.known.values_mut() {
            for audience in [Audience::All, Audience::Recorder] {
                let told = &mut known.told[audience as usize];
                if told.explained >= before {
                    continue;
                }
                gathered.extend(told.latest.take().map(|event| Gathered {
                    event,
                    audience,
                    repeats: take(&mut told.gathered),
                    so_far: known.so_far,
                    explained_by: told.line,
                }));
            }
        }
        gathered.sort_unstable_by_key(|gathered| (gathered.event.ts, gathered.event.sock));
        gathered
    }

    /// To be called now and then.
    pub fn tick(&mut self, now: u64) {
        self.forget_before(now.saturating_sub(MEMORY));
    }

    fn forget_before(&mut self, ts: u64) {
        self.known
            .retain(|_, known| known.last >= ts || known.is_pending());
    }
}

/// How long counted failures wait to be told.
pub const GATHERING: u64 = EVERY;
