//! The flight recorder: the last minutes in full detail, in bounded space, and kept when something goes wrong.
//!
//! A directory holds a ring of segments. Each is a file of zstd frames with whole lines: whatever ends the run, the
//! frames that were written can be read. It begins with copies of the `start` line and of the `process` lines so far.

use std::{
    fs, io, mem,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};

use super::Sink;
use crate::record::{Cause, Recording, RecordingEvent};

mod frames;
mod frozen;
mod preface;
mod ring;
mod trigger;

use frames::Encoder;
use frozen::Frozen;
use preface::Preface;
use ring::Ring;
use trigger::Trigger;

/// Lines are compressed in frames of so many bytes, or of a second.
const FRAME: usize = 256 << 10;

/// So much is added to what is kept.
const AFTER: Duration = Duration::from_secs(60);

/// How much the ring holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    pub age: Duration,
    /// Bytes, compressed.
    pub size: u64,
}

impl Keep {
    pub const MIN_AGE: Duration = Duration::from_secs(10);
    pub const MIN_SIZE: u64 = 1 << 20;
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            age: Duration::from_secs(600),
            size: 1 << 30,
        }
    }
}

/// What the stream is to be told.
#[derive(Clone, Default)]
pub(super) struct Notices(Arc<Mutex<Vec<Recording>>>);

impl Notices {
    fn say(&self, event: RecordingEvent, cause: Option<Cause>) -> Notice<'_> {
        Notice {
            notices: self,
            recording: Recording {
                event,
                cause,
                file: None,
                error: None,
            },
        }
    }

    pub(super) fn take(&self) -> Vec<Recording> {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Said when it is dropped.
struct Notice<'a> {
    notices: &'a Notices,
    recording: Recording,
}

impl Notice<'_> {
    fn of(mut self, file: &Path) -> Self {
        self.recording.file = Some(file.to_string_lossy().into_owned());
        self
    }

    fn because(mut self, error: &io::Error) {
        self.recording.error = Some(error.to_string());
    }
}

impl Drop for Notice<'_> {
    fn drop(&mut self) {
        let mut notices = self
            .notices
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        notices.push(self.recording.clone());
    }
}

pub(super) struct Recorder {
    dir: PathBuf,
    keep: Keep,
    /// Nobody else records there as long as this is open.
    _lock: fs::File,
    ring: Ring,
    encoder: Encoder,
    preface: Preface,
    trigger: Trigger,
    frozen: Option<Frozen>,
    /// Lines of the next frame.
    lines: Vec<u8>,
    paused: bool,
    notices: Notices,
}

impl Recorder {
    /// Makes the directory, if the one above is there.
    pub(super) fn open(dir: &Path, keep: Keep, notices: Notices) -> io::Result<Self> {
        let lock = lock(dir)?;
        frozen::adopt(dir)?;
        Ok(Self {
            ring: Ring::open(dir, keep)?,
            dir: dir.into(),
            keep,
            _lock: lock,
            encoder: Encoder::new()?,
            preface: Preface::default(),
            trigger: Trigger::new(keep.age),
            frozen: None,
            lines: Vec::with_capacity(FRAME),
            paused: false,
            notices,
        })
    }

    /// Writes the gathered lines as one frame.
    fn flush(&mut self) -> io::Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let written = self.flush_frame();
        match &written {
            Ok(()) if mem::take(&mut self.paused) => {
                drop(self.notices.say(RecordingEvent::Resumed, None));
            }
            Err(error) if !mem::replace(&mut self.paused, true) => {
                self.notices
                    .say(RecordingEvent::Paused, None)
                    .because(error);
            }
            _ => {}
        }
        written
    }

    fn flush_frame(&mut self) -> io::Result<()> {
        if self.ring.is_full() {
            let preface = self.encoder.frame(self.preface.text())?;
            self.ring.begin_segment(preface)?;
        }
        let frame = self.encoder.frame(&self.lines)?;
        self.ring.append(frame)?;
        if let Some(frozen) = &mut self.frozen
            && let Err(error) = frozen.append(frame)
        {
            // What there is of it is whole.
            self.close(Some(error));
        }
        self.lines.clear();
        Ok(())
    }

    /// Keeps what is in the ring, and what comes in the next minute.
    fn keep(&mut self, cause: Cause) {
        if self.frozen.is_some() {
            return;
        }
        let preface = self.encoder.frame(self.preface.text());
        let frozen = preface.and_then(|preface| {
            Frozen::new(
                &self.dir,
                cause,
                preface,
                &self.ring,
                Instant::now() + AFTER,
            )
        });
        match frozen {
            Ok(frozen) => {
                let notice = self.notices.say(RecordingEvent::Frozen, Some(cause));
                drop(notice.of(&frozen.name));
                self.frozen = Some(frozen);
            }
            Err(error) => {
                let notice = self.notices.say(RecordingEvent::Failed, Some(cause));
                notice.because(&error);
            }
        }
    }

    /// Ends the file that is being kept.
    fn close(&mut self, error: Option<io::Error>) {
        let Some(frozen) = self.frozen.take() else {
            return;
        };
        let name = frozen.name.clone();
        let closed = frozen.close();
        let notice = self.notices.say(RecordingEvent::Closed, None).of(&name);
        if let Some(error) = error.or(closed.err()) {
            notice.because(&error);
        }
        if let Err(error) = frozen::prune(&self.dir, self.keep.size) {
            log::warn!("old recordings in {}: {error}", self.dir.display());
        }
    }
}

impl Sink for Recorder {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        if self.lines.len() >= FRAME {
            self.flush()?;
        }
        let room = FRAME - self.lines.len().min(FRAME - 1);
        let piece = &lines[..super::file::fitting(lines, room)];
        let mut cause = None;
        for line in piece.split_inclusive(|byte| *byte == b'\n') {
            self.preface.see(line);
            cause = cause.or(self.trigger.see(line, Instant::now()));
        }
        self.lines.extend_from_slice(piece);
        if let Some(cause) = cause {
            // What can't be written now is taken all the same, and written later.
            let _ = self.flush();
            self.keep(cause);
        }
        Ok(piece.len())
    }

    fn tick(&mut self) -> io::Result<()> {
        let flushed = self.flush();
        let over = |frozen: &Frozen| Instant::now() >= frozen.until;
        if self.frozen.as_ref().is_some_and(over) {
            self.close(None);
        }
        flushed
    }

    fn freeze(&mut self) -> io::Result<()> {
        self.flush()?;
        self.keep(Cause::Asked);
        Ok(())
    }

    fn finish(&mut self, _: Instant) -> io::Result<()> {
        let flushed = self.flush();
        self.close(None);
        flushed
    }
}

fn lock(dir: &Path) -> io::Result<fs::File> {
    let mut builder = fs::DirBuilder::new();
    match builder.mode(0o750).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = super::tidy::directory(dir).display();
            let why = format!("the directory {above} does not exist; create it first");
            return Err(io::Error::new(error.kind(), why));
        }
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if !dir.is_dir() {
        return Err(io::Error::other(
            "it is not a directory; give the name of one",
        ));
    }
    let lock = fs::File::open(dir)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        io::Error::other("another tracer records there; give it a directory of its own")
    })?;
    Ok(lock)
}

#[cfg(test)]
mod tests;
