//! What becomes of the flight recorder.

use schemars::JsonSchema;
use serde::Serialize;

/// The flight recorder kept something, or can't.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Recording {
    pub event: Event,
    /// Why it was kept.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cause: Option<Cause>,
    /// What it is kept in; `tracer report` reads it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file: Option<String>,
    /// Why it can't be.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The last minutes are kept; the following one is added.
    Frozen,
    /// That minute is over: the file is whole.
    Closed,
    /// The last minutes could not be kept.
    Failed,
    /// Nothing can be recorded for now; it is tried again.
    Paused,
    Resumed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A `connect()` or `bind()` failed for the lack of a port.
    Failure,
    /// A destination became critical.
    Pressure,
    /// SIGUSR1.
    Asked,
}
