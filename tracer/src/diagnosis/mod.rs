//! From what the ledger knows to what it means: why a call failed, what comes next, what to change. Pure.

pub mod advice;
pub mod case;
pub mod forecast;
