//! The segments of the ring.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use jiff::Timestamp;

use super::{super::rotation, Keep, frames};

/// The ring has so many segments, or more.
const SEGMENTS: u32 = 16;

/// A segment is not larger: the last one of a run that was killed is read into memory once.
const LARGEST: u64 = 16 << 20;

const PREFIX: &str = "ring-";
pub(super) const SUFFIX: &str = ".jsonl.zst";

pub(super) struct Ring {
    dir: PathBuf,
    keep: Keep,
    /// Oldest first; the last one is being written, once there is a file.
    segments: VecDeque<Segment>,
    file: Option<File>,
    began: Instant,
}

pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) length: u64,
    /// Of this, so many bytes at the beginning are copies. Those of earlier runs are told as they are.
    pub(super) preface: u64,
    /// When it was last written.
    last: SystemTime,
}

impl Ring {
    /// Takes over the segments of earlier runs.
    pub(super) fn open(dir: &Path, keep: Keep) -> io::Result<Self> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if is_segment(entry.file_name().as_encoded_bytes()) {
                paths.push(entry.path());
            }
        }
        paths.sort();
        let mut segments = VecDeque::new();
        for path in paths {
            segments.push_back(Segment::adopt(path)?);
        }
        Ok(Self {
            dir: dir.into(),
            keep,
            segments,
            file: None,
            began: Instant::now(),
        })
    }

    fn largest(&self) -> u64 {
        (self.keep.size / u64::from(SEGMENTS)).min(LARGEST)
    }

    /// Whether there has to be a new segment.
    pub(super) fn is_full(&self) -> bool {
        let length = self.segments.back().map_or(0, |segment| segment.length);
        let age = self.began.elapsed();
        self.file.is_none() || length >= self.largest() || age >= self.keep.age / SEGMENTS
    }

    pub(super) fn begin_segment(&mut self, preface: &[u8]) -> io::Result<()> {
        self.make_room()?;
        let path = name(&self.dir, Timestamp::now());
        let mut options = OpenOptions::new();
        let options = options.append(true).create_new(true);
        let file = options.mode(super::super::file::MODE).open(&path)?;
        let mut segment = Segment {
            path,
            length: 0,
            preface: 0,
            last: SystemTime::now(),
        };
        if let Err(error) = segment.append(&file, preface) {
            let _ = fs::remove_file(&segment.path);
            return Err(error);
        }
        segment.preface = segment.length;
        self.segments.push_back(segment);
        self.file = Some(file);
        self.began = Instant::now();
        Ok(())
    }

    pub(super) fn append(&mut self, frame: &[u8]) -> io::Result<()> {
        match (&self.file, self.segments.back_mut()) {
            (Some(file), Some(segment)) => segment.append(file, frame),
            _ => Err(io::Error::other("there is no segment")),
        }
    }

    /// Removes the oldest segments.
    fn make_room(&mut self) -> io::Result<()> {
        let mut size: u64 = self.segments.iter().map(|segment| segment.length).sum();
        while let Some(oldest) = self.segments.front() {
            let old = oldest.last.elapsed().is_ok_and(|age| age > self.keep.age);
            if size + self.largest() <= self.keep.size && !old {
                break;
            }
            match fs::remove_file(&oldest.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            size -= oldest.length;
            self.segments.pop_front();
        }
        Ok(())
    }

    /// Those that are not too old.
    pub(super) fn segments(&self) -> impl Iterator<Item = &Segment> {
        let age: Duration = self.keep.age;
        let young = move |segment: &&Segment| segment.last.elapsed().is_ok_and(|is| is <= age);
        self.segments.iter().filter(young)
    }
}

impl Segment {
    /// Of an earlier run: what it has left of a frame is cut off.
    fn adopt(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let metadata = file.metadata()?;
        // A segment is no larger, but for its last frame.
        let length = match metadata.len() {
            length if length > 4 * LARGEST => 0,
            _ => frames::whole(&fs::read(&path)?) as u64,
        };
        if length < metadata.len() {
            file.set_len(length)?;
        }
        Ok(Self {
            path,
            length,
            preface: 0,
            last: metadata.modified()?,
        })
    }

    /// A frame is there whole, or not at all.
    fn append(&mut self, mut file: &File, frame: &[u8]) -> io::Result<()> {
        if let Err(error) = file.write_all(frame) {
            file.set_len(self.length)?;
            return Err(error);
        }
        self.length += frame.len() as u64;
        self.last = SystemTime::now();
        Ok(())
    }
}

/// A name that no other segment has.
fn name(dir: &Path, now: Timestamp) -> PathBuf {
    let mut now = now;
    loop {
        let path = dir.join(format!("{PREFIX}{}{SUFFIX}", rotation::stamp(now)));
        if !path.exists() {
            return path;
        }
        now += Duration::from_millis(1);
    }
}

fn is_segment(name: &[u8]) -> bool {
    let stamp = name.strip_prefix(PREFIX.as_bytes());
    let stamp = stamp.and_then(|stamp| stamp.strip_suffix(SUFFIX.as_bytes()));
    stamp.is_some_and(rotation::is_stamp)
}
