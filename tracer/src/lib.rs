//! tracer explains TCP ephemeral port exhaustion: it watches TCP sockets, TIME_WAIT and failing `connect()` calls in
//! the kernel and writes JSON lines that say who failed, why, and who has the ports.
//!
//! The straight line: `ring` -> `decode` -> `ledger` -> `record` -> `sink`. The `stream` leads events and dumps
//! (`kernel::dump`) through the ledger, and what that says into lines, as far as the `filter` wants them.
//!
//! Tracing needs Linux. What was recorded can be read on any Unix.
#![cfg(unix)]

pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
#[cfg(target_os = "linux")]
pub mod cost;
pub mod decode;
pub mod diagnosis;
pub mod event;
pub mod filter;
pub mod host;
pub mod input;
pub mod kernel;
pub mod ledger;
pub mod metrics;
#[cfg(target_os = "linux")]
pub mod notify;
pub mod options;
pub mod pool;
pub mod privileges;
pub mod record;
pub mod replay;
pub mod report;
#[cfg(target_os = "linux")]
pub mod ring;
pub mod sink;
pub mod stream;
