//! What the host tells outside eBPF.

pub mod cgroup;
pub mod container;
#[cfg(target_os = "linux")]
pub mod netns;
pub mod process;
