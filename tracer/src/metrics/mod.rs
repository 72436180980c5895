//! What Prometheus is told (`--metrics`): counted as it happens ([`Tallies`]), put together once a second by the event
//! loop ([`Snapshot`]), and served by a thread of its own ([`Server`]), which the loop never waits for.

mod address;
mod page;
mod series;
mod server;
mod snapshot;
mod tallies;

pub use address::{Address, parse};
pub use page::{Format, text};
pub use series::Series;
pub use server::{Error, Listener, Publisher};
pub use snapshot::{About, Covered, Fill, Output, Pressed, Snapshot};
pub use tallies::{Failed, Losses, Tallies, Tally};

/// The value of a label that stands for everything that has no series of its own.
pub const OTHER: &str = "other";
