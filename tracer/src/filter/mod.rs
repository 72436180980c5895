//! Which lines are written. Pure but for the cgroups of processes, which are looked up when an option asks for them.
//!
//! The values of one option are alternatives; a line has to fit every option that is given. An option is about what a
//! line says: lines of a kind that says nothing of the sort are not affected, and where it is null the line does not fit.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, Hash},
    net::IpAddr,
    num::NonZeroU32,
};

use clap::ValueEnum;
use foldhash::quality::FixedState;

use crate::{
    cli::Select,
    config::Needs,
    event::{Event, Role, State, Task},
    ledger::{Connection, Socket, Transition, Way},
    record::Kind,
};

mod place;
mod value;

#[cfg(test)]
mod tests;

use place::Places;
pub use value::{Cgroup, Name, Network, Ports, sampling};

/// Lines of these kinds are always written, the last one where another line refers to it.
const ALWAYS: [Kind; 7] = [
    Kind::Start,
    Kind::Loss,
    Kind::Shed,
    Kind::Stats,
    Kind::Recording,
    Kind::Stop,
    Kind::Process,
];

/// So many network namespaces can be told apart in the kernel: `tracer_ebpf::MAX_NAMESPACES`.
const NAMESPACES: usize = tracer_ebpf::MAX_NAMESPACES as usize;

/// What the options choose. The default is everything, and costs a comparison for each line.
#[derive(Debug)]
pub struct Filter {
    /// A bit for each kind.
    kinds: u32,
    conditions: Option<Box<Conditions>>,
    /// One of so many connections has `state` lines.
    sample: Option<NonZeroU32>,
    /// As given, for the `start` line.
    given: BTreeMap<String, Vec<String>>,
    recorded: bool,
    counted: bool,
}

/// What a line says, as far as there are options about it. `None`: lines of its kind do not say that; `Some(None)`: it
/// is null in this one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject<'a> {
    pub netns: Option<u32>,
    pub process: Option<Option<&'a Task>>,
    /// The local and the peer's.
    pub ports: Option<[Option<u16>; 2]>,
    pub peer: Option<Option<IpAddr>>,
    pub role: Option<Option<Role>>,
    pub states: Option<[State; 2]>,
}

/// Options with values, all of which a line has to fit.
#[derive(Debug, Default)]
struct Conditions {
    netns: Vec<u32>,
    pids: Vec<u32>,
    uids: Vec<u32>,
    names: Vec<Name>,
    places: Places,
    ports: Vec<Ports>,
    peers: Vec<Network>,
    roles: Vec<Role>,
    states: Vec<State>,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            kinds: u32::MAX,
            conditions: None,
            sample: None,
            given: BTreeMap::new(),
            recorded: false,
            counted: false,
        }
    }
}

impl Filter {
    /// An error is a sentence: there is no such network namespace.
    #[cfg(target_os = "linux")]
    pub fn new(select: &Select) -> std::io::Result<Self> {
        let inode = |name: &String| crate::host::netns::named(name).map(|found| found.inode);
        let netns = select
            .netns
            .iter()
            .map(inode)
            .collect::<std::io::Result<_>>()?;
        Ok(Self::with(select, netns))
    }

    /// As [`Filter::new`], with the inode numbers of the network namespaces.
    pub fn with(select: &Select, netns: Vec<u32>) -> Self {
        let given = given(select, &netns);
        let conditions = Conditions {
            netns,
            pids: select.pid.clone(),
            uids: select.uid.clone(),
            names: select.comm.clone(),
            places: Places::new(&select.cgroup, &select.container),
            ports: select.port.clone(),
            peers: select.peer.clone(),
            roles: select.role.clone(),
            states: select.state.clone(),
        };
        let is_condition = |option: &String| !["emit", "sample"].contains(&option.as_str());
        let has_conditions = given.keys().any(is_condition);
        Self {
            kinds: match select.emit.as_slice() {
                [] => u32::MAX,
                some => ALWAYS
                    .iter()
                    .chain(some)
                    .fold(0, |all, kind| all | bit(*kind)),
            },
            conditions: has_conditions.then(|| Box::new(conditions)),
            sample: select.sample.filter(|sample| sample.get() > 1),
            given,
            recorded: false,
            counted: false,
        }
    }

    /// A flight recorder takes every line, whatever is written elsewhere.
    pub fn record_all(&mut self) {
        self.recorded = true;
    }

    /// Metrics are of the whole host, whatever is written.
    pub fn count_all(&mut self) {
        self.counted = true;
    }

    pub fn records_all(&self) -> bool {
        self.recorded
    }

    /// The options with their values.
    pub fn given(&self) -> &BTreeMap<String, Vec<String>> {
        &self.given
    }

    pub fn emits(&self, kind: Kind) -> bool {
        self.kinds & bit(kind) != 0
    }

    /// Whether a line of that kind about that is to be written.
    pub fn wants<'a>(&mut self, kind: Kind, subject: impl FnOnce() -> Subject<'a>) -> bool {
        self.emits(kind)
            && match &mut self.conditions {
                None => true,
                Some(conditions) => conditions.fit(&subject()),
            }
    }

    /// Whether the transition is to be written.
    pub fn wants_state(&mut self, transition: &Transition) -> bool {
        self.wants(Kind::State, || Subject::of_transition(transition)) && self.samples(transition)
    }

    /// Whether the transition is of a connection that is in the sample: the same for all transitions of one.
    fn samples(&self, transition: &Transition) -> bool {
        self.sample.is_none_or(|sample| {
            let netns = transition.socket.netns;
            let hash = match transition.opened {
                Some(opened) => hash((netns, opened)),
                // It is older than the tracer, and so has its whole tuple.
                None => hash((netns, transition.socket.tuple)),
            };
            hash % u64::from(sample.get()) == 0
        })
    }

    /// What the kernel side may leave out because no line shows it.
    ///
    /// `usage`, `holders` and `socket` lines show states, too, but as they are at a moment.
    pub fn needs(&self) -> Needs {
        if self.recorded {
            return Needs::default();
        }
        let named = self.conditions.as_ref().map(|them| them.netns.clone());
        let few = |netns: &Vec<u32>| (1..=NAMESPACES).contains(&netns.len());
        // A `ledger` line is about all of them, too.
        let is_about_all = self.counted || self.emits(Kind::Ledger);
        Needs {
            netns: named.filter(few).filter(|_| !is_about_all),
            no_closers: !self.emits(Kind::Connection),
            no_steps: !self.emits(Kind::State),
        }
    }
}

impl Conditions {
    fn fit(&mut self, subject: &Subject<'_>) -> bool {
        fits(&self.netns, subject.netns, |wanted, netns| *wanted == netns)
            && fits(&self.ports, subject.ports, |ports, both| {
                both.into_iter().flatten().any(|port| ports.contain(port))
            })
            && fits(&self.peers, subject.peer, |network, peer| {
                peer.is_some_and(|peer| network.contains(peer))
            })
            && fits(&self.roles, subject.role, |role, of| of == Some(*role))
            && fits(&self.states, subject.states, |state, of| of.contains(state))
            && subject.process.is_none_or(|task| self.fit_process(task))
    }

    fn fit_process(&mut self, task: Option<&Task>) -> bool {
        let task = Some(task);
        fits(&self.pids, task, |pid, of| {
            of.is_some_and(|task| task.pid == *pid)
        }) && fits(&self.uids, task, |uid, of| {
            of.is_some_and(|task| task.uid == *uid)
        }) && fits(&self.names, task, |name, of| {
            of.is_some_and(|task| name.is(task.comm.bytes()))
        }) && self.places.fit(task.flatten())
    }
}

/// Whether an option, of which nothing may be given, is fit by what a line says.
fn fits<W, T: Copy>(wanted: &[W], said: Option<T>, fits: impl Fn(&W, T) -> bool) -> bool {
    let Some(said) = said.filter(|_| !wanted.is_empty()) else {
        return true;
    };
    wanted.iter().any(|one| fits(one, said))
}

/// Whether lines of that kind tell of the run itself, and are written whatever is chosen.
pub fn is_of_run(kind: Kind) -> bool {
    kind != Kind::Process && ALWAYS.contains(&kind)
}

fn bit(kind: Kind) -> u32 {
    1 << kind as u32
}

/// The same in every run.
fn hash(identity: impl Hash) -> u64 {
    FixedState::default().hash_one(identity)
}

fn given(select: &Select, netns: &[u32]) -> BTreeMap<String, Vec<String>> {
    fn texts<T: ToString>(values: &[T]) -> Vec<String> {
        values.iter().map(ToString::to_string).collect()
    }
    fn names<T: ValueEnum>(values: &[T]) -> Vec<String> {
        let names = values.iter().filter_map(ValueEnum::to_possible_value);
        names.map(|value| value.get_name().to_owned()).collect()
    }
    let given = [
        ("emit", names(&select.emit)),
        ("pid", texts(&select.pid)),
        ("comm", texts(&select.comm)),
        ("cgroup", texts(&select.cgroup)),
        ("container", texts(&select.container)),
        ("uid", texts(&select.uid)),
        ("netns", texts(netns)),
        ("port", texts(&select.port)),
        ("peer", texts(&select.peer)),
        ("role", names(&select.role)),
        ("state", names(&select.state)),
        ("sample", texts(select.sample.as_slice())),
    ];
    given
        .into_iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(option, values)| (option.to_owned(), values))
        .collect()
}

impl<'a> Subject<'a> {
    pub fn of_transition(transition: &Transition<'a>) -> Self {
        Self {
            states: Some([transition.old, transition.new]),
            ..Self::of_socket(&transition.socket)
        }
    }

    pub fn of_connection(connection: &Connection<'a>) -> Self {
        Self {
            states: None,
            ..Self::of_socket(&connection.socket)
        }
    }

    pub fn of_socket(socket: &Socket<'a>) -> Self {
        let tuple = &socket.tuple;
        Self {
            netns: Some(socket.netns),
            process: Some(socket.task),
            ports: Some([tuple.local.port, tuple.peer.port]),
            peer: Some(Some(tuple.peer.ip)),
            role: Some(socket.role),
            states: Some([socket.state; 2]),
        }
    }

    /// A call that failed: `connect()`, or else `bind()` or `listen()`.
    pub fn of_failure(event: &'a Event, connects: bool) -> Self {
        let tuple = &event.tuple;
        let peer = tuple.peer.port.filter(|_| connects);
        Self {
            netns: Some(event.netns),
            process: Some(event.task.as_ref()),
            ports: Some([tuple.local.port, peer]),
            peer: connects.then_some(Some(tuple.peer.ip)),
            role: connects.then_some(event.role),
            states: None,
        }
    }

    pub fn of_usage(netns: u32, process: Option<&'a Task>) -> Self {
        Self {
            process: Some(process),
            ..Self::of_netns(netns)
        }
    }

    /// A destination, or what is bound.
    pub fn of_way(netns: u32, way: Option<&Way>) -> Self {
        Self {
            ports: Some([None, way.and_then(|way| way.peer.port)]),
            peer: Some(way.map(|way| way.peer.ip)),
            ..Self::of_netns(netns)
        }
    }

    pub fn of_netns(netns: u32) -> Self {
        Self {
            netns: Some(netns),
            ..Self::default()
        }
    }
}

impl ValueEnum for Kind {
    fn value_variants<'a>() -> &'a [Self] {
        Self::ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.name()))
    }
}
