//! Where lines go, and how they wait for it.
//!
//! Each sink has a thread and a backlog of its own: whoever produces lines never waits for whoever takes them.

use std::{io, time::Instant};

mod backlog;
mod dropped;
mod file;
mod health;
mod output;
mod recorder;
mod retry;
mod rotation;
mod socket;
mod stdout;
mod target;
mod tidy;
mod writer;

pub use backlog::Backlog;
pub use dropped::Dropped;
pub use file::File;
pub use output::{Finished, Output, Settings};
pub use recorder::Keep;
pub use rotation::{Compress, Fsync, Rotation};
pub use socket::Socket;
pub use stdout::Stdout;
pub use target::{Address, Target};

/// Takes lines, in order. It may take its time: it has a thread of its own.
pub trait Sink: Send {
    /// Takes some of what is at the beginning of `lines`, at least one byte, and answers how many bytes. They need not
    /// end where a line does, but what comes next is then the rest of it.
    ///
    /// An error means that nothing was taken, and that it may be tried again. `ErrorKind::BrokenPipe`: nobody will
    /// ever read what is written, which is a normal end.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize>;

    /// What there is to do once a second, lines or no lines. Errors are as those of [`write`](Self::write).
    fn tick(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// What SIGHUP asks for, between two lines: open anew what may have been moved away.
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// What SIGUSR1 asks a flight recorder for: to keep what it has.
    fn freeze(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// The end, which is not to last beyond `until`: an error means that some of what was taken may not arrive.
    fn finish(&mut self, until: Instant) -> io::Result<()> {
        let _ = until;
        Ok(())
    }
}
