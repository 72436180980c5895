//! Bytes from the ring buffer -> [`Event`], checked. Whatever the bytes are, this never panics.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;
use tracer_ebpf as abi;

use crate::event::{
    Comm, End, Endpoint, Event, Family, Kind, Mode, Owner, Reason, Role, Row, State, Task, Tuple,
};

const EVENT: usize = size_of::<abi::Event>();
const HEAD: usize = size_of::<abi::Head>();

/// Why a record was not understood.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    #[error("a record of {0} bytes instead of {HEAD} or {EVENT}")]
    Size(usize),
    #[error("a record that calls itself {0} bytes long")]
    Abi(u16),
    #[error("unknown kind {0}")]
    Kind(u16),
    #[error("unknown TCP state {0}")]
    State(u8),
    #[error("unknown address family {0}")]
    Family(u16),
    #[error("unknown role {0}")]
    Role(u8),
    #[error("unknown owner {0}")]
    Owner(u8),
}

impl Event {
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let raw = raw(bytes)?;
        let owner = owner(raw.owner)?;
        let kind = kind(&raw)?;
        let named = owner != Owner::None || kind == Kind::ClosedBy;
        Ok(Self {
            ts: raw.ts,
            sock: raw.sock,
            cookie: nonzero(raw.cookie),
            netns: raw.netns,
            tuple: tuple(&raw.tuple)?,
            held: nonzero(raw.tuple.held),
            role: role(raw.role)?,
            owner,
            task: named.then(|| task(&raw.task)),
            timestamps: has(&raw, abi::FACT_TIMESTAMPS),
            socket_range: nonzero((raw.range_low, raw.range_high)),
            kind,
        })
    }
}

impl Row {
    /// A record of a dump. `jiffy` is the length of a jiffy in nanoseconds.
    pub fn decode(bytes: &[u8], jiffy: u64) -> Result<Self, DecodeError> {
        let raw = raw(bytes)?;
        if !matches!(raw.kind, abi::KIND_SOCKET | abi::KIND_HOLDER) {
            return Err(DecodeError::Kind(raw.kind));
        }
        Ok(Self {
            sock: raw.sock,
            cookie: nonzero(raw.cookie),
            netns: raw.netns,
            tuple: tuple(&raw.tuple)?,
            held: nonzero(raw.tuple.held),
            state: state(raw.new)?,
            due: nonzero(raw.timewait)
                .map(|_| raw.ts.saturating_add(raw.sent.saturating_mul(jiffy))),
            holder: (raw.kind == abi::KIND_HOLDER).then(|| task(&raw.task)),
            timestamps: has(&raw, abi::FACT_TIMESTAMPS),
            mode: mode(&raw),
            connect_bind: (!has(&raw, abi::FACT_NO_CONNECT_BIND))
                .then(|| has(&raw, abi::FACT_CONNECT_BIND)),
        })
    }
}

fn has(raw: &abi::Event, fact: u32) -> bool {
    raw.facts & fact != 0
}

fn mode(raw: &abi::Event) -> Option<Mode> {
    if has(raw, abi::FACT_CONNECT_MODE) {
        return Some(Mode::Connect);
    }
    has(raw, abi::FACT_BIND_MODE).then_some(Mode::Bind)
}

/// The ABI has 0 for what is not there.
fn nonzero<T: Default + PartialEq>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}

fn raw(bytes: &[u8]) -> Result<abi::Event, DecodeError> {
    // SAFETY: each is read where the length is its own, every field is an integer, so any bytes are a valid value,
    // and the reads do not assume alignment.
    let raw = unsafe {
        match bytes.len() {
            EVENT => bytes.as_ptr().cast::<abi::Event>().read_unaligned(),
            HEAD => abi::Event {
                head: bytes.as_ptr().cast::<abi::Head>().read_unaligned(),
                ..abi::Event::default()
            },
            other => return Err(DecodeError::Size(other)),
        }
    };
    if usize::from(raw.size) != bytes.len() {
        return Err(DecodeError::Abi(raw.size));
    }
    Ok(raw)
}

fn kind(raw: &abi::Event) -> Result<Kind, DecodeError> {
    let failed = |reason| Kind::ConnectFailed {
        errno: raw.errno,
        reason,
    };
    Ok(match raw.kind {
        abi::KIND_STATE => Kind::State {
            old: state(raw.old)?,
            new: state(raw.new)?,
            end: end(raw),
        },
        abi::KIND_PORTS_EXHAUSTED => failed(Reason::PortsExhausted),
        abi::KIND_TUPLE_IN_USE => failed(Reason::TupleInUse),
        abi::KIND_NO_SOURCE_ADDRESS => failed(Reason::NoSourceAddress),
        abi::KIND_BIND_FAILED => Kind::BindFailed {
            errno: raw.errno,
            listens: raw.new == abi::tcp::LISTEN,
        },
        abi::KIND_BOUND => Kind::Bound,
        abi::KIND_PORT => Kind::Port,
        abi::KIND_RELEASED => Kind::Released,
        abi::KIND_ACCEPTED => Kind::Accepted {
            state: state(raw.new)?,
        },
        abi::KIND_CLOSED_BY => Kind::ClosedBy,
        unknown => return Err(DecodeError::Kind(unknown)),
    })
}

fn end(raw: &abi::Event) -> Option<End> {
    if raw.new != abi::tcp::CLOSE && raw.timewait == 0 {
        return None;
    }
    Some(End {
        timewait: nonzero(raw.timewait),
        error: raw.errno,
        sent: raw.sent,
        received: raw.received,
        given_up: has(raw, abi::FACT_GIVEN_UP),
    })
}

pub(crate) fn state(state: u8) -> Result<State, DecodeError> {
    use abi::tcp;
    Ok(match state {
        tcp::ESTABLISHED => State::Established,
        tcp::SYN_SENT => State::SynSent,
        tcp::SYN_RECV => State::SynRecv,
        tcp::FIN_WAIT1 => State::FinWait1,
        tcp::FIN_WAIT2 => State::FinWait2,
        tcp::TIME_WAIT => State::TimeWait,
        tcp::CLOSE => State::Close,
        tcp::CLOSE_WAIT => State::CloseWait,
        tcp::LAST_ACK => State::LastAck,
        tcp::LISTEN => State::Listen,
        tcp::CLOSING => State::Closing,
        unknown => return Err(DecodeError::State(unknown)),
    })
}

fn role(role: u8) -> Result<Option<Role>, DecodeError> {
    Ok(match role {
        abi::ROLE_UNKNOWN => None,
        abi::ROLE_CLIENT => Some(Role::Client),
        abi::ROLE_SERVER => Some(Role::Server),
        abi::ROLE_LISTENER => Some(Role::Listener),
        unknown => return Err(DecodeError::Role(unknown)),
    })
}

fn owner(owner: u8) -> Result<Owner, DecodeError> {
    Ok(match owner {
        abi::OWNER_NONE => Owner::None,
        abi::OWNER_CONNECT => Owner::Connect,
        abi::OWNER_BIND => Owner::Bind,
        abi::OWNER_ACCEPT => Owner::Accept,
        unknown => return Err(DecodeError::Owner(unknown)),
    })
}

fn task(raw: &abi::Task) -> Task {
    Task {
        pid: raw.pid,
        tid: raw.tid,
        uid: raw.uid,
        start_ns: raw.start_ns,
        cgroup: raw.cgroup,
        comm: Comm(raw.comm),
    }
}

fn tuple(raw: &abi::Tuple) -> Result<Tuple, DecodeError> {
    let (family, local, peer) = match raw.family {
        abi::AF_INET => (Family::Ipv4, ipv4(&raw.local), ipv4(&raw.peer)),
        abi::AF_INET6 => (Family::Ipv6, ipv6(&raw.local), ipv6(&raw.peer)),
        unknown => return Err(DecodeError::Family(unknown)),
    };
    Ok(Tuple {
        family,
        local: Endpoint {
            ip: local,
            port: nonzero(raw.local_port),
        },
        peer: Endpoint {
            ip: peer,
            port: nonzero(raw.peer_port),
        },
    })
}

fn ipv4(bytes: &[u8; 16]) -> IpAddr {
    Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()
}

fn ipv6(bytes: &[u8; 16]) -> IpAddr {
    Ipv6Addr::from(*bytes).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> abi::Event {
        let mut event = abi::Event {
            head: abi::Head {
                kind: abi::KIND_STATE,
                size: EVENT as u16,
                ts: 7,
                sock: 8,
                cookie: 9,
                netns: 10,
                old: abi::tcp::SYN_SENT,
                new: abi::tcp::ESTABLISHED,
                role: abi::ROLE_CLIENT,
                owner: abi::OWNER_CONNECT,
                ..abi::Head::default()
            },
            ..abi::Event::default()
        };
        event.tuple.family = abi::AF_INET6;
        event.tuple.local[10..].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 7]);
        event.tuple.peer[15] = 1;
        event.tuple.peer_port = 80;
        event.task.pid = 812;
        event.task.comm[..4].copy_from_slice(b"work");
        event
    }

    fn with(change: impl FnOnce(&mut abi::Event)) -> abi::Event {
        let mut event = sample();
        change(&mut event);
        event
    }

    fn bytes(event: &abi::Event) -> Vec<u8> {
        // SAFETY: `Event` is `repr(C)`, made of integers, without implicit padding.
        unsafe {
            std::slice::from_raw_parts(
                std::ptr::from_ref(event).cast::<u8>(),
                size_of::<abi::Event>(),
            )
        }
        .to_vec()
    }

    #[test]
    fn decodes_every_field() {
        let event = Event::decode(&bytes(&sample())).unwrap();
        assert_eq!((event.ts, event.sock, event.netns), (7, 8, 10));
        assert_eq!(event.cookie, Some(9));
        assert_eq!(event.tuple.family, Family::Ipv6);
        assert_eq!(event.tuple.local.ip, IpAddr::from([10, 0, 0, 7]));
        assert_eq!(event.tuple.local.port, None);
        assert_eq!(event.tuple.peer.ip, IpAddr::from(Ipv6Addr::LOCALHOST));
        assert_eq!(event.tuple.peer.port, Some(80));
        let task = event.task.unwrap();
        assert_eq!((task.pid, task.comm.bytes()), (812, &b"work"[..]));
        assert_eq!(
            event.kind,
            Kind::State {
                old: State::SynSent,
                new: State::Established,
                end: None,
            }
        );
    }

    #[test]
    fn a_short_record_has_no_task() {
        let event = with(|event| {
            event.size = HEAD as u16;
            event.owner = abi::OWNER_NONE;
        });
        let short = Event::decode(&bytes(&event)[..HEAD]).unwrap();
        assert_eq!((short.owner, short.task), (Owner::None, None));
        let whole = Event::decode(&bytes(&sample())).unwrap();
        assert_eq!((short.tuple, short.kind), (whole.tuple, whole.kind));
        let wrong = Event::decode(&bytes(&sample())[..HEAD]);
        assert_eq!(wrong, Err(DecodeError::Abi(EVENT as u16)));
    }

    #[test]
    fn a_task_without_an_owner_is_no_task() {
        let event = with(|event| event.owner = abi::OWNER_NONE);
        assert_eq!(Event::decode(&bytes(&event)).unwrap().task, None);
    }

    #[test]
    fn names_what_is_unknown() {
        let cases = [
            (with(|event| event.kind = 77), DecodeError::Kind(77)),
            (with(|event| event.size = 96), DecodeError::Abi(96)),
            (with(|event| event.new = 12), DecodeError::State(12)),
            (with(|event| event.role = 9), DecodeError::Role(9)),
            (with(|event| event.owner = 9), DecodeError::Owner(9)),
        ];
        for (event, error) in cases {
            assert_eq!(Event::decode(&bytes(&event)), Err(error));
        }
        assert_eq!(Event::decode(&[]), Err(DecodeError::Size(0)));
    }

    #[test]
    fn a_timewait_socket_takes_over() {
        let event = with(|event| {
            event.old = abi::tcp::CLOSING;
            event.new = abi::tcp::TIME_WAIT;
            event.timewait = 77;
            event.sent = 3;
            event.received = 4;
        });
        let Kind::State { end, .. } = Event::decode(&bytes(&event)).unwrap().kind else {
            panic!("another kind");
        };
        let end = end.unwrap();
        assert_eq!((end.timewait, end.sent, end.received), (Some(77), 3, 4));
    }

    #[test]
    fn a_bind_that_fails_names_what_it_asked_for() {
        let mut event = with(|event| {
            event.kind = abi::KIND_BIND_FAILED;
            event.errno = abi::EADDRINUSE;
            event.old = 0;
            event.new = abi::tcp::CLOSE;
            event.owner = abi::OWNER_BIND;
        });
        event.tuple.local_port = 80;
        let decoded = Event::decode(&bytes(&event)).unwrap();
        let failed = |listens| Kind::BindFailed { errno: 98, listens };
        assert_eq!(decoded.kind, failed(false));
        assert_eq!(decoded.tuple.local.port, Some(80));
        assert_eq!(
            (decoded.owner, decoded.task.unwrap().pid),
            (Owner::Bind, 812)
        );
        event.new = abi::tcp::LISTEN;
        assert_eq!(Event::decode(&bytes(&event)).unwrap().kind, failed(true));
    }

    #[test]
    fn facts_are_bits() {
        let event = with(|event| {
            event.facts = abi::FACT_TIMESTAMPS;
            event.range_high = 30_010;
        });
        let event = Event::decode(&bytes(&event)).unwrap();
        assert!(event.timestamps);
        assert_eq!(event.socket_range, Some((0, 30_010)));
        let event = Event::decode(&bytes(&sample())).unwrap();
        assert_eq!((event.timestamps, event.socket_range), (false, None));
        let row = |facts| {
            let row = with(|event| {
                event.kind = abi::KIND_SOCKET;
                event.facts = facts;
            });
            let row = Row::decode(&bytes(&row), 1).unwrap();
            (row.timestamps, row.mode, row.connect_bind)
        };
        assert_eq!(
            row(abi::FACT_TIMESTAMPS | abi::FACT_NO_CONNECT_BIND),
            (true, None, None)
        );
        let chosen = abi::FACT_CONNECT_MODE | abi::FACT_CONNECT_BIND;
        assert_eq!(row(chosen), (false, Some(Mode::Connect), Some(true)));
        let bound = (false, Some(Mode::Bind), Some(false));
        assert_eq!(row(abi::FACT_BIND_MODE), bound);
    }

    #[test]
    fn rows_of_a_dump_are_not_events() {
        let row = with(|event| {
            event.kind = abi::KIND_SOCKET;
            event.new = abi::tcp::TIME_WAIT;
            event.timewait = 8;
            event.sent = 10;
        });
        let row = bytes(&row);
        assert_eq!(
            Event::decode(&row),
            Err(DecodeError::Kind(abi::KIND_SOCKET))
        );
        let row = Row::decode(&row, 4_000_000).unwrap();
        assert_eq!((row.state, row.holder), (State::TimeWait, None));
        assert_eq!(row.due, Some(sample().ts + 40_000_000));
        let event = bytes(&sample());
        let refused = Row::decode(&event, 4_000_000);
        assert_eq!(refused, Err(DecodeError::Kind(abi::KIND_STATE)));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Event::decode(&bytes);
            let _ = Row::decode(&bytes, 4_000_000);
        }

        #[test]
        fn a_changed_record_decodes_or_is_refused(
            at in 0..size_of::<abi::Event>(),
            byte in any::<u8>(),
        ) {
            let mut bytes = bytes(&sample());
            bytes[at] = byte;
            let _ = Event::decode(&bytes);
            let _ = Row::decode(&bytes, 4_000_000);
        }
    }
}
