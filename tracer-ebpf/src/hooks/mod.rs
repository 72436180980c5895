//! What each hook does, one file per topic; the entries in `main.rs` only unpack arguments.

pub(crate) mod connect;
pub(crate) mod state;
pub(crate) mod syscall;
