//! Situations, and the advice that each must and must not get.

use std::collections::{BTreeMap, BTreeSet};

use super::{Advice, advice};
use crate::{
    diagnosis::case::{Case, Host, Trouble},
    event::{Comm, Endpoint, Family, Owner, Role, State, Task, Tuple},
    ledger::{Budget, Holder, Socket},
    pool::Settings,
};

const REMEDIES_AGAINST: [&str; 4] = [
    "not_tw_recycle",
    "not_fin_timeout",
    "not_linger_0",
    "not_fewer_tw_buckets",
];

/// One line of the table; what it does not say is a full range of TIME_WAIT of one client to another host.
struct Situation {
    name: &'static str,
    settings: Settings,
    trouble: Trouble,
    local: &'static str,
    peer: &'static str,
    states: Vec<(State, u32)>,
    /// Of the budget.
    bound: u32,
    reserved: u32,
    /// Overrides the range of `settings`.
    socket_range: Option<(u16, u16)>,
    local_port: Option<u16>,
    held_by: Option<(State, Option<Role>)>,
    change: fn(&mut Case<'_>),
    must: &'static [&'static str],
    must_not: &'static [&'static str],
    /// Each must occur in some `why` or `how`.
    says: &'static [&'static str],
}

fn situation(name: &'static str) -> Situation {
    Situation {
        name,
        settings: Settings::default(),
        trouble: Trouble::NoPort,
        local: "10.0.0.7",
        peer: "10.0.0.9",
        states: vec![(State::TimeWait, 27_880), (State::Established, 340)],
        bound: 0,
        reserved: 0,
        socket_range: None,
        local_port: None,
        held_by: None,
        change: |_| {},
        must: &[],
        must_not: &[],
        says: &[],
    }
}

fn task() -> Task {
    let mut comm = [0; 16];
    comm[..6].copy_from_slice(b"worker");
    Task {
        pid: 812,
        tid: 812,
        uid: 0,
        start_ns: 0,
        cgroup: 1,
        comm: Comm(comm),
    }
}

impl Situation {
    fn settings(mut self, change: fn(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    fn budget(&self) -> Budget {
        let ports = self.socket_range.unwrap_or(self.settings.range);
        let range = u32::from(ports.1 - ports.0) + 1;
        let in_state = |wanted| {
            self.states
                .iter()
                .filter(move |(state, _)| *state == wanted)
        };
        let held: u32 = self.states.iter().map(|(_, count)| count).sum();
        // Those of bound ports are not in `states` here.
        let in_use = held;
        Budget {
            ports,
            range,
            reserved: self.reserved,
            bound: self.bound,
            in_use,
            time_wait: in_state(State::TimeWait).map(|(_, count)| count).sum(),
            reusable: 0,
            free: range.saturating_sub(self.reserved + self.bound + in_use),
            uncertain: false,
        }
    }

    fn advice(&self) -> Vec<Advice> {
        let task = task();
        let holders = [Holder {
            task: Some(&task),
            ports: self.states.iter().map(|(_, count)| count).sum::<u32>() + self.bound,
            states: self.states.iter().copied().collect::<BTreeMap<_, _>>(),
            bound: self.bound,
        }];
        let peer = Endpoint {
            ip: self.peer.parse().unwrap(),
            port: Some(5774),
        };
        let local = Endpoint {
            ip: self.local.parse().unwrap(),
            port: self.local_port,
        };
        let family = if peer.ip.is_ipv4() {
            Family::Ipv4
        } else {
            Family::Ipv6
        };
        let held_by = self.held_by.map(|(state, role)| Socket {
            key: 1,
            cookie: None,
            netns: 1,
            tuple: Tuple {
                family,
                local,
                peer,
            },
            state,
            is_timewait: state == State::TimeWait,
            role,
            owner: Owner::Bind,
            task: Some(&task),
            due: None,
        });
        let mut case = Case {
            trouble: self.trouble,
            family,
            local_ip: local.ip,
            local_port: self.local_port,
            held_by,
            peer,
            settings: &self.settings,
            budget: self.budget(),
            holders: &holders,
            socket_range: self.socket_range,
            peer_is_local: false,
            bound_connections: 0,
            listeners: vec![],
            listening: 0,
            listeners_outside: vec![],
            listening_outside: 0,
            serving_time_wait: 0,
            open_rate: None,
            pid: Some(812),
            host: Host::default(),
        };
        (self.change)(&mut case);
        advice(&case)
    }
}

#[test]
fn commands_are_for_the_network_namespace_of_the_failure() {
    let mut situation = situation("a container's");
    situation.change = |case| {
        case.host.is_elsewhere = true;
        case.host.conntrack = Some((262_000, 262_144));
    };
    situation.settings.reserved = "8080".parse().unwrap();
    let advice = situation.advice();
    let how = |id: &str| &advice.iter().find(|one| one.id == id).unwrap().how;
    assert!(how("tw_reuse").starts_with("`nsenter -t 812 -n sysctl -w net.ipv4.tcp_tw_reuse=1`"));
    assert!(how("conntrack_full").starts_with("`sysctl -w net.netfilter.nf_conntrack_max="));
    let others = advice.iter().filter(|one| one.id != "conntrack_full");
    let all: String = others.map(|one| one.how.as_str()).collect();
    for bare in ["`sysctl", "$(sysctl", "`ip "] {
        assert!(!all.contains(bare), "{all}");
    }
}

/// Clients that run out of ports.
fn exhaustion() -> Vec<Situation> {
    vec![
        Situation {
            change: |case| case.open_rate = Some(710.0),
            must: &[
                "reuse_connections",
                "tw_reuse",
                "let_peer_close_first",
                "more_addresses",
                "widen_range",
            ],
            must_not: &[
                "enable_timestamps",
                "unix_socket",
                "close_leak",
                "bind_address_no_port",
                "socket_range",
                "reserved_ports",
                "listener_in_range",
                "conntrack_full",
                "accept_backlog",
                "serving_time_wait",
                "not_reuse_address",
            ],
            says: &[
                "27880 of 28220 ports",
                "710 are opened per second",
                "463 short ones",
                "tcp_tw_reuse=1",
                "covers loopback only",
                "36280 more",
                "112928",
                "\"1024 65535\"",
            ],
            ..situation("TIME_WAIT to another host, tcp_tw_reuse 2")
        },
        Situation {
            must: &["tw_reuse"],
            must_not: &["enable_timestamps"],
            says: &["tcp_tw_reuse is 0"],
            ..situation("TIME_WAIT, tcp_tw_reuse 0").settings(|settings| settings.tw_reuse = 0)
        },
        Situation {
            must: &[
                "reuse_connections",
                "let_peer_close_first",
                "more_addresses",
                "not_fin_timeout",
            ],
            must_not: &["tw_reuse", "enable_timestamps"],
            ..situation("TIME_WAIT younger than a second, tcp_tw_reuse 1")
                .settings(|settings| settings.tw_reuse = 1)
        },
        Situation {
            local: "127.0.0.1",
            peer: "127.0.0.1",
            change: |case| case.peer_is_local = true,
            must: &["reuse_connections", "unix_socket", "more_addresses"],
            must_not: &["tw_reuse", "enable_timestamps"],
            says: &[
                "127.0.0.2",
                "127.0.0.1:5774 is on this host",
                "none of the 28232 ports",
            ],
            ..situation("TIME_WAIT on loopback, which 2 covers")
        },
        Situation {
            local: "127.0.0.1",
            peer: "127.0.0.1",
            must: &["tw_reuse"],
            must_not: &["enable_timestamps"],
            says: &["is enough for this destination"],
            ..situation("TIME_WAIT on loopback, tcp_tw_reuse 0")
                .settings(|settings| settings.tw_reuse = 0)
        },
        Situation {
            change: |case| case.peer_is_local = true,
            must: &["tw_reuse", "unix_socket"],
            must_not: &["enable_timestamps"],
            ..situation("TIME_WAIT to another address of this host, which 2 does not cover")
        },
        Situation {
            must: &["enable_timestamps", "reuse_connections"],
            must_not: &["tw_reuse"],
            says: &[
                "none of the 27880 ports",
                "tcp_timestamps=1 net.ipv4.tcp_tw_reuse=1",
            ],
            ..situation("timestamps off").settings(|settings| settings.timestamps = false)
        },
        Situation {
            must: &["enable_timestamps"],
            must_not: &["tw_reuse"],
            says: &["`sysctl -w net.ipv4.tcp_timestamps=1`;"],
            ..situation("timestamps off, tcp_tw_reuse 1").settings(|settings| {
                settings.timestamps = false;
                settings.tw_reuse = 1;
            })
        },
        Situation {
            local: "::1",
            peer: "::1",
            must: &["more_addresses"],
            must_not: &["tw_reuse"],
            says: &["ip -6 addr add ADDRESS/128 dev lo"],
            ..situation("TIME_WAIT on ::1")
        },
        Situation {
            states: vec![(State::Established, 27_000), (State::TimeWait, 1_232)],
            change: |case| case.open_rate = Some(500.0),
            must: &["close_leak", "more_addresses", "widen_range"],
            must_not: &[
                "reuse_connections",
                "tw_reuse",
                "let_peer_close_first",
                "not_linger_0",
                "not_tw_recycle",
            ],
            says: &[
                "27000 ESTABLISHED",
                "worker (pid 812): 27000",
                "bound the pool",
            ],
            ..situation("ESTABLISHED leak")
        },
        Situation {
            states: vec![(State::CloseWait, 28_000), (State::Established, 232)],
            must: &["close_leak"],
            must_not: &[
                "reuse_connections",
                "tw_reuse",
                "let_peer_close_first",
                "not_linger_0",
            ],
            says: &["28000 CLOSE_WAIT", "this side never does"],
            ..situation("CLOSE_WAIT leak")
        },
        Situation {
            states: vec![(State::SynSent, 20_000), (State::TimeWait, 8_232)],
            must: &["unanswered", "tw_reuse"],
            must_not: &["close_leak", "let_peer_close_first"],
            says: &["20000 of 28232 ports", "10.0.0.9:5774 does not answer"],
            ..situation("the peer does not answer")
        },
        Situation {
            states: vec![(State::FinWait2, 20_000), (State::TimeWait, 8_232)],
            must: &["fin_wait2", "not_linger_0"],
            must_not: &["not_fin_timeout", "close_leak"],
            says: &["20000 of 28232 ports"],
            ..situation("the peer does not close")
        },
        Situation {
            states: vec![(State::TimeWait, 400)],
            change: |case| case.open_rate = Some(9_000.0),
            must: &["reuse_connections"],
            must_not: &["enable_timestamps", "widen_range"],
            says: &["9000 are opened per second"],
            ..situation("soon full: an open rate beyond the range").settings(|settings| {
                settings.tw_reuse = 1;
                settings.range = (1024, 65_535);
            })
        },
    ]
}

/// Ports that are in the way.
fn obstacles() -> Vec<Situation> {
    vec![
        Situation {
            states: vec![],
            bound: 28_232,
            change: |case| case.bound_connections = 28_000,
            must: &["bind_address_no_port", "widen_range"],
            must_not: &[
                "more_addresses",
                "reuse_connections",
                "tw_reuse",
                "not_linger_0",
                "listener_in_range",
            ],
            says: &["28000 of 28232 ports", "IP_BIND_ADDRESS_NO_PORT /* 24 */"],
            ..situation("bind before connect")
        },
        Situation {
            bound: 12,
            change: |case| {
                case.listening = 12;
                case.listeners = vec![(33_060, "mysqld".into()), (50_051, "grpc".into())];
            },
            must: &["reuse_connections", "listener_in_range"],
            must_not: &["bind_address_no_port", "reserved_ports"],
            says: &[
                "12 ports of the range",
                "33060 (mysqld), 50051 (grpc) and 10 others",
                "ip_local_reserved_ports=33060,50051",
            ],
            ..situation("listeners in the range")
        },
        Situation {
            change: |case| {
                case.listening_outside = 2;
                case.listeners_outside = vec![(5_432, "postgres".into()), (6_379, "redis".into())];
            },
            must: &["widen_range"],
            must_not: &["listener_in_range"],
            says: &[
                "2 ports with a listener: 5432 (postgres), 6379 (redis)",
                "$(sysctl -n net.ipv4.ip_local_reserved_ports),5432,6379",
            ],
            ..situation("listeners in a wider range, others reserved").settings(|settings| {
                settings.reserved = "40000-40009".parse().unwrap();
            })
        },
        Situation {
            states: vec![(State::TimeWait, 10)],
            socket_range: Some((40_000, 40_009)),
            must: &["socket_range", "reuse_connections"],
            must_not: &["widen_range"],
            says: &["40000-40009", "10 ports of the 28232"],
            ..situation("narrow range of the socket")
        },
        Situation {
            states: vec![(State::TimeWait, 8_232)],
            reserved: 20_000,
            must: &["reserved_ports", "reuse_connections"],
            must_not: &["socket_range"],
            says: &["20000 of 28232 ports"],
            ..situation("reserved ports").settings(|settings| {
                settings.reserved = "32768-52767".parse().unwrap();
            })
        },
        Situation {
            states: vec![(State::TimeWait, 64_000)],
            reserved: 512,
            must: &["reuse_connections", "tw_reuse"],
            must_not: &["widen_range", "reserved_ports"],
            ..situation("wide range already, few reserved")
                .settings(|settings| settings.range = (1024, 65_535))
        },
        Situation {
            trouble: Trouble::NoPortToBind,
            local: "127.0.0.1",
            must: &[
                "bind_address_no_port",
                "more_addresses",
                "reuse_connections",
                "widen_range",
                "not_linger_0",
            ],
            must_not: &["tw_reuse", "unix_socket", "close_leak"],
            says: &["28220 have one", "127.0.0.2"],
            ..situation("bind(0) among TIME_WAIT").settings(|settings| settings.tw_reuse = 0)
        },
        Situation {
            trouble: Trouble::NoPortToListen,
            local: "0.0.0.0",
            peer: "0.0.0.0",
            must: &["reuse_connections", "widen_range"],
            must_not: &["bind_address_no_port", "more_addresses", "unix_socket"],
            ..situation("listen() without bind() among TIME_WAIT")
        },
        Situation {
            trouble: Trouble::NoPortToBind,
            local: "0.0.0.0",
            peer: "0.0.0.0",
            states: vec![],
            bound: 28_232,
            change: |case| {
                case.listening = 28_232;
                case.listeners = vec![(32_768, "worker".into())];
            },
            must: &["listener_in_range", "widen_range"],
            must_not: &[
                "bind_address_no_port",
                "more_addresses",
                "reuse_connections",
                "tw_reuse",
                "not_fin_timeout",
            ],
            says: &[
                "28232 ports of the range",
                "32768 (worker) and 28231 others",
            ],
            ..situation("bind(0) among listeners")
        },
    ]
}

/// What is no lack of ports, and what stands beside one.
fn others() -> Vec<Situation> {
    vec![
        Situation {
            change: |case| {
                case.serving_time_wait = 28_000;
                case.host.conntrack = Some((65_500, 65_536));
                case.host.listen_overflows = Some(17);
            },
            must: &["serving_time_wait", "conntrack_full"],
            must_not: &["accept_backlog"],
            says: &[
                "28000 more TIME_WAIT",
                "7.0 MiB",
                "65500 of 65536",
                "nf_conntrack_max=131072",
            ],
            ..situation("TIME_WAIT of a server too, full conntrack table")
        },
        Situation {
            change: |case| {
                case.peer_is_local = true;
                case.serving_time_wait = 999;
                case.host.conntrack = Some((100, 65_536));
                case.host.listen_overflows = Some(17);
            },
            must: &["accept_backlog", "unix_socket"],
            must_not: &["serving_time_wait", "conntrack_full"],
            says: &["17 connections were dropped"],
            ..situation("full accept backlog of a server on this host")
        },
        Situation {
            trouble: Trouble::TupleInUse,
            local_port: Some(40_000),
            held_by: Some((State::Established, Some(Role::Client))),
            must: &[
                "tuple_in_use_let_kernel_choose",
                "tuple_in_use_close_holder",
                "not_reuse_address",
            ],
            must_not: &[
                "tuple_in_use_wait",
                "reuse_connections",
                "widen_range",
                "not_linger_0",
            ],
            says: &["port 40000", "10.0.0.9, port 5774", "worker (pid 812)"],
            ..situation("tuple in use")
        },
        Situation {
            trouble: Trouble::TupleInUse,
            local_port: Some(40_000),
            held_by: Some((State::TimeWait, Some(Role::Client))),
            must: &[
                "tuple_in_use_let_kernel_choose",
                "tuple_in_use_wait",
                "not_reuse_address",
            ],
            must_not: &["tuple_in_use_close_holder", "tw_reuse", "more_addresses"],
            says: &["tcp_timestamps=1", "62 s"],
            ..situation("tuple in TIME_WAIT, timestamps off")
                .settings(|settings| settings.timestamps = false)
        },
        Situation {
            trouble: Trouble::NoSourceAddress,
            local: "::",
            peer: "2001:db8::9",
            states: vec![],
            change: |case| {
                case.host.has_ipv4 = Some(true);
                case.host.has_ipv6 = Some(false);
            },
            must: &["add_source_address", "use_other_family"],
            must_not: &[
                "enable_ipv6",
                "widen_range",
                "more_addresses",
                "reuse_connections",
                "not_linger_0",
            ],
            says: &[
                "no interface that is up has an IPv6 address",
                "ip -6 route get 2001:db8::9",
            ],
            ..situation("no IPv6 address")
        },
        Situation {
            trouble: Trouble::NoSourceAddress,
            local: "::",
            peer: "::1",
            states: vec![],
            change: |case| case.host.ipv6_disabled = Some(true),
            must: &["enable_ipv6", "use_other_family"],
            must_not: &["add_source_address", "widen_range"],
            says: &["lo.disable_ipv6=0", "::1"],
            ..situation("IPv6 disabled")
        },
        Situation {
            trouble: Trouble::NoSourceAddress,
            local: "0.0.0.0",
            peer: "192.0.2.1",
            states: vec![],
            change: |case| case.host.has_ipv4 = Some(false),
            must: &["add_source_address"],
            must_not: &["enable_ipv6", "use_other_family"],
            says: &[
                "no interface that is up has an IPv4 address",
                "ip route get 192.0.2.1",
            ],
            ..situation("no IPv4 address")
        },
        Situation {
            trouble: Trouble::AddressInUse,
            local_port: Some(8_080),
            held_by: Some((State::Listen, Some(Role::Listener))),
            must: &["stop_holder", "reuse_port"],
            must_not: &[
                "reuse_address",
                "reserve_port",
                "widen_range",
                "not_linger_0",
                "tuple_in_use_wait",
            ],
            says: &["worker (pid 812) listens on port 8080"],
            ..situation("address of a listener")
        },
        Situation {
            trouble: Trouble::AddressInUse,
            local_port: Some(8_080),
            held_by: Some((State::TimeWait, Some(Role::Server))),
            must: &["reuse_address"],
            must_not: &["stop_holder", "reuse_port", "reserve_port"],
            says: &["port 8080 is held by TIME_WAIT"],
            ..situation("address in TIME_WAIT of a server that was restarted")
        },
        Situation {
            trouble: Trouble::AddressInUse,
            local_port: Some(50_051),
            held_by: Some((State::Established, Some(Role::Client))),
            must: &["reserve_port", "stop_holder"],
            must_not: &["reuse_address", "reuse_port"],
            says: &[
                "port 50051 is inside ip_local_port_range",
                "ip_local_reserved_ports=50051",
            ],
            ..situation("address that an outgoing connection has")
        },
        Situation {
            trouble: Trouble::AddressInUse,
            local_port: Some(50_051),
            held_by: Some((State::Established, None)),
            must: &["reserve_port", "stop_holder"],
            must_not: &["reuse_address", "reuse_port"],
            says: &["worker (pid 812) has a connection from port 50051"],
            ..situation("address of a connection that is older than tracer")
        },
        Situation {
            trouble: Trouble::AddressInUse,
            local_port: Some(8_080),
            must: &["stop_holder"],
            must_not: &["reuse_address", "reuse_port", "reserve_port"],
            says: &["sport = :8080"],
            ..situation("address in use, holder not known")
        },
    ]
}

fn check(situation: &Situation) {
    let name = situation.name;
    let advice = situation.advice();
    let ids: Vec<_> = advice.iter().map(|advice| advice.id).collect();
    for id in situation.must {
        assert!(ids.contains(id), "{name}: {id} is missing in {ids:?}");
    }
    for id in situation.must_not {
        assert!(!ids.contains(id), "{name}: {id} is in {ids:?}");
    }
    for said in situation.says {
        let says = |advice: &Advice| advice.why.contains(said) || advice.how.contains(said);
        assert!(
            advice.iter().any(says),
            "{name}: no word of `{said}` in {advice:#?}"
        );
    }
    let mut once = ids.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), ids.len(), "{name}: twice the same in {ids:?}");
    let first_not = ids
        .iter()
        .position(|id| id.starts_with("not_"))
        .unwrap_or(ids.len());
    assert!(
        ids[first_not..].iter().all(|id| id.starts_with("not_")),
        "{name}: {ids:?}"
    );
}

#[test]
fn gives_what_applies_and_nothing_else() {
    for situation in exhaustion().iter().chain(&obstacles()).chain(&others()) {
        check(situation);
    }
}

/// A misspelt id would never be given, and prove nothing.
#[test]
fn forbids_only_what_some_situation_gets() {
    let all: Vec<_> = exhaustion()
        .into_iter()
        .chain(obstacles())
        .chain(others())
        .collect();
    let given: BTreeSet<_> = all
        .iter()
        .flat_map(Situation::advice)
        .map(|advice| advice.id)
        .collect();
    let forbidden = all.iter().flat_map(|situation| situation.must_not);
    let unknown: Vec<_> = forbidden.filter(|id| !given.contains(*id)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn gives_the_best_first() {
    let ids = |name: &str| -> Vec<_> {
        let all = exhaustion().into_iter().chain(obstacles());
        let situation = all
            .into_iter()
            .find(|situation| situation.name == name)
            .unwrap();
        situation
            .advice()
            .into_iter()
            .map(|advice| advice.id)
            .collect()
    };
    let mut expected = vec![
        "reuse_connections",
        "tw_reuse",
        "let_peer_close_first",
        "more_addresses",
        "widen_range",
    ];
    expected.extend(REMEDIES_AGAINST);
    assert_eq!(ids("TIME_WAIT to another host, tcp_tw_reuse 2"), expected);
    for (name, first) in [
        ("timestamps off", "reuse_connections"),
        ("ESTABLISHED leak", "close_leak"),
        ("bind before connect", "bind_address_no_port"),
        ("narrow range of the socket", "socket_range"),
        ("reserved ports", "reserved_ports"),
        ("the peer does not answer", "unanswered"),
        ("bind(0) among listeners", "listener_in_range"),
        ("listeners in the range", "reuse_connections"),
    ] {
        assert_eq!(ids(name)[0], first, "{name}");
    }
}

/// For eyes: `cargo test -p tracer --lib shows_advice -- --nocapture`.
#[test]
fn shows_advice() {
    for situation in exhaustion().iter().chain(&obstacles()).chain(&others()) {
        println!("\n# {}", situation.name);
        for Advice { id, why, how } in situation.advice() {
            println!("{id}\n  why: {why}.\n  how: {how}.");
        }
    }
}
