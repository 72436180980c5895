//! The settings of a network namespace that govern its ports.

use std::{fs, io, os::unix::fs::MetadataExt};

use super::{Namespace, in_each, sysctl};
use crate::pool::{PortSet, Settings};

/// Inode numbers and settings of each of the namespaces, in their order; `None` where they can't be read.
pub fn settings(namespaces: &[Namespace]) -> Vec<(u32, Option<Settings>)> {
    let read = in_each(namespaces, |_| of_thread()).unwrap_or_else(|error| {
        log::warn!("the settings of network namespaces can't be read: {error}");
        Vec::new()
    });
    let mut read = read.into_iter().map(known);
    let of = |namespace: &Namespace| (namespace.inode, read.next().flatten());
    namespaces.iter().map(of).collect()
}

/// Those of the namespace that this thread is in.
pub fn current() -> (u32, Option<Settings>) {
    (inode_of_thread(), known(of_thread()))
}

fn known(read: io::Result<Settings>) -> Option<Settings> {
    let told = |error: &io::Error| {
        // What lacks for that is said once, when the run starts.
        let level = match error.kind() {
            io::ErrorKind::PermissionDenied => log::Level::Debug,
            _ => log::Level::Warn,
        };
        log::log!(level, "{error}");
    };
    read.inspect_err(told).ok()
}

/// 0 if it can't be known.
pub(super) fn inode_of_thread() -> u32 {
    // An inode number of nsfs fits 32 bits (`ns_common.inum`).
    fs::metadata("/proc/thread-self/ns/net").map_or(0, |meta| meta.ino() as u32)
}

/// The kernel shows each thread the settings of the namespace that it is in.
pub fn of_thread() -> io::Result<Settings> {
    Ok(Settings {
        range: range()?,
        reserved: reserved()?,
        tw_reuse: sysctl::number("ipv4/tcp_tw_reuse")?,
        tw_reuse_delay: sysctl::number_if_any("ipv4/tcp_tw_reuse_delay")?,
        // Not every kernel checks what is written to these two.
        timestamps: sysctl::number::<i64>("ipv4/tcp_timestamps")? != 0,
        max_tw_buckets: sysctl::number_if_any::<i64>("ipv4/tcp_max_tw_buckets")?
            .and_then(|number| number.try_into().ok()),
    })
}

fn range() -> io::Result<(u16, u16)> {
    let name = "ipv4/ip_local_port_range";
    let text = sysctl::text(name)?;
    parse_range(&text).ok_or_else(|| sysctl::strange(name, &text))
}

fn reserved() -> io::Result<PortSet> {
    let name = "ipv4/ip_local_reserved_ports";
    let text = sysctl::text_if_any(name)?.unwrap_or_default();
    text.parse()
        .map_err(|part: String| sysctl::strange(name, &part))
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let mut ports = text.split_ascii_whitespace().map(str::parse);
    let range = (ports.next()?.ok()?, ports.next()?.ok()?);
    (range.0 <= range.1).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::netns::{
        all,
        tests::{elsewhere, enter, here},
    };

    fn set(name: &str, value: &str) {
        fs::write(format!("/proc/sys/net/ipv4/{name}"), value).unwrap();
    }

    #[test]
    fn each_namespace_has_its_own() {
        let Some((inode, leave, thread)) = elsewhere() else {
            return;
        };
        let change = move || {
            enter(inode);
            assert_eq!(here(), inode);
            set("ip_local_port_range", "2000 2015");
            set("ip_local_reserved_ports", "2001-2003");
            set("tcp_timestamps", "0");
            set("tcp_tw_reuse", "1");
        };
        std::thread::spawn(change).join().unwrap();
        let settings = settings(&all().unwrap());
        assert_eq!(settings[0], current());
        let there = settings.into_iter().find(|(each, _)| *each == inode);
        let there = there.unwrap().1.unwrap();
        assert_eq!((there.range, there.reserved.len()), ((2000, 2015), 3));
        assert_eq!((there.timestamps, there.tw_reuse), (false, 1));
        drop(leave);
        thread.join().unwrap();
    }

    /// The longest list that there can be, and one that is longer than the first read of a library.
    #[test]
    fn reads_long_lists_whole() {
        let Some((inode, leave, thread)) = elsewhere() else {
            return;
        };
        let change = move || {
            enter(inode);
            for step in [2, 600] {
                let ports = (1..=u16::MAX).step_by(step);
                let texts: Vec<String> = ports.clone().map(|port| port.to_string()).collect();
                set("ip_local_reserved_ports", &texts.join(","));
                let reserved = of_thread().unwrap().reserved;
                assert_eq!(reserved.len() as usize, texts.len());
                assert!(ports.into_iter().all(|port| reserved.contains(port)));
            }
        };
        std::thread::spawn(change).join().unwrap();
        drop(leave);
        thread.join().unwrap();
    }

    #[test]
    fn reads_ranges() {
        assert_eq!(parse_range("32768\t60999"), Some((32768, 60999)));
        for bad in ["", "1", "2 1", "1 x", "1 65536"] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }
}
