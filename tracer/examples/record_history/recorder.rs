//! The tracer's side: events and dumps in their true order.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use tracer::{
    clock,
    event::{Event, Row},
    kernel::{
        dump::{Dumper, Part},
        facts::Facts,
        load::{self, Loaded, Needs, Sizes},
        plan::{Backend, Capability},
        tracefs,
    },
    ring::{Losses, Ring},
};

use crate::history::{About, History, NETNS, Step};

const SIZES: Sizes = Sizes {
    ring: 8 << 20,
    sockets: 1 << 16,
};

/// How often the ring is drained while life goes on.
const PAUSE: Duration = Duration::from_millis(5);

pub(super) fn record(name: &str) -> Result<History> {
    // What is missing without it shows in the hooks.
    let _ = tracefs::ensure();
    let facts = Facts::read()?;
    let mut life = Life::begin(name)?;
    let mut loaded = load::load(&facts, SIZES, &Needs::default(), None)?;
    let mut recorder = Recorder {
        ring: Ring::take(&mut loaded.ebpf)?,
        dumper: Dumper::new(&mut loaded.ebpf)?,
        netns: life.netns,
        steps: Vec::new(),
    };
    recorder.dump()?;
    life.go_on()?;
    recorder.watch(&life.said)?;
    recorder.dump()?;
    let losses = recorder.ring.losses()?;
    ensure!(losses == Losses::default(), "lost: {losses:?}");
    Ok(History {
        about: about(&facts, &loaded),
        steps: recorder.steps,
    })
}

fn about(facts: &Facts, loaded: &Loaded) -> About {
    let hooks = loaded.coverage.iter().filter_map(|covered| {
        let (backend, hook) = covered.by?;
        let (capability, backend) = (covered.capability.name(), load::name(backend));
        Some(format!("{capability}: {backend} {hook}"))
    });
    let is_corrected = loaded.coverage.iter().any(|covered| {
        let backend = covered.by.map(|(backend, _)| backend);
        covered.capability == Capability::TimeWait && backend == Some(Backend::RawTracepoint)
    });
    // What follows the number names the builder.
    let kernel = facts.release.split('-').next().unwrap_or_default();
    About {
        kernel: kernel.into(),
        hooks: hooks.collect(),
        exact: !is_corrected,
    }
}

struct Recorder {
    ring: Ring,
    dumper: Dumper,
    /// Nothing of others is recorded.
    netns: u32,
    steps: Vec<Step>,
}

impl Recorder {
    fn drain(&mut self) {
        let Self {
            ring, netns, steps, ..
        } = self;
        let mut take = |events: &[Event]| {
            let ours = events.iter().filter(|event| event.netns == *netns);
            steps.extend(ours.map(|event| {
                Step::Event(Event {
                    netns: NETNS,
                    ..event.clone()
                })
            }));
        };
        while ring.drain(&mut take) {}
    }

    /// Rows come after all events from before they were read.
    fn dump(&mut self) -> Result<()> {
        self.drain();
        self.steps.push(Step::Begin(clock::now()));
        let mut parts = self.dumper.start()?;
        loop {
            let part = parts.blocking_recv().context("the dump ended early")?;
            self.drain();
            match part {
                Part::Rows(rows) => self.rows(rows),
                Part::Done(summary) => {
                    let is_whole = summary.complete.contains(&self.netns);
                    ensure!(is_whole, "no dump: {:?}", summary.problems);
                    break;
                }
            }
        }
        self.steps.push(Step::End(clock::now()));
        Ok(())
    }

    fn rows(&mut self, rows: Vec<Row>) {
        let ours = rows.into_iter().filter(|row| row.netns == self.netns);
        let rows = ours.map(|row| {
            Step::Row(Row {
                netns: NETNS,
                ..row
            })
        });
        self.steps.extend(rows);
    }

    /// Until life says that it is over.
    fn watch(&mut self, said: &Receiver<String>) -> Result<()> {
        loop {
            self.drain();
            match said.recv_timeout(PAUSE) {
                Ok(_) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("life failed"),
            }
        }
    }
}

/// The process whose life is recorded. It says its network namespace, goes on when it is told, says when it is
/// done, and ends with its input.
struct Life {
    process: Child,
    input: Option<ChildStdin>,
    said: Receiver<String>,
    netns: u32,
}

impl Life {
    fn begin(name: &str) -> Result<Self> {
        let mut process = Command::new("/proc/self/exe")
            .args(["life", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().context("no output")?;
        let (tell, said) = channel();
        thread::spawn(move || {
            let lines = BufReader::new(output).lines();
            lines
                .map_while(Result::ok)
                .try_for_each(|line| tell.send(line))
        });
        let netns = said.recv().context("life did not begin")?.parse()?;
        Ok(Self {
            input: process.stdin.take(),
            process,
            said,
            netns,
        })
    }

    fn go_on(&mut self) -> Result<()> {
        let input = self.input.as_mut().context("no input")?;
        Ok(writeln!(input)?)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.process.wait();
    }
}
