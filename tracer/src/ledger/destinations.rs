//! How many ports each destination takes, counted as they come and go, and the traffic of those with many.

use std::{
    hash::{BuildHasher, Hash},
    net::IpAddr,
};

use foldhash::{HashMap, fast::RandomState};

use super::place::Address;
use crate::{event::Endpoint, pool::Settings};

/// A destination is busy when it takes one of so many usable ports.
const BUSY: u32 = 8;

/// Usable ports of a namespace whose settings are not known.
const USUAL: u32 = 28_232;

/// What a local port has to be unique for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Way {
    /// Inode number of the network namespace.
    pub netns: u32,
    pub local_ip: IpAddr,
    pub peer: Endpoint,
}

/// What happened to a busy destination's ports since it became one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Ports that are taken now, and those of them that a timewait socket has.
    pub ports: u32,
    pub waiting: u32,
    /// Counts: ports taken; handed over to timewait sockets; given back by others; given back by those.
    pub opened: u64,
    pub handed_over: u64,
    pub closed: u64,
    pub waited: u64,
    /// When less than half of the usable ports was last taken.
    pub half: Half,
}

/// Since when at least half of the usable ports is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// It is not.
    No,
    /// It was so already when somebody looked: nobody saw it come.
    Found,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    Since(u64),
}

impl Half {
    pub fn since(self) -> Option<u64> {
        match self {
            Self::Since(since) => Some(since),
            Self::No | Self::Found => None,
        }
    }
}

/// What the counts are measured by in one network namespace.
#[derive(Clone, Copy)]
struct Scale {
    usable: u32,
    /// Timewait sockets give way.
    reuses: Reuse,
}

/// Where timewait sockets give way to new connections soon (`tcp_tw_reuse`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reuse {
    Nowhere,
    OnLoopback,
    Everywhere,
}

impl Reuse {
    pub(super) fn of(settings: &Settings) -> Self {
        match settings.tw_reuse {
            _ if !settings.timestamps => Self::Nowhere,
            1 => Self::Everywhere,
            2 => Self::OnLoopback,
            _ => Self::Nowhere,
        }
    }
}

/// The counts are found by a hash of 64 bits alone, not by what it is the hash of: a million destinations would
/// take a hundred megabytes. Two that shared a hash would be counted together; budgets do not depend on it.
#[derive(Default)]
pub(super) struct Destinations {
    ports: HashMap<u64, u32>,
    busy: HashMap<u64, (Way, Traffic)>,
    scales: HashMap<u32, Scale>,
    hasher: RandomState,
}

impl Destinations {
    pub(super) fn set_scale(&mut self, netns: u32, usable: u32, reuses: Reuse) {
        self.scales.insert(netns, Scale { usable, reuses });
    }

    pub(super) fn usable(&self, netns: u32) -> Option<u32> {
        self.scales.get(&netns).map(|scale| scale.usable)
    }

    /// By network namespace.
    pub(super) fn all_usable(&self) -> impl Iterator<Item = (u32, u32)> {
        let scales = self.scales.iter();
        scales.map(|(netns, scale)| (*netns, scale.usable))
    }

    pub(super) fn forget_scale(&mut self, netns: u32) {
        self.scales.remove(&netns);
    }

    pub(super) fn busy(&self) -> impl Iterator<Item = &(Way, Traffic)> {
        self.busy.values()
    }

    pub(super) fn traffic(&self, way: &Way) -> Option<&Traffic> {
        self.busy.get(&self.key_of(way)).map(|(_, traffic)| traffic)
    }

    pub(super) fn key_of(&self, way: &Way) -> u64 {
        self.key(way.netns, Address::of(way.local_ip), way.peer.into())
    }

    /// See [`Destinations`].
    pub(super) fn key(&self, netns: u32, local: Address, peer: Address) -> u64 {
        self.hasher.hash_one((netns, local.without_port(), peer))
    }

    fn scale(&self, netns: u32) -> Scale {
        self.scales.get(&netns).copied().unwrap_or(Scale {
            usable: USUAL,
            reuses: Reuse::Nowhere,
        })
    }

    /// A port is taken at `now`; `bound`: usable ones that are closed to every destination; `is_new`: it happens, and
    /// is not only found.
    pub(super) fn take(&mut self, taken: Taken, bound: u32, now: u64, is_new: bool) {
        let key = self.key(taken.netns, taken.local, taken.peer);
        let ports = self.ports.entry(key).or_default();
        *ports += 1;
        let ports = *ports;
        let scale = self.scale(taken.netns);
        if ports.saturating_mul(BUSY) < scale.usable && !self.busy.contains_key(&key) {
            return;
        }
        let (_, traffic) = self.busy.entry(key).or_insert_with(|| {
            let way = Way {
                netns: taken.netns,
                local_ip: taken.local.ip(),
                peer: taken.peer.into(),
            };
            // Those before it are as old as the first is now, as far as is known.
            let traffic = Traffic {
                ports: ports - 1,
                waiting: 0,
                opened: 0,
                handed_over: 0,
                closed: 0,
                waited: 0,
                half: Half::No,
            };
            (way, traffic)
        });
        traffic.ports = ports;
        traffic.opened += u64::from(is_new);
        traffic.waiting += u32::from(taken.is_timewait);
        let come = if is_new {
            Half::Since(now)
        } else {
            Half::Found
        };
        traffic.look_at_half(scale, &taken, bound, come);
    }

    /// A timewait socket has got the port.
    pub(super) fn hand_over(&mut self, taken: Taken) {
        let key = self.key(taken.netns, taken.local, taken.peer);
        if let Some((_, traffic)) = self.busy.get_mut(&key) {
            traffic.handed_over += 1;
            traffic.waiting += 1;
        }
    }

    pub(super) fn give_back(&mut self, taken: Taken, bound: u32, now: u64) {
        let key = self.key(taken.netns, taken.local, taken.peer);
        let Some(ports) = self.ports.get_mut(&key) else {
            return;
        };
        *ports -= 1;
        let ports = *ports;
        if ports == 0 {
            self.ports.remove(&key);
        }
        let scale = self.scale(taken.netns);
        let Some((_, traffic)) = self.busy.get_mut(&key) else {
            return;
        };
        traffic.ports = ports;
        if taken.is_timewait {
            traffic.waited += 1;
            // One that waited before the destination was busy is not counted.
            traffic.waiting = traffic.waiting.saturating_sub(1);
        } else {
            traffic.closed += 1;
        }
        traffic.look_at_half(scale, &taken, bound, Half::Since(now));
        if ports == 0 {
            self.busy.remove(&key);
        }
    }
}

/// A port with its 4-tuple, as an entry has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) netns: u32,
    pub(super) local: Address,
    pub(super) peer: Address,
    pub(super) is_timewait: bool,
}

impl Traffic {
    /// `come`: what is known of the moment, if half of the ports are taken only now.
    fn look_at_half(&mut self, scale: Scale, taken: &Taken, bound: u32, come: Half) {
        let gives_way = match scale.reuses {
            Reuse::Nowhere => false,
            Reuse::Everywhere => true,
            Reuse::OnLoopback => [taken.local, taken.peer]
                .iter()
                .any(|end| end.ip().is_loopback()),
        };
        let blocking = self.ports + bound
            - if gives_way {
                self.waiting.min(self.ports)
            } else {
                0
            };
        if blocking.saturating_mul(2) < scale.usable {
            self.half = Half::No;
        } else if self.half == Half::No {
            self.half = come;
        }
    }
}
