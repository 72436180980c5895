//! What a user sees: one JSON object per line, schema version 1.
//!
//! Readers ignore fields that they do not know; a field is never renamed within a version.

use std::{borrow::Cow, marker::PhantomData};

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use crate::{
    event::{self, Endpoint, Event, Family, Owner, Reason, Role},
    kernel::plan::{Backend, Capability},
};

/// Version of the records.
pub const VERSION: u32 = 1;

/// The body of a kind of line.
pub trait Body: Serialize {
    /// The value of `type`.
    const TYPE: &'static str;
}

/// One line.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "{B}Line")]
pub struct Line<'a, B: Body> {
    /// Version of the schema.
    pub v: u32,
    pub r#type: Type<B>,
    /// When it happened: RFC 3339, UTC, nanoseconds; for events taken in the kernel.
    #[serde(serialize_with = "rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub ts: Timestamp,
    /// Counts the lines of this run from 0: a gap is a lost line.
    pub seq: u64,
    /// Name of the host.
    pub host: &'a str,
    #[serde(flatten)]
    pub body: &'a B,
}

/// Serializes to the name of `B`.
#[derive(Debug)]
pub struct Type<B>(pub PhantomData<B>);

impl<B: Body> Serialize for Type<B> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(B::TYPE)
    }
}

impl<B: Body> JsonSchema for Type<B> {
    fn schema_name() -> Cow<'static, str> {
        format!("type_{}", B::TYPE).into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "const": B::TYPE })
    }
}

fn rfc3339<S: Serializer>(ts: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{ts:.9}"))
}

/// The first line: what is watched, and how.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Start {
    /// Version of tracer.
    pub tracer: String,
    /// Release of the kernel, as `uname -r` prints it.
    pub kernel: String,
    pub coverage: Vec<Coverage>,
    /// The network namespace that tracer runs in.
    pub netns: Vec<Netns>,
}

/// How one capability is covered.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Coverage {
    pub capability: Capability,
    /// The function or tracepoint in use; null: this capability is not to be had here.
    pub hook: Option<&'static str>,
    pub backend: Option<Backend>,
    /// Better hooks that were not used, and why.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub refused: Vec<Refused>,
    /// What this hook does not see.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub limits: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Refused {
    pub hook: &'static str,
    pub backend: Backend,
    pub reason: String,
}

/// The settings of a network namespace that govern its ports; null where the kernel has none.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Netns {
    /// Inode number.
    pub netns: u32,
    /// `ip_local_port_range`: first and last ephemeral port, both inclusive.
    pub range: Option<[u16; 2]>,
    /// Number of ports in `ip_local_reserved_ports`.
    pub reserved: Option<u32>,
    /// `tcp_tw_reuse`.
    pub tw_reuse: Option<u8>,
    /// `tcp_max_tw_buckets`: TIME_WAIT entries above this number are not kept.
    pub max_tw_buckets: Option<u32>,
}

/// A TCP state transition.
#[derive(Debug, Serialize, JsonSchema)]
pub struct State<'a> {
    #[serde(flatten)]
    pub socket: Socket,
    pub old: event::State,
    pub new: event::State,
    /// The kernel's socket cookie, never reused; null where the kernel has not made one.
    #[serde(serialize_with = "decimal")]
    #[schemars(with = "Option<String>")]
    pub cookie: Option<u64>,
    /// Who is accountable for the socket; null when nobody can be named truthfully.
    pub process: Option<Process<'a>>,
    /// How that is known.
    pub owner: Owner,
}

/// A `connect()` that failed because of its local address or port.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ConnectFailed<'a> {
    #[serde(flatten)]
    pub socket: Socket,
    pub errno: i32,
    pub error: &'static str,
    pub reason: Reason,
    pub process: Option<Process<'a>>,
    pub owner: Owner,
}

/// Where a socket is.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Socket {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Of the socket; an IPv4-mapped IPv6 address is shown as IPv4, with `ipv6` here.
    pub family: Family,
    /// Null: the socket is older than the tracer.
    pub role: Option<Role>,
    pub local: Endpoint,
    pub peer: Endpoint,
}

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

/// Something was lost; it is counted where it was.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Loss {
    /// How many, since the last such line.
    pub events: u64,
    pub r#where: Where,
    /// Whether the picture has been made whole again.
    pub resynced: bool,
}

/// The last line.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Stop {
    /// Lines of this run, this one included.
    pub lines: u64,
    /// Events that the kernel side reported.
    pub events: u64,
    /// The sum of all `loss` lines.
    pub lost: u64,
    /// Lines of type `connect_failed`.
    pub failures: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Where {
    /// The ring buffer was full: events are missing.
    Ring,
    /// The kernel skipped a run of a program, because one was running on that CPU already: events are
    /// missing.
    Program,
    /// A record was not understood.
    Output,
    /// The kernel-side socket table was full: the later lines of so many sockets lack their owner.
    Table,
}

macro_rules! body {
    ($($body:ty = $name:literal)*) => {
        $(impl Body for $body { const TYPE: &'static str = $name; })*
    };
}

body! {
    Start = "start"
    State<'_> = "state"
    ConnectFailed<'_> = "connect_failed"
    ProcessIdentity = "process"
    Loss = "loss"
    Stop = "stop"
}

/// One line of tracer's output. Ignore fields that are not described here: more may come.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "names the line types for the schema; never built")]
enum AnyLine {
    Start(Line<'static, Start>),
    State(Line<'static, State<'static>>),
    ConnectFailed(Line<'static, ConnectFailed<'static>>),
    Process(Line<'static, ProcessIdentity>),
    Loss(Line<'static, Loss>),
    Stop(Line<'static, Stop>),
}

/// The JSON Schema of a line, made from the types above.
pub fn schema() -> Schema {
    let mut schema = schemars::schema_for!(AnyLine);
    schema.insert("title".into(), "tracer".into());
    schema
}

/// 64-bit ids are strings: JSON numbers lose digits above 2^53 in many readers.
fn decimal<S: Serializer>(id: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    match id {
        Some(id) => serializer.collect_str(id),
        None => serializer.serialize_none(),
    }
}

impl From<&Event> for Socket {
    fn from(event: &Event) -> Self {
        Self {
            netns: event.netns,
            family: event.tuple.family,
            role: event.role,
            local: event.tuple.local,
            peer: event.tuple.peer,
        }
    }
}
