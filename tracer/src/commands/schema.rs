//! `tracer schema`: the contract, for machines.

use anyhow::Result;

use super::{Outcome, print};
use crate::record;

pub fn run() -> Result<Outcome> {
    let mut text = serde_json::to_vec_pretty(&record::schema())?;
    text.push(b'\n');
    print(&text)?;
    Ok(Outcome::Done)
}
