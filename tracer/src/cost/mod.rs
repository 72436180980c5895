//! What tracer itself costs, and the guard that keeps it from costing more than it may.

mod guard;
mod peak;
mod process;
mod programs;
mod stats;

pub use guard::{Change, Guard};
pub use peak::Peak;
pub use process::{cpu, rss};
pub use programs::Programs;
pub use stats::{Fills, Now, Report};
