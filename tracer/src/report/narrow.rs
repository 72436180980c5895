//! What of the input a report is about.

use std::{net::IpAddr, str::FromStr};

use ipnet::IpNet;
use jiff::{Timestamp, civil, tz::TimeZone};

use super::{digest::Route, time::timestamp};

/// Nothing of it: everything.
#[derive(Clone, Debug, Default)]
pub struct Narrow {
    pub since: Option<Moment>,
    pub until: Option<Moment>,
    pub process: Option<String>,
    pub peer: Option<Peer>,
    pub netns: Option<u32>,
}

/// A time, or one that is relative to the last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Nanoseconds since 1970.
    At(i64),
    /// Nanoseconds before the last line.
    BeforeEnd(i64),
    /// Of the day of the last line, UTC: nanoseconds since midnight.
    OfDay(i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub net: IpNet,
    pub port: Option<u16>,
}

impl Narrow {
    /// Whether a process has that name, pid or id.
    pub fn has_process(&self, comm: &str, pid: u32, id: &str) -> bool {
        let Some(wanted) = &self.process else {
            return true;
        };
        wanted == comm || wanted == id || wanted.parse() == Ok(pid)
    }

    pub fn has_route(&self, route: &Route) -> bool {
        let Some(wanted) = &self.peer else {
            return true;
        };
        let port = wanted.port.is_none() || wanted.port == route.port;
        port && wanted.net.contains(&route.peer)
    }

    pub fn has_netns(&self, netns: u32) -> bool {
        self.netns.is_none_or(|wanted| wanted == netns)
    }

    /// Relative times need to know when the last line is.
    pub fn needs_end(&self) -> bool {
        let relative = |moment: &Option<Moment>| !matches!(moment, None | Some(Moment::At(_)));
        relative(&self.since) || relative(&self.until)
    }

    /// Makes relative times absolute.
    pub fn resolve(&mut self, end: i64) {
        for moment in [&mut self.since, &mut self.until].into_iter().flatten() {
            *moment = Moment::At(moment.resolve(end));
        }
    }

    /// First and last nanosecond, both inclusive.
    pub fn bounds(&self) -> (i64, i64) {
        let at = |moment: Option<Moment>, open| match moment {
            Some(Moment::At(ns)) => ns,
            _ => open,
        };
        (at(self.since, i64::MIN), at(self.until, i64::MAX))
    }

    /// In words.
    pub fn words(&self) -> Vec<String> {
        let (since, until) = self.bounds();
        let time =
            |name, moment: Option<Moment>, ns| moment.map(|_| format!("{name} {}", timestamp(ns)));
        let times = [
            time("since", self.since, since),
            time("until", self.until, until),
        ];
        times.into_iter().chain(self.places()).flatten().collect()
    }

    /// Process, peer and network namespace in words.
    pub fn places(&self) -> [Option<String>; 3] {
        let peer = self.peer.map(|Peer { net, port }| match port {
            Some(port) => format!("peer {net}, port {port}"),
            None => format!("peer {net}"),
        });
        let process = self.process.as_ref().map(|name| format!("process {name}"));
        let netns = self.netns.map(|netns| format!("network namespace {netns}"));
        [process, peer, netns]
    }
}

impl Moment {
    fn resolve(self, end: i64) -> i64 {
        const DAY: i64 = 86_400_000_000_000;
        match self {
            Self::At(ns) => ns,
            Self::BeforeEnd(ns) => end.saturating_sub(ns),
            Self::OfDay(ns) => {
                let at = end - end.rem_euclid(DAY) + ns;
                // The end is the latest that can be meant.
                if at > end { at - DAY } else { at }
            }
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "give a time as 2026-01-02T03:04:05Z, a time of the last day as 14:05 (UTC), or -10m: before the last line"
                .to_owned()
        };
        if let Some(ago) = text.strip_prefix('-') {
            return before(ago).map(Self::BeforeEnd).ok_or_else(wrong);
        }
        if let Ok(ts) = text.parse::<Timestamp>() {
            return i64::try_from(ts.as_nanosecond())
                .map(Self::At)
                .map_err(|_| wrong());
        }
        if let Ok(local) = text.parse::<civil::DateTime>() {
            let zoned = local.to_zoned(TimeZone::UTC).map_err(|_| wrong())?;
            return i64::try_from(zoned.timestamp().as_nanosecond())
                .map(Self::At)
                .map_err(|_| wrong());
        }
        let time: civil::Time = text.parse().map_err(|_| wrong())?;
        let midnight = time.duration_since(civil::Time::midnight());
        i64::try_from(midnight.as_nanos())
            .map(Self::OfDay)
            .map_err(|_| wrong())
    }
}

/// The inode number of a network namespace, which is what lines have of it.
pub fn netns(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| {
        "give its inode number, as `netns` in the lines: they do not have its name".to_owned()
    })
}

/// `90s`, `10m`, `1h30m`.
fn before(text: &str) -> Option<i64> {
    let duration: jiff::SignedDuration = text.parse().ok()?;
    i64::try_from(duration.as_nanos())
        .ok()
        .filter(|ns| *ns >= 0)
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Self { net, port: None });
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self {
                net: ip.into(),
                port: None,
            });
        }
        let to: std::net::SocketAddr = text.parse().map_err(|_| {
            "give an address, one with a port or a network: 10.0.0.9, 10.0.0.9:5774, [2001:db8::9]:443, 10.0.0.0/8"
        })?;
        Ok(Self {
            net: to.ip().into(),
            port: Some(to.port()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Moment, Narrow, Peer};
    use crate::report::digest::Route;

    const HOUR: i64 = 3_600_000_000_000;

    #[test]
    fn times_are_absolute_relative_or_of_the_last_day() {
        let end = match "2026-01-02T03:04:05Z".parse().unwrap() {
            Moment::At(ns) => ns,
            other => panic!("{other:?}"),
        };
        assert_eq!("2026-01-02T03:04:05".parse(), Ok(Moment::At(end)));
        assert_eq!("-1h".parse::<Moment>().unwrap().resolve(end), end - HOUR);
        assert_eq!("-90s".parse(), Ok(Moment::BeforeEnd(HOUR / 40)));
        let two = "02:04:05".parse::<Moment>().unwrap();
        assert_eq!(two.resolve(end), end - HOUR);
        let four = "04:04:05".parse::<Moment>().unwrap();
        assert_eq!(four.resolve(end), end - 23 * HOUR);
        for bad in ["", "-", "soon", "25:00", "-10", "--10m"] {
            assert!(bad.parse::<Moment>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_peer_is_an_address_a_port_there_or_a_network() {
        let route = |peer: &str, port| Route {
            local: "10.0.0.7".parse().unwrap(),
            peer: peer.parse().unwrap(),
            port: Some(port),
        };
        let has = |peer: &str, ip: &str, port| {
            let narrow = Narrow {
                peer: Some(peer.parse().unwrap()),
                ..Narrow::default()
            };
            narrow.has_route(&route(ip, port))
        };
        assert!(has("10.0.0.9", "10.0.0.9", 1) && !has("10.0.0.9", "10.0.0.8", 1));
        assert!(has("10.0.0.9:5774", "10.0.0.9", 5774) && !has("10.0.0.9:5774", "10.0.0.9", 1));
        assert!(has("10.0.0.0/8", "10.9.9.9", 1) && !has("10.0.0.0/8", "11.0.0.1", 1));
        assert!(has("[2001:db8::9]:443", "2001:db8::9", 443));
        for bad in ["", "host", "10.0.0.9:", "10.0.0.9:70000", "10.0.0.0/33"] {
            assert!(bad.parse::<Peer>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_namespace_is_given_by_its_inode_number() {
        assert_eq!(super::netns("4026531840"), Ok(4_026_531_840));
        for bad in ["", "shop", "-1", "4294967296"] {
            let why = super::netns(bad).unwrap_err();
            assert!(why.contains("inode number"), "{bad}: {why}");
        }
    }

    #[test]
    fn a_process_is_named_by_its_name_pid_or_id() {
        for (wanted, is) in [
            ("nginx", true),
            ("812", true),
            ("812-5", true),
            ("81", false),
        ] {
            let narrow = Narrow {
                process: Some(wanted.into()),
                ..Narrow::default()
            };
            assert_eq!(narrow.has_process("nginx", 812, "812-5"), is, "{wanted}");
        }
    }
}
