//! The lines of a file, one at a time.

use std::{path::PathBuf, sync::Arc};

use super::Troubles;
use crate::report::source::{LONGEST, Source, Trouble};

/// Reads one file.
pub struct Reader {
    source: Source,
    block: Vec<u8>,
    lines: u64,
}

impl Reader {
    pub fn new(file: PathBuf) -> Self {
        Self {
            source: Source::new(vec![file], Arc::default()),
            block: Vec::new(),
            lines: 0,
        }
    }

    /// Gives `each` the lines of the next piece, without their ends, and whether a line's end is missing, as long as it
    /// asks for more. False: that was all.
    pub fn next(
        &mut self,
        troubles: &mut Troubles,
        each: &mut dyn FnMut(&[u8], bool, &mut Troubles) -> bool,
    ) -> bool {
        let Some(about) = self.source.next(&mut self.block) else {
            if self.lines == 0 && troubles.count() == 0 {
                troubles.file("there is no line in it");
            }
            return false;
        };
        for line in self.block.split_inclusive(|byte| *byte == b'\n') {
            self.lines += 1;
            troubles.line = self.lines;
            let whole = line.strip_suffix(b"\n");
            if !each(whole.unwrap_or(line), whole.is_none(), troubles) {
                return false;
            }
        }
        if let Some(bytes) = about.too_long {
            self.lines += 1;
            troubles.line = self.lines;
            let limit = LONGEST >> 20;
            troubles.skip(format!(
                "a line of {bytes} bytes, and none of tracer's has more than {limit} MiB"
            ));
        }
        match about.error {
            Some(Trouble::Open(error)) => troubles.file(format!("it can't be opened: {error}")),
            Some(Trouble::Read(error)) => {
                troubles.hole(format!("what follows can't be read: {error}"));
            }
            None => {}
        }
        true
    }
}
