//! Addresses, and what an entry is found by and recognized by.

use std::{
    hash::{Hash, Hasher},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::event::{Endpoint, Event, Role, Row, Tuple};

/// An endpoint. IPv4 is kept as IPv4-mapped IPv6, as the kernel compares them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Address {
    ip: [u8; 16],
    /// 0: none.
    pub(super) port: u16,
}

impl Address {
    pub(super) fn is_unspecified(&self) -> bool {
        self.ip().is_unspecified()
    }

    /// Without a port.
    pub(super) fn of(ip: IpAddr) -> Self {
        Endpoint { ip, port: None }.into()
    }

    pub(super) fn has_ip_of(&self, other: &Self) -> bool {
        self.ip == other.ip
    }

    /// Whether sockets at both addresses are in each other's way. `::` is taken to stand for IPv4 too.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let covers = |any: &Self, one: &Self| match (any.ip(), one.ip()) {
            (IpAddr::V4(ip), IpAddr::V4(_)) => ip.is_unspecified(),
            (IpAddr::V6(ip), _) => ip.is_unspecified(),
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
        };
        self.has_ip_of(other) || covers(self, other) || covers(other, self)
    }

    /// 0.0.0.0 or ::, whichever goes with this address, and no port.
    pub(super) fn unspecified(self) -> Self {
        let ip = match self.ip() {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        Self::of(ip)
    }

    pub(super) fn without_port(self) -> Self {
        Self { port: 0, ..self }
    }

    pub(super) fn ip(self) -> IpAddr {
        Ipv6Addr::from(self.ip).to_canonical()
    }
}

impl From<Endpoint> for Address {
    fn from(endpoint: Endpoint) -> Self {
        let ip = match endpoint.ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self {
            ip: ip.octets(),
            port: endpoint.port.unwrap_or(0),
        }
    }
}

impl From<Address> for Endpoint {
    fn from(address: Address) -> Self {
        Self {
            ip: address.ip(),
            port: (address.port != 0).then_some(address.port),
        }
    }
}

/// Where an entry is to be found beside its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Nowhere,
    /// By its 4-tuple, which no other socket of the namespace has.
    Tuple {
        netns: u32,
        local: Address,
        peer: Address,
    },
    /// By its port, with others that listen there.
    Listener {
        netns: u32,
        port: u16,
    },
}

/// What tells a socket from others that have had its address.
pub(super) struct Sight {
    pub(super) netns: u32,
    pub(super) cookie: Option<u64>,
    /// If it is complete.
    pub(super) tuple: Option<(Address, Address)>,
    pub(super) role: Option<Role>,
}

impl Sight {
    pub(super) fn of_event(event: &Event) -> Self {
        Self {
            role: event.role,
            ..Self::new(event.netns, event.cookie, &event.tuple)
        }
    }

    pub(super) fn of_row(row: &Row) -> Self {
        Self::new(row.netns, row.cookie, &row.tuple)
    }

    fn new(netns: u32, cookie: Option<u64>, tuple: &Tuple) -> Self {
        let is_complete = tuple.local.port.is_some() && tuple.peer.port.is_some();
        Self {
            netns,
            cookie,
            tuple: is_complete.then(|| (tuple.local.into(), tuple.peer.into())),
            role: None,
        }
    }
}

/// In whole words: faster than byte by byte.
impl Hash for Place {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        match *self {
            Self::Nowhere => {}
            Self::Tuple { netns, local, peer } => {
                let ports = u32::from(local.port) << 16 | u32::from(peer.port);
                hasher.write_u64(u64::from(netns) << 32 | u64::from(ports));
                hasher.write_u128(u128::from_ne_bytes(local.ip));
                hasher.write_u128(u128::from_ne_bytes(peer.ip));
            }
            Self::Listener { netns, port } => {
                hasher.write_u64(u64::from(netns) << 32 | u64::from(port));
            }
        }
    }
}
