//! The ports of one network namespace, given out as the kernel does.

use std::collections::{HashMap, HashSet};

use tracer::event::Endpoint;

use super::random::Random;

/// So many ports are tried at random before all are looked at.
const TRIES: usize = 16;

pub(super) struct Ports {
    range: (u16, u16),
    /// By port: somebody has bound it, which closes it to every destination.
    bound: Vec<bool>,
    /// By port: how many connections have it.
    users: Vec<u16>,
    /// The ports that no connection to a destination has.
    free: HashMap<Endpoint, Vec<u16>>,
    /// Ports that were not chosen here.
    taken: HashSet<(Endpoint, u16)>,
}

impl Ports {
    pub(super) fn new(range: (u16, u16)) -> Self {
        Self {
            range,
            bound: vec![false; 1 << 16],
            users: vec![0; 1 << 16],
            free: HashMap::new(),
            taken: HashSet::new(),
        }
    }

    /// What `connect()` gets.
    pub(super) fn connect(&mut self, peer: Endpoint, random: &mut Random) -> Option<u16> {
        let range = self.range;
        let free = self
            .free
            .entry(peer)
            .or_insert_with(|| (range.0..=range.1).collect());
        let is_open = |port: &u16| !self.bound[usize::from(*port)];
        let tried = (0..TRIES).find_map(|_| {
            let place = random.place(free.len())?;
            is_open(&free[place]).then_some(place)
        });
        let place = tried.or_else(|| free.iter().position(is_open))?;
        let port = free.swap_remove(place);
        self.users[usize::from(port)] += 1;
        Some(port)
    }

    /// What `connect()` gets from that port; false: another connection has it.
    pub(super) fn take(&mut self, peer: Endpoint, port: u16) -> bool {
        let is_new = self.taken.insert((peer, port));
        self.users[usize::from(port)] += u16::from(is_new);
        is_new
    }

    /// A connection to that destination gives its port back.
    pub(super) fn give_back(&mut self, peer: Endpoint, port: u16) {
        self.users[usize::from(port)] -= 1;
        if !self.taken.remove(&(peer, port)) {
            self.free.entry(peer).or_default().push(port);
        }
    }

    /// What `bind()` to port 0 gets: a port that nobody has.
    pub(super) fn bind(&mut self, random: &mut Random) -> Option<u16> {
        let (low, high) = self.range;
        let is_free = |port: &u16| {
            let port = usize::from(*port);
            !self.bound[port] && self.users[port] == 0
        };
        let tried = (0..TRIES).find_map(|_| {
            let place = random.place(usize::from(high - low) + 1)?;
            let port = low + u16::try_from(place).ok()?;
            is_free(&port).then_some(port)
        });
        let port = tried.or_else(|| (low..=high).find(is_free))?;
        self.bound[usize::from(port)] = true;
        Some(port)
    }

    /// A listener's, or one that a program chose.
    pub(super) fn hold(&mut self, port: u16) {
        self.bound[usize::from(port)] = true;
    }

    pub(super) fn release(&mut self, port: u16) {
        self.bound[usize::from(port)] = false;
    }
}
