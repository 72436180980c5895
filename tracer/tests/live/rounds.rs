//! The `usage` lines of one moment, and the `ledger` line that follows them: the one is the sum of the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use anyhow::{Result, ensure};

use crate::lines::{Ledger, Record, Usage};

/// One interval's lines, of all namespaces of the machine.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    sums: Sums,
    pub ledger: Ledger,
}

#[derive(Clone, Debug, Default)]
struct Sums {
    lines: usize,
    sockets: u64,
    /// Bound sockets, listeners among them.
    bound: u64,
    unowned: u64,
    states: BTreeMap<String, u64>,
    /// Of what is more than a memory: a process or namespace may only have had sockets.
    processes: BTreeSet<String>,
    netns: BTreeSet<u64>,
    /// What does not add up within a line.
    wrong: Option<Usage>,
}

#[derive(Default)]
pub(crate) struct Rounds {
    current: Sums,
    done: Vec<Round>,
}

impl Rounds {
    pub(crate) fn add(&mut self, record: &Record) {
        match record {
            Record::Usage(usage) => self.current.add(usage),
            // One without usage lines is a snapshot's, the first, or of a ledger that is empty.
            Record::Ledger(ledger) if self.current.lines > 0 => self.done.push(Round {
                sums: mem::take(&mut self.current),
                ledger: ledger.clone(),
            }),
            _ => {}
        }
    }

    pub(crate) fn done(&self) -> &[Round] {
        &self.done
    }
}

impl Sums {
    fn add(&mut self, usage: &Usage) {
        let (ports, serving) = (&usage.ports, &usage.serving);
        let sockets = ports.total + serving.total;
        self.lines += 1;
        self.sockets += sockets;
        self.bound += ports.bound;
        for (state, count) in ports.states.iter().chain(&serving.states) {
            *self.states.entry(state.clone()).or_default() += count;
        }
        match &usage.process {
            Some(process) if sockets > 0 => _ = self.processes.insert(process.id.clone()),
            Some(_) => {}
            None => self.unowned += sockets,
        }
        if sockets > 0 {
            self.netns.insert(usage.netns);
        }
        if !adds_up(usage) {
            self.wrong.get_or_insert_with(|| usage.clone());
        }
    }

    fn in_state(&self, state: &str) -> u64 {
        self.states.get(state).copied().unwrap_or_default()
    }
}

fn adds_up(usage: &Usage) -> bool {
    let (ports, serving) = (&usage.ports, &usage.serving);
    let connected: u64 = ports.states.values().sum();
    let served: u64 = serving.states.values().sum();
    let listed: u64 = usage.top.iter().map(|there| there.ports).sum();
    let in_order = usage.top.is_sorted_by(|one, next| one.ports >= next.ports);
    let zero = |states: &BTreeMap<String, u64>| states.values().any(|count| *count == 0);
    ports.total == connected + ports.bound
        && serving.total == served
        && (listed == connected || usage.top.len() == 10 && listed < connected)
        && in_order
        && usage.top.iter().all(|there| there.time_wait <= there.ports)
        && !zero(&ports.states)
        && !zero(&serving.states)
        && usage.interval_s > 0.0
        && usage.exited.is_some() == usage.process.is_some()
}

/// Every round so far adds up; there must have been one.
pub(crate) fn add_up(rounds: &[Round]) -> Result<()> {
    ensure!(!rounds.is_empty(), "no round of usage lines");
    for round in rounds {
        let Round { sums, ledger } = round;
        ensure!(
            sums.wrong.is_none(),
            "a line does not add up: {:?}",
            sums.wrong
        );
        // A timewait socket may be in FIN_WAIT2, where full sockets are too; what is bound may listen.
        let timewait = sums.in_state("TIME_WAIT");
        let most = timewait + sums.in_state("FIN_WAIT2");
        ensure!(
            ledger.sockets == sums.sockets
                && ledger.unowned == sums.unowned
                && ledger.processes == sums.processes.len() as u64
                && ledger.netns == sums.netns.len() as u64
                && ledger.bound <= sums.bound
                && (timewait..=most).contains(&ledger.timewait),
            "the lines do not add up: {round:?}"
        );
    }
    Ok(())
}
