//! Lines that wait for a sink: in order, and in so much memory. Where that is not enough, the oldest of the least dear
//! are dropped, and counted.

use std::{
    collections::VecDeque,
    mem::{replace, take},
};

use super::dropped::{Dropped, RANKS, rank};
use crate::{
    record::Kind,
    stream::{Batch, Line},
};

/// Lines are kept in pieces of so many bytes, unless all memory is less than so many pieces.
const CHUNK: usize = 256 << 10;
const PIECES: usize = 32;

/// Batches that are not so many times smaller or larger become a piece as they are.
const WHOLE: usize = 4;

/// Of a full backlog such a part is dropped at once: then it is not searched for each line.
const SHED: usize = 8;

pub struct Backlog {
    chunks: VecDeque<Chunk>,
    /// Of those in `chunks`.
    bytes: usize,
    /// Of the chunk that is being written.
    taken: usize,
    limit: usize,
    chunk: usize,
    /// An empty one, so that memory is not asked for anew all the time.
    spare: Option<Batch>,
    dropped: Dropped,
    lines: u64,
    /// Lines for the flight recorder are taken too.
    details: bool,
}

#[derive(Default)]
struct Chunk {
    lines: Batch,
    ranks: [u32; RANKS],
}

impl Chunk {
    fn push(&mut self, line: Line) {
        self.lines.push(line);
        self.ranks[rank(line.kind)] += 1;
    }
}

impl Backlog {
    /// `limit`: bytes of memory. `details`: lines for the flight recorder are taken too.
    pub fn new(limit: usize, details: bool) -> Self {
        Self {
            chunks: VecDeque::new(),
            bytes: 0,
            taken: 0,
            limit,
            chunk: CHUNK.min(limit / PIECES),
            spare: None,
            dropped: Dropped::default(),
            lines: 0,
            details,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// How many lines wait, those that are being written not counted.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The memory that lines take, those included that are being written.
    pub fn size(&self) -> usize {
        self.bytes + self.taken
    }

    /// What was dropped since the last call.
    pub fn take_dropped(&mut self) -> Dropped {
        take(&mut self.dropped)
    }

    /// Appends lines. Answers whether lines that introduce processes had to go.
    pub fn push(&mut self, lines: &Batch) -> bool {
        self.append(lines);
        self.keep_to_limit()
    }

    /// Answers as [`push`](Self::push) does.
    fn keep_to_limit(&mut self) -> bool {
        let introduced = self.dropped.of(Kind::Process);
        if self.size() > self.limit {
            self.shed(self.limit - self.limit / SHED);
        }
        self.dropped.of(Kind::Process) > introduced
    }

    /// As [`push`](Self::push), and takes a batch of the right size as it is: what remains of it is no longer needed.
    pub fn give(&mut self, lines: &mut Batch) -> bool {
        let length = lines.bytes().len();
        if length < self.chunk / WHOLE || length > self.chunk * WHOLE {
            return self.push(lines);
        }
        if lines.size() > 2 * WHOLE * self.chunk {
            // A longer one has been in it: its memory would count for these few.
            let introduced = self.push(lines);
            *lines = Batch::with_capacity(length);
            return introduced;
        }
        let mut ranks = <[u32; RANKS]>::default();
        for line in lines.lines() {
            ranks[rank(line.kind)] += 1;
        }
        self.lines += lines.len() as u64;
        // The next ones will be as many.
        let empty = || Batch::with_capacity(length);
        let lines = replace(lines, self.spare.take().unwrap_or_else(empty));
        self.chunks.push_back(Chunk { lines, ranks });
        self.measure();
        self.keep_to_limit()
    }

    /// Appends lines even if there is no room: the last ones of a run, which say what was dropped.
    pub fn append(&mut self, lines: &Batch) {
        let details = self.details;
        for line in lines.lines().filter(|line| details || !line.detail) {
            self.room(line.bytes.len()).push(line);
            self.lines += 1;
        }
        self.measure();
    }

    /// Takes the oldest lines away, to write them; what was taken before is no longer needed.
    pub fn take(&mut self, used: Option<Batch>) -> Option<Batch> {
        if let Some(mut used) = used {
            used.clear();
            self.spare = Some(used).filter(|used| used.size() < 2 * WHOLE * CHUNK);
        }
        let chunk = self.chunks.pop_front().map(|chunk| chunk.lines);
        self.lines -= chunk.as_ref().map_or(0, |lines| lines.len() as u64);
        self.taken = chunk.as_ref().map_or(0, Batch::size);
        self.measure();
        chunk
    }

    /// The last chunk, if so many bytes fit, or a new one.
    fn room(&mut self, length: usize) -> &mut Chunk {
        let full = |chunk: &Chunk| chunk.lines.bytes().len() + length > self.chunk;
        if self.chunks.back().is_none_or(full) {
            let lines = match self.spare.take() {
                Some(spare) => spare,
                None => Batch::with_capacity(self.chunk),
            };
            let ranks = <[u32; RANKS]>::default();
            self.chunks.push_back(Chunk { lines, ranks });
        }
        let last = self.chunks.len() - 1;
        &mut self.chunks[last]
    }

    fn measure(&mut self) {
        self.bytes = self.chunks.iter().map(|chunk| chunk.lines.size()).sum();
    }

    /// Drops lines until the rest takes no more than so many bytes.
    fn shed(&mut self, goal: usize) {
        for least in 0..RANKS {
            let mut at = 0;
            while at < self.chunks.len() && self.size() > goal {
                match self.chunks[at].ranks[least] {
                    0 => at += 1,
                    _ => at = self.shed_of(at, least),
                }
            }
            if self.size() <= goal {
                return;
            }
        }
    }

    /// Drops the lines of a rank from a chunk. Answers which chunk comes next.
    fn shed_of(&mut self, at: usize, least: usize) -> usize {
        let chunk = &mut self.chunks[at];
        self.lines -= u64::from(take(&mut chunk.ranks[least]));
        chunk.lines.remove(|kind| {
            let goes = rank(kind) == least;
            if goes {
                self.dropped.add(kind);
            }
            goes
        });
        let next = self.close_up(at);
        self.measure();
        next
    }

    /// Joins what is left of a chunk to the one before, if it fits.
    fn close_up(&mut self, at: usize) -> usize {
        let length = self.chunks[at].lines.bytes().len();
        let fits = |before: &Chunk| before.lines.bytes().len() + length <= self.chunk;
        let before = at
            .checked_sub(1)
            .filter(|before| fits(&self.chunks[*before]));
        if length > 0 && before.is_none() {
            return at + 1;
        }
        let rest = self.chunks.remove(at).unwrap_or_default();
        if let Some(before) = before {
            for line in rest.lines.lines() {
                self.chunks[before].push(line);
            }
        }
        at
    }
}

#[cfg(test)]
mod tests;
