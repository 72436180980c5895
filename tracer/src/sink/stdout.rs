//! Standard output.

use std::io;

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, write},
    stdio::stdout,
};

use super::Sink;

/// The process's standard output, unbuffered: lines come in chunks.
#[derive(Debug, Default)]
pub struct Stdout;

impl Sink for Stdout {
    /// Where somebody has made it nonblocking, it waits all the same.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        loop {
            match write(stdout(), lines) {
                Err(Errno::AGAIN) => wait(PollFlags::OUT, None)?,
                written => return Ok(written?),
            };
        }
    }

    /// A closed pipe or terminal shows by itself, whatever is asked for.
    fn tick(&mut self) -> io::Result<()> {
        let found = wait(PollFlags::empty(), Some(&Timespec::default()))?;
        match found.intersects(PollFlags::ERR | PollFlags::HUP) {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => Ok(()),
        }
    }
}

fn wait(flags: PollFlags, timeout: Option<&Timespec>) -> io::Result<PollFlags> {
    let stdout = stdout();
    let mut fds = [PollFd::new(&stdout, flags)];
    poll(&mut fds, timeout)?;
    Ok(fds[0].revents())
}
