//! All that is known about one failure, or one destination that runs out of ports.

use std::net::IpAddr;

use crate::{
    event::{Endpoint, Family, State},
    ledger::{Budget, Holder, Socket},
    pool::Settings,
};

use super::forecast::TIME_WAIT_HOLD;

/// What went wrong, or is about to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// `connect()` found no free port, or soon will.
    NoPort,
    /// `bind()` to port 0 found no free port.
    NoPortToBind,
    /// The same of `listen()` without `bind()`.
    NoPortToListen,
    /// `bind()` to a port that somebody has.
    AddressInUse,
    /// `connect()` from a bound port whose 4-tuple is taken.
    TupleInUse,
    /// The host has no source address for the destination.
    NoSourceAddress,
}

impl Trouble {
    /// Whether it is about ports that are all taken.
    pub fn is_shortage(self) -> bool {
        matches!(
            self,
            Self::NoPort | Self::NoPortToBind | Self::NoPortToListen
        )
    }
}

#[derive(Clone, Debug)]
pub struct Case<'a> {
    pub trouble: Trouble,
    pub family: Family,
    pub local_ip: IpAddr,
    /// The port that was asked for, with [`Trouble::AddressInUse`] and [`Trouble::TupleInUse`].
    pub local_port: Option<u16>,
    /// The socket that has it, as far as is known.
    pub held_by: Option<Socket<'a>>,
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
    /// As `listeners`, of listeners on ports from 1024 that are outside the range of the sysctl: they would
    /// come to be inside a wider one.
    pub listeners_outside: Vec<(u16, String)>,
    /// All of those.
    pub listening_outside: u32,
    /// TIME_WAIT entries of accepted connections in the network namespace: they hold no ephemeral port.
    pub serving_time_wait: u64,
    /// New connections to the destination per second; `None`: not known.
    pub open_rate: Option<f64>,
    /// A process in the network namespace, in the initial pid namespace.
    pub pid: Option<u32>,
    pub host: Host,
}

/// What the host itself says.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Host {
    /// Another network namespace than that of the tracer: a container's, most often.
    #[serde(default)]
    pub is_elsewhere: bool,
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

    /// Ports that are held, for whatever reason.
    pub fn taken(&self) -> u32 {
        self.budget.in_use + self.budget.bound
    }

    /// Ports in TIME_WAIT; also where holders were not asked for.
    pub fn time_wait(&self) -> u32 {
        self.in_state(State::TimeWait).max(self.budget.time_wait)
    }

    pub fn is_loopback(&self) -> bool {
        self.peer.ip.is_loopback() || self.local_ip.is_loopback()
    }

    /// `tcp_tw_reuse` covers this destination; without timestamps that is not enough.
    pub fn is_covered_by_tw_reuse(&self) -> bool {
        match self.settings.tw_reuse {
            0 => false,
            2 => self.is_loopback(),
            _ => true,
        }
    }

    /// Whether `connect()` may take a port from TIME_WAIT.
    pub fn reuses_time_wait(&self) -> bool {
        self.is_covered_by_tw_reuse() && self.settings.timestamps
    }

    /// How long TIME_WAIT keeps a port from `connect()`, seconds.
    pub fn time_wait_hold(&self) -> f64 {
        if self.reuses_time_wait() {
            f64::from(self.settings.tw_reuse_delay.unwrap_or(1000)) / 1000.0
        } else {
            TIME_WAIT_HOLD
        }
    }

    /// The socket's own IP_LOCAL_PORT_RANGE leaves it fewer ports than the sysctl does.
    pub fn is_narrowed(&self) -> bool {
        self.socket_range.is_some() && self.budget.ports != self.settings.range
    }
}
