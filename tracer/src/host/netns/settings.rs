//! The settings of a network namespace that govern its ports.

use std::{fs, os::unix::fs::MetadataExt, str::FromStr};

use super::{Namespace, in_each};
use crate::record::Netns;

const SYSCTL: &str = "/proc/sys/net/ipv4/";

/// Those of each of the namespaces, in their order; without values where it can't be entered.
pub fn settings(namespaces: &[Namespace]) -> Vec<Netns> {
    let read = in_each(namespaces, |namespace| Ok(of_thread(namespace.inode)));
    let read = read.unwrap_or_else(|error| {
        log::warn!("the settings of network namespaces can't be read: {error}");
        Vec::new()
    });
    let mut read = read.into_iter();
    let of = |namespace: &Namespace| match read.next() {
        Some(Ok(settings)) => settings,
        Some(Err(error)) => {
            log::warn!("{error}");
            unknown(namespace.inode)
        }
        None => unknown(namespace.inode),
    };
    namespaces.iter().map(of).collect()
}

/// Those of the namespace that this thread is in.
pub fn current() -> Netns {
    // An inode number of nsfs fits 32 bits (`ns_common.inum`).
    let inode = fs::metadata("/proc/thread-self/ns/net").map_or(0, |meta| meta.ino() as u32);
    of_thread(inode)
}

/// The kernel shows each thread the settings of the namespace that it is in.
fn of_thread(inode: u32) -> Netns {
    Netns {
        netns: inode,
        range: read("ip_local_port_range").and_then(|text| parse_range(&text)),
        reserved: read("ip_local_reserved_ports").map(|text| count_ports(&text)),
        tw_reuse: number("tcp_tw_reuse"),
        max_tw_buckets: number("tcp_max_tw_buckets"),
    }
}

fn unknown(inode: u32) -> Netns {
    Netns {
        netns: inode,
        range: None,
        reserved: None,
        tw_reuse: None,
        max_tw_buckets: None,
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
    use crate::host::netns::{
        all,
        tests::{elsewhere, enter, here},
    };

    #[test]
    fn each_namespace_has_its_own() {
        let Some((inode, leave, thread)) = elsewhere() else {
            return;
        };
        let change = move || {
            enter(inode);
            assert_eq!(here(), inode);
            fs::write(format!("{SYSCTL}ip_local_port_range"), "2000 2015").unwrap();
            fs::write(format!("{SYSCTL}ip_local_reserved_ports"), "2001-2003").unwrap();
        };
        std::thread::spawn(change).join().unwrap();
        let settings = settings(&all().unwrap());
        assert_eq!(settings[0], current());
        let there = settings.iter().find(|each| each.netns == inode).unwrap();
        assert_eq!((there.range, there.reserved), (Some([2000, 2015]), Some(3)));
        drop(leave);
        thread.join().unwrap();
    }

    #[test]
    fn reads_sysctl_texts() {
        assert_eq!(parse_range("32768\t60999\n"), Some([32768, 60999]));
        assert_eq!(parse_range("\n"), None);
        assert_eq!(count_ports("\n"), 0);
        assert_eq!(count_ports("8080,9000-9010\n"), 12);
    }
}
