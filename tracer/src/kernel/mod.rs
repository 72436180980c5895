//! The kernel's side: what it is, where its fields lie, which hooks it allows, and the programs on them.

pub mod btf;
pub mod dump;
pub mod facts;
pub mod layout;
pub mod load;
pub mod misses;
pub mod plan;
pub mod rules;
pub mod tracefs;
