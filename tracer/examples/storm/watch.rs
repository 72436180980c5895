//! The tracer, its output counted and its CPU time read.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};

pub(crate) struct Watch {
    child: Child,
    reader: JoinHandle<Told>,
}

/// What it said of failing connects.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub lines: u64,
    /// As many as the lines stand for.
    pub failures: u64,
    /// Lines with everything.
    pub full: u64,
    pub stop_failures: u64,
    pub lost: u64,
}

impl Watch {
    /// Answers when it has begun.
    pub(crate) fn start(tracer: &str, options: &[String]) -> Result<Self> {
        let mut child = Command::new(tracer)
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {tracer}"))?;
        let stdout = child.stdout.take().context("no stdout")?;
        let (begun, begins) = channel();
        let reader = thread::spawn(move || {
            read(stdout, || {
                // Nobody waits for the second line.
                let _ = begun.send(());
            })
        });
        wait(&begins)?;
        Ok(Self { child, reader })
    }

    /// Of all threads, user and system, until now.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
        // utime and stime are fields 14 and 15; the first after the name is 3.
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        // USER_HZ is 100 on every architecture that matters here.
        Ok(Duration::from_millis(10 * ticks))
    }

    pub(crate) fn stop(mut self) -> Result<Told> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("pid 0")?;
        kill_process(pid, Signal::TERM)?;
        self.child.wait()?;
        self.reader
            .join()
            .map_err(|_| anyhow!("the reader panicked"))
    }
}

fn wait(begins: &Receiver<()>) -> Result<()> {
    let patience = Duration::from_secs(30);
    begins.recv_timeout(patience).context("it does not start")
}

fn read(stdout: ChildStdout, first: impl Fn()) -> Told {
    let mut told = Told::default();
    // Others may fail too.
    let ours = format!("\"pid\":{},", std::process::id());
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        first();
        if line.contains(r#""type":"connect_failed""#) && line.contains(&ours) {
            told.lines += 1;
            told.failures += number(&line, "repeats").unwrap_or(1);
            told.full += u64::from(line.contains(r#""budget":{"#));
        } else if line.contains(r#""type":"stop""#) {
            told.stop_failures = number(&line, "failures").unwrap_or_default();
            told.lost = number(&line, "lost").unwrap_or_default();
        }
    }
    told
}

/// Without a parser: that would take the tracer's place on the CPU.
fn number(line: &str, name: &str) -> Option<u64> {
    let (_, rest) = line.split_once(&format!("\"{name}\":"))?;
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    rest[..end].parse().ok()
}
