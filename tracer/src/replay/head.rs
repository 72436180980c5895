//! What every line begins with.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::error::Category;

use crate::{record::VERSION, report::time};

/// A line's common fields.
#[derive(Debug, Deserialize)]
pub(super) struct Head<'a> {
    v: u64,
    #[serde(borrow)]
    pub(super) r#type: Cow<'a, str>,
    #[serde(borrow)]
    ts: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) host: Cow<'a, str>,
    pub(super) seq: Option<u64>,
    /// It was for the flight recorder only; `seq` counts such lines by themselves.
    #[serde(default)]
    pub(super) detail: bool,
    /// The flight recorder's copy of a line that came before.
    #[serde(default)]
    pub(super) repeated: bool,
    /// In place of `seq`, of an `input` line.
    pub(super) n: Option<u64>,
}

impl<'a> Head<'a> {
    /// `Err`: why the line can't be used, in words.
    pub(super) fn parse(line: &'a [u8], is_cut: bool) -> Result<Self, String> {
        if line.is_empty() {
            return Err("an empty line".into());
        }
        let head: Self = serde_json::from_slice(line).map_err(|error| match error.classify() {
            Category::Eof if is_cut => "the last line is cut off".into(),
            Category::Data => format!("this is no line of tracer's: {}", without_line(&error)),
            _ => format!("this is not JSON: {}", without_line(&error)),
        })?;
        match head.v == u64::from(VERSION) {
            true => Ok(head),
            false => Err(format!(
                "this line is of schema version {}, and version {VERSION} can be read",
                head.v
            )),
        }
    }

    /// Nanoseconds since 1970.
    pub(super) fn ts(&self) -> Result<u64, String> {
        let ts = time::parse(&self.ts).and_then(|ts| u64::try_from(ts).ok());
        ts.ok_or_else(|| "its `ts` is no time".into())
    }
}

/// The library counts lines too: there is only one.
pub(super) fn without_line(error: &serde_json::Error) -> String {
    error.to_string().replace("line 1 column", "column")
}
