//! What is kept: one file for each time, and not too many of them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Instant,
};

use jiff::Timestamp;
use rustix::system::uname;

use super::{
    super::rotation,
    frames,
    ring::{Ring, SUFFIX},
};
use crate::record::Cause;

/// So many files are kept, and in all not more bytes than the ring has, but for the last.
const FILES: usize = 10;

const PREFIX: &str = "tracer-";
const CAUSES: [Cause; 3] = [Cause::Failure, Cause::Pressure, Cause::Asked];

/// While it is being written.
const PART: &str = "part";

fn word(cause: Cause) -> &'static str {
    match cause {
        Cause::Failure => "failure",
        Cause::Pressure => "pressure",
        Cause::Asked => "asked",
    }
}

pub(super) struct Frozen {
    file: File,
    part: PathBuf,
    /// What it is called when it is whole.
    pub(super) name: PathBuf,
    pub(super) until: Instant,
    length: u64,
}

impl Frozen {
    /// Copies the ring: the segments of earlier runs as they are, of our own the copies that they begin with only once.
    pub(super) fn new(
        dir: &Path,
        cause: Cause,
        preface: &[u8],
        ring: &Ring,
        until: Instant,
    ) -> io::Result<Self> {
        let name = dir.join(name(cause, Timestamp::now()));
        let part = rotation::with(&name, PART);
        let mut options = OpenOptions::new();
        let options = options.append(true).create_new(true);
        let file = options.mode(super::super::file::MODE).open(&part)?;
        let mut frozen = Self {
            file,
            part,
            name,
            until,
            length: 0,
        };
        match frozen.fill(preface, ring) {
            Ok(()) => Ok(frozen),
            Err(error) => {
                let _ = fs::remove_file(&frozen.part);
                Err(error)
            }
        }
    }

    fn fill(&mut self, preface: &[u8], ring: &Ring) -> io::Result<()> {
        let mut told = false;
        for segment in ring.segments() {
            if segment.preface > 0 && !told {
                self.append(preface)?;
                told = true;
            }
            let mut from = File::open(&segment.path)?;
            from.seek(SeekFrom::Start(segment.preface))?;
            let rest = segment.length - segment.preface;
            self.length += io::copy(&mut from.take(rest), &mut self.file)?;
        }
        Ok(())
    }

    /// A frame is there whole, or not at all.
    pub(super) fn append(&mut self, frame: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(frame) {
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += frame.len() as u64;
        Ok(())
    }

    pub(super) fn close(self) -> io::Result<()> {
        self.file.sync_data()?;
        fs::rename(&self.part, &self.name)
    }
}

/// `tracer-HOST-TIME-CAUSE.jsonl.zst`.
fn name(cause: Cause, now: Timestamp) -> String {
    let host = uname().nodename().to_string_lossy().into_owned();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || ".-_".contains(letter);
    let host: String = host.chars().filter(|letter| plain(*letter)).collect();
    let stamp = rotation::stamp(now);
    format!("{PREFIX}{host}-{stamp}-{}{SUFFIX}", word(cause))
}

/// The time in such a name.
fn stamp(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let rest = CAUSES.iter().find_map(|cause| {
        let rest = rest.strip_suffix(word(*cause))?;
        rest.strip_suffix('-')
    })?;
    let (_, stamp) = rest.rsplit_once('-')?;
    rotation::is_stamp(stamp.as_bytes()).then_some(stamp)
}

/// What a run has left that was killed: all whole frames of it are kept.
pub(super) fn adopt(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let part = entry?.path();
        let name = part.with_extension("");
        let ours = part.extension().is_some_and(|end| end == PART);
        let file_name = name.file_name().and_then(|name| name.to_str());
        if ours && file_name.and_then(stamp).is_some() {
            cut(&part)?;
            fs::rename(&part, &name)?;
        }
    }
    Ok(())
}

/// Cuts off what is left of a frame. Frames are looked through one after the other: the file may be large.
fn cut(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let (mut end, mut bytes) = (0, Vec::new());
    loop {
        bytes.clear();
        file.seek(SeekFrom::Start(end))?;
        (&file).take(PIECE).read_to_end(&mut bytes)?;
        match frames::whole(&bytes) {
            0 => break,
            whole => end += whole as u64,
        }
    }
    file.set_len(end)
}

/// More than any frame has.
const PIECE: u64 = 16 << 20;

/// Removes the oldest, of ours only.
pub(super) fn prune(dir: &Path, limit: u64) -> io::Result<()> {
    let mut kept = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if let Some(stamp) = entry.file_name().to_str().and_then(stamp) {
            kept.push((stamp.to_owned(), entry.path(), entry.metadata()?.len()));
        }
    }
    kept.sort();
    let mut size = 0;
    for (number, (_, path, length)) in kept.iter().rev().enumerate() {
        size += length;
        if number > 0 && (number >= FILES || size > limit) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_again_and_those_of_others_are_not() {
        let at: Timestamp = "2026-11-26T01:22:13.1234Z".parse().unwrap();
        for cause in CAUSES {
            assert_eq!(stamp(&name(cause, at)), Some("20261126T012213.123Z"));
        }
        for other in [
            "tracer-web-3-20261126T012213.123Z.jsonl.zst",
            "tracer-web-3-20261126T012213.123Z-other.jsonl.zst",
            "tracer-web-3-20261126-failure.jsonl.zst",
            "ring-20261126T012213.123Z.jsonl.zst",
            "notes",
        ] {
            assert_eq!(stamp(other), None, "{other}");
        }
    }
}
