//! How a host is when its tracer starts, and what the tracer says then.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use anyhow::Result;
use tracer::{
    diagnosis::{case, surroundings::Surroundings},
    event::{Endpoint, Family, Row, State, Task, Tuple},
    kernel::plan::{Backend, Capability},
    pool::Settings,
    record::{Coverage, Netns, Start},
    stream::Diagnosis,
};

use super::{
    Plan,
    agenda::Step,
    host::{Host, USAGE, WATCH},
    scene::{CONTAINER, HOST},
    truth::SECOND,
};

/// TIME_WAIT that is there when the tracer starts.
const OLDER: u16 = 40;

/// What the host would answer.
struct Known(Settings);

impl Surroundings for Known {
    fn settings(&mut self, _: u32, _: Option<&Task>, _: u64, _: Duration) -> Option<Settings> {
        Some(self.0.clone())
    }

    fn host(&mut self, netns: u32, _: Option<&Task>, _: u64) -> case::Host {
        case::Host {
            is_elsewhere: false,
            conntrack: Some((4000 + u64::from(netns % 100), 262_144)),
            listen_overflows: Some(0),
            has_ipv4: Some(true),
            has_ipv6: Some(false),
            ipv6_disabled: Some(true),
        }
    }
}

impl Host {
    pub(super) fn start(&mut self, plan: &Plan) -> Result<()> {
        for process in self.processes.iter().filter(|process| process.begin == 0) {
            self.proc.begin(process)?;
        }
        let settings = Settings {
            range: plan.range(),
            tw_reuse_delay: Some(1000),
            max_tw_buckets: Some(262_144),
            ..Settings::default()
        };
        let netns = [HOST, CONTAINER];
        self.stream.start(&Start {
            tracer: env!("CARGO_PKG_VERSION").into(),
            kernel: "6.12.63+deb13-amd64".into(),
            coverage: coverage(),
            netns: netns.map(|netns| Netns::new(netns, Some(&settings))).into(),
            filter: Default::default(),
        });
        let surroundings = Box::new(Known(settings.clone()));
        self.stream.diagnose(Diagnosis::default(), surroundings);
        let settings = netns.map(|netns| (netns, Some(settings.clone())));
        self.stream.set_settings(settings.into());
        Ok(())
    }

    /// What is there when the tracer starts: listeners, and TIME_WAIT of nobody.
    pub(super) fn seed(&mut self, plan: &Plan, listeners: &[(u32, u16, usize)]) {
        self.stream.begin_resync(0);
        for (netns, port, process) in listeners {
            let sock = self.new_sock();
            let mut row = row(sock, *netns, *port, State::Listen);
            row.cookie = Some(sock);
            row.holder = Some(self.processes[*process].task.clone());
            self.stream.row(&row);
            if let Some(ports) = self.ports.get_mut(netns) {
                ports.hold(*port);
            }
            self.tally.take(0, *netns, Some(*process), None);
        }
        for number in 0..OLDER.min(plan.ports) {
            let row = self.older(number);
            self.stream.row(&row);
            self.tally.take(0, HOST, None, Some(row.tuple.peer));
            self.tally.wait(HOST, None, 1);
            if let Some(ports) = self.ports.get_mut(&HOST) {
                ports.take(row.tuple.peer, 32_768 + number);
            }
            let due = row.due.unwrap_or_default();
            self.agenda.enter(due, Step::Older(number.into()));
        }
        let netns = BTreeSet::from([HOST, CONTAINER]);
        self.stream.end_resync(&netns, &netns, 3_000_000);
    }

    pub(super) fn older(&self, number: u16) -> Row {
        let mut row = row(
            64 + u64::from(number),
            HOST,
            32_768 + number,
            State::TimeWait,
        );
        row.tuple.local.ip = Ipv4Addr::new(10, 0, 0, 7).into();
        row.tuple.peer = Endpoint {
            ip: Ipv4Addr::new(10, 0, 0, 50).into(),
            port: Some(8443),
        };
        row.due = Some((u64::from(number) + 1) * SECOND);
        row
    }

    /// Everything that is known to happen.
    pub(super) fn plan(&mut self, plan: &Plan, number: usize) {
        self.agenda.enter(WATCH, Step::Watch);
        self.agenda.enter(USAGE, Step::Usage);
        if number == 0 {
            self.agenda.enter(plan.trouble() * 2 + 1, Step::Skipped);
        }
        for (number, process) in self.processes.iter().enumerate() {
            if process.begin > 0 {
                self.agenda.enter(process.begin, Step::Begin(number));
            }
            if let Some(end) = process.end {
                self.agenda.enter(end, Step::End(number));
            }
        }
        for number in 0..self.flows.len() {
            let at = self.flows[number].from + self.pause(number);
            self.agenda.enter(at, Step::Call(number));
        }
    }
}

/// All hooks that there are.
fn coverage() -> Vec<Coverage> {
    let covered = |(capability, backend, hook): (_, _, &'static str)| Coverage {
        capability,
        hook: Some(hook.into()),
        backend: Some(backend),
        refused: Vec::new(),
        limits: Vec::new(),
    };
    let hooks = [
        (
            Capability::Transitions,
            Backend::TpBtf,
            "inet_sock_set_state",
        ),
        (
            Capability::ConnectFailure,
            Backend::Fexit,
            "inet_hash_connect",
        ),
        (Capability::TimeWait, Backend::Fexit, "inet_twsk_alloc"),
        (Capability::Accept, Backend::Fexit, "inet_csk_accept"),
        (Capability::Bind, Backend::Fexit, "inet_csk_get_port"),
        (Capability::ExistingSockets, Backend::Iterator, "tcp"),
    ];
    hooks.map(covered).into()
}

/// A socket that was there before.
fn row(sock: u64, netns: u32, port: u16, state: State) -> Row {
    let nowhere = Endpoint {
        ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        port: None,
    };
    let local = Endpoint {
        port: Some(port),
        ..nowhere
    };
    Row {
        sock,
        cookie: None,
        netns,
        tuple: Tuple {
            family: Family::Ipv4,
            local,
            peer: nowhere,
        },
        held: Some(port),
        state,
        due: None,
        holder: None,
        timestamps: true,
        mode: None,
        connect_bind: None,
    }
}
