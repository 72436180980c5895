//! Who.

use std::borrow::Cow;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::units::{decimal, rfc3339};

/// A process, briefly; the line of type `process` with the same `id` has the rest.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Process<'a> {
    /// Pid and start time: a reused pid has another id.
    pub id: &'a str,
    /// In the initial pid namespace.
    pub pid: u32,
    /// The thread, in the initial pid namespace.
    pub tid: u32,
    /// Name of the process; bytes that are not UTF-8 are replaced.
    pub comm: Cow<'a, str>,
    /// The same as JSON, if it has been written before.
    #[serde(skip)]
    pub json: Option<&'a str>,
}

/// A process with all its threads, briefly; the line of type `process` with the same `id` has the rest.
#[derive(Debug, Serialize, JsonSchema)]
pub struct WholeProcess<'a> {
    /// Pid and start time: a reused pid has another id.
    pub id: &'a str,
    /// In the initial pid namespace.
    pub pid: u32,
    /// Name of the process; bytes that are not UTF-8 are replaced.
    pub comm: Cow<'a, str>,
}

/// Identity of a process, once, before the first line that refers to it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ProcessIdentity {
    pub id: String,
    pub pid: u32,
    pub comm: String,
    /// The executable; null if the process was gone when we looked.
    pub exe: Option<String>,
    /// When it started.
    #[serde(serialize_with = "rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub start: Timestamp,
    /// In the initial user namespace.
    pub uid: u32,
    /// Path in the cgroup hierarchy; null if the process was gone when we looked.
    pub cgroup: Option<String>,
    /// Id of the cgroup v2 directory (its inode number).
    #[serde(serialize_with = "decimal")]
    #[schemars(with = "Option<String>")]
    pub cgroup_id: Option<u64>,
    pub container: Option<Container>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Container {
    pub runtime: &'static str,
    /// As the runtime shows it, in full.
    pub id: String,
}
