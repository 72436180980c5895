//! All outputs of a run.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Dropped, File, Rotation, Sink, Socket, Stdout, Target, writer::Writer};
use crate::stream::Batch;

/// What the user wants of the outputs.
#[derive(Clone, Debug)]
pub struct Settings {
    pub targets: Vec<Target>,
    /// Memory for the lines that wait, of all outputs, in bytes.
    pub buffer: usize,
    /// How long the lines that wait at the end may take.
    pub grace: Duration,
    pub rotation: Rotation,
}

pub struct Output {
    writers: Vec<Writer>,
    grace: Duration,
    /// Lines that introduce processes were dropped.
    forgot: bool,
}

/// How an output ended.
pub struct Finished {
    pub name: String,
    /// Lines that were not written.
    pub unwritten: u64,
    /// Whether more may not have arrived.
    pub uncertain: bool,
}

impl Output {
    pub fn open(settings: &Settings) -> Result<Self> {
        let share = settings.buffer / settings.targets.len().max(1);
        let open = |target: &Target| {
            let sink = sink(target, &settings.rotation)?;
            Writer::start(target.to_string(), share, sink).context("a thread can't be started")
        };
        Ok(Self {
            writers: settings.targets.iter().map(open).collect::<Result<_>>()?,
            grace: settings.grace,
            forgot: false,
        })
    }

    /// Takes lines. Never waits.
    ///
    /// `ErrorKind::BrokenPipe`: nobody reads any more, which is a normal end.
    pub fn send(&mut self, lines: &Batch) -> io::Result<()> {
        for writer in &self.writers {
            self.forgot |= writer.push(lines);
        }
        self.check()
    }

    /// Takes the last lines, for which there is always room.
    pub fn send_last(&mut self, lines: &Batch) {
        for writer in &self.writers {
            writer.push_last(lines);
        }
    }

    /// Whether anybody still reads, as [`send`](Self::send) answers.
    pub fn check(&self) -> io::Result<()> {
        match self.writers.iter().all(Writer::is_closed) {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => Ok(()),
        }
    }

    /// Whether lines that introduce processes were dropped since the last call.
    pub fn take_forgot(&mut self) -> bool {
        std::mem::take(&mut self.forgot)
    }

    /// What was dropped since the last call, with the output's name if there are several. An output that is stalled
    /// does not say so before it takes lines again, or the run is `over`.
    pub fn take_dropped(&mut self, over: bool) -> Vec<(Option<String>, Dropped)> {
        let several = self.writers.len() > 1;
        let dropped = self.writers.iter_mut().filter_map(|writer| {
            let dropped = writer.take_dropped(!over)?;
            Some((several.then(|| writer.name.clone()), dropped))
        });
        dropped.collect()
    }

    /// What SIGHUP asks for.
    pub fn reopen(&self) {
        self.writers.iter().for_each(Writer::reopen);
    }

    /// Waits until all lines are written, but not for ever: a sink that takes nothing is left behind.
    pub fn finish(self) -> Vec<Finished> {
        let until = Instant::now() + self.grace;
        self.writers.iter().for_each(|writer| writer.end(until));
        let ends = self.writers.into_iter().map(|writer| {
            let (unwritten, uncertain) = writer.wait(until);
            Finished {
                name: writer.name,
                unwritten,
                uncertain,
            }
        });
        ends.collect()
    }
}

fn sink(target: &Target, rotation: &Rotation) -> Result<Box<dyn Sink>> {
    Ok(match target {
        Target::Stdout => Box::new(Stdout),
        Target::File(path) => Box::new(file(path, rotation)?),
        Target::Socket(address) => Box::new(Socket::new(address.clone())),
    })
}

fn file(path: &Path, rotation: &Rotation) -> Result<File> {
    File::open(path, rotation.clone())
        .with_context(|| format!("--output {} can't be written", path.display()))
}
