//! Bind buckets: what the kernel knows of each port that somebody has (`struct inet_bind_bucket`), one for all
//! addresses and destinations of a network namespace.

use foldhash::HashMap;

use crate::pool::PortSet;

/// What an entry has of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) netns: u32,
    pub(super) port: u16,
    /// It did not get the port from `connect()`.
    pub(super) is_binder: bool,
}

#[derive(Clone, Copy, Default)]
struct Bucket {
    owners: u32,
    /// Of them.
    binders: u32,
    /// There has been a binder since the port was last free.
    was_bound: bool,
}

/// The ports that `connect()` may choose in one network namespace.
struct Pool {
    ports: PortSet,
    /// How many of them are closed to every destination.
    bound: u32,
}

/// Buckets of neighbouring ports: `connect()` takes one port after the other, and so they stay in the CPU's caches.
struct Page {
    buckets: [Bucket; Self::LEN],
    /// How many of them have owners.
    used: u32,
}

impl Page {
    const LEN: usize = 64;

    /// Which page of a network namespace a port is on, and where.
    fn of(port: u16) -> (u16, usize) {
        let port = usize::from(port);
        ((port / Self::LEN) as u16, port % Self::LEN)
    }
}

impl Default for Page {
    fn default() -> Self {
        Self {
            buckets: [Bucket::default(); Self::LEN],
            used: 0,
        }
    }
}

#[derive(Default)]
pub(super) struct Buckets {
    pages: HashMap<(u32, u16), Box<Page>>,
    pools: HashMap<u32, Pool>,
    /// See [`crate::pool::Rules::reopens`].
    pub(super) reopens: bool,
}

/// Whom a port is open to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Openness {
    /// Nobody has it.
    Free,
    /// Only sockets that got it from `connect()` have it: it is open to other destinations.
    Shared,
    /// Somebody has bound it.
    Bound,
}

impl Bucket {
    fn is_bound(&self, reopens: bool) -> bool {
        if reopens {
            self.binders > 0
        } else {
            self.was_bound
        }
    }
}

impl Buckets {
    pub(super) fn openness(&self, netns: u32, port: u16) -> Openness {
        match self.get(netns, port) {
            None => Openness::Free,
            Some(bucket) if bucket.is_bound(self.reopens) => Openness::Bound,
            Some(_) => Openness::Shared,
        }
    }

    /// `None`: nobody has the port.
    fn get(&self, netns: u32, port: u16) -> Option<&Bucket> {
        let (page, at) = Page::of(port);
        let bucket = &self.pages.get(&(netns, page))?.buckets[at];
        (bucket.owners > 0).then_some(bucket)
    }

    /// Whether `connect()` may choose the port for other destinations than those of the sockets that have it.
    pub(super) fn is_choice(&self, netns: u32, port: u16) -> bool {
        let pool = self.pools.get(&netns);
        pool.is_none_or(|pool| pool.ports.contains(port))
            && self.openness(netns, port) == Openness::Shared
    }

    pub(super) fn take(&mut self, hold: Hold) {
        self.change(hold.netns, hold.port, |bucket| {
            bucket.owners += 1;
            bucket.binders += u32::from(hold.is_binder);
            bucket.was_bound |= hold.is_binder;
        });
    }

    pub(super) fn give_back(&mut self, hold: Hold) {
        self.change(hold.netns, hold.port, |bucket| {
            bucket.owners -= 1;
            bucket.binders -= u32::from(hold.is_binder);
        });
    }

    /// The kernel's word on a port that somebody has. A binder that is known may be newer. It says nothing where
    /// ports reopen: the owners do.
    pub(super) fn set_bound(&mut self, netns: u32, port: u16, is_bound: bool) {
        if self.get(netns, port).is_some() {
            self.change(netns, port, |bucket| {
                bucket.was_bound = is_bound || bucket.binders > 0;
            });
        }
    }

    fn change(&mut self, netns: u32, port: u16, change: impl FnOnce(&mut Bucket)) {
        let (number, at) = Page::of(port);
        let page = self.pages.entry((netns, number)).or_default();
        let bucket = &mut page.buckets[at];
        let before = bucket.is_bound(self.reopens);
        page.used -= u32::from(bucket.owners > 0);
        change(bucket);
        page.used += u32::from(bucket.owners > 0);
        if bucket.owners == 0 {
            *bucket = Bucket::default();
        }
        let after = bucket.is_bound(self.reopens);
        if page.used == 0 {
            self.pages.remove(&(netns, number));
        }
        if before != after
            && let Some(pool) = self.pools.get_mut(&netns)
            && pool.ports.contains(port)
        {
            pool.bound = pool.bound + u32::from(after) - u32::from(before);
        }
    }

    pub(super) fn set_pool(&mut self, netns: u32, ports: PortSet) {
        let mut pool = Pool { ports, bound: 0 };
        for (port, bucket) in (0..=u16::MAX).filter_map(|port| {
            let bucket = self.get(netns, port)?;
            Some((port, bucket))
        }) {
            let counts = pool.ports.contains(port) && bucket.is_bound(self.reopens);
            pool.bound += u32::from(counts);
        }
        self.pools.insert(netns, pool);
    }

    pub(super) fn forget_pool(&mut self, netns: u32) {
        self.pools.remove(&netns);
    }

    /// How many ports of the pool are closed to every destination.
    pub(super) fn bound(&self, netns: u32) -> u32 {
        self.pools.get(&netns).map_or(0, |pool| pool.bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTOBOUND: Hold = Hold {
        netns: 7,
        port: 40_000,
        is_binder: false,
    };
    const BOUND: Hold = Hold {
        is_binder: true,
        ..AUTOBOUND
    };

    fn buckets(reopens: bool) -> Buckets {
        let mut buckets = Buckets {
            reopens,
            ..Buckets::default()
        };
        buckets.set_pool(7, "40000-40001".parse().unwrap());
        buckets
    }

    fn state(buckets: &Buckets) -> (Openness, u32) {
        (buckets.openness(7, 40_000), buckets.bound(7))
    }

    #[test]
    fn a_bound_port_reopens_on_newer_kernels_only() {
        for (reopens, then) in [(false, (Openness::Bound, 1)), (true, (Openness::Shared, 0))] {
            let mut buckets = buckets(reopens);
            buckets.take(AUTOBOUND);
            assert_eq!(state(&buckets), (Openness::Shared, 0));
            buckets.take(BOUND);
            assert_eq!(state(&buckets), (Openness::Bound, 1));
            buckets.give_back(BOUND);
            assert_eq!(state(&buckets), then);
            buckets.give_back(AUTOBOUND);
            assert_eq!(state(&buckets), (Openness::Free, 0));
        }
    }

    #[test]
    fn a_pool_counts_what_was_bound_before_it() {
        let mut buckets = buckets(false);
        buckets.take(BOUND);
        buckets.set_pool(7, "40000".parse().unwrap());
        assert_eq!(buckets.bound(7), 1);
        buckets.set_pool(7, "40001".parse().unwrap());
        assert_eq!(buckets.bound(7), 0);
    }

    #[test]
    fn the_kernel_is_believed_unless_a_binder_is_there() {
        let mut buckets = buckets(false);
        buckets.take(AUTOBOUND);
        buckets.set_bound(7, 40_000, true);
        assert_eq!(state(&buckets), (Openness::Bound, 1));
        buckets.set_bound(7, 40_000, false);
        assert_eq!(state(&buckets), (Openness::Shared, 0));
        buckets.take(BOUND);
        buckets.set_bound(7, 40_000, false);
        assert_eq!(state(&buckets), (Openness::Bound, 1));
    }
}
