//! Tells systemd how the run goes, if it was systemd that started it: `Type=notify`, `WatchdogSec=`.
//!
//! sd-notify rather than libsystemd: it does this and nothing else, and its one dependency is libc.

use std::time::Duration;

use sd_notify::{NotifyState, notify, watchdog_enabled};

/// The watchdog's period must be longer than that of the ticks that feed it.
const SHORTEST: Duration = Duration::from_secs(2);

/// All is attached, and the first line is written.
pub fn ready() {
    if watchdog_enabled().is_some_and(|period| period < SHORTEST) {
        log::warn!(
            "WatchdogSec= is shorter than 2 s, and tracer says once a second that it is alive"
        );
    }
    tell(&[NotifyState::Ready]);
}

/// The loop goes round: to be called by itself and by nothing else, so that one that hangs is found out.
pub fn alive() {
    if watchdog_enabled().is_some() {
        tell(&[NotifyState::Watchdog]);
    }
}

/// A sentence for `systemctl status`.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Does nothing without systemd.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = notify(state) {
        log::debug!("systemd can't be told: {error}");
    }
}
