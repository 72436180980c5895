//! All outputs of a run.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    Backlog, Dropped, File, Keep, Rotation, Sink, Socket, Stdout, Target,
    recorder::{Notices, Recorder},
    writer::Writer,
};
use crate::{record::Recording, stream::Batch};

/// What the user wants of the outputs.
#[derive(Clone, Debug)]
pub struct Settings {
    pub targets: Vec<Target>,
    /// Memory for the lines that wait, of all outputs, in bytes.
    pub buffer: usize,
    /// How long the lines that wait at the end may take.
    pub grace: Duration,
    pub rotation: Rotation,
    pub recorder: Option<(PathBuf, Keep)>,
}

pub struct Output {
    writers: Vec<Writer>,
    recorder: Option<Writer>,
    notices: Notices,
    grace: Duration,
    buffer: usize,
    /// Lines that introduce processes were dropped.
    forgot: bool,
    /// The run ends, whoever reads.
    ends: bool,
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
        let number = settings.targets.len() + usize::from(settings.recorder.is_some());
        let share = settings.buffer / number.max(1);
        let start = |name, sink, details| {
            let backlog = Backlog::new(share, details);
            Writer::start(name, backlog, sink).context("a thread can't be started")
        };
        let open = |target: &Target| {
            let sink = sink(target, &settings.rotation)?;
            start(target.to_string(), sink, false)
        };
        let notices = Notices::default();
        let recorder = settings.recorder.as_ref().map(|(dir, keep)| {
            let recorder = Recorder::open(dir, *keep, notices.clone())
                .with_context(|| format!("--flight-recorder {} can't be used", dir.display()))?;
            let name = format!("flight recorder {}", dir.display());
            start(name, Box::new(recorder), true)
        });
        Ok(Self {
            writers: settings.targets.iter().map(open).collect::<Result<_>>()?,
            recorder: recorder.transpose()?,
            notices,
            grace: settings.grace,
            buffer: settings.buffer,
            forgot: false,
            ends: false,
        })
    }

    /// Takes lines. Never waits.
    ///
    /// `ErrorKind::BrokenPipe`: nobody reads any more, which is a normal end.
    pub fn send(&mut self, lines: &Batch) -> io::Result<()> {
        for writer in self.writers.iter().chain(&self.recorder) {
            self.forgot |= writer.push(lines);
        }
        self.check()
    }

    /// As [`send`](Self::send), and empties the batch.
    pub fn give(&mut self, lines: &mut Batch) -> io::Result<()> {
        // There are no lines for a recorder alone.
        let sent = match (self.writers.as_slice(), &self.recorder) {
            ([writer], None) => {
                self.forgot |= writer.give(lines);
                self.check()
            }
            _ => self.send(lines),
        };
        lines.clear();
        sent
    }

    /// Takes the last lines, for which there is always room.
    pub fn send_last(&mut self, lines: &Batch) {
        for writer in self.writers.iter().chain(&self.recorder) {
            writer.push_last(lines);
        }
    }

    /// Whether anybody still reads, as [`send`](Self::send) answers.
    pub fn check(&self) -> io::Result<()> {
        match !self.ends && self.writers.iter().all(Writer::is_closed) {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => Ok(()),
        }
    }

    /// From now on it does not matter whether anybody reads: the run ends anyhow, and the flight recorder is to have all
    /// of it.
    pub fn conclude(&mut self) {
        self.ends = true;
    }

    /// Memory of the lines that wait, and how much it may be, bytes.
    pub fn waiting(&self) -> (usize, usize) {
        (self.writers.iter().map(Writer::size).sum(), self.buffer)
    }

    /// Whether lines that introduce processes were dropped since the last call.
    pub fn take_forgot(&mut self) -> bool {
        std::mem::take(&mut self.forgot)
    }

    /// What was dropped since the last call, with the output's name if there are several. An output that is stalled
    /// does not say so before it takes lines again, or the run is `over`.
    pub fn take_dropped(&mut self, over: bool) -> Vec<(Option<String>, Dropped)> {
        let several = self.writers.len() > 1 || self.recorder.is_some();
        let writers = self.writers.iter_mut().chain(&mut self.recorder);
        let dropped = writers.filter_map(|writer| {
            let dropped = writer.take_dropped(!over)?;
            Some((several.then(|| writer.name.clone()), dropped))
        });
        dropped.collect()
    }

    /// What SIGHUP asks for.
    pub fn reopen(&self) {
        self.writers.iter().for_each(Writer::reopen);
    }

    /// What SIGUSR1 asks for.
    pub fn freeze(&self) {
        self.recorder.iter().for_each(Writer::freeze);
    }

    /// What the flight recorder has to say since the last call.
    pub fn take_notices(&self) -> Vec<Recording> {
        self.notices.take()
    }

    /// Waits until all lines are written, but not for ever: a sink that takes nothing is left behind.
    pub fn finish(self) -> Vec<Finished> {
        let until = Instant::now() + self.grace;
        let writers = || self.writers.iter().chain(&self.recorder);
        writers().for_each(|writer| writer.end(until));
        let ends = writers().map(|writer| {
            let (unwritten, uncertain) = writer.wait(until);
            Finished {
                name: writer.name.clone(),
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
