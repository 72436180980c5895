//! Who is on a host, and what they do there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tracer::event::Endpoint;

use super::{Plan, Scenario, people::Process, truth::SECOND};

/// The host's own network namespace, and a container's.
pub(super) const HOST: u32 = 4_026_531_840;
pub(super) const CONTAINER: u32 = 4_026_532_177;

const NGINX: &str = "/usr/sbin/nginx";
const PYTHON: &str = "/usr/bin/python3.13";

/// Calls of one kind that a process makes again and again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    pub(super) process: usize,
    pub(super) netns: u32,
    pub(super) local: IpAddr,
    pub(super) peer: Endpoint,
    pub(super) act: Act,
    /// Calls per second, from when to when, nanoseconds.
    pub(super) rate: f64,
    pub(super) from: u64,
    pub(super) until: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Connects, holds the connection for so many milliseconds (from, to), and closes it first, or not.
    Connect { first: bool, holds: (u64, u64) },
    /// Connects from a source port of its own.
    From(u16),
    /// Connects to an address that the host has no source address for.
    Nowhere,
    /// Binds port 0 and holds it for so many milliseconds.
    Bind { holds: (u64, u64) },
    /// Accepts a connection on this port.
    Accept(u16),
}

/// What a host is like.
pub(super) struct Scene {
    pub(super) processes: Vec<Process>,
    pub(super) flows: Vec<Flow>,
    /// Network namespace, port, and whose: listeners that were there before.
    pub(super) listeners: Vec<(u32, u16, usize)>,
    /// When the new version came, nanoseconds.
    pub(super) deploy: Option<u64>,
}

impl Scene {
    /// Of the host with that number. The first host, and each third one, has the trouble of the scenario.
    pub(super) fn new(plan: &Plan, number: usize) -> Self {
        let mut scene = Self::healthy(plan, number);
        if !number.is_multiple_of(3) {
            return scene;
        }
        match plan.scenario {
            Scenario::Healthy => {}
            Scenario::TimeWait => scene.deploy(plan),
            Scenario::Bind => scene.load_test(plan),
            Scenario::Conflict => scene.sync(),
            Scenario::NoSource => scene.resolve(),
            Scenario::Mixed => {
                scene.deploy(plan);
                scene.load_test(plan);
                scene.sync();
                scene.resolve();
            }
        }
        scene
    }

    fn healthy(plan: &Plan, number: usize) -> Self {
        let pid = 2000 + 100 * u32::try_from(number).unwrap_or_default();
        let poster = format!("/system.slice/docker-{:064x}.scope", 0xbeef_u32 + pid);
        let unit = |name: &str| format!("/system.slice/{name}.service");
        let process = Process::new;
        let tested = plan.trouble() / 2;
        let processes = vec![
            process(pid + 1, "nginx", NGINX, unit("nginx")),
            process(pid + 2, "nginx", NGINX, unit("nginx")),
            process(pid + 11, "poster", PYTHON, poster.clone()),
            // It ends, and leaves its TIME_WAIT behind.
            process(pid + 12, "wrk", "/usr/bin/wrk", poster).until(tested + SECOND),
            process(pid + 20, "api", "/opt/api/bin/api", unit("api")),
        ];
        let mut scene = Self {
            processes,
            flows: Vec::new(),
            listeners: vec![(HOST, 80, 0), (HOST, 8081, 4)],
            deploy: None,
        };
        let rate = plan.rate;
        for worker in [0, 1] {
            scene.flow(
                worker,
                HOST,
                to(9, 9000),
                kept((2000, 20_000)),
                rate / 200.0,
            );
            scene.flow(worker, HOST, to(100, 0), Act::Accept(80), rate / 50.0);
        }
        let posts = Act::Connect {
            first: false,
            holds: (5, 80),
        };
        scene.flow(2, CONTAINER, to(20, 8080), posts, rate / 20.0);
        scene.flow(3, CONTAINER, to(15, 443), once((1, 20)), rate / 50.0);
        for flow in scene.flows.iter_mut().filter(|flow| flow.process == 3) {
            flow.until = tested;
        }
        scene.flow(4, HOST, to(30, 5432), kept((5000, 60_000)), 1.0);
        scene
    }

    fn flow(&mut self, process: usize, netns: u32, peer: Endpoint, act: Act, rate: f64) {
        let octet = if netns == HOST { 7 } else { 17 };
        self.flows.push(Flow {
            process,
            netns,
            local: ipv4(octet),
            peer,
            act,
            rate,
            from: 0,
            until: u64::MAX,
        });
    }

    /// New workers, which use each connection to the application once.
    fn deploy(&mut self, plan: &Plan) {
        let at = plan.trouble();
        self.deploy = Some(at);
        for old in [0, 1] {
            let process = &mut self.processes[old];
            // Once its last connections are closed.
            process.end = Some(at + 25 * SECOND);
            let (pid, cgroup) = (process.task.pid + 40, process.cgroup.clone());
            let new = self.processes.len();
            let worker = Process::new(pid, "nginx", NGINX, cgroup).from(at);
            self.processes.push(worker);
            for flow in self.flows.iter_mut().filter(|flow| flow.process == old) {
                flow.until = at;
            }
            self.flow(new, HOST, to(9, 9000), once((1, 40)), plan.rate / 2.0);
            self.flow(new, HOST, to(100, 0), Act::Accept(80), plan.rate / 50.0);
            for flow in self.flows.iter_mut().rev().take(2) {
                flow.from = at;
            }
        }
    }

    /// A program that binds a port for each of its sockets, and forgets to close them.
    fn load_test(&mut self, plan: &Plan) {
        let tester = self.add("loadtest", PYTHON);
        let act = Act::Bind {
            holds: (200_000, 300_000),
        };
        self.flow(tester, CONTAINER, to(0, 0), act, plan.rate);
        self.start_last(plan.trouble());
    }

    /// A program that insists on its source port.
    fn sync(&mut self) {
        let syncer = self.add("syncer", "/usr/bin/rsync");
        self.flow(syncer, HOST, to(40, 873), Act::From(20_000), 0.5);
    }

    /// A program that prefers IPv6, on a host without.
    fn resolve(&mut self) {
        let resolver = self.add("resolver", "/usr/bin/resolver");
        let peer = Endpoint {
            ip: "2001:db8::53"
                .parse()
                .unwrap_or(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            port: Some(853),
        };
        self.flow(resolver, HOST, peer, Act::Nowhere, 3.0);
        if let Some(flow) = self.flows.last_mut() {
            flow.local = Ipv6Addr::UNSPECIFIED.into();
        }
    }

    fn add(&mut self, name: &str, exe: &'static str) -> usize {
        let number = self.processes.len();
        let pid = self.processes[0].task.pid + 60 + u32::try_from(number).unwrap_or_default();
        let cgroup = format!("/user.slice/{name}");
        self.processes.push(Process::new(pid, name, exe, cgroup));
        number
    }

    /// The process that was added last, and what it does, begin only then.
    fn start_last(&mut self, at: u64) {
        if let Some(process) = self.processes.pop() {
            self.processes.push(process.from(at));
        }
        if let Some(flow) = self.flows.last_mut() {
            flow.from = at;
        }
    }
}

/// Each connection is used once, and closed first.
fn once(holds: (u64, u64)) -> Act {
    Act::Connect { first: true, holds }
}

/// Connections are kept, and in the end the other side closes them.
fn kept(holds: (u64, u64)) -> Act {
    Act::Connect {
        first: false,
        holds,
    }
}

fn ipv4(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

/// Port 0: none.
fn to(last: u8, port: u16) -> Endpoint {
    let ip = match last {
        0 => Ipv4Addr::UNSPECIFIED.into(),
        last => ipv4(last),
    };
    Endpoint {
        ip,
        port: (port > 0).then_some(port),
    }
}
