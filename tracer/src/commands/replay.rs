//! `tracer replay`: a recorded stream, again.

use std::{
    io::{self, Write as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::Outcome;
use crate::{
    cli,
    replay::{Pace, Reader, Replay, Troubles},
    report::text::escape,
    stream::Batch,
};

/// How soon an interruption is seen.
const TICK: Duration = Duration::from_millis(50);

/// So long an interrupted replay may take to write its last lines.
const PATIENCE: Duration = Duration::from_secs(1);

pub fn run(args: &cli::Replay) -> Result<Outcome> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, interrupted.clone())
            .context("signals can't be received")?;
    }
    let pace = Pace::new(args.speed, interrupted.clone());
    let file = args.file.clone();
    let (sender, ended) = mpsc::channel();
    // In a thread of its own: a read of standard input may last.
    thread::spawn(move || _ = sender.send(replay(&file, pace)));
    loop {
        match ended.recv_timeout(TICK) {
            Ok(ended) => return outcome(ended),
            Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the replay broke off"),
            Err(RecvTimeoutError::Timeout) if interrupted.load(Relaxed) => {
                let ended = ended.recv_timeout(PATIENCE);
                return ended.map_or(Ok(Outcome::Done), outcome);
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn outcome(troubles: io::Result<u64>) -> Result<Outcome> {
    match troubles {
        Ok(0) => Ok(Outcome::Done),
        Ok(_) => Ok(Outcome::Lossy),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Outcome::Done),
        Err(error) => Err(error).context("standard output can't be written"),
    }
}

/// Returns the number of troubles.
fn replay(file: &Path, pace: Pace) -> io::Result<u64> {
    let name = match file.to_str() {
        Some("-") => "standard input".into(),
        _ => file.display().to_string(),
    };
    // It may quote what is in the file.
    let say = Box::new(|text: &str| super::say(escape(text)));
    let mut troubles = Troubles::new(name, say);
    let mut write = |lines: &mut Batch| {
        let mut out = io::stdout().lock();
        out.write_all(lines.bytes())?;
        out.flush()
    };
    let mut replay = Replay::new(pace, &mut write);
    let mut reader = Reader::new(file.into());
    let mut written = Ok(());
    while reader.next(&mut troubles, &mut |line, is_cut, troubles| {
        written = replay.line(line, is_cut, troubles);
        written.is_ok() && !replay.is_interrupted()
    }) {}
    written?;
    replay.end(&mut troubles)?;
    troubles.sum_up();
    Ok(troubles.count())
}
