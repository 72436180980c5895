//! Files, one after the other, as blocks of whole lines.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    mem,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use flate2::bufread::MultiGzDecoder;

/// So much is read at once.
const BLOCK: usize = 1 << 20;
/// A line that is longer is none of tracer's, and is not kept.
pub(crate) const LONGEST: usize = 16 << 20;

/// What [`Source::next`] gives beside the bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Block {
    /// Counts blocks from 0.
    pub number: u64,
    /// Index of the file.
    pub file: usize,
    /// The file ends here; its last line may lack its end.
    pub ends: bool,
    /// After the lines of this block, one of so many bytes was skipped.
    pub too_long: Option<u64>,
    /// After this block, the file can't be read.
    pub error: Option<Trouble>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It could not be opened.
    Open(String),
    /// What was read so far is good.
    Read(String),
}

pub(crate) struct Source {
    paths: Vec<PathBuf>,
    /// Bytes read from files, before they are decompressed.
    consumed: Arc<AtomicU64>,
    next_file: usize,
    next_block: u64,
    open: Option<Open>,
}

struct Open {
    reader: Box<dyn Read + Send>,
    /// The beginning of a line.
    rest: Vec<u8>,
}

impl Source {
    pub(crate) fn new(paths: Vec<PathBuf>, consumed: Arc<AtomicU64>) -> Self {
        Self {
            paths,
            consumed,
            next_file: 0,
            next_block: 0,
            open: None,
        }
    }

    /// Puts the next lines into `block`. `None`: there are no more.
    pub(crate) fn next(&mut self, block: &mut Vec<u8>) -> Option<Block> {
        block.clear();
        let mut about = Block {
            number: self.next_block,
            ..Block::default()
        };
        let mut open = match self.open.take() {
            Some(open) => open,
            None => {
                let path = self.paths.get(self.next_file)?;
                self.next_file += 1;
                match open(path, &self.consumed) {
                    Ok(open) => open,
                    Err(error) => {
                        about.error = Some(Trouble::Open(error.to_string()));
                        Open::nothing()
                    }
                }
            }
        };
        about.file = self.next_file - 1;
        self.next_block += 1;
        if about.error.is_none() {
            open.read(block, &mut about);
        }
        if !about.ends && about.error.is_none() {
            self.open = Some(open);
        }
        Some(about)
    }
}

impl Open {
    fn nothing() -> Self {
        Self {
            reader: Box::new(io::empty()),
            rest: Vec::new(),
        }
    }

    /// Reads until there is at least one whole line, or the line is too long, or there is no more.
    fn read(&mut self, block: &mut Vec<u8>, about: &mut Block) {
        mem::swap(block, &mut self.rest);
        let mut searched = 0;
        loop {
            match read_some(&mut self.reader, BLOCK, block) {
                Ok(0) => {
                    about.ends = true;
                    return;
                }
                Ok(_) => {}
                Err(error) => {
                    about.error = Some(Trouble::Read(describe(&error)));
                    return;
                }
            }
            if let Some(end) = memchr::memrchr(b'\n', &block[searched..]) {
                self.rest.extend_from_slice(&block[searched + end + 1..]);
                block.truncate(searched + end + 1);
                return;
            }
            searched = block.len();
            if searched > LONGEST {
                self.skip_line(block, about);
                return;
            }
        }
    }

    /// Drops a line whose beginning is in `block`.
    fn skip_line(&mut self, block: &mut Vec<u8>, about: &mut Block) {
        let mut bytes = block.len() as u64;
        loop {
            block.clear();
            match read_some(&mut self.reader, BLOCK, block) {
                Ok(0) => about.ends = true,
                Ok(_) => {}
                Err(error) => about.error = Some(Trouble::Read(describe(&error))),
            }
            let end = memchr::memchr(b'\n', block);
            bytes += end.unwrap_or(block.len()) as u64;
            if let Some(end) = end {
                self.rest.extend_from_slice(&block[end + 1..]);
            }
            if end.is_some() || about.ends || about.error.is_some() {
                break;
            }
        }
        block.clear();
        about.too_long = Some(bytes);
    }
}

/// Appends up to `limit` bytes; 0: there are no more. What came before an error is kept by the caller.
fn read_some(reader: &mut dyn Read, limit: usize, into: &mut Vec<u8>) -> io::Result<usize> {
    reader.take(limit as u64).read_to_end(into)
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "its compressed data ends too early".into(),
        _ => error.to_string(),
    }
}

fn open(path: &Path, consumed: &Arc<AtomicU64>) -> io::Result<Open> {
    let raw: Box<dyn Read + Send> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::Error::other("it is a directory; name the files in it"));
        }
        Box::new(file)
    };
    let counted = Counted {
        reader: raw,
        bytes: consumed.clone(),
    };
    Ok(Open {
        reader: decompress(counted)?,
        rest: Vec::new(),
    })
}

/// By what it begins with, not by its name.
fn decompress(raw: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let mut buffered = BufReader::with_capacity(1 << 17, raw);
    Ok(match buffered.fill_buf()? {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(buffered)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(buffered)?),
        _ => Box::new(buffered),
    })
}

/// Counts what is read.
struct Counted<R> {
    reader: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(into)?;
        self.bytes.fetch_add(read as u64, Relaxed);
        Ok(read)
    }
}
