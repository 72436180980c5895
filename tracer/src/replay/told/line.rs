//! Lines as a replay reads them: what the ledger and the diagnosis can use.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Deserializer, de::Error};

use crate::{
    event::{Endpoint, Family, Owner, Reason, Role, State},
    record::{Netns, Table, Where},
};

#[derive(Deserialize)]
pub(super) struct Process {
    pub(super) id: String,
    pub(super) pid: u32,
    pub(super) tid: u32,
    pub(super) comm: String,
}

#[derive(Deserialize)]
pub(super) struct StateLine {
    pub(super) netns: u32,
    pub(super) family: Family,
    pub(super) role: Option<Role>,
    pub(super) local: Endpoint,
    pub(super) peer: Endpoint,
    pub(super) old: State,
    pub(super) new: State,
    #[serde(default, deserialize_with = "decimal")]
    pub(super) cookie: Option<u64>,
    pub(super) process: Option<Process>,
    pub(super) owner: Owner,
    #[serde(default)]
    pub(super) corrected: bool,
}

/// `connect_failed`, and `bind_failed` with its absent fields.
#[derive(Deserialize)]
pub(super) struct FailedLine {
    pub(super) netns: u32,
    pub(super) family: Family,
    pub(super) role: Option<Role>,
    pub(super) local: Endpoint,
    pub(super) peer: Option<Endpoint>,
    pub(super) errno: i32,
    pub(super) process: Option<Process>,
    pub(super) owner: Owner,
    pub(super) socket_range: Option<(u16, u16)>,
    #[serde(default)]
    pub(super) repeats: Option<u64>,
}

#[derive(Deserialize)]
pub(super) struct WhyConnect {
    pub(super) reason: Reason,
}

#[derive(Deserialize)]
pub(super) struct HowBind {
    #[serde(default)]
    pub(super) listen: bool,
}

#[derive(Deserialize)]
pub(super) struct SocketLine {
    pub(super) netns: u32,
    pub(super) family: Family,
    pub(super) local: Endpoint,
    pub(super) peer: Endpoint,
    pub(super) state: State,
    #[serde(default)]
    pub(super) timewait: bool,
    #[serde(default, deserialize_with = "decimal")]
    pub(super) cookie: Option<u64>,
    pub(super) process: Option<Process>,
    pub(super) due_s: Option<f64>,
}

#[derive(Deserialize)]
pub(super) struct UsageLine {
    pub(super) process: Option<Id>,
    #[serde(default)]
    pub(super) exited: bool,
}

#[derive(Deserialize)]
pub(super) struct Id {
    pub(super) id: String,
}

#[derive(Deserialize)]
pub(super) struct LedgerLine {
    #[serde(default)]
    pub(super) overflow: u64,
    pub(super) table: Option<Table>,
    pub(super) seeded: Option<SeededLine>,
}

#[derive(Deserialize)]
pub(super) struct SeededLine {
    pub(super) sockets: u64,
}

#[derive(Deserialize)]
pub(super) struct ProcessLine {
    pub(super) id: String,
    pub(super) exe: Option<String>,
    pub(super) start: String,
    pub(super) uid: u32,
    pub(super) cgroup: Option<String>,
    #[serde(default, deserialize_with = "decimal")]
    pub(super) cgroup_id: Option<u64>,
}

#[derive(Deserialize)]
pub(super) struct NetnsLine {
    #[serde(flatten)]
    pub(super) now: Netns,
}

#[derive(Deserialize)]
pub(super) struct LossLine {
    pub(super) events: u64,
    pub(super) r#where: Where,
    #[serde(default)]
    pub(super) resynced: bool,
    #[serde(default)]
    pub(super) dropped: BTreeMap<String, u64>,
    pub(super) output: Option<String>,
}

/// No address of a `bind_failed`'s peer.
pub(super) fn nowhere(family: Family) -> Endpoint {
    let ip = match family {
        Family::Ipv4 => IpAddr::from([0; 4]),
        Family::Ipv6 => IpAddr::from([0; 16]),
    };
    Endpoint { ip, port: None }
}

fn decimal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    let number = text.map(|text| text.parse().map_err(D::Error::custom));
    number.transpose()
}
