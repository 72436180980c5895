//! From a question to the ledger and its answer to the case that advice is given on.

use std::net::{IpAddr, Ipv4Addr};

use super::Stream;
use crate::{
    diagnosis::case::{Case, Host, Trouble},
    event::{Endpoint, Family, Task},
    ledger::{Explained, Query},
};

/// Listeners that an advice may name.
const NAMED: usize = 10;

/// No destination: what is taken from every one.
pub(super) const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
pub(super) const NOWHERE: Endpoint = Endpoint {
    ip: NOBODY,
    port: None,
};

impl Stream {
    /// Without what only a failed call has: the port that it asked for, and who has that.
    pub(super) fn case<'a>(
        &self,
        trouble: Trouble,
        query: &Query<'a>,
        explained: &'a Explained,
        host: Host,
    ) -> Case<'a> {
        let way = query.way();
        let listeners = |all: &[(u16, Option<&Task>)]| (named(all), all.len() as u32);
        let (listeners_inside, listening) = listeners(&explained.listeners);
        let (listeners_outside, listening_outside) = listeners(&explained.listeners_outside);
        Case {
            trouble,
            family: match query.local_ip {
                IpAddr::V4(_) => Family::Ipv4,
                IpAddr::V6(_) => Family::Ipv6,
            },
            local_ip: query.local_ip,
            peer: query.peer.unwrap_or(NOWHERE),
            local_port: None,
            held_by: None,
            settings: query.settings,
            budget: explained.budget,
            holders: &explained.holders,
            socket_range: query.socket_range,
            peer_is_local: way.is_some_and(|way| self.ledger.is_local(&way)),
            bound_connections: explained.bound_connections,
            listeners: listeners_inside,
            listening,
            listeners_outside,
            listening_outside,
            serving_time_wait: explained.serving_time_wait,
            open_rate: way.and_then(|way| self.pressure.open_rate(&way)),
            pid: explained
                .holders
                .iter()
                .find_map(|holder| Some(holder.task?.pid)),
            host,
        }
    }
}

/// The first listeners by the names of their processes.
fn named(listeners: &[(u16, Option<&Task>)]) -> Vec<(u16, String)> {
    let name = |task: &Task| String::from_utf8_lossy(task.comm.bytes()).into_owned();
    let listeners = listeners.iter().take(NAMED);
    listeners
        .map(|(port, task)| (*port, task.map_or_else(|| "unknown".into(), name)))
        .collect()
}
