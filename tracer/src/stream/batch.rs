//! Whole lines in a row, and of which type each is.

use crate::record::Kind;

/// Where a line ends, and what it is.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Offset of the byte after its newline.
    end: u32,
    kind: Kind,
    detail: bool,
}

/// One of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub kind: Kind,
    /// It is for the flight recorder only.
    pub detail: bool,
    /// With its newline.
    pub bytes: &'a [u8],
}

/// Lines, each ended by a newline.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    marks: Vec<Mark>,
}

/// Offsets fit the marks: nobody gathers so much.
const LONGEST: usize = 1 << 31;

/// Memory for more bytes is given back: a comparison with the kernel may end a hundred thousand sockets at once, and what
/// a ring full of events makes is less.
const KEPT: usize = 8 << 20;

impl Batch {
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            marks: Vec::new(),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many lines.
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// The memory that it takes.
    pub fn size(&self) -> usize {
        self.bytes.capacity() + self.marks.capacity() * size_of::<Mark>()
    }

    pub fn clear(&mut self) {
        if self.bytes.capacity() > KEPT {
            *self = Self::default();
        }
        self.bytes.clear();
        self.marks.clear();
    }

    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        let mut start = 0;
        self.marks.iter().map(move |mark| {
            let bytes = &self.bytes[start..mark.end as usize];
            start = mark.end as usize;
            Line {
                kind: mark.kind,
                detail: mark.detail,
                bytes,
            }
        })
    }

    pub fn push(&mut self, line: Line) {
        self.bytes.extend_from_slice(line.bytes);
        self.mark(line.kind, line.detail);
    }

    /// Appends what `write` writes, which is no whole line if it fails.
    pub(super) fn write<E>(
        &mut self,
        kind: Kind,
        detail: bool,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let length = self.bytes.len();
        let written = write(&mut self.bytes);
        match written {
            Ok(()) => {
                self.bytes.push(b'\n');
                self.mark(kind, detail);
            }
            Err(_) => self.bytes.truncate(length),
        }
        written
    }

    fn mark(&mut self, kind: Kind, detail: bool) {
        debug_assert!(self.bytes.len() < LONGEST, "a batch that nobody takes");
        let end = self.bytes.len() as u32;
        self.marks.push(Mark { end, kind, detail });
    }

    /// Removes lines, in their order, while `goes` says so of each.
    pub fn remove(&mut self, mut goes: impl FnMut(Kind) -> bool) {
        let (mut start, mut kept) = (0, 0);
        let bytes = &mut self.bytes;
        self.marks.retain_mut(|mark| {
            let line = start..mark.end as usize;
            start = line.end;
            let stays = !goes(mark.kind);
            if stays {
                let length = line.len();
                bytes.copy_within(line, kept);
                kept += length;
                mark.end = kept as u32;
            }
            stays
        });
        self.bytes.truncate(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: Kind, bytes: &[u8]) -> Line<'_> {
        Line {
            kind,
            detail: false,
            bytes,
        }
    }

    fn batch() -> Batch {
        let mut batch = Batch::default();
        batch.push(line(Kind::Start, b"start\n"));
        batch.push(line(Kind::State, b"one\n"));
        batch.push(line(Kind::Usage, b"usage\n"));
        batch.push(line(Kind::State, b"two\n"));
        batch
    }

    #[test]
    fn lines_that_are_removed_leave_the_others_whole() {
        let mut batch = batch();
        batch.remove(|kind| kind == Kind::State);
        assert_eq!(batch.bytes(), b"start\nusage\n");
        let lines: Vec<_> = batch.lines().collect();
        let left = [line(Kind::Start, b"start\n"), line(Kind::Usage, b"usage\n")];
        assert_eq!(lines, left);
    }

    #[test]
    fn a_long_batch_does_not_keep_its_memory() {
        let mut batch = Batch::with_capacity(KEPT);
        batch.clear();
        assert!(batch.size() >= KEPT);
        batch.push(line(Kind::State, &[b'x'; KEPT + 1]));
        batch.clear();
        assert_eq!((batch.len(), batch.size()), (0, 0));
    }

    #[test]
    fn half_a_line_is_none() {
        let mut batch = batch();
        let failed = batch.write(Kind::Loss, false, |bytes| {
            bytes.extend_from_slice(b"half");
            Err(())
        });
        assert!(failed.is_err());
        assert_eq!((batch.len(), batch.bytes().len()), (4, 20));
    }
}
