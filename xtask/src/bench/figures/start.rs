//! Time from the start of the process until everything is attached, and to the first line.
//!
//! Attached: the last of the descriptors was made that stand for an attached program, as seen in /proc every
//! millisecond, before the first line came.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{super::table::median, Table, subject::Subject, table};

const RUNS: usize = 5;
const PAUSE: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(60);

struct Times {
    attached: Duration,
    first_line: Duration,
}

pub(super) fn measure(tracer: &Path) -> Result<Table> {
    let times = (0..RUNS)
        .map(|_| once(tracer))
        .collect::<Result<Vec<_>>>()?;
    let median_of = |time: fn(&Times) -> Duration| {
        let seconds = times.iter().map(|times| time(times).as_secs_f64());
        format!("{:.3}", median(seconds.collect()))
    };
    let rows = vec![
        ("to attached, s".into(), median_of(|times| times.attached)),
        (
            "to the first line, s".into(),
            median_of(|times| times.first_line),
        ),
    ];
    Ok(table("start", &format!("medians of {RUNS} starts"), rows))
}

fn once(tracer: &Path) -> Result<Times> {
    let subject = Subject::start(tracer, &[], |_| true)?;
    let (mut attached, mut last) = (0, Duration::ZERO);
    let line = loop {
        let now = attachments(subject.pid());
        if now > attached {
            (attached, last) = (now, subject.began.elapsed());
        }
        if let Some(line) = subject.next_line(PAUSE) {
            break line;
        }
        let is_late = subject.began + PATIENCE < Instant::now();
        (!is_late).then_some(()).context("no line came")?;
    };
    let first_line = line.at - subject.began;
    subject.stop()?;
    Ok(Times {
        attached: last,
        first_line,
    })
}

/// Descriptors of links, and of perf events, to which programs are attached where a kernel has no links for them.
fn attachments(pid: u32) -> usize {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"));
    let entries = entries.into_iter().flatten().flatten();
    let targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    let is_attached = |target: &std::path::PathBuf| {
        let target = target.to_string_lossy();
        ["bpf_link", "bpf-link", "bpf-raw-tracepoint", "[perf_event]"]
            .iter()
            .any(|kind| target.contains(kind))
    };
    targets.filter(is_attached).count()
}
