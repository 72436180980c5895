//! What `tracer replay` makes all other lines from.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::units::rfc3339;
use crate::input;

/// Only with `--replayable`: one thing that went into tracer, for `tracer replay` of the same version. Internal, and
/// no part of the contract: leave these lines out. They are counted by `n`, and have no `seq`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "input_line")]
pub struct Input<'a> {
    /// Version of the schema.
    pub v: u32,
    #[schemars(extend("const" = "input"))]
    pub r#type: &'static str,
    /// When it happened, or the latest input with a time.
    #[serde(serialize_with = "rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub ts: Timestamp,
    /// Counts the inputs of this run from 0.
    pub n: u64,
    /// Name of the host.
    pub host: &'a str,
    /// What `--label` says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub labels: Option<&'a BTreeMap<String, String>>,
    #[schemars(with = "Value")]
    pub input: &'a input::Input<'a>,
    /// What the host said when it was asked meanwhile. Left out when it was not.
    #[serde(skip_serializing_if = "<[_]>::is_empty", default)]
    #[schemars(with = "Vec<Value>")]
    pub answers: &'a [input::Answer],
}
