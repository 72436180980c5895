//! Failures, and what explains them.

use std::time::Duration;

use super::{Lines, Stream};
use crate::{
    diagnosis::{
        advice::advice,
        case::{Case, Trouble},
        failures::{Attempt, Audience, Call, GATHERING, Gathered, Verdict},
    },
    event::{Event, Kind, Reason},
    filter::Subject,
    ledger::{Explained, Query},
    pool::Settings,
    record::{self, KnownSocket, Shortage, Told},
};

/// Settings may be so old for an explanation.
const FRESH: Duration = Duration::from_millis(100);

impl Stream {
    pub(super) fn failed(&mut self, event: &Event) {
        let Some(attempt) = Attempt::of(event) else {
            return;
        };
        if let Some(tallies) = &mut self.tallies {
            tallies.count(event);
        }
        let kind = match is_connect(&event.kind) {
            true => record::Kind::ConnectFailed,
            false => record::Kind::BindFailed,
        };
        if !self
            .lines
            .wants(kind, || Subject::of_failure(event, is_connect(&event.kind)))
        {
            self.failures.count(attempt, event.ts);
            return;
        }
        let audience = self.lines.audience();
        let (verdict, so_far) = self.failures.judge(attempt, event, audience);
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
        let audience = self.lines.audience();
        let repeats = match self.failures.take_gathered(attempt, audience) {
            0 => None,
            gathered => Some(gathered + 1),
        };
        let told = Told {
            failures_so_far: so_far,
            repeats,
            ..Told::default()
        };
        let task = event.task.as_ref();
        let settings = self.settings(event.netns, task, event.ts, FRESH);
        let line = match trouble(attempt) {
            Some(trouble) if settings.is_some() || !trouble.is_shortage() => {
                let settings = settings.unwrap_or_default();
                self.tell_why(event, trouble, &settings, told)
            }
            _ => self.lines.failure(event, told),
        };
        self.failures.explained(attempt, audience, event.ts, line);
    }

    /// Writes the line with all that explains it, and returns its number.
    fn tell_why(
        &mut self,
        event: &Event,
        trouble: Trouble,
        settings: &Settings,
        told: Told,
    ) -> u64 {
        self.follow_steps();
        let task = event.task.as_ref();
        let host = self.surroundings.host(event.netns, task, event.ts);
        let tuple = &event.tuple;
        let query = Query {
            netns: event.netns,
            local_ip: tuple.local.ip,
            peer: is_connect(&event.kind).then_some(tuple.peer),
            settings,
            socket_range: event.socket_range,
            now: event.ts,
        };
        let explained = match trouble.is_shortage() {
            true => self.ledger.explain_failure(&query, event.sock),
            false => Explained::default(),
        };
        let holder = match trouble {
            Trouble::TupleInUse => self
                .ledger
                .tuple_holder(event.netns, tuple.local, tuple.peer),
            Trouble::AddressInUse => self.ledger.port_holder(event.netns, tuple.local),
            _ => None,
        };
        let case = Case {
            family: tuple.family,
            local_port: tuple.local.port,
            held_by: holder.clone(),
            pid: task.map(|task| task.pid),
            ..self.case(trouble, &query, &explained, host)
        };
        let advice = Some(advice(&case));
        let traffic = query.way().and_then(|way| self.ledger.traffic(&way));
        let since = traffic.and_then(|traffic| traffic.half.since());
        let known = self.lines.know_holders(&explained.holders);
        let owner = self
            .lines
            .know(holder.as_ref().and_then(|holder| holder.task));
        let shortage = trouble.is_shortage().then(|| Shortage {
            budget: explained.budget.into(),
            holders: self.lines.holders(&explained.holders, &known),
            since: since.map(|since| self.lines.clock.monotonic(since)),
            incomplete: self.is_incomplete,
        });
        let held_by = holder.as_ref().map(|socket| {
            let process = owner.as_ref().map(|owner| owner.process());
            Box::new(KnownSocket::new(socket, process, event.ts))
        });
        let told = Told {
            shortage,
            held_by,
            advice,
            ..told
        };
        self.lines.failure(event, told)
    }

    /// Tells failures that were only counted.
    pub(super) fn tell_gathered(&mut self, now: u64) {
        for gathered in self.failures.gathered(now.saturating_sub(GATHERING)) {
            self.lines.gathered(gathered);
        }
    }
}

impl Lines {
    /// Whom the lines are for that are written now.
    fn audience(&self) -> Audience {
        match self.is_detail() {
            true => Audience::Recorder,
            false => Audience::All,
        }
    }

    fn gathered(&mut self, gathered: Gathered) {
        self.set_detail(gathered.audience == Audience::Recorder);
        let told = Told {
            failures_so_far: gathered.so_far,
            repeats: Some(gathered.repeats),
            explained_by: gathered.explained_by,
            ..Told::default()
        };
        self.failure(&gathered.event, told);
    }
}

/// `None`: nobody knows.
fn trouble(attempt: &Attempt) -> Option<Trouble> {
    Some(match attempt.call {
        Call::Connect(Reason::PortsExhausted) => Trouble::NoPort,
        Call::Connect(Reason::TupleInUse) => Trouble::TupleInUse,
        Call::Connect(Reason::NoSourceAddress) => Trouble::NoSourceAddress,
        Call::Connect(Reason::Unknown) => return None,
        Call::BindPort => Trouble::AddressInUse,
        Call::Bind => Trouble::NoPortToBind,
        Call::Listen => Trouble::NoPortToListen,
    })
}

/// Whether it is a failed call.
pub(super) fn is_failure(kind: &Kind) -> bool {
    is_connect(kind) || matches!(kind, Kind::BindFailed { .. })
}

fn is_connect(kind: &Kind) -> bool {
    matches!(kind, Kind::ConnectFailed { .. })
}
