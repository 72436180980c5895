//! What a network namespace says of itself, beside its settings.

use std::{
    collections::BTreeSet,
    ffi::c_int,
    fs::{self, File},
    io::{self, BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::MetadataExt as _,
    ptr,
};

use super::{settings::inode_of_thread, sysctl};
use crate::diagnosis::case::Host;

/// `/proc/net` is that of the process; this is that of the thread.
const NET: &str = "/proc/thread-self/net/";

/// Of the namespace that this thread is in. What can't be read is not known.
pub fn of_thread() -> Host {
    let addresses = addresses().ok();
    let has = |is: fn(&IpAddr) -> bool| addresses.as_ref().map(|found| found.iter().any(is));
    Host {
        is_elsewhere: is_elsewhere(),
        conntrack: conntrack(),
        listen_overflows: listen_overflows().ok(),
        has_ipv4: has(IpAddr::is_ipv4),
        has_ipv6: has(IpAddr::is_ipv6),
        ipv6_disabled: ipv6_disabled(),
    }
}

/// Whether this thread has left the namespace of its process.
fn is_elsewhere() -> bool {
    let process = fs::metadata("/proc/self/ns/net").map(|meta| meta.ino());
    process.is_ok_and(|inode| inode != u64::from(inode_of_thread()))
}

/// Entries in TIME_WAIT, of IPv4 and IPv6.
pub fn time_wait() -> io::Result<u64> {
    let line = |line: &str| parse_time_wait(line);
    find("sockstat", line)
}

/// Ports that somebody listens on, with IPv4 or IPv6, at whatever address.
pub fn listeners() -> io::Result<BTreeSet<u16>> {
    let mut ports = BTreeSet::new();
    read_listeners("tcp", &mut ports)?;
    match read_listeners("tcp6", &mut ports) {
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(ports),
        read => read.map(|()| ports),
    }
}

/// `None`: connection tracking is not loaded.
fn conntrack() -> Option<(u64, u64)> {
    let number = |name: &str| sysctl::number(&format!("netfilter/{name}")).ok();
    Some((number("nf_conntrack_count")?, number("nf_conntrack_max")?))
}

fn ipv6_disabled() -> Option<bool> {
    let is_on = |of: &str| -> Option<bool> {
        let value: u8 = sysctl::number(&format!("ipv6/conf/{of}/disable_ipv6")).ok()?;
        Some(value != 0)
    };
    Some(is_on("all")? || is_on("lo")?)
}

fn listen_overflows() -> io::Result<u64> {
    let mut names = String::new();
    find("netstat", |line| {
        let found = parse_counter(&names, line, "ListenOverflows");
        names = line.to_owned();
        found
    })
}

/// What `parse` makes of the first line that it understands.
fn find<T>(name: &str, mut parse: impl FnMut(&str) -> Option<T>) -> io::Result<T> {
    for line in lines(name)? {
        if let Some(found) = parse(&line?) {
            return Ok(found);
        }
    }
    let text = format!("{NET}{name} has no line that is understood");
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}

fn lines(name: &str) -> io::Result<impl Iterator<Item = io::Result<String>>> {
    let path = format!("{NET}{name}");
    let file = File::open(&path).map_err(|error| sysctl::unreadable(&path, &error))?;
    let named = move |line: io::Result<String>| line.map_err(|e| sysctl::unreadable(&path, &e));
    Ok(BufReader::new(file).lines().map(named))
}

/// `TCP: inuse 5 orphan 0 tw 3 alloc 6 mem 1`.
fn parse_time_wait(line: &str) -> Option<u64> {
    let mut words = line.strip_prefix("TCP:")?.split_ascii_whitespace();
    words.find(|word| *word == "tw")?;
    words.next()?.parse().ok()
}

/// A line of names is followed by one of numbers, both with the same first word.
fn parse_counter(names: &str, numbers: &str, name: &str) -> Option<u64> {
    let numbers = numbers.strip_prefix("TcpExt:")?.split_ascii_whitespace();
    let names = names.strip_prefix("TcpExt:")?.split_ascii_whitespace();
    let (_, number) = names.zip(numbers).find(|(each, _)| *each == name)?;
    number.parse().ok()
}

/// The kernel shows listeners before all others (`tcp_get_idx`), and of those there may be very many. One that is
/// just being closed may be among them.
fn read_listeners(name: &str, ports: &mut BTreeSet<u16>) -> io::Result<()> {
    // The first line has the names.
    for line in lines(name)?.skip(1) {
        let line = line?;
        let Some((port, state)) = parse_socket(&line) else {
            let text = format!("{NET}{name} has a line that is not understood: {line:?}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        };
        match state {
            State::Listen => ports.insert(port),
            State::Close => continue,
            State::Other => return Ok(()),
        };
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Listen,
    Close,
    Other,
}

/// `0: 0100007F:1F90 00000000:0000 0A ...`: number, local address, peer, state, all in hexadecimal.
fn parse_socket(line: &str) -> Option<(u16, State)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (_, port) = fields.next()?.rsplit_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let state = match fields.nth(1)? {
        "0A" => State::Listen,
        "07" => State::Close,
        _ => State::Other,
    };
    Some((port, state))
}

/// Those on interfaces that are up, loopback's aside.
fn addresses() -> io::Result<Vec<IpAddr>> {
    let mut list = ptr::null_mut();
    // SAFETY: `list` is a place for a pointer.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut next = list;
    // SAFETY: null, or an entry of the list, which is freed only below.
    while let Some(entry) = unsafe { next.as_ref() } {
        if entry.ifa_flags & libc::IFF_UP as u32 != 0 {
            // SAFETY: the list is well-formed.
            found.extend(unsafe { address(entry.ifa_addr) });
        }
        next = entry.ifa_next;
    }
    // SAFETY: it came from `getifaddrs`, and nothing refers to it any more.
    unsafe { libc::freeifaddrs(list) };
    found.retain(|address| !address.is_loopback());
    Ok(found)
}

/// `None`: there is none, or it is of another family.
///
/// # Safety
/// Null, or a socket address of the family that it says.
unsafe fn address(of: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: as promised.
    let family = c_int::from(unsafe { of.as_ref() }?.sa_family);
    match family {
        libc::AF_INET => {
            // SAFETY: as promised; it may lie anywhere in the list's memory.
            let address = unsafe { of.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes()).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address = unsafe { of.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(address.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, net::TcpListener};

    use super::*;
    use crate::host::netns::tests::{elsewhere, enter};

    #[test]
    fn reads_rows() {
        let row =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0";
        assert_eq!(parse_socket(row), Some((8080, State::Listen)));
        let row = "  12: 00000000000000000000000001000000:C350 00000000000000000000000000000000:0000 06 0";
        assert_eq!(parse_socket(row), Some((50_000, State::Other)));
        for bad in [
            "",
            "0:",
            "0: 1F90 0:0 0A",
            "0: 0:XX 0:0 0A",
            "0: 0:1F90 0:0",
        ] {
            assert_eq!(parse_socket(bad), None, "{bad}");
        }
        let line = "TCP: inuse 5 orphan 0 tw 27880 alloc 6 mem 1";
        assert_eq!(parse_time_wait(line), Some(27_880));
        assert_eq!(parse_time_wait("TCP: inuse 5 tw"), None);
        assert_eq!(parse_time_wait("UDP: inuse 5 tw 4"), None);
        let count =
            |numbers| parse_counter("TcpExt: A ListenOverflows", numbers, "ListenOverflows");
        assert_eq!(count("TcpExt: 1 23"), Some(23));
        assert_eq!(count("IpExt: 1 23"), None);
        assert_eq!(count("TcpExt: 1"), None);
    }

    #[test]
    fn an_empty_namespace_has_nothing() {
        let Some((inode, leave, thread)) = elsewhere() else {
            return;
        };
        // Listens in this thread's namespace, which is to be seen here and not there.
        let here = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = here.local_addr().unwrap().port();
        assert!(listeners().unwrap().contains(&port));
        let look = move || {
            enter(inode);
            let ipv6 = |of: &str| format!("/proc/sys/net/ipv6/conf/{of}/disable_ipv6");
            let host = of_thread();
            assert_eq!((host.has_ipv4, host.has_ipv6), (Some(false), Some(false)));
            assert_eq!(host.listen_overflows, Some(0));
            assert_eq!(time_wait().unwrap(), 0);
            assert!(listeners().unwrap().is_empty());
            if fs::exists(ipv6("lo")).unwrap() {
                for (of, value) in [("all", "0"), ("lo", "0"), ("lo", "1")] {
                    fs::write(ipv6(of), value).unwrap();
                    assert_eq!(ipv6_disabled(), Some(value == "1"));
                }
            }
        };
        std::thread::spawn(look).join().unwrap();
        drop(leave);
        thread.join().unwrap();
    }
}
