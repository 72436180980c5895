//! What tracer may do, as whom, and for how long.

#[cfg(target_os = "linux")]
mod needs;
#[cfg(target_os = "linux")]
mod shed;
mod user;

#[cfg(target_os = "linux")]
pub use needs::*;
#[cfg(target_os = "linux")]
pub use shed::shed;
pub use user::{User, user};
