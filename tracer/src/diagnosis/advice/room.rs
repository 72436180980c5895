//! How to have more ports, or need none.

use std::net::IpAddr;

use super::{Advice, is_share, new, peer, ports, reserve};
use crate::diagnosis::case::{Case, Trouble};

/// Ports that no privilege is needed for.
const WIDEST: (u16, u16) = (1024, 65535);

pub(super) fn unix_socket(case: &Case<'_>) -> Option<Advice> {
    (case.peer_is_local && case.trouble == Trouble::NoPort && case.taken() > 0).then(|| {
        new(
            "unix_socket",
            format!(
                "{} is on this host: a UNIX socket needs none of the {} that this destination \
             has",
                peer(case),
                ports(case.budget.range)
            ),
            "let the server listen on a path too, such as /run/app.sock, and connect to that \
             (nginx: `server unix:/run/app.sock;`, PostgreSQL: `host=/run/postgresql`, Redis: \
             `unixsocket /run/redis.sock`)",
        )
    })
}

/// Only against connections: a bound port is blocked for all addresses.
pub(super) fn more_addresses(case: &Case<'_>) -> Option<Advice> {
    let each = case.budget.in_use + case.budget.free;
    if !is_share(case.budget.in_use, 50, case.taken()) {
        return None;
    }
    if matches!(
        case.trouble,
        Trouble::NoPortToBind | Trouble::NoPortToListen
    ) {
        return (!case.local_ip.is_unspecified()).then(|| {
            new(
                "more_addresses",
                format!(
                    "bind() to port 0 of {} looks at that address alone: each other local \
                 address has its own {}",
                    case.local_ip,
                    ports(each)
                ),
                add_address(case),
            )
        });
    }
    let why = format!(
        "each pair of a local and a server address has its own {}: 2 server addresses make {}, 2 \
         local x 2 server addresses {}",
        ports(each),
        2 * each,
        4 * each,
    );
    let how = match case.peer.ip {
        IpAddr::V4(ip) if ip.is_loopback() => {
            "let the server listen on 0.0.0.0 and spread connects over 127.0.0.1, 127.0.0.2, \
             127.0.0.3, …: all of 127.0.0.0/8 is there without setup; another server port does the \
             same"
                .to_owned()
        }
        _ => format!(
            "spread connects over several addresses or ports of the server; or over several of \
             this host: {}, then bind each socket to one, port 0, with IP_BIND_ADDRESS_NO_PORT \
             (nginx: `proxy_bind`; HAProxy: `source`)",
            add_address(case),
        ),
    };
    Some(new("more_addresses", why, how))
}

fn add_address(case: &Case<'_>) -> String {
    let device = if case.is_loopback() { "lo" } else { "DEVICE" };
    match case.local_ip {
        IpAddr::V4(ip) if ip.is_loopback() => {
            "127.0.0.2, 127.0.0.3, … are there without setup".to_owned()
        }
        IpAddr::V4(_) => format!("`ip addr add ADDRESS/32 dev {device}`"),
        IpAddr::V6(_) => format!("`ip -6 addr add ADDRESS/128 dev {device}`"),
    }
}

pub(super) fn widen_range(case: &Case<'_>) -> Option<Advice> {
    let (first, last) = case.settings.range;
    let (low, high) = (first.min(WIDEST.0), WIDEST.1);
    let now = u32::from(last.saturating_sub(first)) + 1;
    let gain = u32::from(high - low) + 1 - now;
    if case.is_narrowed() || !is_share(gain, 2, now) {
        return None;
    }
    let mut why = format!(
        "ip_local_port_range is {first}-{last}, {}; {low}-{high} would give {gain} more",
        ports(now)
    );
    let widen = format!("`sysctl -w net.ipv4.ip_local_port_range=\"{low} {high}\"`");
    if !case.listeners_outside.is_empty() {
        let listening = case
            .listening_outside
            .max(case.listeners_outside.len() as u32);
        let names = names(&case.listeners_outside, listening);
        why += &format!(
            "; inside would then also be {} with a listener: {names}",
            ports(listening)
        );
    }
    let inside = case.listeners_outside.iter().chain(&case.listeners);
    let mut add: Vec<_> = inside.map(|(port, _)| *port).collect();
    add.retain(|port| !case.settings.reserved.contains(*port));
    add.sort_unstable();
    let how = if add.is_empty() {
        format!(
            "{widen}; put ports of services that may start later into \
             net.ipv4.ip_local_reserved_ports, or a connection may have them"
        )
    } else {
        format!(
            "{}, so that no connection has the port of a service that restarts; then {widen}",
            reserve(case, &add)
        )
    };
    Some(new("widen_range", why, how))
}

/// `5432 (postgres), 6379 (redis) and 3 others`, of `all`.
fn names(listeners: &[(u16, String)], all: u32) -> String {
    let named: Vec<_> = listeners
        .iter()
        .map(|(port, name)| format!("{port} ({name})"))
        .collect();
    let others = all.saturating_sub(listeners.len() as u32);
    let rest = if others == 0 {
        String::new()
    } else {
        format!(" and {others} others")
    };
    named.join(", ") + &rest
}

pub(super) fn reserved_ports(case: &Case<'_>) -> Option<Advice> {
    let (reserved, range) = (case.budget.reserved, case.budget.range);
    is_share(reserved, 5, range).then(|| {
        new(
            "reserved_ports",
            format!(
                "net.ipv4.ip_local_reserved_ports withholds {reserved} of {}",
                ports(range)
            ),
            "see `sysctl net.ipv4.ip_local_reserved_ports`, and with `sysctl -w` leave in it only \
             ports that some service listens on",
        )
    })
}

pub(super) fn listener_in_range(case: &Case<'_>) -> Option<Advice> {
    if case.listening == 0 {
        return None;
    }
    let add: Vec<_> = case.listeners.iter().map(|(port, _)| *port).collect();
    let how = if add.is_empty() {
        "move the service below the range".to_owned()
    } else {
        format!(
            "move the service out of the range; or reserve its port, which gains none but keeps \
             connections from it when the service restarts: {}",
            reserve(case, &add),
        )
    };
    Some(new(
        "listener_in_range",
        format!(
            "{} of the range taken by listeners, which close them to every destination: {}",
            ports(case.listening),
            names(&case.listeners, case.listening),
        ),
        how,
    ))
}
