//! Which lines are of one socket. Lines name it by its cookie, and where the kernel has made none, by its tuple; a
//! client has no port in its first line.

use std::collections::{HashMap, VecDeque};

use crate::event::{End, Endpoint, Event, Kind, Role, State, Tuple};

/// Marks the key of the timewait socket that has taken a socket's place.
const TIMEWAIT: u64 = 1 << 63;

/// So many are remembered of those that have not got their ports.
const MOST: usize = 1 << 20;

#[derive(Default)]
pub(super) struct Keys {
    by_cookie: HashMap<u64, u64>,
    by_tuple: HashMap<(u32, Tuple), u64>,
    /// Those without their whole tuple, the oldest first.
    unborn: HashMap<Unborn, VecDeque<u64>>,
    waiting: usize,
    last: u64,
}

/// What is known of a socket while its connection is being made.
#[derive(PartialEq, Eq, Hash)]
struct Unborn {
    netns: u32,
    role: Option<Role>,
    process: Option<(u32, u64)>,
    end: Option<Endpoint>,
    port: Option<u16>,
}

impl Unborn {
    fn of(event: &Event) -> Self {
        let is_client = event.role == Some(Role::Client);
        let task = event.task.as_ref().filter(|_| is_client);
        Self {
            netns: event.netns,
            role: event.role,
            process: task.map(|task| (task.pid, task.start_ns)),
            end: is_client.then_some(event.tuple.peer),
            port: event.tuple.local.port.filter(|_| !is_client),
        }
    }
}

impl Keys {
    /// Whether there is a socket with this cookie or tuple.
    pub(super) fn knows(&self, netns: u32, cookie: Option<u64>, tuple: &Tuple) -> bool {
        cookie.is_some_and(|cookie| self.by_cookie.contains_key(&cookie))
            || self.by_tuple.contains_key(&(netns, *tuple))
    }

    /// The key of a socket that is new.
    pub(super) fn add(
        &mut self,
        netns: u32,
        cookie: Option<u64>,
        tuple: &Tuple,
        timewait: bool,
    ) -> u64 {
        self.last += 1;
        let key = if timewait {
            self.last | TIMEWAIT
        } else {
            self.last
        };
        self.keep(netns, cookie, tuple, key);
        key
    }

    /// Gives a transition the key of its socket, and tells how it ended, as far as that follows from the line.
    pub(super) fn resolve(&mut self, event: &mut Event) {
        let Kind::State { old, new, .. } = event.kind else {
            return;
        };
        let at = (event.netns, event.tuple);
        let known = event.cookie.and_then(|cookie| self.by_cookie.get(&cookie));
        let known = known.or_else(|| self.by_tuple.get(&at)).copied();
        let is_birth = old == State::Close || (old, new) == (State::Listen, State::SynRecv);
        event.sock = match known.filter(|_| !is_birth || event.cookie.is_some()) {
            Some(key) => key,
            None if is_birth => self.fresh(),
            None => self.born(event, old).unwrap_or_else(|| self.fresh()),
        };
        if event.sock & TIMEWAIT == 0 && matches!(new, State::TimeWait | State::Close) {
            let timewait = (new == State::TimeWait).then_some(event.sock | TIMEWAIT);
            let nothing = End {
                timewait,
                ..End::default()
            };
            if let Kind::State { end, .. } = &mut event.kind {
                *end = Some(nothing);
            }
        }
        let key = match new {
            State::Close => return self.forget(event),
            _ if is_birth && new != State::Listen => return self.expect(event),
            State::TimeWait => event.sock | TIMEWAIT,
            _ => event.sock,
        };
        let tuple = event.tuple;
        self.keep(event.netns, event.cookie, &tuple, key);
    }

    fn fresh(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn keep(&mut self, netns: u32, cookie: Option<u64>, tuple: &Tuple, key: u64) {
        if let Some(cookie) = cookie {
            self.by_cookie.insert(cookie, key);
        }
        self.by_tuple.insert((netns, *tuple), key);
    }

    fn forget(&mut self, event: &Event) {
        if let Some(cookie) = event.cookie {
            self.by_cookie.remove(&cookie);
        }
        let at = (event.netns, event.tuple);
        if self.by_tuple.get(&at) == Some(&event.sock) {
            self.by_tuple.remove(&at);
        }
    }

    /// Its tuple is not whole yet.
    fn expect(&mut self, event: &Event) {
        match event.cookie {
            Some(cookie) => _ = self.by_cookie.insert(cookie, event.sock),
            None if self.waiting < MOST => {
                let unborn = self.unborn.entry(Unborn::of(event)).or_default();
                unborn.push_back(event.sock);
                self.waiting += 1;
            }
            None => {}
        }
    }

    /// The oldest that this may be: of several the kernel answers the first one first, mostly.
    fn born(&mut self, event: &Event, old: State) -> Option<u64> {
        if !matches!(old, State::SynSent | State::SynRecv) {
            return None;
        }
        let at = Unborn::of(event);
        let unborn = self.unborn.get_mut(&at)?;
        let key = unborn.pop_front()?;
        if unborn.is_empty() {
            self.unborn.remove(&at);
        }
        self.waiting -= 1;
        Some(key)
    }
}
