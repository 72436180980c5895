//! The two types of which there are most lines, without serde's detours: that takes half the time. The derived
//! serializers stay what is right; a test compares.

use std::{cell::RefCell, io::Write as _, net::IpAddr};

use jiff::Timestamp;
use serde::Serialize;

use super::{Body, Connection, Line, Process, Socket, State, units};
use crate::event::Endpoint;

/// Each octet of an IPv4 address with a point, and how long that is.
static OCTETS: [([u8; 4], u8); 256] = {
    let mut octets = [([b'.'; 4], 0); 256];
    let mut octet = 0;
    while octet < 256 {
        let (digits, count) = &mut octets[octet];
        let mut place = 100;
        while place > 0 {
            if octet >= place || place == 1 {
                digits[*count as usize] = b'0' + (octet / place % 10) as u8;
                *count += 1;
            }
            place /= 10;
        }
        *count += 1;
        octet += 1;
    }
    octets
};

/// A socket that was written, and its text; `None`: none yet.
struct Written {
    socket: Option<Socket>,
    text: Vec<u8>,
}

/// So many are remembered: each has one place, by its ports.
const PLACES: usize = 128;

const NOTHING: Written = Written {
    socket: None,
    text: Vec::new(),
};

thread_local! {
    /// Those that were written last: a connection has several lines, most of them soon one after the other.
    static LAST: RefCell<[Written; PLACES]> = const { RefCell::new([NOTHING; PLACES]) };
}

/// JSON, appended piece by piece.
struct Json<'a>(&'a mut Vec<u8>);

pub(super) fn state(line: &Line<'_, State<'_>>, to: &mut Vec<u8>) -> serde_json::Result<()> {
    let (mut json, body) = (Json::line(to, line)?, line.body);
    json.socket(&body.socket);
    json.raw(",\"old\":\"").raw(body.old.name());
    json.raw("\",\"new\":\"").raw(body.new.name());
    json.raw("\",\"cookie\":").id(body.cookie);
    json.raw(",\"process\":").process(body.process.as_ref())?;
    json.raw(",\"owner\":\"").raw(body.owner.name()).raw("\"");
    if body.corrected {
        json.raw(",\"corrected\":true");
    }
    json.raw("}");
    Ok(())
}

pub(super) fn connection(
    line: &Line<'_, Connection<'_>>,
    to: &mut Vec<u8>,
) -> serde_json::Result<()> {
    let (mut json, body) = (Json::line(to, line)?, line.body);
    json.socket(&body.socket);
    json.raw(",\"cookie\":").id(body.cookie);
    json.raw(",\"process\":").process(body.process.as_ref())?;
    json.raw(",\"owner\":\"").raw(body.owner.name());
    json.raw("\",\"closed_by\":")
        .process(body.closed_by.as_ref())?;
    json.raw(",\"opened\":")
        .or_null(body.opened, |json, ts| json.time(&ts));
    json.raw(",\"closed\":").time(&body.closed);
    json.raw(",\"duration_ms\":").fraction(body.duration_ms)?;
    json.raw(",\"established\":");
    json.raw(if body.established { "true" } else { "false" });
    json.raw(",\"end\":").value(&body.end)?;
    json.raw(",\"bytes_sent\":")
        .or_null(body.bytes_sent, Json::number);
    json.raw(",\"bytes_received\":")
        .or_null(body.bytes_received, Json::number);
    json.raw(",\"time_wait_s\":").fraction(body.time_wait_s)?;
    if body.in_time_wait {
        json.raw(",\"in_time_wait\":true");
    }
    json.raw("}");
    Ok(())
}

impl<'a> Json<'a> {
    /// Begins a line, up to its body.
    fn line<B: Body>(to: &'a mut Vec<u8>, line: &Line<'_, B>) -> serde_json::Result<Self> {
        // More than most take: then there is nothing to grow for.
        to.reserve(1024);
        let mut json = Self(to);
        json.raw("{\"v\":").number(line.v.into());
        json.raw(",\"type\":\"").raw(B::TYPE);
        json.raw("\",\"ts\":").time(&line.ts);
        json.raw(",\"seq\":").number(line.seq);
        json.raw(",\"host\":").string(line.host)?;
        if let Some(labels) = line.labels {
            json.raw(",\"labels\":").value(labels)?;
        }
        if line.detail {
            json.raw(",\"detail\":true");
        }
        if line.repeated {
            json.raw(",\"repeated\":true");
        }
        Ok(json)
    }

    fn socket(&mut self, socket: &Socket) {
        LAST.with_borrow_mut(|last| {
            let written = &mut last[place(socket)];
            if written.socket.as_ref() == Some(socket) {
                self.0.extend_from_slice(&written.text);
                return;
            }
            let start = self.0.len();
            self.new_socket(socket);
            written.socket = Some(*socket);
            written.text.clear();
            written.text.extend_from_slice(&self.0[start..]);
        });
    }

    fn new_socket(&mut self, socket: &Socket) {
        self.raw(",\"netns\":").number(socket.netns.into());
        self.raw(",\"family\":\"").raw(socket.family.name());
        self.raw("\",\"role\":").or_null(socket.role, |json, role| {
            json.raw("\"").raw(role.name()).raw("\"");
        });
        self.raw(",\"local\":").endpoint(&socket.local);
        self.raw(",\"peer\":").endpoint(&socket.peer);
    }

    fn endpoint(&mut self, end: &Endpoint) {
        self.raw("{\"ip\":\"").ip(end.ip);
        self.raw("\",\"port\":")
            .or_null(end.port.map(u64::from), Self::number);
        self.raw("}");
    }

    fn process(&mut self, process: Option<&Process<'_>>) -> serde_json::Result<()> {
        let Some(process) = process else {
            self.raw("null");
            return Ok(());
        };
        if let Some(json) = process.json {
            self.raw(json);
            return Ok(());
        }
        self.raw("{\"id\":").string(process.id)?;
        self.raw(",\"pid\":").number(process.pid.into());
        self.raw(",\"tid\":").number(process.tid.into());
        self.raw(",\"comm\":").string(&process.comm)?;
        self.raw("}");
        Ok(())
    }

    /// JSON as it is.
    #[inline]
    fn raw(&mut self, text: &str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn number(&mut self, number: u64) {
        self.raw(itoa::Buffer::new().format(number));
    }

    /// A number of thousandths, as times are.
    fn fraction(&mut self, value: Option<f64>) -> serde_json::Result<()> {
        // What does not fit comes out as another value.
        let count = value.map_or(0, |value| (value * 1000.0).round() as u32);
        if value != Some(f64::from(count) / 1000.0) {
            return self.value(&value);
        }
        self.number((count / 1000).into());
        let digits = [count / 100 % 10, count / 10 % 10, count % 10];
        let digits = digits.map(|digit| b'0' + digit as u8);
        let zeros = digits[1..].iter().rev().take_while(|digit| **digit == b'0');
        let length = digits.len() - zeros.count();
        self.raw(".").0.extend_from_slice(&digits[..length]);
        Ok(())
    }

    /// A 64-bit id: see [`units::decimal`].
    fn id(&mut self, id: Option<u64>) {
        self.or_null(id, |json, id| {
            json.raw("\"").number(id);
            json.raw("\"");
        });
    }

    fn string(&mut self, text: &str) -> serde_json::Result<()> {
        let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
        if text.bytes().all(is_plain) {
            self.raw("\"").raw(text).raw("\"");
            return Ok(());
        }
        self.value(&text)
    }

    fn time(&mut self, ts: &Timestamp) {
        self.raw("\"");
        units::push_rfc3339(ts, self.0);
        self.raw("\"");
    }

    fn ip(&mut self, ip: IpAddr) {
        let IpAddr::V4(ip) = ip else {
            // A `Vec` takes everything.
            let _ = write!(self.0, "{ip}");
            return;
        };
        for octet in ip.octets() {
            let (digits, count) = OCTETS[usize::from(octet)];
            let end = self.0.len() + usize::from(count);
            self.0.extend_from_slice(&digits);
            self.0.truncate(end);
        }
        // The last point.
        self.0.pop();
    }

    fn or_null<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        match value {
            Some(value) => write(self, value),
            None => _ = self.raw("null"),
        }
    }

    /// The rest, as serde has it.
    fn value<T: Serialize>(&mut self, value: &T) -> serde_json::Result<()> {
        serde_json::to_writer(&mut *self.0, value)
    }
}

fn place(socket: &Socket) -> usize {
    /// 2^32 by the golden ratio.
    const SPREAD: u32 = 0x9e37_79b1;
    let port = |end: &Endpoint| u32::from(end.port.unwrap_or_default());
    let ports = port(&socket.local) << 16 | port(&socket.peer);
    (ports.wrapping_mul(SPREAD) >> 16) as usize % PLACES
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, collections::BTreeMap, marker::PhantomData};

    use clap::ValueEnum as _;
    use proptest::{option, prelude::*};

    use super::*;
    use crate::{
        event::{self, Family, Owner, Role},
        ledger::EndReason,
        record::{Type, VERSION},
    };

    fn endpoint() -> impl Strategy<Value = Endpoint> {
        let ip = (any::<bool>(), any::<u128>(), any::<u32>());
        let ip = ip.prop_map(|(is_v6, v6, v4)| match is_v6 {
            true => IpAddr::V6(v6.into()),
            false => IpAddr::V4(v4.into()),
        });
        (ip, option::of(any::<u16>())).prop_map(|(ip, port)| Endpoint { ip, port })
    }

    fn socket() -> impl Strategy<Value = Socket> {
        let family = prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)];
        let role = prop_oneof![Just(Role::Client), Just(Role::Server), Just(Role::Listener)];
        let parts = (
            any::<u32>(),
            family,
            option::of(role),
            endpoint(),
            endpoint(),
        );
        parts.prop_map(|(netns, family, role, local, peer)| Socket {
            netns,
            family,
            role,
            local,
            peer,
        })
    }

    fn state() -> impl Strategy<Value = event::State> {
        prop::sample::select(event::State::value_variants())
    }

    fn owner() -> impl Strategy<Value = Owner> {
        prop::sample::select(&[
            Owner::Connect,
            Owner::Bind,
            Owner::Accept,
            Owner::Inherited,
            Owner::Snapshot,
            Owner::None,
        ])
    }

    fn process() -> impl Strategy<Value = Option<Process<'static>>> {
        let process = (any::<u32>(), any::<u32>(), any::<String>());
        option::of(process.prop_map(|(pid, tid, comm)| Process {
            id: "812-5",
            pid,
            tid,
            comm: Cow::Owned(comm),
            json: None,
        }))
    }

    fn time() -> impl Strategy<Value = Timestamp> {
        let ns = 0..4_000_000_000_000_000_000_i128;
        ns.prop_map(|ns| Timestamp::from_nanosecond(ns).unwrap())
    }

    fn same<B: Body>(body: &B, ts: Timestamp, (host, label, marks): &(String, String, u8)) {
        let labels = BTreeMap::from([("label".to_owned(), label.clone())]);
        let line = Line {
            v: VERSION,
            r#type: Type(PhantomData),
            ts,
            seq: ts.as_second() as u64,
            host,
            labels: (marks & 1 != 0).then_some(&labels),
            detail: marks & 2 != 0,
            repeated: marks & 4 != 0,
            body,
        };
        let expected = serde_json::to_string(&line).unwrap();
        // The second time its socket is known.
        for _ in 0..2 {
            let mut written = Vec::new();
            B::write(&line, &mut written).unwrap();
            assert_eq!(String::from_utf8(written).unwrap(), expected);
        }
    }

    #[test]
    fn sockets_with_the_same_ports_have_their_own_text() {
        let end = |ip: [u8; 4], port| Endpoint {
            ip: ip.into(),
            port: Some(port),
        };
        let sockets = [1, 2].map(|netns| Socket {
            netns,
            family: Family::Ipv4,
            role: None,
            local: end([10, 0, 0, 7], 40_123),
            peer: end([10, 0, 0, 9], 443),
        });
        for socket in [sockets[0], sockets[1], sockets[0]] {
            let mut text = Vec::new();
            Json(&mut text).socket(&socket);
            let text = String::from_utf8(text).unwrap();
            assert!(text.starts_with(&format!(",\"netns\":{},", socket.netns)));
        }
    }

    proptest! {
        #[test]
        fn states_are_as_derived(
            (socket, owner, process) in (socket(), owner(), process()),
            (old, new) in (state(), state()),
            cookie in option::of(any::<u64>()),
            corrected in any::<bool>(),
            ts in time(),
            rest in any::<(String, String, u8)>(),
        ) {
            same(&State { socket, old, new, cookie, process, owner, corrected }, ts, &rest);
        }

        #[test]
        fn connections_are_as_derived(
            (socket, owner, process, closed_by) in (socket(), owner(), process(), process()),
            (cookie, bytes_sent) in any::<(Option<u64>, Option<u64>)>(),
            (opened, closed) in (option::of(time()), time()),
            (duration_ms, time_wait_s) in any::<(Option<u32>, Option<u32>)>(),
            (established, in_time_wait) in any::<(bool, bool)>(),
            rest in any::<(String, String, u8)>(),
        ) {
            let thousandths = |count: u32| f64::from(count) / 1000.0;
            let connection = Connection {
                socket, cookie, process, owner, closed_by, opened, closed,
                duration_ms: duration_ms.map(thousandths),
                established,
                end: EndReason::Rst,
                bytes_sent,
                bytes_received: cookie,
                time_wait_s: time_wait_s.map(thousandths),
                in_time_wait,
            };
            same(&connection, closed, &rest);
        }
    }
}
