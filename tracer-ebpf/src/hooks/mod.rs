//! What each hook does, one file per topic; the entries only unpack arguments.

pub(crate) mod address;
pub(crate) mod connect;
pub(crate) mod dump;
pub(crate) mod nested;
pub(crate) mod port;
pub(crate) mod state;
pub(crate) mod syscall;
pub(crate) mod timewait;
