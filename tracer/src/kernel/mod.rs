//! The kernel's side: what it is, where its fields lie, which hooks it allows, and the programs on them.

#[cfg(target_os = "linux")]
pub mod btf;
#[cfg(target_os = "linux")]
pub mod dump;
#[cfg(target_os = "linux")]
pub mod facts;
#[cfg(target_os = "linux")]
pub mod layout;
#[cfg(target_os = "linux")]
pub mod load;
#[cfg(target_os = "linux")]
pub(crate) mod mapping;
#[cfg(target_os = "linux")]
pub mod misses;
pub mod plan;
#[cfg(target_os = "linux")]
pub mod rules;
#[cfg(target_os = "linux")]
pub mod steps;
#[cfg(target_os = "linux")]
pub mod tracefs;
