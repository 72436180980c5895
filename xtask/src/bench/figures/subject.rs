//! A tracer that is looked at.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::super::{observer::wait_until_attached, output};
use crate::process::{interrupt, say};

/// Until the first comparison with the kernel is over, and everything is quiet.
const SETTLES: Duration = Duration::from_secs(3);

pub(super) struct Subject {
    child: Child,
    pub(super) began: Instant,
    lines: Receiver<Line>,
}

/// One of its lines, and when it could be read.
pub(super) struct Line {
    pub(super) at: Instant,
    pub(super) text: String,
}

impl Subject {
    /// Its lines come through a pipe; those that `keeps` says are kept, and the last one.
    pub(super) fn start(
        tracer: &Path,
        arguments: &[&str],
        keeps: fn(&str) -> bool,
    ) -> Result<Self> {
        let mut command = Command::new(tracer);
        command.args(arguments).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let began = Instant::now();
        let mut child = command.spawn().context("tracer can't be started")?;
        let output = child.stdout.take().context("tracer has no output")?;
        let (sender, lines) = channel();
        thread::spawn(move || read(output, keeps, &sender));
        Ok(Self {
            child,
            began,
            lines,
        })
    }

    /// As [`start`](Self::start); answers once it watches and has nothing else to do.
    pub(super) fn settled(
        tracer: &Path,
        arguments: &[&str],
        keeps: fn(&str) -> bool,
    ) -> Result<Self> {
        let mut subject = Self::start(tracer, arguments, keeps)?;
        wait_until_attached(&mut subject.child, "tracer")?;
        thread::sleep(SETTLES);
        Ok(subject)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn next_line(&self, patience: Duration) -> Option<Line> {
        self.lines.recv_timeout(patience).ok()
    }

    /// Ends it, and answers with the lines that nobody has taken.
    pub(super) fn stop(mut self) -> Result<Vec<Line>> {
        interrupt(self.pid())?;
        self.child.wait()?;
        let lines: Vec<_> = self.lines.iter().collect();
        let last = lines.last().context("tracer wrote no line")?;
        let lost = output::lost(last.text.as_bytes()).context("no `stop` line")?;
        if lost > 0 {
            say(&format!("tracer lost {lost} events"));
        }
        Ok(lines)
    }
}

impl Drop for Subject {
    /// When something else has failed.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(output: ChildStdout, keeps: fn(&str) -> bool, lines: &Sender<Line>) {
    let is_last = |text: &str| text.contains(r#""type":"stop""#);
    let mut output = BufReader::new(output);
    let mut text = String::new();
    while output.read_line(&mut text).is_ok_and(|length| length > 0) {
        let line = Line {
            at: Instant::now(),
            text: std::mem::take(&mut text),
        };
        if (keeps(&line.text) || is_last(&line.text)) && lines.send(line).is_err() {
            return;
        }
    }
}
