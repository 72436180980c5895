//! What the ledger keeps of one socket: two cache lines.

use super::{
    Socket,
    buckets::Hold,
    destinations::Taken,
    owners::Id,
    place::{Address, Place, Sight},
};
use crate::event::{Event, Family, Kind, Mode, Owner, Role, Row, State, Task, Tuple};

/// A million of these are kept: every field is as small as it can be.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(super) struct Entry {
    pub(super) key: u64,
    pub(super) cookie: Maybe,
    /// As [`super::Connection::opened`].
    pub(super) opened: Maybe,
    /// When its timewait socket took over.
    pub(super) closed: Maybe,
    /// As [`Socket::due`].
    pub(super) due: Maybe,
    /// Known once the socket itself is closed.
    pub(super) sent: Maybe,
    pub(super) received: Maybe,
    pub(super) local: Address,
    pub(super) peer: Address,
    pub(super) netns: u32,
    /// The owner's process.
    pub(super) process: Option<Id>,
    /// The owner's thread.
    pub(super) tid: u32,
    pub(super) closed_by: Option<Id>,
    /// The last dump during which it had an event that tells its state.
    pub(super) touched: u32,
    /// The last dump it came in.
    pub(super) seen: u32,
    /// The dump that made it, if it has had no event since; else 0.
    pub(super) made: u32,
    pub(super) state: State,
    pub(super) role: Option<Role>,
    pub(super) owner: Owner,
    pub(super) family: Family,
    pub(super) is_timewait: bool,
    pub(super) progress: Progress,
    pub(super) marks: Marks,
}

/// What is so or not, in one byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks(u8);

impl Marks {
    /// This side has sent its FIN.
    pub(super) const SHUT_DOWN: Self = Self(1);
    /// When it began, several processes listened that may have taken it: who listens later says nothing.
    pub(super) const DISPUTED: Self = Self(2);
    /// It did not get its port from `connect()`.
    pub(super) const BINDER: Self = Self(4);
    /// The connection has TCP timestamps.
    pub(super) const TIMESTAMPS: Self = Self(8);
    /// The kernel has taken its 4-tuple away, which somebody else may have by now: that comes before the transition to
    /// CLOSE is told (`tcp_set_state`, net/ipv4/tcp.c). Or it has not given it yet.
    pub(super) const UNHASHED: Self = Self(16);

    pub(super) fn has(self, mark: Self) -> bool {
        self.0 & mark.0 != 0
    }

    pub(super) fn set(&mut self, mark: Self, value: bool) {
        if value {
            self.0 |= mark.0;
        } else {
            self.0 &= !mark.0;
        }
    }
}

/// `TCP_TIMEWAIT_LEN` (include/net/tcp.h), nanoseconds.
const TIME_WAIT: u64 = 60_000_000_000;

/// How far a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Opening,
    /// To ESTABLISHED, but nobody is known yet to count it for.
    Uncounted,
    Established,
}

impl Progress {
    /// Of a connection that is first seen in this state.
    pub(super) fn of(state: State) -> Self {
        match state {
            State::SynSent | State::SynRecv | State::Listen | State::Close => Self::Opening,
            _ => Self::Established,
        }
    }
}

/// An optional number in eight bytes. No address, time or count comes near the one that means none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Maybe(u64);

impl Maybe {
    pub(super) const NONE: Self = Self(u64::MAX);

    pub(super) fn get(self) -> Option<u64> {
        (self != Self::NONE).then_some(self.0)
    }
}

impl From<u64> for Maybe {
    fn from(value: u64) -> Self {
        Self(value)
    }
}

impl From<Option<u64>> for Maybe {
    fn from(value: Option<u64>) -> Self {
        value.map_or(Self::NONE, Self)
    }
}

/// What an entry is found by, and what it takes from others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) place: Place,
    pub(super) hold: Option<Hold>,
    pub(super) taken: Option<Taken>,
}

impl Claims {
    pub(super) const NONE: Self = Self {
        place: Place::Nowhere,
        hold: None,
        taken: None,
    };
}

/// What claims follow from: most events change nothing of it, which is seen at once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Basis {
    netns: u32,
    local: Address,
    peer: Address,
    phase: Phase,
    is_binder: bool,
    is_timewait: bool,
    is_unhashed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    Connecting,
    Listening,
    /// It has a peer that knows of it.
    Connected,
}

impl Phase {
    fn of(state: State) -> Self {
        match state {
            State::Close => Self::Closed,
            State::SynSent => Self::Connecting,
            State::Listen => Self::Listening,
            _ => Self::Connected,
        }
    }
}

impl Basis {
    pub(super) fn claims(&self) -> Claims {
        Claims {
            place: self.place(),
            hold: self.hold(),
            taken: self.taken(),
        }
    }

    fn place(&self) -> Place {
        let Self {
            netns, local, peer, ..
        } = *self;
        match self.phase {
            Phase::Closed => Place::Nowhere,
            _ if self.is_unhashed => Place::Nowhere,
            _ if local.port == 0 => Place::Nowhere,
            // It may yet fail because somebody else has the 4-tuple. One that is not bound gets its port with that.
            Phase::Connecting if self.is_binder => Place::Nowhere,
            Phase::Listening => Place::Listener {
                netns,
                port: local.port,
            },
            _ if peer.port == 0 => Place::Nowhere,
            _ => Place::Tuple { netns, local, peer },
        }
    }

    /// What it has of its port.
    fn hold(&self) -> Option<Hold> {
        (self.local.port != 0).then_some(Hold {
            netns: self.netns,
            port: self.local.port,
            is_binder: self.is_binder,
        })
    }

    /// As [`Entry::taken`].
    fn taken(&self) -> Option<Taken> {
        let is_tuple = matches!(self.place(), Place::Tuple { .. });
        (is_tuple && !self.is_binder).then_some(Taken {
            netns: self.netns,
            local: self.local,
            peer: self.peer,
            is_timewait: self.is_timewait,
        })
    }
}

impl Entry {
    /// A socket nothing more is known of than what the event says.
    pub(super) fn of_event(event: &Event, state: State) -> Self {
        let mut entry = Self::new(event.sock, event.cookie, event.netns, &event.tuple, state);
        entry.play(event.role);
        entry.connect(event);
        entry
    }

    /// `connect()` does not choose another port for a socket that has one.
    fn connect(&mut self, event: &Event) {
        let connects = Kind::State {
            old: State::Close,
            new: State::SynSent,
            end: None,
        };
        if event.kind == connects {
            self.marks.set(Marks::BINDER, event.held.is_some());
        }
    }

    /// Who listens or is the child of one who does has a bound port.
    pub(super) fn play(&mut self, role: Option<Role>) {
        self.role = role.or(self.role);
        if matches!(self.role, Some(Role::Server | Role::Listener)) {
            self.marks.set(Marks::BINDER, true);
        }
    }

    /// A socket that is older than the tracer, or whose beginning was lost.
    pub(super) fn of_row(row: &Row, epoch: u32) -> Self {
        let mut entry = Self {
            is_timewait: row.due.is_some(),
            due: row.due.into(),
            seen: epoch,
            made: epoch,
            ..Self::new(row.sock, row.cookie, row.netns, &row.tuple, row.state)
        };
        entry.play((row.state == State::Listen).then_some(Role::Listener));
        entry.believe(row);
        entry
    }

    /// What the kernel itself says of the port and the connection. Of one that looks for a port it does not say yet who
    /// chooses it.
    pub(super) fn believe(&mut self, row: &Row) {
        if row.due.is_some() {
            self.marks.set(Marks::TIMESTAMPS, row.timestamps);
        } else if row.held.is_none() {
            return;
        }
        let is_binder = match (row.connect_bind, row.mode) {
            (Some(connect_bind), _) => Some(!connect_bind),
            // Where the kernel does not tell who bound it, the port stays closed until the last owner is gone: that
            // each of them is taken for a binder changes nothing.
            (None, Some(mode)) => Some(mode == Mode::Bind),
            (None, None) => (row.state == State::Close).then_some(true),
        };
        if let Some(is_binder) = is_binder {
            self.marks.set(Marks::BINDER, is_binder);
        }
    }

    fn new(key: u64, cookie: Option<u64>, netns: u32, tuple: &Tuple, state: State) -> Self {
        Self {
            key,
            cookie: cookie.into(),
            opened: Maybe::NONE,
            closed: Maybe::NONE,
            due: Maybe::NONE,
            sent: Maybe::NONE,
            received: Maybe::NONE,
            local: tuple.local.into(),
            peer: tuple.peer.into(),
            netns,
            process: None,
            tid: 0,
            closed_by: None,
            touched: 0,
            seen: 0,
            made: 0,
            state,
            role: None,
            owner: Owner::None,
            family: tuple.family,
            is_timewait: false,
            progress: Progress::of(state),
            marks: Marks::default(),
        }
    }

    /// Forgets the connection, not who holds the socket.
    pub(super) fn restart(&mut self, state: State) {
        *self = Self {
            process: self.process,
            owner: self.owner,
            tid: self.tid,
            closed_by: self.closed_by,
            touched: self.touched,
            seen: self.seen,
            family: self.family,
            marks: self.port_marks(),
            ..Self::new(
                self.key,
                self.cookie.get(),
                self.netns,
                &self.tuple(),
                state,
            )
        };
    }

    /// How it came by its port is not a matter of the connection.
    fn port_marks(&self) -> Marks {
        let mut marks = Marks::default();
        marks.set(Marks::BINDER, self.marks.has(Marks::BINDER));
        marks
    }

    /// Whatever comes next says where it is.
    pub(super) fn begin_anew(&mut self) {
        self.restart(State::Close);
        (self.local.port, self.peer.port) = (0, 0);
    }

    /// Nothing is left but the port.
    pub(super) fn rest(&mut self, port: u16) {
        self.restart(State::Close);
        self.marks.set(Marks::BINDER, true);
        self.local.port = port;
        self.peer = self.peer.unspecified();
    }

    /// Learns what the event says; what it does not say stays.
    pub(super) fn adopt(&mut self, event: &Event) {
        self.learn(event.cookie, &event.tuple);
        self.play(event.role);
        self.connect(event);
        self.made = 0;
    }

    pub(super) fn learn(&mut self, cookie: Option<u64>, tuple: &Tuple) {
        if cookie.is_some() {
            self.cookie = cookie.into();
        }
        if tuple.local.port.is_some() || self.local.port == 0 {
            self.local = tuple.local.into();
        }
        if tuple.peer.port.is_some() || self.peer.port == 0 {
            self.peer = tuple.peer.into();
        }
        self.family = tuple.family;
    }

    /// It is in TIME_WAIT from then on (`inet_twsk_schedule` with TCP_TIMEWAIT_LEN).
    pub(super) fn wait_from(&mut self, ts: u64) {
        self.due = ts.saturating_add(TIME_WAIT).into();
    }

    /// When its TIME_WAIT began, or of a timewait socket in FIN_WAIT2 that, by the usual `tcp_fin_timeout` where it is
    /// older than the tracer: that is as long.
    pub(super) fn waits_since(&self) -> Option<u64> {
        let by_timer = self.due.get().map(|due| due.saturating_sub(TIME_WAIT));
        match self.state {
            State::TimeWait => by_timer,
            _ => self.closed.get().or(by_timer),
        }
    }

    pub(super) fn enter(&mut self, state: State) {
        self.state = state;
        if matches!(state, State::FinWait1 | State::LastAck) {
            self.marks.set(Marks::SHUT_DOWN, true);
        }
        if state == State::Listen {
            self.play(Some(Role::Listener));
        }
    }

    /// Whether this tells of another socket, or another connection of it, than the entry's: its address
    /// was used again, and what came between is lost.
    pub(super) fn is_other(&self, sight: &Sight) -> bool {
        let tuples = self.complete_tuple().zip(sight.tuple);
        let other_tuple = tuples.is_some_and(|(ours, theirs)| ours != theirs);
        let other_role = self
            .role
            .zip(sight.role)
            .is_some_and(|(ours, theirs)| ours != theirs);
        let cookies = self.cookie.get().zip(sight.cookie);
        let other_cookie = cookies.is_some_and(|(ours, theirs)| ours != theirs);
        self.netns != sight.netns || other_tuple || other_role || other_cookie
    }

    fn complete_tuple(&self) -> Option<(Address, Address)> {
        let is_complete = self.is_connection() && self.local.port != 0 && self.peer.port != 0;
        is_complete.then_some((self.local, self.peer))
    }

    /// Whether both have the same complete 4-tuple.
    pub(super) fn has_tuple_of(&self, sight: &Sight) -> bool {
        sight.tuple.is_some() && self.complete_tuple() == sight.tuple
    }

    /// Whether it must be the same socket: a cookie is never used again.
    pub(super) fn is_surely(&self, sight: &Sight) -> bool {
        self.cookie.get().is_some() && self.cookie.get() == sight.cookie
    }

    /// It has, or may have, a 4-tuple of its own.
    pub(super) fn is_connection(&self) -> bool {
        !matches!(self.state, State::Close | State::Listen)
    }

    pub(super) fn is_holder(&self) -> bool {
        self.state == State::Close
    }

    pub(super) fn basis(&self) -> Basis {
        Basis {
            netns: self.netns,
            local: self.local,
            peer: self.peer,
            phase: Phase::of(self.state),
            is_binder: self.marks.has(Marks::BINDER),
            is_timewait: self.is_timewait,
            is_unhashed: self.marks.has(Marks::UNHASHED),
        }
    }

    pub(super) fn place(&self) -> Place {
        self.basis().place()
    }

    pub(super) fn claims(&self) -> Claims {
        self.basis().claims()
    }

    /// The port that it takes from its destination only.
    pub(super) fn taken(&self) -> Option<Taken> {
        self.basis().taken()
    }

    pub(super) fn tuple(&self) -> Tuple {
        Tuple {
            family: self.family,
            local: self.local.into(),
            peer: self.peer.into(),
        }
    }

    pub(super) fn view<'a>(&self, task: Option<&'a Task>) -> Socket<'a> {
        Socket {
            key: self.key,
            cookie: self.cookie.get(),
            netns: self.netns,
            tuple: self.tuple(),
            state: self.state,
            is_timewait: self.is_timewait,
            role: self.role,
            owner: self.owner,
            task,
            due: self.due.get(),
        }
    }
}
