//! The values of the options that choose lines. Errors are the end of a sentence.

use std::{fmt, net::IpAddr, num::NonZeroU32, ops::RangeInclusive, path::Path, str::FromStr};

use glob::Pattern;
use ipnet::{IpNet, Ipv4Net};

/// What the kernel keeps of a name (`TASK_COMM_LEN`, include/linux/sched.h, less the NUL).
const NAME_MAX: usize = 15;

/// Where cgroups are on most hosts.
const CGROUPS: &str = "/sys/fs/cgroup";

/// One port, or all from one to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(RangeInclusive<u16>);

impl Ports {
    pub(super) fn contain(&self, port: u16) -> bool {
        self.0.contains(&port)
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let parsed = first.parse().ok().zip(last.parse().ok());
        match parsed {
            Some((first @ 1.., last)) if first <= last => Ok(Self(first..=last)),
            // What Kubernetes sets in every container for a service that is called tracer.
            _ if text.contains("://") => Err(format!(
                "{text} is no port: if Kubernetes has set TRACER_PORT, set `enableServiceLinks: false`"
            )),
            _ => Err("give a port from 1 to 65535, or a range such as 8000-8010".into()),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.start(), self.0.end()) {
            (first, last) if first == last => write!(f, "{first}"),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}

/// A network of addresses, or one address. IPv4-mapped ones are IPv4, as in lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

/// `::ffff:0:0/96` comes before the IPv4 part.
const MAPPED: u8 = 96;

impl Network {
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    fn canonical(network: IpNet) -> IpNet {
        let length = network.prefix_len().checked_sub(MAPPED);
        match (network.addr().to_canonical(), length) {
            (IpAddr::V4(address), Some(length)) if network.addr().is_ipv6() => {
                Ipv4Net::new(address, length).map_or(network, IpNet::V4)
            }
            _ => network,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        let network = text.parse().or_else(|_| address());
        let network = network.map_err(|_| {
            "give an address or a network, such as 10.0.0.9, 10.0.0.0/8 or 2001:db8::/32".to_owned()
        })?;
        Ok(Self(Self::canonical(network)))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a process, or a pattern with `*`, `?` and `[a-z]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(Pattern);

impl Name {
    /// Whether a name is that, as lines show it.
    pub(super) fn is(&self, name: &[u8]) -> bool {
        self.0.matches(&String::from_utf8_lossy(name))
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pattern = Pattern::new(text).map_err(|error| {
            format!(
                "the pattern is wrong at character {}: {}",
                error.pos + 1,
                error.msg
            )
        })?;
        // What comes before the first of these has to fit as it is.
        let literal = text.split(['*', '?', '[']).next().unwrap_or_default();
        match literal
            .char_indices()
            .find(|(at, char)| at + char.len_utf8() > NAME_MAX)
        {
            _ if text.is_empty() => Err("give a name, or a pattern such as nginx*".into()),
            Some((cut, _)) => Err(format!(
                "the kernel keeps {NAME_MAX} bytes of a name: give {}",
                &literal[..cut]
            )),
            None => Ok(Self(pattern)),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// A cgroup and those below it, by its path as in `process` lines, without a slash at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup(String);

impl Cgroup {
    pub(super) fn contains(&self, path: &str) -> bool {
        let rest = path.strip_prefix(self.0.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl FromStr for Cgroup {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let below = text.strip_prefix(CGROUPS);
        let below = below.filter(|rest| rest.is_empty() || rest.starts_with('/'));
        let path = below.unwrap_or(text);
        if !Path::new(text).is_absolute() {
            return Err(
                "give a path from the root of the cgroups on, such as /system.slice".into(),
            );
        }
        Ok(Self(path.trim_end_matches('/').into()))
    }
}

impl fmt::Display for Cgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "/" } else { &self.0 })
    }
}

/// Parses how many connections one is to stand for.
pub fn sampling(text: &str) -> Result<NonZeroU32, String> {
    let number = text.parse();
    number.map_err(|_| "give a number from 1 on: one of so many connections is shown".into())
}
