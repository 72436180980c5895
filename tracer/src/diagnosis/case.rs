//! All that is known about one failure, or one destination that runs out of ports.

use std::net::IpAddr;

use crate::{
    event::{Endpoint, Family, State},
    ledger::{Budget, Holder},
    pool::Settings,
};

/// What went wrong, or is about to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// `connect()` found no free port, or soon will.
    NoPort,
    /// `bind()` to port 0, or `listen()` without `bind()`, found no free port.
    NoPortToBind,
    /// `bind()` to a port that somebody has.
    AddressInUse,
    /// `connect()` from a bound port whose 4-tuple is taken.
    TupleInUse,
    /// The host has no source address for the destination.
    NoSourceAddress,
}

#[derive(Clone, Debug)]
pub struct Case<'a> {
    pub trouble: Trouble,
    pub family: Family,
    pub local_ip: IpAddr,
    /// Port `None` with an unspecified address: no destination, as for `bind()`.
    pub peer: Endpoint,
    pub settings: &'a Settings,
    pub budget: Budget,
    /// Complete, most ports first; they add up to `budget.in_use + budget.bound`.
    pub holders: &'a [Holder<'a>],
    /// IP_LOCAL_PORT_RANGE of the socket that failed.
    pub socket_range: Option<(u16, u16)>,
    /// The peer is a socket of this host too, as far as is known.
    pub peer_is_local: bool,
    /// Of `budget.bound`: ports of connections that were bound (to port 0 or another) before `connect()`.
    pub bound_connections: u32,
    /// Of `budget.bound`: ports of listeners in the range, the lowest first, and whose they are
    /// (the name of the process, lossy); at most ten.
    pub listeners: Vec<(u16, String)>,
    /// All of those.
    pub listening: u32,
    /// TIME_WAIT entries of accepted connections in the network namespace: they hold no ephemeral port.
    pub serving_time_wait: u64,
    /// New connections to the destination per second; `None`: not known.
    pub open_rate: Option<f64>,
    pub host: Host,
}

/// What the host itself says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Host {
    /// `nf_conntrack_count` and `nf_conntrack_max`.
    pub conntrack: Option<(u64, u64)>,
    /// Connections that were dropped because the accept backlog of a listener was full (`ListenOverflows`
    /// in /proc/net/netstat).
    pub listen_overflows: Option<u64>,
    /// Whether the network namespace has an address, loopback's aside, of this family, on an interface that
    /// is up; `None`: not known.
    pub has_ipv4: Option<bool>,
    pub has_ipv6: Option<bool>,
    /// `net.ipv6.conf.all.disable_ipv6`, or that of `lo`.
    pub ipv6_disabled: Option<bool>,
}

impl Case<'_> {
    /// How many ports all holders have in this state.
    pub fn in_state(&self, state: State) -> u32 {
        let holders = self.holders.iter();
        holders.filter_map(|holder| holder.states.get(&state)).sum()
    }
}
