//! Failures, and what explains them.

use std::time::Duration;

use super::{Lines, Stream};
use crate::{
    diagnosis::{
        advice::advice,
        case::{Case, Trouble},
        failures::{Attempt, Call, GATHERING, Gathered, Verdict},
    },
    event::{Event, Kind, Reason},
    ledger::{Explained, Query, Way},
    pool::Settings,
    record::{KnownSocket, Shortage, Told},
};

/// Settings may be so old for an explanation.
const FRESH: Duration = Duration::from_millis(100);

/// Listeners that an advice may name.
const NAMED: usize = 10;

impl Stream {
    pub(super) fn failed(&mut self, event: &Event) {
        let Some(attempt) = Attempt::of(event) else {
            return;
        };
        let (verdict, so_far) = self.failures.judge(attempt, event);
        match verdict {
            Verdict::Explain => self.explain(event, &attempt, so_far),
            Verdict::Refer(line) => {
                let told = Told {
                    failures_so_far: so_far,
                    explained_by: Some(line),
                    ..Told::default()
                };
                self.lines.failure(event, told);
            }
            Verdict::Count => {}
        }
    }

    fn explain(&mut self, event: &Event, attempt: &Attempt, so_far: u64) {
        let gathered = self.failures.take_gathered(attempt);
        let pid = event.task.as_ref().map(|task| task.pid);
        let settings = self.settings(event.netns, pid, event.ts, FRESH);
        let host = self.surroundings.host(event.netns, pid, event.ts);
        let trouble = trouble(attempt);
        let is_shortage = matches!(trouble, Trouble::NoPort | Trouble::NoPortToBind);
        let unknown = Settings::default();
        let query = Query {
            netns: event.netns,
            local_ip: event.tuple.local.ip,
            peer: (trouble == Trouble::NoPort).then_some(event.tuple.peer),
            settings: settings.as_ref().unwrap_or(&unknown),
            socket_range: event.socket_range,
            now: event.ts,
        };
        let way = Way {
            netns: event.netns,
            local_ip: event.tuple.local.ip,
            peer: event.tuple.peer,
        };
        let explained = match is_shortage && settings.is_some() {
            true => self.ledger.explain(&query),
            false => Explained::default(),
        };
        let holder = match trouble {
            Trouble::TupleInUse => {
                self.ledger
                    .tuple_holder(event.netns, event.tuple.local, event.tuple.peer)
            }
            Trouble::AddressInUse => self.ledger.port_holder(event.netns, event.tuple.local),
            _ => None,
        };
        let case = Case {
            trouble,
            family: event.tuple.family,
            local_ip: event.tuple.local.ip,
            peer: event.tuple.peer,
            local_port: event.tuple.local.port,
            held_by: holder.clone(),
            listeners_outside: Vec::new(),
            listening_outside: 0,
            settings: query.settings,
            budget: explained.budget,
            holders: &explained.holders,
            socket_range: event.socket_range,
            peer_is_local: self.ledger.is_local(&way),
            bound_connections: explained.bound_connections,
            listeners: listeners(&explained),
            listening: explained.listeners.len() as u32,
            serving_time_wait: explained.serving_time_wait,
            open_rate: self.pressure.open_rate(&way),
            host,
        };
        let advice = advice(&case);
        let known: Vec<_> = self.lines.know_holders(&explained.holders);
        let owner = self.lines.know(holder.as_ref().and_then(|held| held.task));
        let held_by = holder.as_ref().map(|socket| {
            let process = owner.as_ref().map(|owner| owner.process());
            Box::new(KnownSocket::new(socket, process, event.ts))
        });
        let half_since = self
            .ledger
            .traffic(&way)
            .and_then(|traffic| traffic.half_since);
        let shortage = (is_shortage && settings.is_some()).then(|| Shortage {
            budget: explained.budget.into(),
            holders: self.lines.holders(&explained.holders, &known),
            since: half_since.map(|since| self.lines.clock.monotonic(since)),
            incomplete: self.is_incomplete,
        });
        let told = Told {
            failures_so_far: so_far,
            repeats: (gathered > 0).then_some(gathered + 1),
            explained_by: None,
            shortage,
            held_by,
            advice: Some(advice),
        };
        // Its number is known only now: processes have been introduced.
        let line = self.lines.failure(event, told);
        self.failures.explained(attempt, event.ts, line);
    }

    /// Tells failures that were only counted.
    pub(super) fn tell_gathered(&mut self, now: u64) {
        for gathered in self.failures.gathered(now.saturating_sub(GATHERING)) {
            self.lines.gathered(gathered);
        }
    }
}

impl Lines {
    fn gathered(&mut self, gathered: Gathered) {
        let told = Told {
            failures_so_far: gathered.so_far,
            repeats: Some(gathered.repeats),
            explained_by: gathered.explained_by,
            ..Told::default()
        };
        self.failure(&gathered.event, told);
    }
}

fn trouble(attempt: &Attempt) -> Trouble {
    match attempt.call {
        Call::Connect(Reason::TupleInUse) => Trouble::TupleInUse,
        Call::Connect(Reason::NoSourceAddress) => Trouble::NoSourceAddress,
        Call::Connect(_) => Trouble::NoPort,
        Call::Bind if attempt.local_port.is_some() => Trouble::AddressInUse,
        Call::Bind | Call::Listen => Trouble::NoPortToBind,
    }
}

pub(super) fn listeners(explained: &Explained) -> Vec<(u16, String)> {
    let listeners = explained.listeners.iter().take(NAMED);
    let name = |comm: &[u8]| String::from_utf8_lossy(comm).into_owned();
    listeners
        .map(|(port, task)| {
            let process = task.map(|task| name(task.comm.bytes()));
            (*port, process.unwrap_or_else(|| "unknown".into()))
        })
        .collect()
}

/// Whether it is a failed call.
pub(super) fn is_failure(kind: &Kind) -> bool {
    matches!(kind, Kind::ConnectFailed { .. } | Kind::BindFailed { .. })
}
