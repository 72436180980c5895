//! A run that is replayed is the same run: every line as it was, from its inputs; and from its lines alone, what they
//! say. Bad lines are named.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use proptest::prelude::*;
use serde_json::Value;
use tracer::{
    event::State,
    replay::{Pace, Reader, Replay, Troubles},
    stream::Batch,
};

mod kept;
mod recording;

use kept::number_apart;
use recording::{Recording, SECOND, event, kind, life, without_inputs};

/// The lines, and what was said about the recording.
fn replay(file: &Path) -> (String, Vec<String>) {
    let (mut out, mut said) = (Vec::new(), Vec::new());
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    {
        let mut troubles = Troubles::new(name, Box::new(|text| said.push(text.to_owned())));
        let mut write = |lines: &mut Batch| {
            out.extend_from_slice(lines.bytes());
            Ok(())
        };
        let pace = Pace::new(None, Arc::new(AtomicBool::new(false)));
        let mut replay = Replay::new(pace, &mut write);
        let mut reader = Reader::new(file.into());
        while reader.next(&mut troubles, &mut |line, is_cut, troubles| {
            replay.line(line, is_cut, troubles).unwrap();
            true
        }) {}
        replay.end(&mut troubles).unwrap();
    }
    (String::from_utf8(out).unwrap(), said)
}

fn file(name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, content).unwrap();
    path
}

fn values(text: &str, kind: &str) -> Vec<Value> {
    let all = text.lines().map(|line| serde_json::from_str(line).unwrap());
    all.filter(|line: &Value| line["type"] == kind).collect()
}

#[test]
fn every_line_comes_again_as_it_was() {
    let text = life(Recording::new(true), true);
    let lines = without_inputs(&text);
    for kind in [
        "start",
        "process",
        "state",
        "connection",
        "connect_failed",
        "pressure",
        "netns",
        "usage",
        "ledger",
        "socket",
        "loss",
        "stop",
    ] {
        assert!(!values(&lines, kind).is_empty(), "no {kind} line");
    }
    let (again, said) = replay(&file("replay-exact.jsonl", &text));
    assert_eq!(again, lines);
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn inputs_change_no_other_line() {
    let without = life(Recording::new(false), true);
    let with = life(Recording::new(true), true);
    // What is dated now is dated by this machine's clock.
    let undated = |text: &str| {
        let lines = text.lines().map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            line["ts"] = Value::Null;
            line
        });
        lines.collect::<Vec<_>>()
    };
    let without = String::from_utf8(without).unwrap();
    assert_eq!(undated(&without_inputs(&with)), undated(&without));
}

#[test]
fn the_schema_admits_inputs() {
    let schema = serde_json::to_value(tracer::record::schema()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let text = life(Recording::new(true), true);
    let inputs = values(std::str::from_utf8(&text).unwrap(), "input");
    assert!(!inputs.is_empty());
    for (n, input) in inputs.iter().enumerate() {
        assert!(validator.is_valid(input), "{input}");
        assert_eq!(input["n"], n);
    }
}

#[test]
fn lines_alone_tell_states_failures_and_usage_again() {
    let text = String::from_utf8(life(Recording::new(false), false)).unwrap();
    let (again, said) = replay(&file("replay-told.jsonl", &text));
    let [said] = &said[..] else {
        panic!("{said:?}");
    };
    assert!(said.contains("line 2: it has no `input` lines"), "{said}");
    let told = |text: &str, kind: &str, fields: &[&str]| {
        let lines = values(text, kind).into_iter().map(|line| {
            let fields = fields.iter().map(|field| line[field].clone());
            fields.collect::<Vec<_>>()
        });
        lines.collect::<Vec<_>>()
    };
    for (kind, fields) in [
        (
            "state",
            &[
                "ts", "netns", "local", "peer", "old", "new", "cookie", "process", "owner",
            ][..],
        ),
        (
            "connect_failed",
            &["ts", "reason", "process", "failures_so_far", "budget"],
        ),
        (
            "usage",
            &[
                "ts", "process", "ports", "opened", "closed", "failed", "top",
            ],
        ),
        (
            "process",
            &["id", "comm", "exe", "start", "uid", "cgroup", "container"],
        ),
        (
            "ledger",
            &["ts", "sockets", "timewait", "processes", "table"],
        ),
        ("stop", &["failures", "lost"]),
    ] {
        let recorded = told(&text, kind, fields);
        assert!(!recorded.is_empty(), "no {kind} line");
        assert_eq!(told(&again, kind, fields), recorded, "{kind}");
    }
}

/// As the flight recorder keeps a run whose output leaves out states: copies come first, and what was left out is numbered
/// apart.
fn kept(text: &str) -> Vec<Value> {
    let mut lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    number_apart(&mut lines, &["state"]);
    let is_copied = |line: &&Value| line["type"] == "start" || line["type"] == "process";
    let mut all: Vec<Value> = lines.iter().filter(is_copied).cloned().collect();
    for line in &mut all {
        line["repeated"] = true.into();
    }
    all.extend(lines);
    all
}

#[test]
fn what_a_flight_recorder_kept_is_replayed_from_its_lines() {
    let text = String::from_utf8(life(Recording::new(false), false)).unwrap();
    let (whole, _) = replay(&file("replay-kept-whole.jsonl", &text));
    let lines = kept(&text);
    let file_of = |name, lines: &[&Value]| {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        file(name, text)
    };
    let (again, said) = replay(&file_of(
        "replay-kept.jsonl",
        &lines.iter().collect::<Vec<_>>(),
    ));
    assert_eq!(again, whole);
    assert_eq!(said.len(), 1, "{said:?}");
    // The ring has gone around: of the first lines there are only copies.
    let is_left = |line: &&Value| line["repeated"] == true || line["seq"].as_u64() > Some(3);
    let left: Vec<_> = lines.iter().filter(is_left).collect();
    let (again, said) = replay(&file_of("replay-kept-late.jsonl", &left));
    assert_eq!(said.len(), 1, "{said:?}");
    let states = values(&again, "state");
    let wanted = lines
        .iter()
        .filter(|line| line["detail"] == true && is_left(line));
    assert_eq!(states.len(), wanted.count());
    assert!(states.iter().all(|state| state["process"].is_object()));
}

#[test]
fn sockets_without_a_cookie_are_told_apart_by_their_tuples() {
    let mut run = Recording::new(false);
    // All begin before the first has its port.
    for sock in 0..3 {
        let mut first = event(
            SECOND + sock,
            sock,
            kind(State::Close, State::SynSent, None),
        );
        first.cookie = None;
        run.stream.event(&first);
    }
    for sock in 0..3 {
        let made = kind(State::SynSent, State::Established, None);
        let mut made = event(2 * SECOND + sock, sock, made);
        made.cookie = None;
        run.stream.event(&made);
    }
    run.stream.usage(3 * SECOND);
    let text = String::from_utf8(run.finish(4 * SECOND)).unwrap();
    let (again, _) = replay(&file("replay-tuples.jsonl", &text));
    let ports = |text: &str| {
        let lines = values(text, "usage").into_iter();
        lines.map(|line| line["ports"].clone()).collect::<Vec<_>>()
    };
    assert!(!ports(&text).is_empty());
    assert_eq!(ports(&again), ports(&text));
}

/// What is said of a recording with such lines in it, after its third line.
fn said_of(name: &str, lines: &[&str]) -> Vec<String> {
    let text = life(Recording::new(true), false);
    let text = String::from_utf8(text).unwrap();
    let mut all: Vec<&str> = text.lines().collect();
    all.splice(3..3, lines.iter().copied());
    let (again, said) = replay(&file(name, all.join("\n") + "\n"));
    assert_eq!(
        again,
        without_inputs(text.as_bytes()),
        "{name}: what is good is lost"
    );
    said
}

#[test]
fn bad_lines_are_named_and_skipped() {
    for (line, why) in [
        ("rubbish", "this is not JSON"),
        ("", "an empty line"),
        ("\0\0", "this is not JSON"),
        ("{\"v\":1", "this is not JSON"),
        ("[]", "this is no line of tracer's"),
        (
            r#"{"v":2,"type":"state","ts":"2026-01-01T00:00:00Z","seq":1,"host":"web-3"}"#,
            "of schema version 2, and version 1 can be read",
        ),
        (
            r#"{"v":1,"type":"state","ts":"2026-01-01T00:00:00Z","seq":1,"host":"db-1"}"#,
            "of host db-1, in the run of web-3",
        ),
        (
            r#"{"v":1,"type":"state","ts":"yesterday","seq":1,"host":"web-3"}"#,
            "its `ts` is no time",
        ),
        (
            r#"{"v":1,"type":"state","ts":"2026-01-01T00:00:00Z","host":"web-3"}"#,
            "it has no `seq`",
        ),
        (
            r#"{"v":1,"type":"state","ts":"2026-01-01T00:00:00Z","seq":0,"host":"web-3"}"#,
            "comes twice, or too late",
        ),
        (
            r#"{"v":1,"type":"input","ts":"2026-01-01T00:00:00Z","n":0,"host":"web-3","input":"lost"}"#,
            "input 0 comes twice, or too late",
        ),
        (
            r#"{"v":1,"type":"input","ts":"2026-01-01T00:00:00Z","n":9,"host":"web-3","input":{"dance":1}}"#,
            "this input is not understood",
        ),
    ] {
        let said = said_of("replay-bad.jsonl", &[line]);
        let [said] = &said[..] else {
            panic!("{line}: {said:?}");
        };
        assert!(said.starts_with("replay-bad.jsonl, line 4: "), "{said}");
        assert!(said.contains(why) && said.ends_with("; skipped"), "{said}");
    }
}

#[test]
fn files_that_are_none_are_named() {
    let said = |path: &Path| {
        let (out, said) = replay(path);
        assert!(out.is_empty());
        said.join("\n")
    };
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    assert!(said(directory).contains("it is a directory"));
    assert!(said(&file("replay-empty.jsonl", "")).contains("there is no line in it"));
    assert!(said(Path::new("/nonexistent/x")).contains("it can't be opened"));
}

#[test]
fn a_recording_that_is_cut_off_is_replayed_until_there() {
    let text = life(Recording::new(true), true);
    let lines = without_inputs(&text);
    for part in 1..20 {
        let end = text.len() * part / 20;
        let (again, said) = replay(&file("replay-cut.jsonl", &text[..end]));
        assert!(lines.starts_with(&again), "part {part}");
        let is_cut = text[end - 1] != b'\n';
        let named = said
            .iter()
            .any(|said| said.ends_with("the last line is cut off; skipped"));
        assert_eq!(named, is_cut, "part {part}: {said:?}");
    }
}

#[test]
fn a_missing_input_is_named() {
    let text = String::from_utf8(life(Recording::new(true), true)).unwrap();
    let event = text
        .lines()
        .position(|line| line.contains(r#""input":{"event""#))
        .unwrap();
    let kept = text.lines().enumerate().filter(|(at, _)| *at != event);
    let kept: Vec<&str> = kept.map(|(_, line)| line).collect();
    let (_, said) = replay(&file("replay-hole.jsonl", kept.join("\n") + "\n"));
    assert!(
        said[0].contains("1 inputs are missing before this one"),
        "{said:?}"
    );
}

#[test]
fn another_run_begins_with_its_start() {
    let text = life(Recording::new(true), true);
    let (again, said) = replay(&file("replay-twice.jsonl", [&text[..], &text[..]].concat()));
    assert_eq!(again, without_inputs(&text).repeat(2));
    assert!(said.is_empty(), "{said:?}");
}

/// A recording with other numbers and bytes in it.
fn damaged(text: &[u8], at: &[(usize, u8)]) -> Vec<u8> {
    let mut text = text.to_vec();
    let length = text.len();
    for (place, byte) in at {
        text[place % length] = *byte;
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn damage_is_survived(
        replayable in any::<bool>(),
        at in prop::collection::vec((any::<usize>(), prop::sample::select(&b"0123456789-\"}{,\n\0\xff"[..])), 1..40),
    ) {
        let text = damaged(&life(Recording::new(replayable), replayable), &at);
        let (again, _) = replay(&file("replay-damaged.jsonl", text));
        for line in again.lines() {
            prop_assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
        }
    }
}
