use clap::Parser;
use proptest::prelude::*;

use super::*;
use crate::{
    cli::Cli,
    event::{Comm, Endpoint, Family, Owner, Tuple},
};

fn filter(arguments: &[&str]) -> Filter {
    let arguments = ["tracer"].iter().chain(arguments);
    let select = Cli::try_parse_from(arguments).unwrap().trace.select;
    let netns = select.netns.iter().map(|inode| inode.parse().unwrap());
    Filter::with(&select, netns.collect())
}

fn task(pid: u32, uid: u32, name: &str) -> Task {
    let mut comm = [0; 16];
    comm[..name.len()].copy_from_slice(name.as_bytes());
    Task {
        pid,
        tid: pid,
        uid,
        start_ns: 5,
        cgroup: 0,
        comm: Comm(comm),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn tuple(local: Option<u16>, peer: u16) -> Tuple {
    Tuple {
        family: Family::Ipv4,
        local: Endpoint {
            ip: ip("10.0.0.7"),
            port: local,
        },
        peer: Endpoint {
            ip: ip("10.0.0.9"),
            port: Some(peer),
        },
    }
}

fn transition(task: &Task, opened: Option<u64>, local: Option<u16>) -> Transition<'_> {
    Transition {
        ts: 9,
        socket: Socket {
            key: 1,
            cookie: None,
            netns: 7,
            tuple: tuple(local, 80),
            state: State::Established,
            is_timewait: false,
            role: Some(Role::Client),
            owner: Owner::Connect,
            task: Some(task),
            due: None,
        },
        old: State::SynSent,
        new: State::Established,
        corrected: false,
        opened,
    }
}

#[test]
fn without_options_everything_is_wanted_and_nothing_looked_at() {
    let mut all = filter(&[]);
    for kind in Kind::ALL {
        assert!(all.wants(*kind, || unreachable!("no option asks")));
    }
    assert_eq!(all.needs(), Needs::default());
    assert!(all.given().is_empty());
}

#[test]
fn some_kinds_are_always_written() {
    let mut some = filter(&["--emit", "usage,pressure"]);
    let wanted = Kind::ALL
        .iter()
        .filter(|kind| some.wants(**kind, Subject::default));
    let wanted: Vec<&str> = wanted.map(|kind| kind.name()).collect();
    let expected = [
        "start",
        "process",
        "pressure",
        "usage",
        "recording",
        "loss",
        "stats",
        "shed",
        "stop",
    ];
    assert_eq!(wanted, expected);
}

#[test]
fn a_flight_recorder_needs_everything() {
    let mut some = filter(&["--emit", "usage", "--netns", "7"]);
    assert_ne!(some.needs(), Needs::default());
    some.record_all();
    assert_eq!(some.needs(), Needs::default());
}

#[test]
fn metrics_need_all_network_namespaces_and_nothing_else() {
    let mut some = filter(&["--emit", "usage", "--netns", "7"]);
    let needs = some.needs();
    some.count_all();
    let all = Needs {
        netns: None,
        ..needs
    };
    assert_eq!(some.needs(), all);
}

#[test]
fn a_transition_has_to_fit_every_option() {
    let nginx = task(812, 33, "nginx");
    for (arguments, fits) in [
        (&["--pid", "811,812"][..], true),
        (&["--pid", "811", "--pid", "813"], false),
        (&["--uid", "33"], true),
        (&["--uid", "0"], false),
        (&["--comm", "nginx"], true),
        (&["--comm", "ngin"], false),
        (&["--comm", "redis,n*x"], true),
        (&["--comm", "Nginx"], false),
        (&["--netns", "7"], true),
        (&["--netns", "8"], false),
        (&["--port", "80"], true),
        (&["--port", "40000-50000"], true),
        (&["--port", "81-443"], false),
        (&["--peer", "10.0.0.0/8"], true),
        (&["--peer", "10.0.0.9"], true),
        (&["--peer", "10.0.0.7"], false),
        (&["--peer", "::ffff:10.0.0.0/104"], true),
        (&["--peer", "::/0"], false),
        (&["--role", "client"], true),
        (&["--role", "server,listener"], false),
        (&["--state", "syn_sent"], true),
        (&["--state", "ESTABLISHED"], true),
        (&["--state", "TIME_WAIT"], false),
        (&["--cgroup", "/nowhere"], false),
        (&["--container", "4b825dc642cb"], false),
        (&["--pid", "812", "--port", "80", "--role", "client"], true),
        (&["--pid", "812", "--port", "81", "--role", "client"], false),
        (&["--emit", "state"], true),
        (&["--emit", "connection"], false),
    ] {
        let wants = filter(arguments).wants_state(&transition(&nginx, Some(1), Some(40_123)));
        assert_eq!(wants, fits, "{arguments:?}");
    }
}

#[test]
fn what_is_null_does_not_fit_and_what_a_line_does_not_say_does() {
    let nobody = Subject::of_usage(7, None);
    let pool = Subject::of_way(7, None);
    for arguments in [
        ["--pid", "1"],
        ["--comm", "*"],
        ["--uid", "0"],
        ["--cgroup", "/"],
    ] {
        assert!(
            !filter(&arguments).wants(Kind::Usage, || nobody),
            "{arguments:?}"
        );
        assert!(
            filter(&arguments).wants(Kind::Pressure, || pool),
            "{arguments:?}"
        );
    }
    for arguments in [["--port", "80"], ["--peer", "0.0.0.0/0"]] {
        assert!(
            filter(&arguments).wants(Kind::Usage, || nobody),
            "{arguments:?}"
        );
        assert!(
            !filter(&arguments).wants(Kind::Pressure, || pool),
            "{arguments:?}"
        );
    }
    let mut other = filter(&["--netns", "8", "--state", "LISTEN", "--role", "server"]);
    assert!(!other.wants(Kind::Usage, || nobody));
    assert!(other.wants(Kind::Ledger, Subject::default));
}

#[test]
fn a_cgroup_is_one_with_those_below() {
    let cgroup = |text: &str| text.parse::<Cgroup>().unwrap();
    for path in ["/a/b", "/a/b/", "/sys/fs/cgroup/a/b"] {
        let wanted = cgroup(path);
        assert!(
            wanted.contains("/a/b") && wanted.contains("/a/b/c"),
            "{path}"
        );
        assert!(
            !wanted.contains("/a/bc") && !wanted.contains("/a"),
            "{path}"
        );
        assert_eq!(wanted.to_string(), "/a/b");
    }
    assert!(cgroup("/").contains("/") && cgroup("/").contains("/a"));
    assert!(cgroup("/sys/fs/cgroup").contains("/a"));
    assert!(!cgroup("/sys/fs/cgroups").contains("/a"));
}

#[test]
fn our_own_cgroup_is_looked_up() {
    let pid = std::process::id();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let ticks: u64 = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split(' ')
        .nth(20)
        .unwrap()
        .parse()
        .unwrap();
    let own = Task {
        start_ns: ticks * 10_000_000,
        ..task(pid, 0, "own")
    };
    let path = crate::host::process::cgroup(std::path::Path::new("/proc"), &own).unwrap();
    let fits = |cgroup: &str| {
        filter(&["--cgroup", cgroup]).wants(Kind::Usage, || Subject::of_usage(7, Some(&own)))
    };
    assert!(fits(&path) && fits("/"));
    assert!(!fits("/no-such-cgroup"));
}

#[test]
fn a_name_that_no_process_can_have_is_refused() {
    let cut = Err("the kernel keeps 15 bytes of a name: give averyverylongna".to_owned());
    for name in [
        "averyverylongname",
        "averyverylongname*",
        "averyverylongnam[e]",
    ] {
        assert_eq!(name.parse::<Name>().map(drop), cut, "{name}");
    }
    for name in [
        "averyverylongna",
        "averyverylongna*",
        "*-a-long-ending-of-a-name",
    ] {
        assert!(name.parse::<Name>().is_ok(), "{name}");
    }
}

#[test]
fn a_sample_keeps_connections_whole() {
    let one = task(1, 0, "one");
    let sample = filter(&["--sample", "4"]);
    let sampled = |opened, local| sample.samples(&transition(&one, opened, local));
    let mut kept = 0;
    for ts in 0..10_000 {
        // The port is not known yet with the first transition, and the socket's address changes with TIME_WAIT.
        assert_eq!(sampled(Some(ts), None), sampled(Some(ts), Some(40_123)));
        kept += u32::from(sampled(Some(ts), None));
    }
    assert!(
        (2_300..2_700).contains(&kept),
        "{kept} of 10,000 instead of a fourth"
    );
    let older = (1..=10_000)
        .filter(|port| sampled(None, Some(*port)))
        .count();
    assert!(
        (2_300..2_700).contains(&older),
        "{older} of 10,000 instead of a fourth"
    );
    let whole = filter(&["--sample", "1"]);
    assert!((0..100).all(|ts| whole.samples(&transition(&one, Some(ts), None))));
}

#[test]
fn the_kernel_leaves_out_only_what_no_line_shows() {
    let needs = |arguments: &[&str]| filter(arguments).needs();
    let seven = Some(vec![7]);
    assert_eq!(
        needs(&["--netns", "7"]).netns,
        None,
        "ledger lines are about all"
    );
    assert_eq!(
        needs(&["--netns", "7", "--emit", "state,usage"]).netns,
        seven
    );
    assert_eq!(needs(&["--pid", "7", "--emit", "state"]).netns, None);
    assert!(needs(&["--emit", "usage"]).no_closers);
    assert!(!needs(&["--emit", "connection"]).no_closers);
    assert!(needs(&["--emit", "connection,usage"]).no_steps);
    assert!(!needs(&["--emit", "state"]).no_steps);
    assert!(!needs(&["--pid", "7"]).no_steps);
    let many: Vec<String> = (1..=NAMESPACES + 1)
        .map(|inode| inode.to_string())
        .collect();
    assert_eq!(
        needs(&["--emit", "usage", "--netns", &many.join(",")]).netns,
        None
    );
    assert!(
        needs(&["--emit", "usage", "--netns", &many[1..].join(",")])
            .netns
            .is_some()
    );
}

#[test]
fn the_start_line_says_what_was_given() {
    let given = filter(&[
        "--emit",
        "usage,state",
        "--port",
        "80,1-3",
        "--peer",
        "10.0.0.9",
        "--sample",
        "3",
    ]);
    let expected = [
        ("emit", vec!["usage", "state"]),
        ("peer", vec!["10.0.0.9/32"]),
        ("port", vec!["80", "1-3"]),
        ("sample", vec!["3"]),
    ];
    let given: Vec<_> = given
        .given()
        .iter()
        .map(|(option, values)| (option.as_str(), values.clone()))
        .collect();
    assert_eq!(
        given,
        expected.map(|(option, values)| (option, values.into_iter().map(String::from).collect()))
    );
}

#[test]
fn bad_values_are_told_in_a_sentence() {
    for (arguments, advice) in [
        (["--port", "0"], "give a port from 1"),
        (["--port", "9-3"], "give a port from 1"),
        (["--port", "65536"], "give a port from 1"),
        (["--port", "tcp://10.0.0.1:80"], "enableServiceLinks"),
        (["--peer", "10.0.0"], "such as 10.0.0.9"),
        (["--peer", "10.0.0.0/33"], "such as 10.0.0.9"),
        (["--comm", "sixteen-byte-str"], "give sixteen-byte-st\n"),
        (["--comm", "fünfzehn-bytes-ü"], "give fünfzehn-bytes"),
        (["--comm", ""], "give a name"),
        (["--comm", "[a"], "wrong at character 1"),
        (["--cgroup", "system.slice"], "such as /system.slice"),
        (["--container", ""], "a value is required"),
        (["--sample", "0"], "give a number from 1"),
        (["--emit", "states"], "possible values: start"),
        (["--emit", ""], "possible values: start"),
        (["--state", "ESTAB"], "possible values: ESTABLISHED"),
        (["--role", "peer"], "possible values: client"),
        (["--pid", "-1"], "unexpected argument"),
        (["--pid", "self"], "invalid digit"),
    ] {
        let error = Cli::try_parse_from(["tracer"].iter().chain(&arguments)).unwrap_err();
        let said = error.to_string();
        assert!(said.contains(advice), "{arguments:?}: {said}");
    }
}

/// The properties of what the options' values are, each of a small domain, so that they meet.
#[derive(Clone, Debug)]
struct Line {
    netns: u32,
    process: Option<Task>,
    local: Option<u16>,
    peer: u16,
    role: Option<Role>,
}

impl Line {
    fn subject(&self) -> Subject<'_> {
        Subject {
            netns: Some(self.netns),
            process: Some(self.process.as_ref()),
            ports: Some([self.local, Some(self.peer)]),
            peer: Some(Some(ip("10.0.0.9"))),
            role: Some(self.role),
            states: None,
        }
    }
}

fn line() -> impl Strategy<Value = Line> {
    let roles = [None, Some(Role::Client), Some(Role::Server)];
    let process =
        (1..4u32, 0..3u32, "[ab]{1,2}").prop_map(|(pid, uid, name)| task(pid, uid, &name));
    let local = proptest::option::of(1..6u16);
    (
        1..4u32,
        proptest::option::of(process),
        local,
        1..6u16,
        0..3usize,
    )
        .prop_map(move |(netns, process, local, peer, role)| Line {
            netns,
            process,
            local,
            peer,
            role: roles[role],
        })
}

/// An option with one value.
fn option() -> impl Strategy<Value = [String; 2]> {
    let number = |name: &'static str, range: std::ops::Range<u32>| {
        range
            .prop_map(move |value| [name.to_owned(), value.to_string()])
            .boxed()
    };
    let role = prop_oneof![Just("client"), Just("server"), Just("listener")];
    prop_oneof![
        number("--netns", 1..5),
        number("--pid", 1..5),
        number("--uid", 0..4),
        number("--port", 1..7),
        "[ab?]{1,2}".prop_map(|name| ["--comm".to_owned(), name]),
        role.prop_map(|role| ["--role".to_owned(), role.to_owned()]),
    ]
}

proptest! {
    /// Values of one option are alternatives, and options conditions: so many as there are, they are those together.
    #[test]
    fn options_are_and_and_their_values_or(line in line(), options in prop::collection::vec(option(), 0..5)) {
        let wants = |given: &[[String; 2]]| {
            let arguments: Vec<&str> = given.iter().flatten().map(String::as_str).collect();
            filter(&arguments).wants(Kind::Connection, || line.subject())
        };
        let mut by_name = BTreeMap::<&str, bool>::new();
        for option in &options {
            *by_name.entry(&option[0]).or_default() |= wants(std::slice::from_ref(option));
        }
        prop_assert_eq!(wants(&options), by_name.values().all(|fits| *fits));
    }
}
