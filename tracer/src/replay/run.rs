//! Lines in, lines out: run after run.

use std::io;

use super::{
    Pace, Troubles,
    exact::{Exact, InputLine},
    head::Head,
    told::{First, Told},
};
use crate::stream::Write;

/// Lines are written when so many bytes have gathered.
const CHUNK: usize = 1 << 16;

/// One file's runs, one after the other.
pub struct Replay<'a> {
    pace: Pace,
    write: Write<'a>,
    run: Run,
    host: String,
    /// When the run began.
    began: u64,
    /// The number of the line that comes next, of those that have one; `None`: whatever it is.
    seq: Option<u64>,
    /// The same of those that were for the flight recorder only.
    details: Option<u64>,
    /// Lines of the run that come as copies, before its own.
    copies: Vec<Vec<u8>>,
}

enum Run {
    /// Before the first line.
    None,
    /// With its `start` line; the next one tells whether there are inputs.
    Begun(Box<First>),
    Exact(Box<Exact>),
    Told(Box<Told>),
}

impl<'a> Replay<'a> {
    pub fn new(pace: Pace, write: Write<'a>) -> Self {
        Self {
            pace,
            write,
            run: Run::None,
            host: String::new(),
            began: 0,
            seq: None,
            details: None,
            copies: Vec::new(),
        }
    }

    /// Takes the next line; `is_cut`: its end is missing.
    pub fn line(&mut self, line: &[u8], is_cut: bool, troubles: &mut Troubles) -> io::Result<()> {
        match Head::parse(line, is_cut) {
            Ok(head) => self.headed(&head, line, troubles),
            Err(why) => {
                troubles.skip(why);
                Ok(())
            }
        }
    }

    /// There are no more lines.
    pub fn end(&mut self, troubles: &mut Troubles) -> io::Result<()> {
        if let Run::Begun(_) = self.run {
            self.tell(troubles);
        }
        if let Run::Told(told) = &mut self.run {
            told.end();
        }
        self.flush()
    }

    pub fn is_interrupted(&self) -> bool {
        self.pace.is_interrupted()
    }

    fn headed(&mut self, head: &Head, line: &[u8], troubles: &mut Troubles) -> io::Result<()> {
        let ts = match head.ts() {
            Ok(ts) => ts,
            Err(why) => {
                troubles.skip(why);
                return Ok(());
            }
        };
        if head.r#type == "start" {
            // The run that it is a copy of is going on.
            let goes_on = head.repeated && self.began == ts && !matches!(self.run, Run::None);
            return match goes_on {
                true => Ok(()),
                false => self.start(head, ts, line, troubles),
            };
        }
        if matches!(self.run, Run::None) {
            self.host = head.host.clone().into_owned();
        } else if head.host != self.host {
            troubles.skip(format!(
                "a line of host {}, in the run of {}: replay one host at a time",
                head.host, self.host
            ));
            return Ok(());
        }
        if head.repeated {
            if self.has_only_copies() {
                self.copies.push(line.to_vec());
            }
            return Ok(());
        }
        match head.r#type == "input" {
            true => self.input(head, ts, line, troubles),
            false => self.numbered(head, ts, line, troubles),
        }
    }

    fn start(
        &mut self,
        head: &Head,
        ts: u64,
        line: &[u8],
        troubles: &mut Troubles,
    ) -> io::Result<()> {
        let first = match serde_json::from_slice::<First>(line) {
            Ok(first) => Box::new(first),
            Err(error) => {
                troubles.skip(format!("this `start` line is not understood: {error}"));
                return Ok(());
            }
        };
        if !self.has_only_copies() {
            self.end(troubles)?;
        }
        self.host = head.host.clone().into_owned();
        self.began = ts;
        (self.seq, self.details) = (None, None);
        if !head.repeated {
            self.seq = Some(head.seq.map_or(0, |seq| seq + 1));
        }
        self.copies.clear();
        self.run = Run::Begun(first);
        Ok(())
    }

    /// The run's own lines are still to come.
    fn has_only_copies(&self) -> bool {
        matches!(self.run, Run::Begun(_)) && self.seq.is_none()
    }

    fn input(
        &mut self,
        head: &Head,
        ts: u64,
        line: &[u8],
        troubles: &mut Troubles,
    ) -> io::Result<()> {
        if matches!(self.run, Run::Told(_)) {
            return Ok(());
        }
        let input = match InputLine::parse(line) {
            Ok(input) => input,
            Err(why) => {
                troubles.skip(why);
                return Ok(());
            }
        };
        if let Some(beginning) = input.beginning() {
            self.run = match Exact::new(self.host.clone(), beginning, troubles) {
                Some(exact) => Run::Exact(Box::new(exact)),
                None => {
                    self.tell_from(ts, troubles);
                    return Ok(());
                }
            };
        }
        match (&mut self.run, head.n) {
            (Run::Exact(exact), Some(n)) => {
                exact.take(n, input, &mut self.pace, troubles, self.write)?;
                self.pass()?;
            }
            (Run::Exact(_), None) => troubles.skip("it has no `n`"),
            _ => {
                troubles.hole(
                    "inputs are missing before this one: the run is replayed from its other lines",
                );
                self.tell_from(ts, troubles);
            }
        }
        Ok(())
    }

    fn numbered(
        &mut self,
        head: &Head,
        ts: u64,
        line: &[u8],
        troubles: &mut Troubles,
    ) -> io::Result<()> {
        if let Some(why) = self.out_of_order(head, troubles) {
            troubles.skip(why);
            return Ok(());
        }
        self.tell_from(ts, troubles);
        let Run::Told(told) = &mut self.run else {
            return Ok(());
        };
        self.pace.wait_for(ts);
        match told.line(&head.r#type, ts, line, troubles, self.write) {
            Ok(written) => written?,
            Err(why) => troubles.skip(why),
        }
        self.pass()
    }

    /// Says what is missing before the line; or why it can't be used.
    fn out_of_order(&mut self, head: &Head, troubles: &mut Troubles) -> Option<String> {
        let Some(seq) = head.seq else {
            return Some("it has no `seq`".into());
        };
        let counter = match head.detail {
            true => &mut self.details,
            false => &mut self.seq,
        };
        let next = counter.unwrap_or(seq);
        if seq < next {
            return Some(format!("line {seq} of its run comes twice, or too late"));
        }
        if seq > next {
            troubles.hole(format!("{} lines are missing before this one", seq - next));
        }
        *counter = Some(seq.saturating_add(1));
        None
    }

    /// There are no inputs; and without a `start` line, the run begins now.
    fn tell_from(&mut self, ts: u64, troubles: &mut Troubles) {
        if matches!(self.run, Run::None) {
            self.run = Run::Told(Box::new(Told::new(&self.host, ts, None, troubles)));
        }
        self.tell(troubles);
    }

    fn tell(&mut self, troubles: &mut Troubles) {
        if let Run::Begun(first) = &self.run {
            let mut told = Told::new(&self.host, self.began, Some(first), troubles);
            for line in self.copies.drain(..) {
                if let Err(why) = told.copy(&line) {
                    troubles.hole(why);
                }
            }
            self.run = Run::Told(Box::new(told));
        }
    }

    fn pass(&mut self) -> io::Result<()> {
        self.flush_from(if self.pace.is_real_time() { 1 } else { CHUNK })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flush_from(1)
    }

    /// If so many bytes have gathered.
    fn flush_from(&mut self, least: usize) -> io::Result<()> {
        let stream = match &mut self.run {
            Run::Exact(exact) => exact.stream(),
            Run::Told(told) => told.stream(),
            Run::None | Run::Begun(_) => return Ok(()),
        };
        if stream.lines().len() < least {
            return Ok(());
        }
        let written = (self.write)(stream.batch_mut());
        stream.clear();
        written
    }
}
