//! What a reader has to know who begins in the middle: the run, and the processes.

use std::collections::VecDeque;

/// Processes that are remembered, of which the oldest are forgotten.
const PROCESSES: usize = 4096;

/// Every line begins so.
const BEGIN: &[u8] = br#"{"v":1,"#;

#[derive(Default)]
pub(super) struct Preface {
    start: Vec<u8>,
    processes: VecDeque<Box<[u8]>>,
    text: Vec<u8>,
}

impl Preface {
    pub(super) fn see(&mut self, line: &[u8]) {
        let Some(rest) = line.strip_prefix(BEGIN) else {
            return;
        };
        if rest.starts_with(br#""type":"process""#) {
            if self.processes.len() == PROCESSES {
                self.processes.pop_front();
            }
            self.processes.push_back(rest.into());
        } else if rest.starts_with(br#""type":"start""#) {
            self.start = rest.into();
        }
    }

    /// Copies of those lines, which say that they are copies.
    pub(super) fn text(&mut self) -> &[u8] {
        self.text.clear();
        let start = (!self.start.is_empty()).then_some(&self.start[..]);
        for rest in start
            .into_iter()
            .chain(self.processes.iter().map(|rest| &**rest))
        {
            self.text.extend_from_slice(BEGIN);
            self.text.extend_from_slice(br#""repeated":true,"#);
            self.text.extend_from_slice(rest);
        }
        &self.text
    }
}
