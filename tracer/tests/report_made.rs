//! Reports of lines that nobody recorded: what is rare, long or large, in a few of them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Value, json};
use tracer::report::{self, Control, Made, Report, narrow::Narrow, text::Terminal};

const NETNS: u32 = 4_026_531_840;
const PEER: &str = "10.0.0.9:5774";

/// Lines of a host, with numbers and times.
struct Lines {
    host: &'static str,
    /// Of the lines that are added next.
    netns: u32,
    text: String,
    seq: u64,
}

impl Lines {
    /// A run that begins at that second.
    fn start(host: &'static str, at: u64, range: [u16; 2]) -> Self {
        let mut lines = Self {
            host,
            netns: NETNS,
            text: String::new(),
            seq: 0,
        };
        let netns = json!([{"netns": NETNS, "range": range, "reserved": 0}]);
        let start = json!({"type": "start", "tracer": "0.1.0", "kernel": "6.12.0", "netns": netns});
        lines.add(at, start);
        lines
    }

    fn add(&mut self, at: u64, line: Value) -> &mut Self {
        let mut all = json!({"v": 1, "ts": time(at), "seq": self.seq, "host": self.host});
        self.seq += 1;
        all.as_object_mut()
            .unwrap()
            .extend(line.as_object().unwrap().clone());
        self.text += &format!("{all}\n");
        self
    }

    /// A round: so many ports of each process, all in TIME_WAIT at the destination.
    fn usage(&mut self, at: u64, pids: std::ops::Range<u32>, ports: u32) -> &mut Self {
        for pid in pids {
            let top = json!([{"local_ip": "10.0.0.7", "peer": peer(), "ports": ports, "time_wait": ports}]);
            let line = json!({
                "type": "usage", "netns": self.netns, "process": process(pid), "exited": false,
                "ports": {"total": ports, "TIME_WAIT": ports}, "opened": 0, "closed": 0, "failed": 0, "top": top,
            });
            self.add(at, line);
        }
        self.add(at, json!({"type": "ledger", "overflow": 0}))
    }

    /// A connection that is opened and stays.
    fn open(&mut self, at: u64, pid: u32, port: u16) -> &mut Self {
        for (old, new) in [("CLOSE", "SYN_SENT"), ("SYN_SENT", "ESTABLISHED")] {
            let local = json!({"ip": "10.0.0.7", "port": (old != "CLOSE").then_some(port)});
            let line = json!({
                "type": "state", "netns": self.netns, "role": "client", "local": local, "peer": peer(),
                "old": old, "new": new, "cookie": port.to_string(), "process": process(pid),
            });
            self.add(at, line);
        }
        self
    }

    fn fail(&mut self, at: u64, usable: u32, holders: Value) -> &mut Self {
        self.fail_to(at, usable, peer(), holders)
    }

    fn fail_to(&mut self, at: u64, usable: u32, peer: Value, holders: Value) -> &mut Self {
        let local = json!({"ip": "10.0.0.7", "port": null});
        let line = json!({
            "type": "connect_failed", "netns": self.netns, "local": local, "peer": peer, "errno": 99,
            "reason": "ports_exhausted", "process": process(1),
            "budget": {"range": usable, "in_use": usable, "time_wait": usable, "free": 0},
            "holders": holders,
        });
        self.add(at, line)
    }

    /// Introduces a process that has just started.
    fn process(&mut self, at: u64, pid: u32, exe: &str) -> &mut Self {
        let id = format!("{pid}-5");
        let line = json!({
            "type": "process", "id": id, "pid": pid, "comm": "worker", "exe": exe, "start": time(at),
        });
        self.add(at, line)
    }

    fn range(&mut self, at: u64, range: [u16; 2]) -> &mut Self {
        self.add(
            at,
            json!({"type": "netns", "netns": self.netns, "range": range, "reserved": 0}),
        )
    }
}

/// Of a day.
fn time(at: u64) -> String {
    let (hours, minutes, seconds) = (at / 3600, at / 60 % 60, at % 60);
    format!("2026-01-02T{hours:02}:{minutes:02}:{seconds:02}.000000000Z")
}

fn process(pid: u32) -> Value {
    json!({"id": format!("{pid}-5"), "pid": pid, "tid": pid, "comm": "worker"})
}

fn peer() -> Value {
    json!({"ip": "10.0.0.9", "port": 5774})
}

fn file(name: &str, text: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("report-made-{name}"));
    fs::write(&path, text).unwrap();
    path
}

fn made(name: &str, text: &str, narrow: Narrow) -> Made {
    let files = vec![file(name, text)];
    report::make(files, narrow, &Arc::new(Control::default()), || ()).unwrap()
}

fn report(name: &str, text: &str, narrow: Narrow) -> Report {
    made(name, text, narrow).report
}

fn highest(values: &[Option<u32>]) -> u32 {
    values.iter().flatten().max().copied().unwrap_or(0)
}

#[test]
fn more_processes_than_are_told_apart_add_up() {
    let mut lines = Lines::start("web-1", 0, [32768, 33967]);
    lines.usage(10, 1..13, 100);
    let named = (1..11).map(|pid| {
        json!({"process": process(pid), "ports": 100, "states": {"TIME_WAIT": 100}, "bound": 0})
    });
    let others = json!({"process": null, "others": 2, "ports": 200, "states": {"TIME_WAIT": 200}, "bound": 0});
    let holders: Vec<_> = named.chain([others]).collect();
    lines.fail(12, 1200, holders.into());
    lines.usage(20, 1..13, 100);
    let report = report("many", &lines.text, Narrow::default());
    let (pool, to) = (&report.pools[0], &report.destinations[0]);
    assert_eq!((highest(&pool.ports), highest(&to.ports)), (1200, 1200));
    let peak = to.peak.as_ref().unwrap();
    assert_eq!(peak.ports, 1200);
    let sums = (0..report.axis.bins).map(|bin| to.owners.values().map(|of| of[bin]).sum::<u32>());
    assert_eq!(sums.max(), Some(1200));
    let verdict = report.verdict.join(" ");
    assert!(verdict.contains("1200 of the 1200 ports"), "{verdict}");
}

#[test]
fn copies_do_not_make_a_run_longer() {
    let mut lines = Lines::start("web-1", 0, [40000, 40015]);
    lines.text = lines.text.replacen("\"v\"", "\"repeated\":true,\"v\"", 1);
    lines.seq = 1000;
    lines.open(80_000, 1, 40001).usage(80_010, 1..2, 1);
    let report = report("copies", &lines.text, Narrow::default());
    assert_eq!(
        report.span.as_ref().unwrap().from.to_string(),
        "2026-01-02T22:13:20Z"
    );
    assert_eq!(report.runs[0].from, report.span.unwrap().from);
    assert!(report.pools[0].limit.iter().all(|limit| *limit == Some(16)));
}

#[test]
fn a_snapshot_is_no_round_of_usage() {
    let mut lines = Lines::start("web-1", 0, [40000, 40015]);
    let seeded = json!({"type": "ledger", "overflow": 0, "seeded": {"sockets": 9}});
    lines.add(0, seeded).open(5, 1, 40001);
    lines.usage(10, 1..2, 9).open(12, 1, 40002);
    lines.add(15, json!({"type": "socket", "netns": NETNS}));
    lines.add(15, json!({"type": "ledger", "overflow": 0}));
    lines.open(17, 1, 40003).usage(20, 1..2, 11);
    let report = report("snapshot", &lines.text, Narrow::default());
    let known: Vec<_> = report.pools[0].ports.iter().flatten().collect();
    assert!(known.iter().all(|ports| **ports >= 8), "{known:?}");
    assert_eq!(highest(&report.pools[0].ports), 11);
}

#[test]
fn what_happened_elsewhere_or_helped_is_no_cause() {
    let mut one = Lines::start("web-1", 0, [40000, 40015]);
    one.usage(10, 1..2, 16).range(20, [40000, 40016]);
    one.usage(30, 1..2, 17).fail(40, 17, json!([]));
    let mut two = Lines::start("web-2", 1, [32768, 60999]);
    two.range(25, [32768, 32783]).usage(35, 1..2, 1);
    let report = report("elsewhere", &(one.text + &two.text), Narrow::default());
    let verdict = report.verdict.join(" ");
    assert!(verdict.contains("for 10.0.0.9:5774"), "{verdict}");
    assert!(!verdict.contains("ip_local_port_range"), "{verdict}");
    let timeline: Vec<_> = report.timeline.iter().map(|moment| &*moment.id).collect();
    assert!(timeline.contains(&"range_widened") && timeline.contains(&"range_changed"));
}

#[test]
fn the_limit_is_the_one_that_there_was_then() {
    let mut lines = Lines::start("web-1", 0, [40000, 40015]);
    lines.usage(10, 1..2, 16).fail(12, 16, json!([]));
    lines.range(300, [1024, 65535]);
    let over = json!({
        "type": "pressure", "netns": NETNS, "local_ip": "10.0.0.7", "peer": peer(), "level": "ok",
        "before": "critical", "used_percent": 0.1, "budget": {"range": 64512, "in_use": 16},
        "holders": [],
    });
    lines.add(301, over).usage(310, 1..2, 3);
    let report = report("limit", &lines.text, Narrow::default());
    let verdict = report.verdict.join(" ");
    assert!(
        verdict.contains(&format!("16 of the 16 ports for {PEER}")),
        "{verdict}"
    );
}

#[test]
fn a_sample_of_the_transitions_is_not_taken_for_all() {
    let mut lines = Lines::start("web-1", 0, [40000, 40015]);
    let from = "\"kernel\"";
    let to = format!("\"filter\":{{\"sample\":[\"100\"]}},{from}");
    lines.text = lines.text.replacen(from, &to, 1);
    for second in 1..20 {
        lines.open(second, 1, 40_000 + second as u16);
    }
    lines.usage(20, 1..2, 16);
    for second in 21..30 {
        for _ in 0..50 {
            lines.fail(second, 16, json!([]));
        }
    }
    lines.usage(30, 1..2, 16);
    let report = report("sample", &lines.text, Narrow::default());
    assert_eq!(highest(&report.pools[0].ports), 16);
    let causes: Vec<_> = report.causes.iter().map(|cause| &*cause.id).collect();
    assert!(!causes.contains(&"rate_rose"), "{causes:?}");
    let says = |hole: &report::model::Hole| hole.text.contains("--sample");
    assert!(report.holes.iter().any(says));
}

#[test]
fn between_two_runs_nothing_is_known() {
    let mut lines = Lines::start("web-1", 0, [40000, 40015]);
    lines.usage(10, 1..2, 16).usage(20, 1..2, 16);
    let later = Lines::start("web-1", 20_000, [40000, 40015]);
    lines.text += &later.text;
    lines.seq = 1;
    lines.usage(20_010, 1..2, 3).usage(20_020, 1..2, 3);
    let report = report("between", &lines.text, Narrow::default());
    let values = |level: &[Option<u32>]| {
        let middle = &level[level.len() / 4..level.len() * 3 / 4];
        (
            middle.iter().flatten().count(),
            level.last().copied().flatten(),
        )
    };
    assert_eq!(values(&report.pools[0].ports), (0, Some(3)));
    assert_eq!(values(&report.pools[0].limit), (0, Some(16)));
}

#[test]
fn failures_from_before_the_time_that_counts_are_not_told() {
    let mut lines = Lines::start("web-1", 0, [40000, 40015]);
    lines.fail(5, 16, json!([]));
    let usage = json!({
        "type": "usage", "netns": NETNS, "process": process(1), "exited": false,
        "ports": {"total": 16, "TIME_WAIT": 16}, "opened": 0, "closed": 0, "failed": 1, "top": [],
    });
    lines.add(10, usage);
    lines.add(10, json!({"type": "ledger", "overflow": 0}));
    lines.usage(20, 1..2, 3);
    let narrow = Narrow {
        since: Some(time(10).parse().unwrap()),
        ..Narrow::default()
    };
    let report = report("since", &lines.text, narrow);
    assert_eq!(report.failures.connect, 0);
}

#[test]
fn two_namespaces_of_a_host_are_told_apart() {
    let mut lines = Lines::start("web-1", 0, [40000, 40015]);
    lines.usage(10, 1..2, 1);
    lines.netns = NETNS + 1;
    lines.range(11, [40000, 40015]).process(12, 7, "/bin/other");
    lines.usage(20, 7..8, 16).fail(21, 16, json!([]));
    lines.netns = NETNS;
    lines.usage(30, 1..2, 16);
    for second in 31..35 {
        lines.fail(second, 16, json!([]));
    }
    let report = report("namespaces", &lines.text, Narrow::default());
    let rows = &report.failures.by_destination;
    let rows: Vec<_> = rows.iter().map(|row| (row.netns, row.failures)).collect();
    assert_eq!(rows, [(Some(NETNS), 4), (Some(NETNS + 1), 1)]);
    let first = report.timeline.iter().filter(|it| it.id == "first_failure");
    let first: Vec<_> = first.map(|it| (it.netns, &*it.text)).collect();
    assert_eq!(first.len(), 2, "{first:?}");
    for (netns, text) in first {
        let begin = format!("network namespace {}: connect() to {PEER}", netns.unwrap());
        assert!(text.starts_with(&begin), "{text}");
    }
    let verdict = report.verdict.join(" ");
    let place = format!("4 of them for {PEER} in network namespace {NETNS}.");
    assert!(verdict.contains(&place), "{verdict}");
    assert!(!verdict.contains("a new process starts"), "{verdict}");
}

#[test]
fn what_led_elsewhere_is_no_cause() {
    let mut lines = Lines::start("web-1", 0, [40000, 40015]);
    lines
        .usage(5, 1..2, 1)
        .process(6, 7, "/bin/other")
        .usage(10, 7..8, 16);
    let other = json!({"ip": "10.0.0.9", "port": 80});
    let holder =
        json!([{"process": process(1), "ports": 16, "states": {"TIME_WAIT": 16}, "bound": 0}]);
    lines.fail_to(12, 16, other, holder);
    let report = report("destinations", &lines.text, Narrow::default());
    let verdict = report.verdict.join(" ");
    assert!(report.causes.iter().any(|cause| cause.id == "new_process"));
    assert!(!verdict.contains("a new process starts"), "{verdict}");
}

#[test]
fn what_came_after_the_failures_did_not_lead_to_them() {
    let mut lines = Lines::start("web-1", 0, [40000, 40031]);
    lines.usage(10, 1..2, 1).range(15, [40000, 40015]);
    lines.usage(20, 1..2, 16).fail(21, 16, json!([]));
    let bound = json!({
        "type": "usage", "netns": NETNS, "process": process(2), "exited": false,
        "ports": {"total": 9, "bound": 9}, "opened": 0, "closed": 0, "failed": 0, "top": [],
    });
    lines.range(30, [40000, 40014]).add(40, bound);
    lines.add(40, json!({"type": "ledger", "overflow": 5}));
    let report = report("afterwards", &lines.text, Narrow::default());
    let ids = |moments: &[report::model::Moment]| -> Vec<_> {
        moments.iter().map(|it| it.id.clone()).collect()
    };
    assert_eq!(ids(&report.causes), ["range_changed", "time_wait_grew"]);
    assert!(report.causes[0].text.contains("is 40000-40015"));
    let timeline = ids(&report.timeline);
    assert!(timeline.iter().any(|id| id == "time_wait_overflow"));
}

#[test]
fn narrowed_to_a_namespace_nothing_of_the_others_is_told() {
    let mut lines = Lines::start("web-1", 0, [40000, 40015]);
    lines.usage(10, 1..2, 16).fail(12, 16, json!([]));
    lines.netns = NETNS + 1;
    lines.range(13, [40000, 40015]).range(14, [40000, 40007]);
    lines.usage(20, 7..8, 16).fail(21, 16, json!([]));
    lines.add(30, json!({"type": "ledger", "overflow": 5}));
    let narrow = Narrow {
        netns: Some(NETNS),
        ..Narrow::default()
    };
    let report = report("one-namespace", &lines.text, narrow);
    let all = report.timeline.iter().chain(&report.causes);
    let strange: Vec<_> = all
        .filter(|it| !matches!(&*it.id, "start" | "stop") && it.netns != Some(NETNS))
        .collect();
    assert!(strange.is_empty(), "{strange:?}");
}

#[test]
fn what_was_there_when_the_run_began_did_not_grow() {
    let mut lines = Lines::start("web-1", 0, [40000, 40015]);
    lines
        .usage(1, 1..2, 16)
        .fail(2, 16, json!([]))
        .usage(10, 1..2, 16);
    let report = report("in-the-midst", &lines.text, Narrow::default());
    let causes: Vec<_> = report.causes.iter().map(|cause| &*cause.text).collect();
    assert!(causes.is_empty(), "{causes:?}");
}

#[test]
fn a_process_that_goes_on_did_not_run_before_another() {
    let before = |exited: bool, exe: &str| {
        let mut lines = Lines::start("web-1", 0, [40000, 40015]);
        lines.process(2, 1, "/bin/worker").usage(3, 1..2, 1);
        lines.process(10, 7, exe);
        if exited {
            let line = json!({
                "type": "usage", "netns": NETNS, "process": process(1), "exited": true,
                "ports": {"total": 1, "TIME_WAIT": 1}, "opened": 0, "closed": 0, "failed": 0, "top": [],
            });
            lines.add(12, line);
        }
        lines.usage(13, 7..8, 16).fail(14, 16, json!([]));
        let report = report("before", &lines.text, Narrow::default());
        let mut causes = report.causes.iter();
        let new = causes
            .find(|cause| cause.text.contains("worker (7)"))
            .unwrap();
        new.text.contains("ran before it")
    };
    assert!(before(true, "/bin/worker"));
    assert!(!before(false, "/bin/worker"));
    assert!(!before(true, "/bin/other"));
}

#[test]
fn a_filter_that_fits_no_line_is_no_all_clear() {
    let mut lines = Lines::start("web-1", 0, [40000, 40015]);
    lines.usage(10, 1..2, 3).usage(20, 1..2, 3);
    let told = |narrow: Narrow| {
        let made = made("filter", &lines.text, narrow);
        (made.report.verdict.join(" "), made.lossy)
    };
    let process = |name: &str| Narrow {
        process: Some(name.into()),
        ..Narrow::default()
    };
    let peer = |peer: &str| Narrow {
        peer: Some(peer.parse().unwrap()),
        ..Narrow::default()
    };
    let netns = Narrow {
        netns: Some(1),
        ..Narrow::default()
    };
    let until = Narrow {
        until: Some("2026-01-01T00:00:00Z".parse().unwrap()),
        ..Narrow::default()
    };
    for (narrow, words) in [
        (process("nosuch"), "Process nosuch is in none of the lines"),
        (peer("10.9.9.9"), "Peer 10.9.9.9/32 is in none of the lines"),
        (netns, "Network namespace 1 is in none of the lines"),
        (
            until,
            "No line is from that time: they are from 2026-01-02 00:00:00 to 00:00:20 UTC",
        ),
    ] {
        let (verdict, lossy) = told(narrow);
        assert!(verdict.contains(words) && lossy, "{verdict}");
        assert!(!verdict.contains("failed for want"), "{verdict}");
    }
    for (narrow, words) in [
        (process("worker"), ", narrowed to: process worker."),
        (peer("10.0.0.9"), ", narrowed to: peer 10.0.0.9/32."),
    ] {
        let (verdict, lossy) = told(narrow);
        assert!(verdict.contains(words) && !lossy, "{verdict}");
    }
}

#[test]
fn without_any_line_nothing_is_said_about_times() {
    let nothing = [
        ("blank", "\n\n"),
        ("binary", "\n\u{1}\u{2}\n"),
        ("empty", ""),
    ];
    for (name, text) in nothing {
        let report = report(name, text, Narrow::default());
        let holes: Vec<_> = report.holes.iter().map(|hole| &*hole.text).collect();
        let all = report.verdict.join(" ") + &holes.join(" ");
        assert!(all.contains("no line could be used"), "{all}");
        assert!(!all.contains("--since"), "{all}");
        let below = report.verdict.iter().any(|it| it.contains("told below"));
        assert_eq!(below, !holes.is_empty(), "{name}");
    }
}

#[test]
fn figures_of_a_sentence_fit_together() {
    let holder = |ports: u32| json!([{"process": process(1), "ports": ports, "states": {"TIME_WAIT": ports}, "bound": 0}]);
    let verdict = |name, text: &str| report(name, text, Narrow::default()).verdict.join(" ");
    // More than there can be is a matter of moments that differ.
    let mut lines = Lines::start("web-1", 0, [40000, 40006]);
    lines.usage(10, 1..2, 66).fail(12, 7, holder(77));
    let cut = verdict("cut", &lines.text);
    for words in [
        "7 of the 7 ports",
        "up to 7 of them in TIME_WAIT",
        "and 7 were those of",
    ] {
        assert!(cut.contains(words), "{cut}");
    }
    // A range that was narrowed leaves more than it has.
    let mut lines = Lines::start("web-1", 0, [40000, 40099]);
    lines.usage(10, 1..2, 80).range(20, [40000, 40039]);
    lines.usage(30, 1..2, 90);
    let full = verdict("narrowed-range", &lines.text);
    assert!(
        full.contains(&format!(
            "90 ports for {PEER} were taken on web-1, more than the 40 that there were then"
        )),
        "{full}"
    );
    lines.fail(32, 40, holder(90));
    let failed = verdict("narrowed-failed", &lines.text);
    assert!(failed.contains(&format!("90 ports for {PEER} were taken, more than the 40 that there were then, up to 90 of them in TIME_WAIT, and 90")), "{failed}");
}

#[test]
fn sentences_are_in_plain_words() {
    let mut lines = Lines::start("web-1", 0, [40000, 40015]);
    let nobody = json!({
        "type": "usage", "netns": NETNS, "process": null, "exited": false,
        "ports": {"total": 16, "TIME_WAIT": 16}, "opened": 0, "closed": 0, "failed": 0,
        "top": [{"local_ip": "10.0.0.7", "peer": peer(), "ports": 16, "time_wait": 16}],
    });
    lines.add(10, nobody);
    lines.add(10, json!({"type": "ledger", "overflow": 0}));
    let soon = json!({
        "type": "pressure", "netns": NETNS, "local_ip": "10.0.0.7", "peer": peer(), "level": "critical",
        "budget": {"range": 16, "free": 1}, "open_rate": 9.0, "exhausts_in_s": 0.4, "holders": [],
    });
    lines.add(11, soon);
    for second in 12..1500 {
        lines.fail(second, 16, json!([]));
    }
    let bind = json!({
        "type": "bind_failed", "netns": NETNS, "local": {"ip": "10.0.0.7", "port": null}, "errno": 98,
        "reason": "ports_exhausted", "process": process(1),
        "advice": [{"id": "not_linger_0", "why": "because", "how": "leave it"}],
    });
    lines.add(1500, bind);
    let report = report("words", &lines.text, Narrow::default());
    let terminal = Terminal {
        width: 200,
        unicode: false,
        bold: false,
    };
    let page = report::text::page(&report, &terminal);
    for words in [
        "16 were those of a process that is not known",
        "16 of them by a process that is not known",
        "the last goes in less than a second",
        "1,488 calls of connect()",
        "the last of 1,488 failures in a row",
        "    1,488  10.0.0.9:5774",
        "1,489 in all",
        "bind() of any port of 10.0.0.7 fails for the first time",
        "  -  linger 0: because",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
}

#[test]
fn of_destinations_that_failed_as_often_the_listed_one_is_explained() {
    let mut lines = Lines::start("web-1", 0, [40000, 40015]);
    for port in [1, 2] {
        let peer = json!({"ip": "10.0.0.9", "port": port});
        let holder = json!([{"process": process(port), "ports": 16, "states": {"TIME_WAIT": 16}, "bound": 0}]);
        lines.fail_to(12, 16, peer, holder);
    }
    let report = report("as-often", &lines.text, Narrow::default());
    let verdict = report.verdict.join(" ");
    assert_eq!(report.failures.by_destination[0].name, "10.0.0.9:1");
    assert!(verdict.contains("1 of them for 10.0.0.9:1."), "{verdict}");
    assert!(
        verdict.contains("16 ports for 10.0.0.9:1 were"),
        "{verdict}"
    );
}
