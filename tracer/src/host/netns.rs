//! The settings of a network namespace that govern its ports.

use std::{fs, os::unix::fs::MetadataExt, str::FromStr};

use crate::record::Netns;

const SYSCTL: &str = "/proc/sys/net/ipv4/";

/// Those of the namespace that this thread is in.
pub fn current() -> Netns {
    Netns {
        // An inode number of nsfs fits 32 bits (`ns_common.inum`).
        netns: fs::metadata("/proc/self/ns/net").map_or(0, |meta| meta.ino() as u32),
        range: read("ip_local_port_range").and_then(|text| parse_range(&text)),
        reserved: read("ip_local_reserved_ports").map(|text| count_ports(&text)),
        tw_reuse: number("tcp_tw_reuse"),
        max_tw_buckets: number("tcp_max_tw_buckets"),
    }
}

fn read(name: &str) -> Option<String> {
    fs::read_to_string(format!("{SYSCTL}{name}")).ok()
}

fn number<T: FromStr>(name: &str) -> Option<T> {
    read(name)?.trim().parse().ok()
}

fn parse_range(text: &str) -> Option<[u16; 2]> {
    let mut ports = text.split_ascii_whitespace().map(str::parse);
    Some([ports.next()?.ok()?, ports.next()?.ok()?])
}

/// Number of ports in a list such as `8080,9000-9010`.
fn count_ports(text: &str) -> u32 {
    let size = |part: &str| -> Option<u32> {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high): (u32, u32) = (low.parse().ok()?, high.parse().ok()?);
        Some((high + 1).saturating_sub(low))
    };
    text.trim().split(',').filter_map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sysctl_texts() {
        assert_eq!(parse_range("32768\t60999\n"), Some([32768, 60999]));
        assert_eq!(parse_range("\n"), None);
        assert_eq!(count_ports("\n"), 0);
        assert_eq!(count_ports("8080,9000-9010\n"), 12);
    }
}
