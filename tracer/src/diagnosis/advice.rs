//! What to change, and what not.

use schemars::JsonSchema;
use serde::Serialize;

use super::case::Case;

/// One thing to do, or not to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Advice {
    pub id: &'static str,
    pub why: String,
    pub how: String,
}

pub fn advice(_: &Case) -> Vec<Advice> {
    Vec::new()
}
