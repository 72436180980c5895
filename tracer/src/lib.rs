//! tracer explains TCP ephemeral port exhaustion: it watches TCP state transitions and failing
//! `connect()` calls in the kernel and writes JSON lines that say who failed and why.
//!
//! The straight line: `ring` -> `decode` -> `stream` (-> `record`) -> `sink`.
#![cfg(target_os = "linux")]

pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod decode;
pub mod event;
pub mod host;
pub mod kernel;
pub mod ledger;
pub mod record;
pub mod ring;
pub mod sink;
pub mod stream;
