//! What a user sees: one JSON object per line, schema version 1.
//!
//! Readers ignore fields that they do not know; a field is never renamed within a version.

use std::{borrow::Cow, marker::PhantomData};

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

mod failure;
mod pressure;
mod process;
mod run;
mod socket;
mod units;
mod usage;

pub use failure::{BindFailed, BindReason, Budget, ConnectFailed, Holder, Shortage, Told};
pub use pressure::{Level, Outlook, Pressure};
pub use process::{Container, Process, ProcessIdentity, WholeProcess};
pub use run::{Coverage, Loss, Netns, NetnsSettings, Refused, Start, Stop, Where};
pub use socket::{Connection, KnownSocket, Socket, State};
use units::rfc3339;
pub use units::{milliseconds, seconds};
pub use usage::{Destination, Ledger, Ports, Seeded, Serving, Table, Usage};

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

macro_rules! body {
    ($($body:ty = $name:literal)*) => {
        $(impl Body for $body { const TYPE: &'static str = $name; })*
    };
}

body! {
    Start = "start"
    State<'_> = "state"
    ConnectFailed<'_> = "connect_failed"
    BindFailed<'_> = "bind_failed"
    Pressure<'_> = "pressure"
    NetnsSettings = "netns"
    Connection<'_> = "connection"
    KnownSocket<'_> = "socket"
    Usage<'_> = "usage"
    Ledger = "ledger"
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
    BindFailed(Line<'static, BindFailed<'static>>),
    Pressure(Line<'static, Pressure<'static>>),
    Netns(Line<'static, NetnsSettings>),
    Connection(Line<'static, Connection<'static>>),
    Socket(Line<'static, KnownSocket<'static>>),
    Usage(Line<'static, Usage<'static>>),
    Ledger(Line<'static, Ledger>),
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
