//! One socket: what happens to it, what it is, and what it was.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Process,
    units::{decimal, is_false, rfc3339, rfc3339_or_null, seconds},
};
use crate::{
    event::{self, Endpoint, Event, Family, Owner, Role},
    ledger::{self, EndReason},
};

/// Where a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Socket {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Of the socket; an IPv4-mapped IPv6 address is shown as IPv4, with `ipv6` here.
    pub family: Family,
    /// Null: not known yet of a socket that is only bound, or never of one that is older than the tracer.
    pub role: Option<Role>,
    pub local: Endpoint,
    pub peer: Endpoint,
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
    /// True: found by comparing with the kernel's sockets, not seen when it happened, so `ts` is too
    /// late. Left out else.
    #[serde(skip_serializing_if = "is_false", default)]
    pub corrected: bool,
}

/// A connection, or an attempt at one, that is over. `ts` is when its TIME_WAIT ended, or if it had none,
/// when it was closed.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Connection<'a> {
    #[serde(flatten)]
    pub socket: Socket,
    /// The kernel's socket cookie, never reused; null where the kernel has not made one.
    #[serde(serialize_with = "decimal")]
    #[schemars(with = "Option<String>")]
    pub cookie: Option<u64>,
    /// Who is accountable for the socket; null when nobody can be named truthfully.
    pub process: Option<Process<'a>>,
    /// How that is known.
    pub owner: Owner,
    /// The process that closed the socket or shut down its sending side; null: nobody did, or it is not
    /// known.
    pub closed_by: Option<Process<'a>>,
    /// The first transition; null: before the tracer saw the socket.
    #[serde(serialize_with = "rfc3339_or_null")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub opened: Option<Timestamp>,
    /// When the socket was closed, that is, before TIME_WAIT.
    #[serde(serialize_with = "rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub closed: Timestamp,
    /// Milliseconds from `opened` to `closed`; null when `opened` is.
    pub duration_ms: Option<f64>,
    /// Whether it came to ESTABLISHED, as far as that was seen.
    pub established: bool,
    pub end: EndReason,
    /// Payload that was sent, each byte once; null: not known.
    pub bytes_sent: Option<u64>,
    /// Payload that was received, in order; null: not known.
    pub bytes_received: Option<u64>,
    /// Seconds that the kernel kept the 4-tuple afterwards, in FIN_WAIT2 and TIME_WAIT without a socket;
    /// null: it did not.
    pub time_wait_s: Option<f64>,
    /// True: the run ended before TIME_WAIT did, and `time_wait_s` is up to then. Left out else.
    #[serde(skip_serializing_if = "is_false", default)]
    pub in_time_wait: bool,
}

/// A socket that the kernel has now, as far as tracer knows.
#[derive(Debug, Serialize, JsonSchema)]
pub struct KnownSocket<'a> {
    #[serde(flatten)]
    pub socket: Socket,
    /// CLOSE: it only holds a bound port.
    pub state: event::State,
    /// The process has closed it, and the kernel keeps its 4-tuple, in FIN_WAIT2 or TIME_WAIT.
    pub timewait: bool,
    /// The kernel's socket cookie, never reused; null where the kernel has not made one.
    #[serde(serialize_with = "decimal")]
    #[schemars(with = "Option<String>")]
    pub cookie: Option<u64>,
    /// Who is accountable for the socket; null when nobody can be named truthfully.
    pub process: Option<Process<'a>>,
    /// How that is known.
    pub owner: Owner,
    /// Of TIME_WAIT: seconds until it is due. Left out else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_s: Option<f64>,
}

impl<'a> KnownSocket<'a> {
    /// A socket as it is at `now`, and its owner.
    pub fn new(socket: &ledger::Socket, process: Option<Process<'a>>, now: u64) -> Self {
        Self {
            socket: socket.into(),
            state: socket.state,
            timewait: socket.is_timewait,
            cookie: socket.cookie,
            process,
            owner: socket.owner,
            due_s: socket.due.map(|due| seconds(due.saturating_sub(now))),
        }
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

impl From<&ledger::Socket<'_>> for Socket {
    fn from(socket: &ledger::Socket) -> Self {
        Self {
            netns: socket.netns,
            family: socket.tuple.family,
            role: socket.role,
            local: socket.tuple.local,
            peer: socket.tuple.peer,
        }
    }
}
