//! The ephemeral ports of a network namespace, and the kernel's rules for giving them out.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

/// A set of ports: one bit for each. Serialized as the kernel writes it. An empty one takes no memory: hardly a network
/// namespace has reserved ports, and a host may have thousands.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PortSet(Option<Box<[u64; 1024]>>);

impl PortSet {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn insert(&mut self, port: u16) {
        let words = self.0.get_or_insert_with(|| Box::new([0; 1024]));
        words[usize::from(port) / 64] |= 1 << (port % 64);
    }

    pub fn contains(&self, port: u16) -> bool {
        let is_in = |words: &[u64; 1024]| words[usize::from(port) / 64] & 1 << (port % 64) != 0;
        self.0.as_deref().is_some_and(is_in)
    }

    pub fn len(&self) -> u32 {
        let count = |words: &[u64; 1024]| words.iter().map(|word| word.count_ones()).sum();
        self.0.as_deref().map_or(0, count)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = (0..=u16::MAX).filter(|port| self.contains(*port));
        formatter.debug_set().entries(ports).finish()
    }
}

/// As `ip_local_reserved_ports` has it.
impl fmt::Display for PortSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ports = (0..=u16::MAX)
            .filter(|port| self.contains(*port))
            .peekable();
        let mut comma = "";
        while let Some(first) = ports.next() {
            let mut last = first;
            while let Some(next) = ports.next_if(|port| *port - 1 == last) {
                last = next;
            }
            match first == last {
                true => write!(formatter, "{comma}{first}")?,
                false => write!(formatter, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

impl From<PortSet> for String {
    fn from(ports: PortSet) -> Self {
        ports.to_string()
    }
}

impl TryFrom<String> for PortSet {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
            .map_err(|part| format!("`{part}` is no port, and no range of ports"))
    }
}

/// From a list as `ip_local_reserved_ports` has it: `8080,9000-9010`. What is no port is an error, and comes
/// back.
impl FromStr for PortSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut ports = Self::new();
        for part in text.trim().split(',').filter(|part| !part.is_empty()) {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let port = |text: &str| text.parse::<u16>().map_err(|_| part.to_owned());
            (port(low)?..=port(high)?).for_each(|port| ports.insert(port));
        }
        Ok(ports)
    }
}

/// The settings of a network namespace that govern its ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// `ip_local_port_range`: first and last port, both inclusive.
    #[serde(deserialize_with = "range")]
    pub range: (u16, u16),
    /// `ip_local_reserved_ports`.
    pub reserved: PortSet,
    /// `tcp_tw_reuse`: 0 never, 1 always, 2 on loopback.
    pub tw_reuse: u8,
    /// `tcp_tw_reuse_delay`, milliseconds (since 6.13); `None`: this kernel has none.
    pub tw_reuse_delay: Option<u32>,
    /// `tcp_timestamps` is not 0.
    pub timestamps: bool,
    /// `tcp_max_tw_buckets`: TIME_WAIT entries above this number are not kept.
    pub max_tw_buckets: Option<u32>,
}

impl Settings {
    /// The ports that `connect()` may choose: the range without the reserved ones.
    pub fn usable(&self) -> PortSet {
        let mut ports = PortSet::new();
        let (low, high) = self.range;
        (low..=high)
            .filter(|port| !self.reserved.contains(*port))
            .for_each(|port| ports.insert(port));
        ports
    }
}

/// What a new network namespace has.
impl Default for Settings {
    fn default() -> Self {
        Self {
            range: (32768, 60999),
            reserved: PortSet::new(),
            tw_reuse: 2,
            tw_reuse_delay: None,
            timestamps: true,
            max_tw_buckets: None,
        }
    }
}

fn range<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(u16, u16), D::Error> {
    let (low, high) = Deserialize::deserialize(deserializer)?;
    match low <= high {
        true => Ok((low, high)),
        false => Err(D::Error::custom("a range that ends before it begins")),
    }
}

/// Where kernels differ in giving out ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// A port that somebody has bound is open to `connect()` again when only sockets that got it from
    /// `connect()` are left; else not before the last is gone (`sk_userlocks & SOCK_CONNECT_BIND`, since 6.18).
    pub reopens: bool,
    /// A TIME_WAIT is reusable `tcp_tw_reuse_delay` after it began, to the millisecond
    /// (`tw_entry_stamp`, since 6.13); else in the next second of `CLOCK_MONOTONIC` (`tw_ts_recent_stamp`).
    pub delays: bool,
    /// A timewait socket in FIN_WAIT2 is reusable too (`tcp_twsk_unique`, before 6.12 and its backports).
    pub reuses_fin_wait2: bool,
    /// A socket with IP_LOCAL_PORT_RANGE looks at every port of its range; else at pairs, as without
    /// (`__inet_hash_connect`, since 6.8).
    pub steps_by_one: bool,
}

/// Those of the newest kernel that was looked at, 7.2.
impl Default for Rules {
    fn default() -> Self {
        Self {
            reopens: true,
            delays: true,
            reuses_fin_wait2: false,
            steps_by_one: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PortSet;

    #[test]
    fn reads_lists_of_ports() {
        let ports: PortSet = "8080,9000-9010\n".parse().unwrap();
        assert_eq!(ports.len(), 12);
        assert!(ports.contains(9010) && !ports.contains(9011));
        assert!("\n".parse::<PortSet>().unwrap().is_empty());
        assert_eq!("1,x-3".parse::<PortSet>(), Err("x-3".into()));
        assert!("70000".parse::<PortSet>().is_err());
        assert_eq!("0-65535".parse::<PortSet>().unwrap().len(), 65_536);
        for text in ["", "0", "65535", "1,3-4,9000-9010", "0-65535"] {
            assert_eq!(text.parse::<PortSet>().unwrap().to_string(), text);
        }
    }
}
