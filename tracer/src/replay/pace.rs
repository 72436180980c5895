//! As fast as it was, or so many times as fast.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// How soon an interruption is seen.
const SLICE: Duration = Duration::from_millis(50);

/// A longer gap is none of a running tracer, but the time of day was set or lines are missing.
const LONGEST: u64 = Duration::from_secs(3600).as_nanos() as u64;

pub struct Pace {
    /// `None`: as fast as possible.
    speed: Option<f64>,
    interrupted: Arc<AtomicBool>,
    /// Recorded time, nanoseconds, and when that was replayed.
    latest: Option<(u64, Instant)>,
}

impl Pace {
    pub fn new(speed: Option<f64>, interrupted: Arc<AtomicBool>) -> Self {
        Self {
            speed,
            interrupted,
            latest: None,
        }
    }

    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Relaxed)
    }

    /// Whether lines should be shown as soon as they are made.
    pub fn is_real_time(&self) -> bool {
        self.speed.is_some()
    }

    /// Waits until it is time for something that was recorded at `ts`.
    pub fn wait_for(&mut self, ts: u64) {
        let Some(due) = self.due(ts) else {
            if self.speed.is_some() {
                self.latest = Some((ts, Instant::now()));
            }
            return;
        };
        while !self.is_interrupted() {
            let rest = due.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                break;
            }
            thread::sleep(rest.min(SLICE));
        }
        if self.latest.is_some_and(|(latest, _)| ts > latest) {
            self.latest = Some((ts, due));
        }
    }

    /// `None`: at once.
    fn due(&self, ts: u64) -> Option<Instant> {
        let (speed, (latest, then)) = self.speed.zip(self.latest)?;
        let gap = ts.saturating_sub(latest);
        let gap = if gap > LONGEST { 0 } else { gap };
        Some(then + Duration::from_nanos(gap).div_f64(speed))
    }
}
