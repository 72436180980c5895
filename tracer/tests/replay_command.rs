//! `tracer replay` as a user runs it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use flate2::{Compression, write::GzEncoder};
use rustix::process::{Pid, Signal, kill_process};

mod recording;

use recording::{Recording, life, without_inputs};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn file(name: &str, content: &[u8]) -> PathBuf {
    fs::write(path(name), content).unwrap();
    path(name)
}

fn tracer() -> Command {
    let mut tracer = Command::new(env!("CARGO_BIN_EXE_tracer"));
    tracer.arg("replay").stdin(Stdio::null());
    tracer
}

fn replay(file: &Path) -> Output {
    tracer().arg(file).output().unwrap()
}

fn recording() -> Vec<u8> {
    life(Recording::new(true), true)
}

#[test]
fn plain_and_compressed_files_and_standard_input_give_the_same() {
    let text = recording();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&text).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(&text[..], 1).unwrap();
    for (name, content) in [("plain", &text), ("gzip", &gzip), ("zstd", &zstd)] {
        let output = replay(&file(&format!("replay-command-{name}"), content));
        assert_eq!(output.status.code(), Some(0), "{name}: {output:?}");
        assert_eq!(output.stdout, without_inputs(&text).as_bytes(), "{name}");
    }
    let standard_input = fs::File::open(path("replay-command-plain")).unwrap();
    let output = tracer().arg("-").stdin(standard_input).output().unwrap();
    assert_eq!(output.stdout, without_inputs(&text).as_bytes());
}

/// What is said to nobody changes nothing.
#[test]
fn a_closed_standard_error_does_not_change_the_exit_status() {
    let cut = file("replay-command-unsaid", b"{\"v\":1,");
    let nothing = path("replay-command-no-such-file");
    for (argument, code) in [(cut, 2), (nothing, 2)] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = tracer().arg(&argument).stderr(writer).status().unwrap();
        assert_eq!(status.code(), Some(code), "{argument:?}");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut refused = Command::new(env!("CARGO_BIN_EXE_tracer"));
    let status = refused.args(["--warn", "95"]).stderr(writer).status();
    assert_eq!(status.unwrap().code(), Some(1));
}

#[test]
fn what_can_not_be_used_is_exit_2_and_said() {
    let mut text = recording();
    text.extend_from_slice(b"{\"v\":1,");
    let lines = text.iter().filter(|byte| **byte == b'\n').count();
    let output = replay(&file("replay-command-cut", &text));
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    let place = format!("line {}: the last line is cut off; skipped\n", lines + 1);
    assert!(
        said.starts_with("tracer: ") && said.ends_with(&place),
        "{said}"
    );
    for missing in [env!("CARGO_TARGET_TMPDIR"), "/nonexistent/x"] {
        let output = replay(Path::new(missing));
        assert_eq!(output.status.code(), Some(2), "{missing}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(missing));
    }
    let wrong = tracer().args(["x", "--speed", "0"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("give a number above 0"));
}

fn slowly(file: &Path) -> Child {
    let speed = ["--speed", "0.001"];
    let child = tracer()
        .args(speed)
        .arg(file)
        .stdout(Stdio::piped())
        .spawn();
    child.unwrap()
}

#[test]
fn at_its_own_pace_lines_come_one_by_one_and_a_signal_ends_it() {
    let text = recording();
    for signal in [Signal::INT, Signal::TERM] {
        let mut child = slowly(&file("replay-command-slow", &text));
        let mut stdout = child.stdout.take().unwrap();
        let mut first = [0; 16];
        stdout.read_exact(&mut first).unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        let mut rest = Vec::new();
        stdout.read_to_end(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let out = [&first[..], &rest].concat();
        assert!(out.ends_with(b"\n"));
        let lines = without_inputs(&text);
        assert!(lines.as_bytes().starts_with(&out) && out.len() < lines.len());
    }
}

#[test]
fn a_reader_that_goes_is_a_normal_end() {
    let text = recording().repeat(50);
    let mut child = tracer()
        .arg(file("replay-command-gone", &text))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
