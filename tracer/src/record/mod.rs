//! What a user sees: one JSON object per line, schema version 1.
//!
//! Readers ignore fields that they do not know; a field is never renamed within a version.

use std::{borrow::Cow, collections::BTreeMap, marker::PhantomData};

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

mod failure;
mod input;
mod pressure;
mod process;
mod quick;
mod recording;
mod run;
mod socket;
mod stats;
mod units;
mod usage;

pub use failure::{BindFailed, BindReason, Budget, ConnectFailed, Holder, Shortage, Told};
pub use input::Input;
pub use pressure::{Level, Outlook, Pressure};
pub use process::{Container, Process, ProcessIdentity, WholeProcess};
pub use recording::{Cause, Event as RecordingEvent, Recording};
pub use run::{Coverage, Loss, Netns, NetnsSettings, Refused, Start, Stop, Where};
pub use socket::{Connection, KnownSocket, Socket, State};
pub use stats::{Bpf, LeftOut, Program, Shed, Shedding, Stats, Waiting};
use units::{is_false, rfc3339};
pub use units::{milliseconds, seconds, tenths};
pub use usage::{Destination, Ledger, Ports, Seeded, Serving, Table, Usage};

/// Version of the records.
pub const VERSION: u32 = 1;

/// The body of a kind of line.
pub trait Body: Serialize {
    const KIND: Kind;
    /// The value of `type`.
    const TYPE: &'static str = Self::KIND.name();

    /// Appends the line, without its newline.
    fn write(line: &Line<'_, Self>, to: &mut Vec<u8>) -> serde_json::Result<()>
    where
        Self: Sized,
    {
        serde_json::to_writer(to, line)
    }
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
    /// Counts the lines of this run from 0, those included that were dropped: a gap is a lost line.
    pub seq: u64,
    /// Name of the host.
    pub host: &'a str,
    /// What `--label` says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub labels: Option<&'a BTreeMap<String, String>>,
    /// A line that the flight recorder alone has, because the output leaves such lines out; `seq` counts these by
    /// themselves.
    #[serde(skip_serializing_if = "is_false", default)]
    pub detail: bool,
    /// A copy of a line that was before the lines of this file: in what the flight recorder keeps.
    #[serde(skip_serializing_if = "is_false", default)]
    pub repeated: bool,
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

/// The kinds of lines, each with its name and its body, and perhaps an own way to be written.
macro_rules! kinds {
    ($($kind:ident = $name:literal: $body:ty $(=> $write:path)?;)*) => {
        /// What a line is one of: its `type`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $($kind),* }

        impl Kind {
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The value of `type`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name),* }
            }
        }

        $(impl Body for $body {
            const KIND: Kind = Kind::$kind;

            $(fn write(line: &Line<'_, Self>, to: &mut Vec<u8>) -> serde_json::Result<()> {
                $write(line, to)
            })?
        })*
    };
}

kinds! {
    Start = "start": Start;
    Process = "process": ProcessIdentity;
    State = "state": State<'_> => quick::state;
    ConnectFailed = "connect_failed": ConnectFailed<'_>;
    BindFailed = "bind_failed": BindFailed<'_>;
    Pressure = "pressure": Pressure<'_>;
    Netns = "netns": NetnsSettings;
    Connection = "connection": Connection<'_> => quick::connection;
    Usage = "usage": Usage<'_>;
    Ledger = "ledger": Ledger;
    Socket = "socket": KnownSocket<'_>;
    Recording = "recording": Recording;
    Loss = "loss": Loss<'_>;
    Stats = "stats": Stats;
    Shed = "shed": Shed;
    Stop = "stop": Stop;
    Input = "input": Input<'_>;
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
    Recording(Line<'static, Recording>),
    Loss(Line<'static, Loss<'static>>),
    Stats(Line<'static, Stats>),
    Shed(Line<'static, Shed>),
    Stop(Line<'static, Stop>),
    Input(Input<'static>),
}

/// The JSON Schema of a line, made from the types above.
pub fn schema() -> Schema {
    let mut schema = schemars::schema_for!(AnyLine);
    schema.insert("title".into(), "tracer".into());
    schema
}
