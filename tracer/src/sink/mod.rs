//! Where lines go.

use std::io;

mod stdout;

pub use stdout::Stdout;

/// Takes whole lines, in order.
pub trait Sink {
    /// Writes a batch of lines, each ended by a newline, and makes them visible to the reader.
    ///
    /// `ErrorKind::BrokenPipe`: the reader has gone, which is a normal end.
    fn write(&mut self, lines: &[u8]) -> io::Result<()>;

    /// Whether the reader has gone, as far as that shows without writing.
    fn is_closed(&self) -> bool;
}
