//! The ports of a network namespace: how many there are, and what is in the way.

use std::{
    collections::BTreeSet,
    fmt::{self, Display, Formatter},
    io,
};

use serde::Serialize;

use crate::{
    diagnosis::case::Host,
    host::netns::{self, Namespace, host},
    pool::Settings,
    record::Netns,
};

/// How long TIME_WAIT lasts, in seconds: `TCP_TIMEWAIT_LEN`.
const TIME_WAIT: u32 = 60;

/// So many listeners are shown in a text.
const SHOWN: usize = 10;

/// From here on a table is called nearly full, in percent.
const NEARLY_FULL: u64 = 90;

/// Null: not known, or this kernel has none.
#[derive(Debug, Serialize)]
pub(super) struct Ports {
    #[serde(flatten)]
    netns: Netns,
    reserved_in_range: Option<u32>,
    /// Ports in the range, reserved ones aside, that somebody listens on.
    listeners_in_range: Option<Vec<u16>>,
    /// What is left of the range for connections to one destination: not reserved, and without a listener.
    ports_per_destination: Option<u32>,
    /// Entries now.
    time_wait: Option<u64>,
    conntrack: Option<Conntrack>,
    listen_overflows: Option<u64>,
    /// An address, loopback's aside, on an interface that is up.
    has_ipv4: Option<bool>,
    has_ipv6: Option<bool>,
    ipv6_disabled: Option<bool>,
    /// What could not be read, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Conntrack {
    count: u64,
    /// 0: without end.
    max: u64,
}

/// Those of every network namespace, first of the one that tracer runs in; and why there are not more.
pub(super) fn all() -> (Vec<Ports>, Option<String>) {
    match read_all() {
        Ok(found) => (found, None),
        Err(error) => {
            let own = Raw::of_thread().into_ports(netns::current().0);
            let text = format!("only one network namespace is shown: {error}");
            (vec![own], Some(text))
        }
    }
}

fn read_all() -> io::Result<Vec<Ports>> {
    let namespaces = netns::all()?;
    let read = netns::in_each(&namespaces, |_| Ok(Raw::of_thread()))?;
    let ports = |(namespace, read): (&Namespace, io::Result<Raw>)| {
        let raw = read.unwrap_or_else(|error| Raw::unknown(&error));
        raw.into_ports(namespace.inode)
    };
    Ok(namespaces.iter().zip(read).map(ports).collect())
}

/// As read.
struct Raw {
    settings: Option<Settings>,
    time_wait: Option<u64>,
    listeners: Option<BTreeSet<u16>>,
    host: Host,
    problems: Vec<String>,
}

impl Raw {
    fn of_thread() -> Self {
        let mut problems = Vec::new();
        Self {
            settings: known(netns::settings_of_thread(), &mut problems),
            time_wait: known(host::time_wait(), &mut problems),
            listeners: known(host::listeners(), &mut problems),
            host: host::of_thread(),
            problems,
        }
    }

    fn unknown(error: &io::Error) -> Self {
        Self {
            settings: None,
            time_wait: None,
            listeners: None,
            host: Host::default(),
            problems: vec![error.to_string()],
        }
    }

    fn into_ports(self, netns: u32) -> Ports {
        let settings = self.settings.as_ref();
        let reserved = settings.map(reserved_in_range);
        let listeners = settings
            .zip(self.listeners)
            .map(|(settings, ports)| in_the_way(settings, &ports));
        Ports {
            netns: Netns::new(netns, settings),
            ports_per_destination: settings
                .zip(listeners.as_ref())
                .map(|(settings, listeners)| left(settings, listeners)),
            reserved_in_range: reserved,
            listeners_in_range: listeners,
            time_wait: self.time_wait,
            conntrack: self
                .host
                .conntrack
                .map(|(count, max)| Conntrack { count, max }),
            listen_overflows: self.host.listen_overflows,
            has_ipv4: self.host.has_ipv4,
            has_ipv6: self.host.has_ipv6,
            ipv6_disabled: self.host.ipv6_disabled,
            problems: self.problems,
        }
    }
}

fn known<T>(read: io::Result<T>, problems: &mut Vec<String>) -> Option<T> {
    read.map_err(|error| problems.push(error.to_string())).ok()
}

fn reserved_in_range(settings: &Settings) -> u32 {
    let (low, high) = settings.range;
    let reserved = (low..=high).filter(|port| settings.reserved.contains(*port));
    reserved.map(|_| 1).sum()
}

fn in_the_way(settings: &Settings, listeners: &BTreeSet<u16>) -> Vec<u16> {
    let (low, high) = settings.range;
    let open = |port: &&u16| !settings.reserved.contains(**port);
    listeners.range(low..=high).filter(open).copied().collect()
}

fn left(settings: &Settings, listeners: &[u16]) -> u32 {
    let (low, high) = settings.range;
    let listening = u32::try_from(listeners.len()).unwrap_or(u32::MAX);
    let range = u32::from(high) + 1 - u32::from(low);
    range.saturating_sub(reserved_in_range(settings) + listening)
}

impl Display for Ports {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "network namespace {}", self.netns.netns)?;
        for problem in &self.problems {
            writeln!(f, "  {problem}")?;
        }
        let lines = [
            self.range(),
            self.reserved(),
            self.reuse(),
            self.timestamps(),
            self.time_wait(),
            self.conntrack(),
            self.overflows(),
            self.addresses(),
        ];
        for line in lines.into_iter().flatten().chain(self.listeners()) {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}

impl Ports {
    fn range(&self) -> Option<String> {
        let [low, high] = self.netns.range?;
        let mut text = format!("range {low}..{high}");
        if let Some(ports) = self.ports_per_destination {
            let count = grouped(ports.into());
            text += &format!(": {count} ports for each destination");
            if !self.reuses() {
                text += &format!(
                    "; at {TIME_WAIT} s of TIME_WAIT that allows about {} to one destination that this side \
                     closes first",
                    rate(ports)
                );
            }
        }
        Some(text)
    }

    /// Wherever the destination is.
    fn reuses(&self) -> bool {
        self.netns.tw_reuse == Some(1) && self.netns.timestamps == Some(true)
    }

    fn reserved(&self) -> Option<String> {
        let (all, inside) = (self.netns.reserved?, self.reserved_in_range?);
        Some(match all {
            0 => "reserved: none".into(),
            1 => format!("reserved: 1 port, {inside} of it in the range"),
            _ => format!("reserved: {all} ports, {inside} of them in the range"),
        })
    }

    fn reuse(&self) -> Option<String> {
        let mode = self.netns.tw_reuse?;
        let age = match self.netns.tw_reuse_delay_ms {
            Some(delay) => format!("{delay} ms"),
            None => "about a second".into(),
        };
        let meaning = match mode {
            0 => format!(
                "connect() takes no port out of TIME_WAIT before its {TIME_WAIT} s are over"
            ),
            1 => format!("connect() takes a port out of TIME_WAIT once it is {age} old"),
            2 => format!(
                "only on loopback: connect() takes a port out of TIME_WAIT there once it is {age} old"
            ),
            _ => "not known to tracer".into(),
        };
        Some(format!("tcp_tw_reuse {mode}: {meaning}"))
    }

    fn timestamps(&self) -> Option<String> {
        Some(match self.netns.timestamps? {
            true => "tcp_timestamps: on".into(),
            false => "tcp_timestamps: off, and so no port is taken out of TIME_WAIT, whatever tcp_tw_reuse says".into(),
        })
    }

    fn time_wait(&self) -> Option<String> {
        let now = self.time_wait?;
        let Some(most) = self.netns.max_tw_buckets.map(u64::from) else {
            return Some(format!("TIME_WAIT: {} entries", grouped(now)));
        };
        let full = if now >= most {
            ": a further connection gets none, and its port is free at once (TCPTimeWaitOverflow)"
        } else {
            ""
        };
        Some(format!("TIME_WAIT: {}{full}", fill(now, most)))
    }

    fn conntrack(&self) -> Option<String> {
        let Some(Conntrack { count, max }) = self.conntrack else {
            let readable = self.problems.is_empty();
            return readable.then(|| "conntrack: not in use".into());
        };
        if max == 0 {
            let count = grouped(count);
            return Some(format!("conntrack: {count} entries, without a limit"));
        }
        let nearly = count.saturating_mul(100) >= max.saturating_mul(NEARLY_FULL);
        let warning = if nearly {
            ": when it is full, new connections are dropped"
        } else {
            ""
        };
        Some(format!("conntrack: {}{warning}", fill(count, max)))
    }

    fn overflows(&self) -> Option<String> {
        Some(match self.listen_overflows? {
            0 => "ListenOverflows: 0".into(),
            count => format!(
                "ListenOverflows: {} times a connection was dropped because the accept queue of a listener was full",
                grouped(count)
            ),
        })
    }

    fn addresses(&self) -> Option<String> {
        let families = match (self.has_ipv4?, self.has_ipv6?) {
            (true, true) => "IPv4 and IPv6",
            (true, false) => "IPv4 only",
            (false, true) => "IPv6 only",
            (false, false) => "none",
        };
        let disabled = match self.ipv6_disabled {
            Some(true) => "; IPv6 is disabled (disable_ipv6 of all or lo)",
            _ => "",
        };
        Some(format!("addresses beside loopback: {families}{disabled}"))
    }

    fn listeners(&self) -> Vec<String> {
        let ports = self.listeners_in_range.as_deref().unwrap_or_default();
        let line = |port: &u16| {
            format!(
                "listener on port {port} sits inside the ephemeral range: it takes that port from every connect()"
            )
        };
        let mut lines: Vec<String> = ports.iter().take(SHOWN).map(line).collect();
        if let Some(more @ 1..) = ports.len().checked_sub(SHOWN) {
            lines.push(format!("and listeners on {more} more ports of the range"));
        }
        lines
    }
}

/// What so many ports allow.
fn rate(ports: u32) -> String {
    match ports / TIME_WAIT {
        0 => format!("{ports} new connections a minute"),
        rate => format!("{rate} new connections a second"),
    }
}

fn fill(count: u64, most: u64) -> String {
    let percent = count.saturating_mul(100).checked_div(most).unwrap_or(100);
    let (count, most) = (grouped(count), grouped(most));
    format!("{count} of at most {most} entries ({percent} %)")
}

/// `28,232`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw() -> Raw {
        Raw {
            settings: Some(Settings {
                max_tw_buckets: Some(131_072),
                ..Settings::default()
            }),
            time_wait: Some(27_880),
            listeners: Some(BTreeSet::from([80])),
            host: Host {
                is_elsewhere: false,
                conntrack: Some((60_000, 65_536)),
                listen_overflows: Some(1234),
                has_ipv4: Some(true),
                has_ipv6: Some(false),
                ipv6_disabled: Some(true),
            },
            problems: Vec::new(),
        }
    }

    fn says(raw: Raw, lines: &[&str]) {
        let text = raw.into_ports(42).to_string();
        for line in lines {
            assert!(
                text.lines().any(|each| each.trim() == *line),
                "{line} not in\n{text}"
            );
        }
    }

    #[test]
    fn in_plain_words() {
        says(
            raw(),
            &[
                "network namespace 42",
                "range 32768..60999: 28,232 ports for each destination; at 60 s of TIME_WAIT that allows about \
                 470 new connections a second to one destination that this side closes first",
                "reserved: none",
                "tcp_tw_reuse 2: only on loopback: connect() takes a port out of TIME_WAIT there once it is about \
                 a second old",
                "tcp_timestamps: on",
                "TIME_WAIT: 27,880 of at most 131,072 entries (21 %)",
                "conntrack: 60,000 of at most 65,536 entries (91 %): when it is full, new connections are dropped",
                "ListenOverflows: 1,234 times a connection was dropped because the accept queue of a listener was \
                 full",
                "addresses beside loopback: IPv4 only; IPv6 is disabled (disable_ipv6 of all or lo)",
            ],
        );
    }

    #[test]
    fn what_is_in_the_way_is_counted_once() {
        let mut raw = raw();
        let settings = raw.settings.as_mut().unwrap();
        settings.range = (40_000, 40_015);
        settings.reserved = "40001,40003-40004,9999".parse().unwrap();
        settings.tw_reuse = 1;
        raw.listeners = Some(BTreeSet::from([80, 40_004, 40_010]));
        let ports = raw.into_ports(42);
        assert_eq!(ports.listeners_in_range, Some(vec![40_010]));
        assert_eq!(ports.ports_per_destination, Some(12));
        let text = ports.to_string();
        assert!(text.contains("range 40000..40015: 12 ports for each destination\n"));
        assert!(text.contains("reserved: 4 ports, 3 of them in the range\n"));
        assert!(text.contains("listener on port 40010 sits inside"));
    }

    #[test]
    fn many_listeners_are_counted() {
        let mut raw = raw();
        raw.listeners = Some((50_000..50_013).collect());
        says(raw, &["and listeners on 3 more ports of the range"]);
    }

    #[test]
    fn says_why_it_knows_nothing() {
        let error = io::Error::other("network namespace 42 can't be entered");
        let text = Raw::unknown(&error).into_ports(42).to_string();
        assert_eq!(
            text,
            "network namespace 42\n  network namespace 42 can't be entered\n"
        );
    }

    #[test]
    fn numbers_are_grouped() {
        let texts = [0, 999, 1000, 28_232, 1_234_567].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "28,232", "1,234,567"]);
        assert_eq!(rate(59), "59 new connections a minute");
        assert_eq!(fill(5, 0), "5 of at most 0 entries (100 %)");
    }
}
