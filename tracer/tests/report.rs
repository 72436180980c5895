//! Reports of recorded traces, of parts of them, and of what is no trace at all.
//!
//! After an intended change: `UPDATE_GOLDEN=1 cargo test -p tracer --test report`, then read the difference.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    env, fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use proptest::prelude::*;
use serde_json::{Value, json};
use tracer::report::{
    self, Control, Made, Report,
    narrow::Narrow,
    text::{self, Terminal},
};

mod kept;

use kept::number_apart;

const TRACES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/report/traces");
const NAMES: [&str; 5] = ["time_wait", "nginx", "bind", "tuple", "healthy"];

/// The lines of a recorded trace.
fn trace(name: &str) -> String {
    let file = fs::File::open(format!("{TRACES}/{name}.jsonl.gz")).unwrap();
    let mut lines = String::new();
    GzDecoder::new(file).read_to_string(&mut lines).unwrap();
    lines
}

/// A file of its own for each test.
fn file(name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("report-{name}"));
    fs::write(&path, bytes).unwrap();
    path
}

fn make(paths: &[PathBuf], narrow: Narrow) -> Made {
    report::make(paths.to_vec(), narrow, &Arc::new(Control::default()), || ()).unwrap()
}

fn report_of(name: &str, bytes: impl AsRef<[u8]>) -> Report {
    make(&[file(name, bytes)], Narrow::default()).report
}

fn recorded(name: &str) -> Report {
    let mut report = make(
        &[format!("{TRACES}/{name}.jsonl.gz").into()],
        Narrow::default(),
    )
    .report;
    report.input.files[0].name = format!("{name}.jsonl.gz");
    report
}

fn values(lines: &str) -> Vec<Value> {
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn golden(name: &str, text: &str) {
    let path = format!("{}/tests/report/{name}", env!("CARGO_MANIFEST_DIR"));
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap();
    assert!(
        golden == text,
        "{name} differs; UPDATE_GOLDEN=1 writes it anew:\n{text}"
    );
}

#[test]
fn recorded_traces_give_the_golden_texts() {
    let terminal = Terminal {
        width: 100,
        unicode: true,
        bold: false,
    };
    for name in NAMES {
        golden(
            &format!("{name}.txt"),
            &text::page(&recorded(name), &terminal),
        );
    }
}

#[test]
fn recorded_traces_give_the_golden_objects() {
    for name in NAMES {
        let object = serde_json::to_string(&recorded(name)).unwrap() + "\n";
        golden(&format!("{name}.json"), &object);
    }
}

/// So many failures, by what `key` takes out of a line.
fn failures(lines: &[Value], key: impl Fn(&Value) -> String) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    let failed = |line: &&Value| {
        matches!(
            line["type"].as_str(),
            Some("connect_failed" | "bind_failed")
        )
    };
    for line in lines.iter().filter(failed) {
        *counts.entry(key(line)).or_default() += line["repeats"].as_u64().unwrap_or(1);
    }
    counts
}

#[test]
fn counts_are_those_of_the_lines() {
    for name in NAMES {
        let lines = values(&trace(name));
        let report = recorded(name);
        let count = |rows: &[report::model::Count]| -> BTreeMap<_, _> {
            rows.iter()
                .map(|row| (row.name.clone(), row.failures))
                .collect()
        };
        let reason = |line: &Value| {
            let bind = line["type"] == "bind_failed";
            let prefix = if bind { "bind: " } else { "" };
            format!("{prefix}{}", line["reason"].as_str().unwrap())
        };
        let process = |line: &Value| {
            let process = &line["process"];
            format!("{} ({})", process["comm"].as_str().unwrap(), process["pid"])
        };
        assert_eq!(
            count(&report.failures.by_reason),
            failures(&lines, reason),
            "{name}"
        );
        assert_eq!(
            count(&report.failures.by_process),
            failures(&lines, process),
            "{name}"
        );
        let total: u64 = failures(&lines, |_| String::new()).values().sum();
        assert_eq!(
            report.failures.connect + report.failures.bind,
            total,
            "{name}"
        );
        let opened = |line: &&Value| {
            line["type"] == "state" && line["role"] == "client" && line["new"] == "ESTABLISHED"
        };
        let of_pools: u64 = report.pools.iter().flat_map(|pool| &pool.opened).sum();
        assert_eq!(
            of_pools,
            lines.iter().filter(opened).count() as u64,
            "{name}"
        );
        assert_eq!(report.input.lines, lines.len() as u64, "{name}");
    }
}

/// What one socket after the other does: the truth that the level of the fullest destination is held against.
fn highest_level(lines: &[Value]) -> u64 {
    let mut destinations = BTreeMap::<_, BTreeMap<_, ()>>::new();
    let mut highest = 0;
    for line in lines
        .iter()
        .filter(|line| line["type"] == "state" && line["role"] == "client")
    {
        let key = (
            line["cookie"].to_string(),
            line["process"]["id"].to_string(),
        );
        let open = destinations.entry(line["peer"].to_string()).or_default();
        match line["new"].as_str().unwrap() {
            "CLOSE" => open.remove(&key),
            _ if line["local"]["port"].is_null() => None,
            _ => open.insert(key, ()),
        };
        highest = highest.max(open.len() as u64);
    }
    highest
}

#[test]
fn levels_are_those_of_the_sockets() {
    for name in ["time_wait", "nginx", "tuple", "healthy"] {
        let report = recorded(name);
        let peaks = report.destinations.iter().filter_map(|to| to.peak.as_ref());
        let highest = peaks.map(|peak| u64::from(peak.ports)).max();
        assert_eq!(
            highest,
            Some(highest_level(&values(&trace(name)))),
            "{name}"
        );
    }
}

#[test]
fn parts_add_up_to_what_the_whole_had_at_the_end_of_a_bin() {
    for name in NAMES {
        for pool in recorded(name).pools {
            for (bin, ports) in pool.ports.iter().enumerate() {
                let parts: u32 = pool
                    .stacks
                    .iter()
                    .flat_map(|stack| stack.states.values())
                    .map(|values| values[bin])
                    .sum();
                assert!(
                    parts <= ports.unwrap_or(0),
                    "{name}, bin {bin}: {parts} of {ports:?}"
                );
            }
        }
    }
}

#[test]
fn what_led_to_it_is_found() {
    let ids = |name| -> Vec<_> {
        recorded(name)
            .causes
            .into_iter()
            .map(|cause| cause.id)
            .collect()
    };
    let time_wait = ids("time_wait");
    for id in ["closes_first", "new_process", "time_wait_grew"] {
        assert!(
            time_wait.iter().any(|found| found == id),
            "{id} is not in {time_wait:?}"
        );
    }
    assert!(
        ids("nginx")
            .iter()
            .any(|id| id == "rate_rose" || id == "time_wait_grew")
    );
    assert_eq!(
        ids("bind"),
        ["bound_grew", "new_process"]
            .map(String::from)
            .into_iter()
            .rev()
            .collect::<Vec<_>>()
    );
    assert_eq!(ids("healthy"), Vec::<String>::new());
}

/// Lines of some types only, numbered anew, as a tracer that was told to leave out the others writes them.
fn only(name: &str, types: &[&str]) -> String {
    let mut kept = String::new();
    let wanted = values(&trace(name))
        .into_iter()
        .filter(|line| types.contains(&line["type"].as_str().unwrap()));
    for (seq, mut line) in wanted.enumerate() {
        line["seq"] = json!(seq);
        if line["type"] == "stop" {
            line["lines"] = json!(seq + 1);
            let told = types.contains(&"connect_failed");
            line["failures"] = json!(if told {
                line["failures"].as_u64().unwrap()
            } else {
                0
            });
        }
        kept += &format!("{line}\n");
    }
    kept
}

#[test]
fn any_subset_of_types_gives_the_best_report_it_can() {
    let whole = recorded("time_wait");
    let peak = |report: &Report| {
        report
            .pools
            .first()
            .and_then(|pool| pool.peak.as_ref())
            .map(|peak| peak.ports)
    };
    let subsets: [(&[&str], Option<u32>, u64); 5] = [
        // Between usage lines nothing shows; here a line comes at the highest.
        (
            &["start", "usage", "ledger", "connect_failed", "stop"],
            Some(17),
            78,
        ),
        (&["usage"], Some(17), 78),
        (&["start", "state", "stop"], Some(16), 0),
        (&["connection"], Some(16), 0),
        // What explains a failure tells the ports of that moment.
        (&["connect_failed"], Some(16), 78),
    ];
    assert_eq!(peak(&whole), Some(17));
    for (types, ports, failures) in subsets {
        let name = format!("subset-{}", types.join("-"));
        let made = make(&[file(&name, only("time_wait", types))], Narrow::default());
        assert!(!made.lossy, "{types:?}: {:?}", made.report.holes);
        assert_eq!(peak(&made.report), ports, "{types:?}");
        assert_eq!(made.report.failures.connect, failures, "{types:?}");
        assert!(
            made.report
                .verdict
                .iter()
                .all(|sentence| sentence.ends_with('.'))
        );
    }
}

#[test]
fn compressed_files_are_read_by_what_they_begin_with() {
    let lines = trace("healthy");
    let plain = report_of("plain.gz", &lines);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    let (head, tail) = lines.split_at(lines.len() / 2);
    gzip.write_all(head.as_bytes()).unwrap();
    let mut members = gzip.finish().unwrap();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(tail.as_bytes()).unwrap();
    members.extend(gzip.finish().unwrap());
    let frames = [head, tail]
        .map(|part| zstd::encode_all(part.as_bytes(), 1).unwrap())
        .concat();
    for (name, bytes) in [("gzip.jsonl", members), ("zstd.jsonl", frames)] {
        let mut report = report_of(name, bytes);
        report.input.files.clone_from(&plain.input.files);
        assert_eq!(json!(report), json!(plain), "{name}");
    }
}

/// A bad input: its bytes, and the hole with its line.
struct Bad {
    name: &'static str,
    bytes: Vec<u8>,
    hole: &'static str,
    line: Option<u64>,
}

fn bad(
    name: &'static str,
    bytes: impl Into<Vec<u8>>,
    hole: &'static str,
    line: impl Into<Option<u64>>,
) -> Bad {
    Bad {
        name,
        bytes: bytes.into(),
        hole,
        line: line.into(),
    }
}

/// The good lines, with one more after the first three.
fn with_line(line: &[u8]) -> Vec<u8> {
    let lines = trace("healthy");
    let mut all: Vec<_> = lines.lines().map(str::as_bytes).collect();
    all.insert(3, line);
    all.join(&b'\n').into_iter().chain(*b"\n").collect()
}

fn bad_inputs() -> Vec<Bad> {
    let lines = trace("healthy");
    let last = lines.lines().count() as u64;
    let third = lines.lines().nth(2).unwrap();
    let gzip = fs::read(format!("{TRACES}/healthy.jsonl.gz")).unwrap();
    let zstd = zstd::encode_all(lines.as_bytes(), 1).unwrap();
    let mut corrupt = gzip.clone();
    let middle = corrupt.len() / 2;
    corrupt[middle..middle + 64].fill(0xff);
    let mut corrupt_zstd = zstd.clone();
    let middle = corrupt_zstd.len() / 2;
    corrupt_zstd[middle..middle + 64].fill(0xff);
    let old =
        r#"{"v":1,"type":"state","ts":"2026-11-26T01:26:00.000000000Z","seq":7,"host":"web-1"}"#;
    let time = r#"{"v":1,"type":"socket","ts":"noon","seq":7,"host":"web-1"}"#;
    let without: String = lines
        .lines()
        .enumerate()
        .filter(|(number, _)| *number != 30)
        .map(|(_, line)| format!("{line}\n"))
        .collect();
    vec![
        bad(
            "truncated",
            &lines.as_bytes()[..lines.len() - 20],
            "truncated",
            last,
        ),
        bad(
            "garbage",
            with_line(b"Nov 26 01:26:00 web-1 kernel: hello"),
            "garbage",
            4,
        ),
        bad("mixed", with_line(&third.as_bytes()[..90]), "garbage", 4),
        bad("array", with_line(b"[1,2]"), "garbage", 4),
        bad(
            "version",
            with_line(br#"{"v":2,"type":"state"}"#),
            "version",
            4,
        ),
        bad("nul", with_line(&[0; 50]), "garbage", 4),
        bad(
            "utf8",
            with_line(b"{\"v\":1,\"type\":\"socket\",\"ts\":\"\xff\"}"),
            "garbage",
            4,
        ),
        bad("fields", with_line(old.as_bytes()), "unusable", 4),
        bad("time", with_line(time.as_bytes()), "unusable", 4),
        bad("long", with_line(&vec![b'x'; 17 << 20]), "too_long", 4),
        bad("empty", "", "empty", None),
        bad("gzip-cut", &gzip[..gzip.len() / 2], "broken", None),
        bad("gzip-corrupt", corrupt, "broken", None),
        bad("zstd-cut", &zstd[..zstd.len() / 2], "broken", None),
        bad("zstd-corrupt", corrupt_zstd, "broken", None),
        bad("gap", without, "gap", 31),
    ]
}

#[test]
fn bad_inputs_are_named_with_file_and_line() {
    for bad in bad_inputs() {
        let path = file(bad.name, &bad.bytes);
        let made = make(std::slice::from_ref(&path), Narrow::default());
        let holes = &made.report.holes;
        let hole = holes.iter().find(|hole| hole.id == bad.hole);
        let hole = hole.unwrap_or_else(|| panic!("{}: {holes:?}", bad.name));
        assert_eq!(hole.file.as_deref(), path.to_str(), "{}", bad.name);
        if bad.line.is_some() {
            assert_eq!(hole.line, bad.line, "{}: {hole:?}", bad.name);
        }
        assert!(made.lossy && made.opened, "{}", bad.name);
        let text = text::page(
            &made.report,
            &Terminal {
                width: 100,
                unicode: false,
                bold: false,
            },
        );
        assert!(text.contains("What is missing or in doubt"), "{text}");
    }
}

#[test]
fn lines_around_a_bad_one_still_count() {
    let good = report_of("good", trace("healthy"));
    for bad in bad_inputs().iter().filter(|bad| bad.line == Some(4)) {
        let report = report_of(&format!("around-{}", bad.name), &bad.bytes);
        assert_eq!(report.input.skipped, 1, "{}", bad.name);
        assert_eq!(json!(report.pools), json!(good.pools), "{}", bad.name);
    }
}

#[test]
fn what_cannot_be_opened_is_named_beside_what_can() {
    let good = file("beside", trace("healthy"));
    let missing = PathBuf::from("/nonexistent/trace.jsonl");
    for bad in [missing, PathBuf::from(env!("CARGO_TARGET_TMPDIR"))] {
        let made = make(&[bad.clone(), good.clone()], Narrow::default());
        let hole = made
            .report
            .holes
            .iter()
            .find(|hole| hole.id == "unreadable")
            .unwrap();
        assert_eq!(hole.file.as_deref(), bad.to_str());
        assert!(made.lossy && made.opened);
        assert!(!make(&[bad], Narrow::default()).opened);
    }
}

#[test]
fn lines_of_other_types_and_fields_are_ignored_and_counted() {
    let line = br#"{"v":1,"type":"weather","ts":"2026-11-26T01:26:13.000000000Z","host":"web-1","sun":true}"#;
    let made = make(&[file("unknown", with_line(line))], Narrow::default());
    let hole = made
        .report
        .holes
        .iter()
        .find(|hole| hole.id == "unknown_type")
        .unwrap();
    assert_eq!(hole.count, 1);
    assert_eq!(made.report.input.skipped, 0);
}

/// What a flight recorder keeps of a run whose output leaves out these types: copies of the start line, then all that
/// there was, the lines that were left out numbered apart.
fn kept(text: &str, left_out: &[&str]) -> String {
    let mut lines = values(text);
    let numbered = number_apart(&mut lines, left_out);
    let stop = lines.last_mut().unwrap();
    stop["lines"] = numbered.into();
    if left_out.contains(&"connect_failed") {
        stop["failures"] = 0.into();
    }
    let mut copy = lines[0].clone();
    copy["repeated"] = true.into();
    let all = [copy.clone(), copy].into_iter().chain(lines);
    all.map(|line| format!("{line}\n")).collect()
}

#[test]
fn lines_of_a_flight_recorder_are_no_hole() {
    let whole = recorded("time_wait");
    for left_out in [&["state"][..], &["state", "connect_failed"]] {
        let text = kept(&trace("time_wait"), left_out);
        let made = make(&[file("recorder", text.clone())], Narrow::default());
        assert!(!made.lossy, "{left_out:?}: {:?}", made.report.holes);
        assert_eq!(made.report.runs.len(), 1);
        assert_eq!(made.report.failures.connect, whole.failures.connect);
        // The ring has gone around: of the first lines there are only copies.
        let is_early = |line: &&str| line.contains("\"seq\":0,") && !line.contains("repeated");
        let late: String = text
            .lines()
            .filter(|line| !is_early(line))
            .map(|line| format!("{line}\n"))
            .collect();
        let made = make(&[file("late", late)], Narrow::default());
        assert!(!made.lossy, "{left_out:?}: {:?}", made.report.holes);
    }
}

#[test]
fn what_a_guard_left_out_is_a_hole() {
    let line = br#"{"v":1,"type":"shed","ts":"2026-11-26T01:26:13.000000000Z","host":"web-1","level":"state","before":"state","cpu_percent":60.0,"max_cpu_percent":50.0,"left_out":{"state":7,"connection":0,"usage_rounds":0}}"#;
    let made = make(&[file("shed", with_line(line))], Narrow::default());
    let hole = made
        .report
        .holes
        .iter()
        .find(|hole| hole.id == "shed")
        .unwrap();
    assert_eq!(hole.count, 7);
}

#[test]
fn lines_of_several_hosts_may_be_mixed() {
    let one = trace("time_wait");
    let two = one.replace("\"host\":\"web-1\"", "\"host\":\"web-2\"");
    let mixed: String = one
        .lines()
        .zip(two.lines())
        .map(|(a, b)| format!("{a}\n{b}\n"))
        .collect();
    let made = make(&[file("mixed-hosts", mixed)], Narrow::default());
    assert!(!made.lossy, "{:?}", made.report.holes);
    let apart = recorded("time_wait");
    assert_eq!(made.report.failures.connect, 2 * apart.failures.connect);
    assert_eq!(made.report.pools.len(), 2);
    for pool in &made.report.pools {
        assert_eq!(json!(pool.stacks), json!(apart.pools[0].stacks));
    }
    assert_eq!(made.report.failures.by_reason[0].host, None);
}

#[test]
fn lines_out_of_order_are_named_and_counted() {
    let lines = trace("healthy");
    let mut all: Vec<_> = lines.lines().collect();
    all.swap(40, 60);
    let made = make(&[file("order", all.join("\n") + "\n")], Narrow::default());
    assert!(
        made.report
            .holes
            .iter()
            .any(|hole| hole.id == "out_of_order" && hole.line == Some(42)),
        "{:?}",
        made.report.holes
    );
    assert_eq!(made.report.input.skipped, 0);
}

#[test]
fn a_report_is_narrowed_by_time_process_and_peer() {
    let path = PathBuf::from(format!("{TRACES}/time_wait.jsonl.gz"));
    let narrowed = |narrow| make(std::slice::from_ref(&path), narrow).report;
    let whole = recorded("time_wait");
    let first = whole.failures.first.unwrap().to_string();
    let before = narrowed(Narrow {
        until: Some("2026-11-26T01:25:22Z".parse().unwrap()),
        ..Narrow::default()
    });
    assert_eq!((before.failures.connect, before.narrowed.len()), (0, 1));
    let after = narrowed(Narrow {
        since: Some(first.parse().unwrap()),
        ..Narrow::default()
    });
    assert_eq!(after.failures.connect, whole.failures.connect);
    // What was open before is still open.
    assert_eq!(
        after.pools[0].ports[0],
        Some(17),
        "{:?}",
        after.pools[0].ports
    );
    let process = |name: &str| {
        let narrow = Narrow {
            process: Some(name.into()),
            ..Narrow::default()
        };
        narrowed(narrow).failures.connect
    };
    assert_eq!(
        process("orders") + process("orders-v2"),
        whole.failures.connect
    );
    let peer = |peer: &str| {
        let narrow = Narrow {
            peer: Some(peer.parse().unwrap()),
            ..Narrow::default()
        };
        narrowed(narrow).failures.connect
    };
    assert_eq!(peer("10.0.0.0/24"), whole.failures.connect);
    assert_eq!(peer("10.0.0.9:80"), 0);
    let netns = narrowed(Narrow {
        netns: Some(1),
        ..Narrow::default()
    });
    assert!(netns.pools.is_empty());
}

#[test]
fn relative_times_count_from_the_last_line() {
    let path = file("relative", trace("time_wait"));
    let narrow = Narrow {
        since: Some("-5s".parse().unwrap()),
        ..Narrow::default()
    };
    let report = make(std::slice::from_ref(&path), narrow.clone()).report;
    let span = report.span.unwrap();
    assert!(span.to.duration_since(span.from).as_secs() < 6, "{span:?}");
    let compressed = vec![PathBuf::from(format!("{TRACES}/time_wait.jsonl.gz"))];
    let refused = report::make(compressed, narrow, &Arc::new(Control::default()), || ());
    assert!(refused.unwrap_err().contains("compressed"));
}

#[test]
fn interrupted_it_says_what_it_has() {
    let control = Arc::new(Control::default());
    control.interrupted.store(true, Relaxed);
    let path = file("interrupted", trace("healthy"));
    let made = report::make(vec![path], Narrow::default(), &control, || ()).unwrap();
    assert!(!made.report.input.complete && made.lossy);
    assert!(
        made.report
            .holes
            .iter()
            .any(|hole| hole.id == "interrupted")
    );
}

#[test]
fn names_that_others_chose_do_nothing_to_the_terminal() {
    let hostile =
        trace("time_wait").replace("\"comm\":\"orders\"", "\"comm\":\"\\u001b[2J\\u202e<b>\"");
    let report = report_of("hostile", hostile);
    let text = text::page(
        &report,
        &Terminal {
            width: 100,
            unicode: true,
            bold: false,
        },
    );
    assert!(text.chars().all(|char| char == '\n' || !char.is_control()));
    assert!(!text.contains('\u{202e}') && text.contains("\\u{1b}[2J"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn cut_anywhere_it_says_so(cut in 1_usize..40_000) {
        let lines = trace("healthy");
        let cut = cut.min(lines.len() - 1);
        let whole_lines = lines.as_bytes()[cut - 1] == b'\n';
        // Without its end, a line may still be whole.
        let is_whole = lines.as_bytes()[cut] == b'\n' || whole_lines;
        let path = file(&format!("cut-{cut}"), &lines.as_bytes()[..cut]);
        let made = make(std::slice::from_ref(&path), Narrow::default());
        fs::remove_file(path).unwrap();
        let has = |id: &str| made.report.holes.iter().any(|hole| hole.id == id);
        prop_assert_eq!(has("truncated"), !is_whole);
        prop_assert_eq!(made.lossy, !is_whole);
        prop_assert!(has("no_stop") || made.report.runs.is_empty());
    }

    #[test]
    fn no_bytes_in_the_middle_are_too_bad(at in 0_usize..40_000, bytes in prop::collection::vec(any::<u8>(), 1..60)) {
        let mut lines = trace("tuple").into_bytes();
        let at = at % lines.len();
        let end = (at + bytes.len()).min(lines.len());
        lines.splice(at..end, bytes);
        let report = report_of("damaged", &lines);
        prop_assert!(report.input.lines > 0);
    }
}
