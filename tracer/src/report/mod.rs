//! What happened, from recorded lines: read, analyse, render. Needs neither Linux nor root.

pub mod model;

pub use model::Report;
