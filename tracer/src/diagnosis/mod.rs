//! From what the ledger knows to what it means: why a call failed, what comes next, what to change. Pure.

pub mod advice;
pub mod case;
pub mod failures;
pub mod forecast;
pub mod pressure;
pub mod surroundings;
