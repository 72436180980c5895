//! `tracer schema`: the contract, for machines.

use anyhow::Result;

use super::Outcome;
use crate::{
    record,
    sink::{Sink, Stdout},
};

pub fn run() -> Result<Outcome> {
    let mut text = serde_json::to_vec_pretty(&record::schema())?;
    text.push(b'\n');
    Stdout.write(&text)?;
    Ok(Outcome::Done)
}
