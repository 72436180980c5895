//! What the host tells outside eBPF.

pub mod container;
pub mod netns;
pub mod process;
