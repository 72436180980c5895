//! Lines as a report reads them: only what it needs, borrowed from the block they are in.

use std::{borrow::Cow, collections::BTreeMap, mem};

use serde::{Deserialize, de::IgnoredAny};

use crate::event::{Role, State};

/// A string, borrowed unless it has escapes.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(transparent)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// What every line has.
#[derive(Debug, Deserialize)]
pub struct Head<'a> {
    pub v: u64,
    #[serde(borrow)]
    pub r#type: Text<'a>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Process<'a> {
    #[serde(borrow)]
    pub id: Text<'a>,
    pub pid: u32,
    #[serde(borrow)]
    pub comm: Text<'a>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Endpoint<'a> {
    #[serde(borrow)]
    pub ip: Text<'a>,
    pub port: Option<u16>,
}

/// What every line that counts has.
pub struct Stamp<'a> {
    pub ts: Text<'a>,
    /// The line's number among those of its run; `None`: it is not one of them.
    pub seq: Option<u64>,
    /// It is a copy, with the time of the line that it is one of.
    pub repeated: bool,
    pub host: Text<'a>,
}

/// A line, whose stamp can be taken off.
pub trait Tells<'a>: Deserialize<'a> {
    fn stamp(&mut self) -> Stamp<'a>;
}

/// Declares a line: when, which, whose, and `$field`s of its own.
macro_rules! line {
    ($(#[$doc:meta])* $name:ident<$a:lifetime> { $($(#[$attribute:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Deserialize)]
        pub struct $name<$a> {
            #[serde(borrow)]
            pub ts: Text<$a>,
            #[serde(default)]
            pub seq: Option<u64>,
            /// Only the flight recorder has it, and counts such lines by themselves.
            #[serde(default)]
            pub detail: bool,
            /// The flight recorder's copy of a line that came before.
            #[serde(default)]
            pub repeated: bool,
            #[serde(borrow, default)]
            pub host: Text<$a>,
            $($(#[$attribute])* pub $field: $type,)*
        }

        impl<$a> Tells<$a> for $name<$a> {
            fn stamp(&mut self) -> Stamp<$a> {
                Stamp {
                    ts: mem::take(&mut self.ts),
                    seq: self.seq.filter(|_| !self.detail && !self.repeated),
                    repeated: self.repeated,
                    host: mem::take(&mut self.host),
                }
            }
        }
    };
}

line! {
    /// Of every other type.
    Any<'a> {}
}

line! {
    StateLine<'a> {
        netns: u32,
        role: Option<Role>,
        #[serde(borrow)]
        local: Endpoint<'a>,
        #[serde(borrow)]
        peer: Endpoint<'a>,
        old: State,
        new: State,
        #[serde(borrow, default)]
        cookie: Option<Text<'a>>,
        #[serde(borrow)]
        process: Option<Process<'a>>,
    }
}

line! {
    ConnectionLine<'a> {
        netns: u32,
        role: Option<Role>,
        #[serde(borrow)]
        local: Endpoint<'a>,
        #[serde(borrow)]
        peer: Endpoint<'a>,
        #[serde(borrow)]
        process: Option<Process<'a>>,
        #[serde(borrow)]
        opened: Option<Text<'a>>,
        #[serde(borrow)]
        closed: Text<'a>,
        #[serde(default)]
        established: bool,
        #[serde(default)]
        time_wait_s: Option<f64>,
    }
}

line! {
    /// `connect_failed` and `bind_failed`.
    FailedLine<'a> {
        netns: u32,
        #[serde(borrow)]
        local: Endpoint<'a>,
        #[serde(borrow, default)]
        peer: Option<Endpoint<'a>>,
        #[serde(borrow)]
        reason: Text<'a>,
        #[serde(borrow)]
        process: Option<Process<'a>>,
        #[serde(default)]
        repeats: Option<u64>,
        #[serde(default)]
        socket_range: Option<[u16; 2]>,
        #[serde(default)]
        budget: Option<Budget>,
        #[serde(borrow, default)]
        holders: Vec<Holder<'a>>,
        #[serde(borrow, default)]
        advice: Vec<Advice<'a>>,
    }
}

line! {
    PressureLine<'a> {
        netns: u32,
        #[serde(borrow)]
        local_ip: Option<Text<'a>>,
        #[serde(borrow)]
        peer: Option<Endpoint<'a>>,
        #[serde(borrow)]
        level: Text<'a>,
        #[serde(default)]
        used_percent: f64,
        budget: Budget,
        #[serde(default)]
        open_rate: Option<f64>,
        #[serde(default)]
        exhausts_in_s: Option<f64>,
        #[serde(borrow, default)]
        holders: Vec<Holder<'a>>,
        #[serde(borrow, default)]
        advice: Vec<Advice<'a>>,
    }
}

line! {
    UsageLine<'a> {
        netns: u32,
        #[serde(borrow)]
        process: Option<Process<'a>>,
        #[serde(default)]
        exited: bool,
        #[serde(borrow)]
        ports: BTreeMap<Text<'a>, u32>,
        #[serde(default)]
        opened: u32,
        #[serde(default)]
        closed: u32,
        #[serde(default)]
        failed: u32,
        #[serde(borrow, default)]
        top: Vec<Top<'a>>,
    }
}

line! {
    ProcessLine<'a> {
        #[serde(borrow)]
        id: Text<'a>,
        pid: u32,
        #[serde(borrow)]
        comm: Text<'a>,
        #[serde(borrow, default)]
        exe: Option<Text<'a>>,
        #[serde(borrow, default)]
        start: Option<Text<'a>>,
    }
}

line! {
    StartLine<'a> {
        #[serde(borrow)]
        tracer: Text<'a>,
        #[serde(borrow)]
        kernel: Text<'a>,
        #[serde(default)]
        netns: Vec<Settings>,
        #[serde(borrow, default)]
        filter: BTreeMap<Text<'a>, IgnoredAny>,
    }
}

line! {
    NetnsLine<'a> {
        #[serde(flatten)]
        now: Settings,
    }
}

line! {
    LedgerLine<'a> {
        #[serde(default)]
        overflow: u64,
    }
}

line! {
    LossLine<'a> {
        events: u64,
        #[serde(borrow, rename = "where")]
        place: Text<'a>,
        #[serde(default)]
        resynced: bool,
    }
}

line! {
    ShedLine<'a> {
        left_out: LeftOut,
    }
}

/// Lines that were left out, as [`crate::record::LeftOut`].
#[derive(Debug, Deserialize)]
pub struct LeftOut {
    pub state: u64,
    pub connection: u64,
}

line! {
    StopLine<'a> {
        lines: u64,
        #[serde(default)]
        failures: u64,
        #[serde(default)]
        bind_failures: u64,
    }
}

/// Where ports lead.
#[derive(Debug, Deserialize)]
pub struct Top<'a> {
    #[serde(borrow)]
    pub local_ip: Text<'a>,
    #[serde(borrow)]
    pub peer: Endpoint<'a>,
    pub ports: u32,
    #[serde(default)]
    pub time_wait: u32,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Budget {
    pub range: u32,
    #[serde(default)]
    pub reserved: u32,
    #[serde(default)]
    pub bound: u32,
    #[serde(default)]
    pub in_use: u32,
    #[serde(default)]
    pub time_wait: u32,
    #[serde(default)]
    pub free: u32,
}

#[derive(Debug, Deserialize)]
pub struct Holder<'a> {
    #[serde(borrow)]
    pub process: Option<Process<'a>>,
    /// It is the row of so many processes.
    #[serde(default)]
    pub others: Option<u32>,
    #[serde(borrow, default)]
    pub states: BTreeMap<Text<'a>, u32>,
    #[serde(default)]
    pub bound: u32,
}

#[derive(Debug, Deserialize)]
pub struct Advice<'a> {
    #[serde(borrow)]
    pub id: Text<'a>,
    #[serde(borrow)]
    pub why: Text<'a>,
    #[serde(borrow)]
    pub how: Text<'a>,
}

/// The settings of a network namespace; null: not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Settings {
    pub netns: u32,
    #[serde(default)]
    pub range: Option<[u16; 2]>,
    #[serde(default)]
    pub reserved: Option<u32>,
    #[serde(default)]
    pub tw_reuse: Option<u8>,
    #[serde(default)]
    pub tw_reuse_delay_ms: Option<u32>,
    #[serde(default)]
    pub timestamps: Option<bool>,
    #[serde(default)]
    pub max_tw_buckets: Option<u32>,
}

impl PartialOrd for Text<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}
