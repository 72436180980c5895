//! A running tracer.

use std::{
    env,
    ffi::OsString,
    io::{BufReader, Read as _},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::lines::{
    Coverage, Keep, Lines, Loss, NO_NETNS, PATIENCE, Record, Snapshot, Start, Stop,
};

pub(crate) fn binary() -> OsString {
    env::var_os("TRACER_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_tracer").into())
}

pub(crate) struct Tracer {
    child: Child,
    pub lines: Arc<Lines>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

/// A start that came to an end of its own.
pub(crate) enum Started {
    Running(Tracer),
    /// Exit 1 before the first line, with this on standard error.
    Refused(String),
}

impl Tracer {
    pub(crate) fn start(args: &[&str], keep: Keep) -> Result<Started> {
        Self::start_with(&[], args, keep)
    }

    fn start_with(variables: &[(&str, &str)], args: &[&str], keep: Keep) -> Result<Started> {
        let mut command = Command::new(binary());
        // Emulated readers are slow, and no trial but those about that wants to miss what they have not read.
        let patient = [("TRACER_DRAIN_TIMEOUT", "2m"), ("TRACER_BUFFER", "1G")];
        command
            .args(args)
            .envs(patient)
            .envs(variables.iter().copied());
        let started = Self::start_as(command, keep)?;
        if let Started::Running(tracer) = &started {
            tracer.start_line()?;
        }
        Ok(started)
    }

    /// With whatever this kernel and these circumstances allow.
    pub(crate) fn start_as(mut command: Command, keep: Keep) -> Result<Started> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let stdout = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut stderr_pipe = child.stderr.take().context("no stderr")?;
        let lines = Arc::new(Lines::default());
        let stderr = Arc::new(Mutex::new(String::new()));
        let mut tracer = Self {
            child,
            lines: lines.clone(),
            stderr: stderr.clone(),
            readers: vec![
                thread::spawn(move || lines.read(stdout, keep)),
                thread::spawn(move || {
                    let mut bytes = [0; 4096];
                    while let Ok(len @ 1..) = stderr_pipe.read(&mut bytes) {
                        let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
                        stderr
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push_str(&text);
                    }
                }),
            ],
        };
        let started = tracer
            .lines
            .wait(NO_NETNS, |lines| (!lines.is_empty()).then_some(()));
        if started.is_some() {
            return Ok(Started::Running(tracer));
        }
        tracer.refusal()
    }

    /// A start that must succeed.
    pub(crate) fn started(args: &[&str], keep: Keep) -> Result<Self> {
        Self::started_with(&[], args, keep)
    }

    /// As [`Tracer::started`], in an environment with these variables.
    pub(crate) fn started_with(
        variables: &[(&str, &str)],
        args: &[&str],
        keep: Keep,
    ) -> Result<Self> {
        match Self::start_with(variables, args, keep)? {
            Started::Running(tracer) => Ok(tracer),
            Started::Refused(why) => bail!("the tracer did not start: {why}"),
        }
    }

    fn refusal(&mut self) -> Result<Started> {
        if self.child.try_wait()?.is_none() && self.lines.counts().lines == 0 {
            let _ = self.child.kill();
        }
        let status = self.wait_exit()?;
        let stderr = self.stderr();
        ensure!(
            status.code() == Some(1) && self.lines.counts().lines == 0,
            "{status} without a start record; stderr: {stderr}; {:?}",
            self.lines.bad()
        );
        ensure!(!stderr.trim().is_empty(), "exit 1 without a word");
        Ok(Started::Refused(stderr.trim().to_owned()))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stderr(&self) -> String {
        self.stderr
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What the tracer chose for each capability.
    fn coverages(&self) -> Result<Vec<Coverage>> {
        let lines = self.lines.all();
        let Some(Record::Start(Start { coverage })) = lines.first().map(|line| &line.record) else {
            bail!("the first line is not `start`");
        };
        Ok(coverage.clone())
    }

    /// What the tracer chose for a capability.
    pub(crate) fn coverage(&self, capability: &str) -> Result<Coverage> {
        let coverage = self.coverages()?;
        let row = coverage.iter().find(|row| row.capability == capability);
        let row = row.with_context(|| format!("no {capability} in {coverage:?}"))?;
        ensure!(
            row.hook.is_some() && row.backend.is_some(),
            "no hook in {row:?}"
        );
        Ok(row.clone())
    }

    fn start_line(&self) -> Result<()> {
        for capability in ["transitions", "connect_failure"] {
            self.coverage(capability)?;
        }
        for row in self.coverages()? {
            let mut reasons = row
                .limits
                .iter()
                .chain(row.refused.iter().map(|way| &way.reason));
            let refused = reasons.find(|reason| reason.contains("(verifier: "));
            ensure!(
                refused.is_none(),
                "no program is to be refused: {refused:?}"
            );
        }
        Ok(())
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid())?).context("pid 0")?;
        Ok(kill_process(pid, signal)?)
    }

    /// What it has said until now that it lost.
    pub(crate) fn losses(&self) -> Vec<Loss> {
        losses(&self.lines)
    }

    /// Every socket that it knows now.
    pub(crate) fn snapshot(&self) -> Result<Arc<Snapshot>> {
        let before = self.lines.snapshots();
        self.signal(Signal::USR2)?;
        let snapshot = self.lines.wait_snapshot(before);
        let snapshot =
            snapshot.with_context(|| format!("no snapshot; stderr: {}", self.stderr()))?;
        let ledger = &snapshot.ledger;
        ensure!(
            snapshot.counted
                == [
                    ledger.sockets,
                    ledger.timewait,
                    ledger.bound,
                    ledger.unowned
                ],
            "printed were {:?} of {ledger:?}",
            snapshot.counted
        );
        Ok(snapshot)
    }

    /// Sends the signal and reads the output to its end.
    pub(crate) fn stop(mut self, signal: Signal) -> Result<Finished> {
        self.signal(signal)?;
        self.finish()
    }

    /// Waits for the end and reads the output to its end.
    pub(crate) fn finish(&mut self) -> Result<Finished> {
        let status = self.wait_exit()?;
        Ok(Finished {
            status,
            lines: self.lines.clone(),
            stderr: self.stderr(),
        })
    }

    fn wait_exit(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                bail!("the tracer does not end; stderr: {}", self.stderr());
            }
            thread::sleep(std::time::Duration::from_millis(2));
        };
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        Ok(status)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn losses(lines: &Lines) -> Vec<Loss> {
    let lines = lines.of(NO_NETNS);
    let losses = lines.iter().filter_map(|line| match &line.record {
        Record::Loss(loss) => Some(loss.clone()),
        _ => None,
    });
    losses.collect()
}

/// What is left of a tracer.
pub(crate) struct Finished {
    pub status: ExitStatus,
    pub lines: Arc<Lines>,
    pub stderr: String,
}

impl Finished {
    /// The last line.
    pub(crate) fn stop_record(&self) -> Result<Stop> {
        match self.lines.all().last().map(|line| &line.record) {
            Some(Record::Stop(stop)) => Ok(stop.clone()),
            last => bail!(
                "the last line is not `stop` but {last:?}; stderr: {}",
                self.stderr
            ),
        }
    }

    pub(crate) fn losses(&self) -> Vec<Loss> {
        losses(&self.lines)
    }

    /// How much the loss lines say was lost at this place.
    pub(crate) fn lost_at(&self, place: &str) -> u64 {
        let losses = self.losses();
        let losses = losses.iter().filter(|loss| loss.place == place);
        losses.map(|loss| loss.events).sum()
    }

    /// Every line was readable, numbered without a gap and counted.
    pub(crate) fn check_totals(&self) -> Result<Stop> {
        let bad = self.lines.bad();
        ensure!(bad.is_empty(), "{} bad lines, first {}", bad.len(), bad[0]);
        let stop = self.stop_record()?;
        ensure!(
            stop.lines == self.lines.counts().lines,
            "stop says {} lines, {} came",
            stop.lines,
            self.lines.counts().lines
        );
        let lost: u64 = self.losses().iter().map(|loss| loss.events).sum();
        ensure!(
            stop.lost == lost,
            "stop says {} lost, the loss lines {lost}",
            stop.lost
        );
        let expected = if lost == 0 { 0 } else { 2 };
        ensure!(
            self.status.code() == Some(expected),
            "{} with {lost} lost; stderr: {}",
            self.status,
            self.stderr
        );
        Ok(stop)
    }
}
