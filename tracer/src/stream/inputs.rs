//! Writes down what goes into a stream, and does it again.

use std::{collections::BTreeMap, io};

use super::{Stream, Write, lines::Lines};
use crate::{
    clock::{Clock, Time},
    diagnosis::surroundings::Surroundings,
    host::process::{ProcessTable, Processes},
    input::{Answers, Beginning, Input, Recorded},
    record::{self, Kind, VERSION},
};

#[derive(Default)]
pub(super) struct Recorder {
    answers: Answers,
    count: u64,
    /// Time of the latest input that has one.
    latest: u64,
}

impl Recorder {
    pub(super) fn surroundings(&self, of: Box<dyn Surroundings>) -> Box<dyn Surroundings> {
        let answers = self.answers.clone();
        Box::new(Recorded { of, answers })
    }

    fn write(&mut self, input: &Input, lines: &mut Lines) {
        self.latest = input.at().unwrap_or(self.latest);
        lines.input(&record::Input {
            v: VERSION,
            r#type: Kind::Input.name(),
            ts: lines.clock.monotonic(self.latest),
            n: self.count,
            host: &lines.host.clone(),
            labels: lines.labels.clone().as_ref(),
            input,
            answers: &self.answers.take(),
        });
        self.count += 1;
    }
}

impl Stream {
    /// Writes down all that goes into the stream from now on: to be called before anything does.
    pub fn record_inputs(&mut self) {
        let recorder = Recorder::default();
        let answers = || recorder.answers.clone();
        self.lines.processes.ask(|of| {
            let answers = answers();
            Box::new(Recorded { of, answers })
        });
        self.lines.ask_time(|of| {
            let answers = answers();
            Box::new(Recorded { of, answers })
        });
        self.recorder = Some(Box::new(recorder));
    }

    /// What the stream was told, and what it asked for meanwhile. To be called once it is done.
    #[inline]
    pub(super) fn record(&mut self, input: &Input) {
        if let Some(recorder) = &mut self.recorder {
            recorder.write(input, &mut self.lines);
        }
    }

    /// A stream for a recorded run: it asks `recorded` and nobody else.
    pub fn again<T>(name: String, clock: Clock, began: u64, recorded: &T) -> Self
    where
        T: ProcessTable + Time + Clone + 'static,
    {
        let processes = Processes::of(Box::new(recorded.clone()));
        let mut stream = Self::with(name, clock, processes);
        stream.lines.ask_time(|_| Box::new(recorded.clone()));
        stream.told = began;
        stream
    }

    /// Takes a recorded input. Most lines of a large one go to `write` at once.
    pub fn take(&mut self, input: Input, answers: &Answers, write: Write) -> io::Result<()> {
        match input {
            Input::Start(Beginning { start, .. }) => self.start(&start),
            Input::Diagnose(how) => self.diagnose(how, Box::new(answers.clone())),
            Input::Settings(settings) => self.set_settings(settings.into_owned()),
            Input::Clock(clock) => self.set_clock(clock),
            Input::Table(table) => self.set_table(table),
            Input::Overflow(count) => self.add_overflow(count),
            Input::Event(event) => self.event(&event),
            Input::Lost => self.lost(),
            Input::BeginResync(now) => self.begin_resync(now),
            Input::Row(row) => self.row(&row),
            Input::EndResync {
                complete,
                alive,
                now,
            } => _ = self.end_resync(&complete, &alive, now),
            Input::GiveUpResync => self.give_up_resync(),
            Input::Loss(count, place, resynced) => self.loss(count, place, resynced),
            Input::Watch(now) => self.watch(now),
            Input::Usage(now) => self.usage(now),
            Input::Snapshot(now) => self.snapshot(now, write)?,
            Input::Dropped(dropped, output) => self.dropped(by_kind(&dropped), output.as_deref()),
            Input::ForgetIntroductions => self.forget_introductions(),
            Input::WindUp(now) => self.wind_up(now, write)?,
            Input::End => self.end(),
        }
        Ok(())
    }
}

/// What is known by these names.
pub(crate) fn by_kind(counts: &BTreeMap<String, u64>) -> BTreeMap<&'static str, u64> {
    let kinds = Kind::ALL.iter().map(|kind| kind.name());
    let counts = kinds.filter_map(|name| Some((name, *counts.get(name)?)));
    counts.collect()
}
