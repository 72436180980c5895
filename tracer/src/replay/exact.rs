//! From `input` lines: every line as it was.

use std::io;

use serde::Deserialize;

use super::{Pace, Troubles, head::without_line};
use crate::{
    input::{Answer, Answers, Beginning, FORMAT, Input},
    stream::{Stream, Write},
};

/// An `input` line, beside its head.
#[derive(Deserialize)]
pub(super) struct InputLine {
    input: Input<'static>,
    #[serde(default)]
    answers: Vec<Answer>,
}

impl InputLine {
    pub(super) fn parse(line: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(line)
            .map_err(|error| format!("this input is not understood: {}", without_line(&error)))
    }

    /// What a run begins with.
    pub(super) fn beginning(&self) -> Option<&Beginning<'static>> {
        match &self.input {
            Input::Start(beginning) => Some(beginning),
            _ => None,
        }
    }
}

/// A run whose inputs are there.
pub(super) struct Exact {
    stream: Stream,
    answers: Answers,
    /// The number of the input that comes next.
    next: u64,
}

impl Exact {
    /// `None`: the recording is of another format.
    pub(super) fn new(
        host: String,
        beginning: &Beginning,
        troubles: &mut Troubles,
    ) -> Option<Self> {
        let (theirs, ours) = (&beginning.start.tracer, env!("CARGO_PKG_VERSION"));
        if beginning.format != FORMAT {
            troubles.hole(format!(
                "tracer {theirs} wrote inputs in format {}, and tracer {ours} reads {FORMAT}: the run is replayed from its other lines",
                beginning.format
            ));
            return None;
        }
        if theirs != ours {
            troubles.note(format!(
                "recorded by tracer {theirs}, replayed by {ours}: lines may differ"
            ));
        }
        let answers = Answers::default();
        let mut stream = Stream::again(host, beginning.clock, beginning.began, &answers);
        if let Some(labels) = &beginning.labels {
            stream.set_labels(labels.clone().into_owned());
        }
        Some(Self {
            stream,
            answers,
            next: 0,
        })
    }

    pub(super) fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    pub(super) fn take(
        &mut self,
        n: u64,
        line: InputLine,
        pace: &mut Pace,
        troubles: &mut Troubles,
        write: Write,
    ) -> io::Result<()> {
        if n < self.next {
            troubles.skip(format!("input {n} comes twice, or too late"));
            return Ok(());
        }
        if n > self.next {
            let missing = n - self.next;
            troubles.hole(format!(
                "{missing} inputs are missing before this one: lines differ from here on"
            ));
        }
        self.next = n + 1;
        if let Some(at) = line.input.at() {
            pace.wait_for(at);
        }
        self.answers.fill(line.answers);
        self.stream.take(line.input, &self.answers, write)?;
        if self.answers.fill(Vec::new()) > 0 {
            troubles.hole("tracer asked the host for other things then: lines may differ");
        }
        Ok(())
    }
}
