//! A file, and its rotation.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use jiff::Timestamp;

use super::{Fsync, Rotation, Sink, rotation, tidy};

/// Lines name processes and addresses: not for everybody.
pub(super) const MODE: u32 = 0o640;

/// A file that could not be rotated is left alone for so long.
const LATER: Duration = Duration::from_secs(60);

pub struct File {
    path: PathBuf,
    rotation: Rotation,
    open: Open,
    /// The last rotation failed, and is not tried again before this.
    not_before: Option<Instant>,
    tidying: Option<JoinHandle<()>>,
    /// Why lines that were written could not be synced, until it is told: the kernel says it once.
    unsynced: Option<io::Error>,
}

struct Open {
    file: fs::File,
    length: u64,
    born: SystemTime,
    /// A device takes lines, and can be nothing else.
    regular: bool,
    /// Something has been written since it was last synced.
    dirty: bool,
}

impl File {
    /// Opens or creates it; lines are appended.
    pub fn open(path: &Path, rotation: Rotation) -> io::Result<Self> {
        Ok(Self {
            open: Open::new(path)?,
            path: path.into(),
            rotation,
            not_before: None,
            tidying: None,
            unsynced: None,
        })
    }

    /// How many of these bytes still go into this file: at least one line.
    fn room(&self, lines: &[u8]) -> usize {
        let Some(size) = self.rotation.size.filter(|_| self.open.regular) else {
            return lines.len();
        };
        let left = usize::try_from(size.saturating_sub(self.open.length)).unwrap_or(usize::MAX);
        fitting(lines, left)
    }

    fn tell_unsynced(&mut self) -> io::Result<()> {
        self.unsynced.take().map_or(Ok(()), Err)
    }

    fn is_due(&self, next: &[u8]) -> bool {
        let full = |size| next.is_empty() || self.open.length + self.room(next) as u64 > size;
        let old = |age| self.open.born.elapsed().is_ok_and(|is| is >= age);
        let by_size = !next.is_empty() && self.rotation.size.is_some_and(full);
        let wanted = by_size || self.rotation.age.is_some_and(old);
        let may = self.not_before.is_none_or(|then| Instant::now() >= then);
        self.open.regular && self.open.length > 0 && wanted && may
    }

    /// Where that fails, lines go on into the same file.
    fn rotate_if_due(&mut self, next: &[u8]) {
        if !self.is_due(next) {
            return;
        }
        self.not_before = None;
        if let Err(error) = self.rotate() {
            log::warn!("{} can't be rotated: {error}", self.path.display());
            self.not_before = Some(Instant::now() + LATER);
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        if self.rotation.fsync != Fsync::Never {
            self.open.sync()?;
        }
        let name = rotation::name(&self.path, Timestamp::now());
        fs::rename(&self.path, &name)?;
        match Open::new(&self.path) {
            Ok(open) => self.open = open,
            Err(error) => {
                // Lines go on into the old file, under its old name.
                fs::rename(&name, &self.path)?;
                return Err(error);
            }
        }
        self.tidy();
        Ok(())
    }

    /// Compressing takes long, and lines do not wait for it.
    fn tidy(&mut self) {
        if self
            .tidying
            .as_ref()
            .is_some_and(|tidying| !tidying.is_finished())
        {
            return; // The next rotation will.
        }
        let (path, rotation) = (self.path.clone(), self.rotation.clone());
        let tidying = move || {
            if let Err(error) = tidy::tidy(&path, &rotation) {
                log::warn!("rotated files of {}: {error}", path.display());
            }
        };
        let thread = thread::Builder::new().name("rotation".into());
        self.tidying = thread.spawn(tidying).ok();
    }
}

impl Sink for File {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.rotate_if_due(lines);
        let room = self.room(lines);
        let taken = self.open.append(&lines[..room])?;
        // They are in the file: an error would have them written once more.
        if self.rotation.fsync == Fsync::Always
            && let Err(error) = self.open.sync()
        {
            self.unsynced = Some(error);
        }
        Ok(taken)
    }

    fn tick(&mut self) -> io::Result<()> {
        self.tell_unsynced()?;
        self.rotate_if_due(&[]);
        match self.rotation.fsync {
            Fsync::Interval | Fsync::Always => self.open.sync(),
            Fsync::Never | Fsync::Rotate => Ok(()),
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        if self.rotation.fsync != Fsync::Never {
            self.open.sync()?;
        }
        self.open = Open::new(&self.path)?;
        Ok(())
    }

    fn finish(&mut self, until: Instant) -> io::Result<()> {
        self.tell_unsynced()?;
        if self.rotation.fsync != Fsync::Never {
            self.open.sync()?;
        }
        // What it leaves, the next run compresses.
        while Instant::now() < until && self.tidying.as_ref().is_some_and(|it| !it.is_finished()) {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Open {
    fn new(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        // Nonblocking: a named pipe without a reader would hold up the start.
        let options = options.read(true).append(true).create(true).mode(MODE);
        let options = options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        let file = options.open(path).map_err(|error| explain(path, error))?;
        let metadata = file.metadata()?;
        let kind = metadata.file_type();
        if !metadata.is_file() && !kind.is_char_device() {
            return Err(io::Error::other(
                "it is neither a file nor a device; redirect standard output instead",
            ));
        }
        let mut open = Self {
            length: metadata.len(),
            born: metadata.created().unwrap_or_else(|_| SystemTime::now()),
            regular: metadata.is_file(),
            file,
            dirty: false,
        };
        open.end_line()?;
        Ok(open)
    }

    /// A run that was killed may have left half a line: the next line does not continue it.
    fn end_line(&mut self) -> io::Result<()> {
        if !self.regular || self.length == 0 {
            return Ok(());
        }
        let mut last = [0];
        self.file.seek(SeekFrom::End(-1))?;
        self.file.read_exact(&mut last)?;
        if last != *b"\n" {
            self.append(b"\n")?;
        }
        Ok(())
    }

    /// Takes whole lines only: what a full disk leaves of a line is cut off again.
    fn append(&mut self, lines: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        let error = loop {
            match self.file.write(&lines[written..]) {
                Ok(0) => break io::ErrorKind::WriteZero.into(),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break error,
            }
            if written == lines.len() {
                self.wrote(written);
                return Ok(written);
            }
        };
        let taken = match self.regular {
            true => whole(&lines[..written]),
            false => written,
        };
        self.wrote(taken);
        if taken < written {
            // By its real length: others may have shortened it.
            let length = self.file.metadata()?.len();
            self.file
                .set_len(length.saturating_sub((written - taken) as u64))?;
        }
        match taken {
            0 => Err(error),
            taken => Ok(taken),
        }
    }

    fn wrote(&mut self, count: usize) {
        self.length += count as u64;
        self.dirty |= count > 0;
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.regular && self.dirty {
            self.file.sync_data()?;
            self.dirty = false;
        }
        Ok(())
    }
}

/// How many bytes of whole lines fit: at least one line.
pub(super) fn fitting(lines: &[u8], room: usize) -> usize {
    match whole(lines.get(..room).unwrap_or(lines)) {
        0 => lines
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(lines.len(), |at| at + 1),
        fitting => fitting,
    }
}

/// How many bytes whole lines have at the beginning.
fn whole(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1)
}

/// What is wrong with a path that can't be opened.
fn explain(path: &Path, error: io::Error) -> io::Error {
    let directory = tidy::directory(path);
    let why = match error.kind() {
        io::ErrorKind::NotFound if !directory.exists() => format!(
            "the directory {} does not exist; create it first",
            directory.display()
        ),
        io::ErrorKind::IsADirectory => "it is a directory; give the name of a file".into(),
        _ if error.raw_os_error() == Some(libc::ENXIO) => {
            "it is neither a file nor a device; redirect standard output instead".into()
        }
        _ => return error,
    };
    io::Error::new(error.kind(), why)
}

#[cfg(test)]
mod tests;
