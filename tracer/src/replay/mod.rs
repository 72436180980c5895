//! A recorded stream through the ledger and the diagnosis again. Needs neither Linux nor root.

mod exact;
mod head;
mod keys;
mod pace;
mod reader;
mod run;
mod told;
mod trouble;

pub use pace::Pace;
pub use reader::Reader;
pub use run::Replay;
pub use trouble::Troubles;
