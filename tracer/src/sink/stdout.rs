//! Standard output.

use std::io::{self, Write};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    stdio::stdout,
};

use super::Sink;

/// The process's standard output, unbuffered: batches come whole.
#[derive(Debug, Default)]
pub struct Stdout;

impl Sink for Stdout {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(lines)?;
        out.flush()
    }

    fn is_closed(&self) -> bool {
        let stdout = stdout();
        // Nothing is asked for: a closed pipe or terminal shows by itself.
        let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
        let polled = poll(&mut fds, Some(&Timespec::default()));
        polled.is_ok_and(|n| n > 0) && fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
    }
}
