//! What real kernels told, replayed: in the end the ledger has what the kernel has.
//!
//! How to record a history: `examples/record_history`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::LazyLock,
};

use proptest::prelude::*;
use tracer::{
    event::{Comm, Event, Kind, Owner, Role, Row, State},
    ledger::{Effect, Ledger, Resynced},
};

mod history;

use history::{History, NETNS, Step};

static HISTORIES: LazyLock<BTreeMap<String, History>> = LazyLock::new(|| {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/histories");
    let files = fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path());
    let read = |path: PathBuf| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(path).unwrap();
        let history = History::parse(&text).unwrap();
        assert_eq!(history.to_text(), text, "{name}");
        (name, history)
    };
    files.map(read).collect()
});

/// What is told, and what the last dump found.
#[derive(Debug, Default, PartialEq)]
struct Told {
    effects: Vec<String>,
    connections: usize,
    /// Role and owner's name of each of them.
    owners: Vec<(Option<Role>, Option<Comm>)>,
    corrected: usize,
    /// Corrections from FIN_WAIT2 to TIME_WAIT: tracepoints alone do not show the peer's FIN.
    late: u64,
    found: Vec<Resynced>,
}

impl Told {
    fn take(&mut self, effect: &Effect<'_>) {
        self.effects.push(format!("{effect:?}"));
        match effect {
            Effect::Connection(connection) => {
                let socket = &connection.socket;
                self.connections += 1;
                self.owners
                    .push((socket.role, socket.task.map(|task| task.comm)));
            }
            Effect::Transition(step) if step.corrected => {
                self.corrected += 1;
                let is_late = (step.old, step.new) == (State::FinWait2, State::TimeWait);
                self.late += u64::from(is_late);
            }
            Effect::Transition(_) => {}
        }
    }

    fn replay<'a>(&mut self, ledger: &mut Ledger, steps: impl IntoIterator<Item = &'a Step>) {
        let here = BTreeSet::from([NETNS]);
        for step in steps {
            let take = &mut |effect: Effect<'_>| self.take(&effect);
            match step {
                Step::Event(event) => ledger.ingest(event, take),
                Step::Begin(now) => ledger.begin_resync(*now),
                Step::Row(row) => ledger.row(row, take),
                Step::End(now) => {
                    let found = ledger.end_resync(&here, &here, *now, take);
                    self.found.push(found);
                }
            }
        }
    }
}

fn replay<'a>(steps: impl IntoIterator<Item = &'a Step>) -> (Ledger, Told) {
    let (mut ledger, mut told) = (Ledger::new(), Told::default());
    told.replay(&mut ledger, steps);
    (ledger, told)
}

/// The first dump, what happened after it, and the last dump.
fn parts(history: &History) -> (&[Step], &[Step], &[Step]) {
    let steps = &history.steps;
    let seeded = steps.iter().position(|step| matches!(step, Step::End(_)));
    let last = steps
        .iter()
        .rposition(|step| matches!(step, Step::Begin(_)));
    let (before, end) = steps.split_at(last.unwrap());
    let (first, between) = before.split_at(seeded.unwrap() + 1);
    (first, between, end)
}

fn rows(steps: &[Step]) -> impl Iterator<Item = &Row> {
    steps.iter().filter_map(|step| match step {
        Step::Row(row) => Some(row),
        _ => None,
    })
}

fn events(steps: &[Step]) -> impl Iterator<Item = &Event> {
    steps.iter().filter_map(|step| match step {
        Step::Event(event) => Some(event),
        _ => None,
    })
}

/// A socket by its number, with state and place. What listens, or is only bound, has no peer.
type Shown = BTreeMap<u64, (State, bool, String)>;

fn place(state: State, tuple: &tracer::event::Tuple) -> String {
    match state {
        State::Listen | State::Close => format!("{:?} {:?}", tuple.family, tuple.local),
        _ => format!("{tuple:?}"),
    }
}

/// The truth: a socket in CLOSE that holds no port is none of the ledger's.
fn in_kernel(dump: &[Step]) -> Shown {
    rows(dump)
        .filter(|row| row.state != State::Close || row.held.is_some())
        .map(|row| {
            let mut tuple = row.tuple;
            if row.state == State::Close {
                tuple.local.port = row.held;
            }
            let shown = (row.state, row.due.is_some(), place(row.state, &tuple));
            (row.sock, shown)
        })
        .collect()
}

fn in_ledger(ledger: &Ledger) -> Shown {
    let sockets = ledger.sockets().map(|socket| {
        let place = place(socket.state, &socket.tuple);
        (socket.key, (socket.state, socket.is_timewait, place))
    });
    sockets.collect()
}

fn check_usage(ledger: &mut Ledger) {
    let totals = ledger.totals();
    let sum = |states: &BTreeMap<State, u64>| states.values().sum::<u64>();
    let usages = ledger.usage(0);
    let counted =
        |count: &dyn Fn(&tracer::ledger::Usage<'_>) -> u64| usages.iter().map(count).sum::<u64>();
    let all = counted(&|usage| sum(&usage.ports) + sum(&usage.serving) + usage.bound);
    assert_eq!(all, totals.sockets);
    let unowned = |usage: &tracer::ledger::Usage<'_>| match usage.task {
        None => sum(&usage.ports) + sum(&usage.serving) + usage.bound,
        Some(_) => 0,
    };
    assert_eq!(counted(&unowned), totals.unowned);
}

/// Connections that are over, counted without a ledger: each ends with a transition to CLOSE, but for those whose
/// timewait socket went without a word.
fn finished(history: &History) -> usize {
    let (first, between, end) = parts(history);
    let waiting = rows(first).filter(|row| row.due.is_some());
    let mut waiting: BTreeSet<u64> = waiting.map(|row| row.sock).collect();
    let mut count = 0;
    for event in events(between).chain(events(end)) {
        match event.kind {
            Kind::State { old, new, .. } if new == State::Close && old != State::Listen => {
                waiting.remove(&event.sock);
                count += 1;
            }
            Kind::State { end: Some(end), .. } => {
                let timewait = end.timewait.filter(|timewait| !waiting.insert(*timewait));
                count += usize::from(timewait.is_some());
            }
            _ => {}
        }
    }
    let left: BTreeSet<u64> = rows(end).map(|row| row.sock).collect();
    count + waiting.difference(&left).count()
}

#[test]
fn the_last_dump_finds_no_difference() {
    for (name, history) in HISTORIES.iter() {
        let (_, _, end) = parts(history);
        let (mut ledger, told) = replay(&history.steps);
        let found = told.found.last().unwrap();
        println!(
            "{name}: {} steps, {} late, {found:?}",
            history.steps.len(),
            told.late
        );
        assert_eq!((found.added, found.removed), (0, 0), "{name}");
        assert_eq!(found.changed, told.late, "{name}");
        assert_eq!(told.corrected as u64, told.late, "{name}");
        assert!(told.late == 0 || !history.about.exact, "{name}");
        assert_eq!(in_ledger(&ledger), in_kernel(end), "{name}");
        check_usage(&mut ledger);
    }
}

#[test]
fn a_replay_is_always_the_same() {
    for (name, history) in HISTORIES.iter() {
        assert_eq!(replay(&history.steps).1, replay(&history.steps).1, "{name}");
    }
}

#[test]
fn every_connection_that_is_over_is_told_once() {
    for (name, history) in HISTORIES.iter() {
        let told = replay(&history.steps).1;
        assert_eq!(told.connections, finished(history), "{name}");
    }
}

/// What the processes of the histories do.
const CLIENTS: [&str; 3] = ["client", "keeper", "binder"];
const SERVERS: [&str; 4] = ["server", "master", "worker", "binder"];

fn fits(role: Option<Role>, comm: &Comm) -> bool {
    let expected: &[&str] = match role {
        Some(Role::Server | Role::Listener) => &SERVERS,
        _ => &CLIENTS,
    };
    expected.iter().any(|name| name.as_bytes() == comm.bytes())
}

#[test]
fn owners_are_the_processes_of_the_history() {
    for (name, history) in HISTORIES.iter() {
        let (first, _, end) = parts(history);
        let (ledger, told) = replay(&history.steps);
        for (role, comm) in &told.owners {
            let is_right = comm.is_none_or(|comm| fits(*role, &comm));
            assert!(is_right, "{name}: {role:?} {comm:?}");
        }
        let old: BTreeSet<u64> = rows(first)
            .filter(|row| row.due.is_some())
            .map(|row| row.sock)
            .collect();
        for socket in ledger.sockets() {
            let Some(task) = socket.task else {
                assert!(old.contains(&socket.key), "{name}: {socket:?}");
                continue;
            };
            assert!(fits(socket.role, &task.comm), "{name}: {socket:?}");
            let same = |row: &&Row| row.sock == socket.key;
            let mut holders = rows(end).filter(same).filter_map(|row| row.holder.as_ref());
            let held =
                holders.any(|holder| (holder.pid, holder.start_ns) == (task.pid, task.start_ns));
            let is_open = rows(end).filter(same).any(|row| row.holder.is_some());
            assert!(
                held || !is_open || socket.owner == Owner::Inherited,
                "{name}: {socket:?}"
            );
        }
    }
}

#[test]
fn after_every_cut_a_dump_says_what_was_missed() {
    for (name, history) in HISTORIES.iter() {
        let (first, between, end) = parts(history);
        let truth = in_kernel(end);
        for cut in 0..=between.len() {
            let steps = first.iter().chain(&between[..cut]).chain(end);
            let (mut ledger, _) = replay(steps);
            assert_eq!(in_ledger(&ledger), truth, "{name}: after {cut}");
            check_usage(&mut ledger);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn a_dump_heals_every_loss(
        which: prop::sample::Index,
        lost in prop::collection::vec(any::<bool>(), 1..400),
    ) {
        let histories: Vec<&History> = HISTORIES.values().collect();
        let (first, between, end) = parts(histories[which.index(histories.len())]);
        let mut lost = lost.iter().cycle();
        let kept = between.iter().filter(|_| !lost.next().unwrap());
        let (mut ledger, _) = replay(first.iter().chain(kept).chain(end));
        prop_assert_eq!(in_ledger(&ledger), in_kernel(end));
        check_usage(&mut ledger);
        let mut told = Told::default();
        told.replay(&mut ledger, end.iter().filter(|step| !matches!(step, Step::Event(_))));
        let found = Resynced { owned: 0, ..told.found[0] };
        prop_assert_eq!(found, Resynced::default());
    }
}
