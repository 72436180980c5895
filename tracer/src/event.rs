//! What happened to a socket, and the words for it. Records use the same words.

use std::net::IpAddr;

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What happened to a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub ts: u64,
    /// An opaque key, unique among the sockets and timewait sockets alive at one moment.
    pub sock: u64,
    /// The kernel's socket cookie; `None` where the kernel has not made one.
    pub cookie: Option<u64>,
    /// Inode number of the network namespace.
    pub netns: u32,
    pub tuple: Tuple,
    /// The port that the socket itself holds at this moment. A client's is given back before its transition
    /// to CLOSE, or passed to the timewait socket; one bound to an explicit port keeps it until it is
    /// destroyed.
    pub held: Option<u16>,
    pub role: Option<Role>,
    pub owner: Owner,
    /// The accountable task; `None` exactly with [`Owner::None`]. With [`Kind::ClosedBy`] the one that closed.
    pub task: Option<Task>,
    pub kind: Kind,
    /// Of a transition to a timewait socket: the connection has TCP timestamps.
    pub timestamps: bool,
    /// Of a failure: IP_LOCAL_PORT_RANGE of the socket, first and last port.
    pub socket_range: Option<(u16, u16)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    State {
        old: State,
        new: State,
        /// What is known when `new` is CLOSE, or when a timewait socket takes over.
        end: Option<End>,
    },
    /// `connect()` failed with this (positive) errno.
    ConnectFailed { errno: i32, reason: Reason },
    /// `bind()`, or `listen()` without it, failed with this (positive) errno: the local port is the one that was
    /// asked for, none: any.
    BindFailed { errno: i32, listens: bool },
    /// `bind()`, or `listen()` without it, gave the socket the port [`Event::held`].
    Bound,
    /// A socket that held a port of its own is destroyed, and the port is free.
    Released,
    /// The socket, which connects, has its local port now, and waits for the answer.
    Port,
    /// The task accepted the connection; the state is that of the socket now. Without [`Event::held`] it is over, whatever
    /// the state: its end has been told, or is next.
    Accepted { state: State },
    /// The task, which is not the owner, closed the socket or shut down its sending side.
    ClosedBy,
}

/// How a socket ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The timewait socket that takes its place under the same 4-tuple: [`Event::sock`] of its later events.
    pub timewait: Option<u64>,
    /// `sk_err`, a positive errno; 0: none.
    pub error: i32,
    /// Bytes of payload, not counting what was sent again.
    pub sent: u64,
    /// Bytes of payload, in order.
    pub received: u64,
    /// The kernel gave up what both sides could still have closed, without an error: data came for a socket that nobody
    /// has any more, or `close()` found some unread. The peer gets an RST.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub given_up: bool,
}

/// A socket that the kernel had when it was asked, or one descriptor of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// As [`Event::sock`].
    pub sock: u64,
    pub cookie: Option<u64>,
    pub netns: u32,
    pub tuple: Tuple,
    pub held: Option<u16>,
    pub state: State,
    /// Of a timewait socket: when it is due, `CLOCK_MONOTONIC`, nanoseconds; a time that has passed when it is overdue.
    pub due: Option<u64>,
    /// Who has a descriptor of it.
    pub holder: Option<Task>,
    /// Of a timewait socket: the connection had TCP timestamps.
    pub timestamps: bool,
    /// Whom its port is open to, by the kernel's own word; `None`: it has no port, or it is not known.
    pub mode: Option<Mode>,
    /// It got its port from `connect()`; `None` where the kernel does not tell (before 6.18).
    pub connect_bind: Option<bool>,
}

/// Whom a port is open to that somebody has (`fastreuse` of its `struct inet_bind_bucket`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// To every other destination: `connect()` gave it out.
    Connect,
    /// To nobody: it was bound.
    Bind,
}

/// A 4-tuple. IPv4-mapped IPv6 addresses have become IPv4; `family` tells what the socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tuple {
    pub family: Family,
    pub local: Endpoint,
    pub peer: Endpoint,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    pub uid: u32,
    /// Start of the process, nanoseconds since boot.
    pub start_ns: u64,
    /// Id of the cgroup v2 directory.
    pub cgroup: u64,
    /// The process's name as the kernel keeps it, up to the first NUL; any bytes.
    pub comm: Comm,
}

/// At most 15 bytes of any value. Serialized as a string with a character for each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub struct Comm(pub [u8; 16]);

impl Comm {
    pub fn bytes(&self) -> &[u8] {
        let end = self.0.iter().position(|byte| *byte == 0);
        &self.0[..end.unwrap_or(self.0.len())]
    }
}

impl From<Comm> for String {
    fn from(comm: Comm) -> Self {
        comm.bytes().iter().copied().map(char::from).collect()
    }
}

/// What does not fit is left out.
impl From<String> for Comm {
    fn from(text: String) -> Self {
        let mut comm = [0; 16];
        for (to, from) in comm.iter_mut().take(15).zip(text.chars()) {
            *to = u8::try_from(from).unwrap_or(b'?');
        }
        Self(comm)
    }
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub struct Endpoint {
    pub ip: IpAddr,
    /// Null: none was chosen, or it is not known.
    pub port: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    /// As records have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Role {
    /// It called `connect()`.
    Client,
    /// The kernel made it for an incoming connection.
    Server,
    /// It called `listen()`.
    Listener,
}

impl Role {
    /// As records have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Listener => "listener",
        }
    }
}

/// How the owner is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// It called `connect()`.
    Connect,
    /// It called `bind()` or `listen()`, and holds the port.
    Bind,
    /// It called `accept()`.
    Accept,
    /// It called `listen()`, and has not yet accepted the connection.
    Inherited,
    /// It had a descriptor of a socket that is older than the tracer, or whose beginning was lost.
    Snapshot,
    /// Not known.
    None,
}

impl Owner {
    /// As records have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Bind => "bind",
            Self::Accept => "accept",
            Self::Inherited => "inherited",
            Self::Snapshot => "snapshot",
            Self::None => "none",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Every port of the range is taken for this destination.
    PortsExhausted,
    /// The socket was bound to a source port, and its 4-tuple is taken.
    TupleInUse,
    /// The host has no source address for this destination: not exhaustion at all.
    NoSourceAddress,
    /// None of these.
    Unknown,
}

/// TCP states under the names that users of `ss` know.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    ValueEnum,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[value(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    #[serde(rename = "ESTABLISHED")]
    Established,
    #[serde(rename = "SYN_SENT")]
    SynSent,
    #[serde(rename = "SYN_RECV")]
    SynRecv,
    #[serde(rename = "FIN_WAIT1")]
    FinWait1,
    #[serde(rename = "FIN_WAIT2")]
    FinWait2,
    #[serde(rename = "TIME_WAIT")]
    TimeWait,
    #[serde(rename = "CLOSE")]
    Close,
    #[serde(rename = "CLOSE_WAIT")]
    CloseWait,
    #[serde(rename = "LAST_ACK")]
    LastAck,
    #[serde(rename = "LISTEN")]
    Listen,
    #[serde(rename = "CLOSING")]
    Closing,
}

impl State {
    /// As records have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "ESTABLISHED",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::FinWait1 => "FIN_WAIT1",
            Self::FinWait2 => "FIN_WAIT2",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
        }
    }
}
