//! For failures that no lack of ports explains.

use std::net::IpAddr;

use super::{Advice, new, reserve};
use crate::{
    diagnosis::case::Case,
    event::{Role, State},
};

/// `bind()` to a port that somebody has: what helps depends on what has it.
pub(super) fn address_in_use(case: &Case<'_>) -> Vec<Advice> {
    let all = match held(case) {
        // SO_REUSEADDR does nothing against these two.
        Some((State::Listen, _)) => vec![stop_holder(case), reuse_port(case)],
        Some((State::Close, _)) | None => vec![stop_holder(case)],
        Some((_, Some(Role::Client))) => vec![stop_holder(case)],
        Some((state, None)) if state != State::TimeWait => vec![stop_holder(case)],
        Some(_) => vec![reuse_address(case)],
    };
    let reserve = is_outgoing(case).then(|| reserve_port(case)).flatten();
    reserve.into_iter().chain(all).collect()
}

fn held(case: &Case<'_>) -> Option<(State, Option<Role>)> {
    case.held_by.as_ref().map(|held| (held.state, held.role))
}

/// Or may be: of one that is older than tracer it is not known.
fn is_outgoing(case: &Case<'_>) -> bool {
    match held(case) {
        Some((_, Some(role))) => role == Role::Client,
        Some((state, None)) => !matches!(state, State::Listen | State::Close | State::TimeWait),
        None => false,
    }
}

fn port(case: &Case<'_>) -> String {
    case.local_port
        .map_or("the port".into(), |port| format!("port {port}"))
}

/// `nginx (pid 812)`, or what can be said.
fn holder(case: &Case<'_>) -> String {
    let task = case.held_by.as_ref().and_then(|held| held.task);
    task.map_or("a process that is not known".into(), |task| {
        format!(
            "{} (pid {})",
            String::from_utf8_lossy(task.comm.bytes()),
            task.pid
        )
    })
}

fn stop_holder(case: &Case<'_>) -> Advice {
    let port = port(case);
    let Some(held) = &case.held_by else {
        return new(
            "stop_holder",
            format!("somebody has {port} of {} already", case.local_ip),
            format!(
                "`ss -tanp 'sport = :{}'` names who; stop it, or use another port",
                case.local_port.unwrap_or(0)
            ),
        );
    };
    let what = match held.state {
        State::Listen => "listens on",
        State::Close => "has bound",
        _ => "has a connection from",
    };
    let remark = match held.state {
        State::Listen => "; SO_REUSEADDR does not help against a listener",
        _ => "",
    };
    new(
        "stop_holder",
        format!("{} {what} {port}", holder(case)),
        format!("stop it, have it close the socket, or use another port{remark}"),
    )
}

fn reuse_port(case: &Case<'_>) -> Advice {
    new(
        "reuse_port",
        format!(
            "{} listens on {}; several may share it if all want that",
            holder(case),
            port(case)
        ),
        "only for workers of one service, under one user: SO_REUSEPORT on every one of the \
         sockets, before `bind()`; the kernel then spreads connections over them (nginx: `listen … \
         reuseport`)",
    )
}

fn reuse_address(case: &Case<'_>) -> Advice {
    let state = match held(case) {
        Some((State::TimeWait, _)) => "TIME_WAIT, for up to 62 s",
        _ => "a connection of a server that has gone",
    };
    new(
        "reuse_address",
        format!(
            "{} is held by {state}: nobody listens there any more",
            port(case)
        ),
        "`int one = 1; setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one)` before each \
         `bind()` of the server; what a start without it has left behind still blocks until it \
         ends",
    )
}

/// A connection had the port by chance, as it is in the range for outgoing ones.
fn reserve_port(case: &Case<'_>) -> Option<Advice> {
    let (first, last) = case.settings.range;
    let port = case
        .local_port
        .filter(|port| (first..=last).contains(port))?;
    (!case.settings.reserved.contains(port)).then(|| {
        new(
            "reserve_port",
            format!(
                "port {port} is inside ip_local_port_range ({first}-{last}): the kernel gave \
             it to an outgoing connection of {}",
                holder(case)
            ),
            format!(
                "{}; or let the service use a port outside the range",
                reserve(case, &[port])
            ),
        )
    })
}

/// `connect()` from a port that was bound, with a 4-tuple that is taken.
pub(super) fn tuple_in_use(case: &Case<'_>) -> Vec<Advice> {
    let port = port(case);
    let peer = case.peer.port.map_or(case.peer.ip.to_string(), |port| {
        format!("{}, port {port}", case.peer.ip)
    });
    let mut all = vec![new(
        "tuple_in_use_let_kernel_choose",
        format!(
            "the socket is bound to {port}, and a connection from it to {peer} exists: there can \
             be only one"
        ),
        "don't `bind()` before `connect()`, or bind to port 0 with IP_BIND_ADDRESS_NO_PORT: the \
         kernel chooses a port that is free for this peer; another address or port of the peer \
         works at once",
    )];
    match held(case) {
        Some((State::TimeWait | State::FinWait2, _)) => all.push(wait(case)),
        Some(_) => all.push(new(
            "tuple_in_use_close_holder",
            format!("{} has the connection", holder(case)),
            "use that connection, or close it before the next one is opened",
        )),
        None => {}
    }
    all
}

/// With timestamps TIME_WAIT would have given way at once, whatever `tcp_tw_reuse` says.
fn wait(case: &Case<'_>) -> Advice {
    let (reason, how) = if case.settings.timestamps {
        ("", "")
    } else {
        (
            "; net.ipv4.tcp_timestamps is 0, or it would give way",
            "; `sysctl -w net.ipv4.tcp_timestamps=1`, for later connections",
        )
    };
    new(
        "tuple_in_use_wait",
        format!(
            "the old connection from {} is closed, and holds its tuple for up to 62 s more{reason}",
            port(case)
        ),
        format!("try again after a minute, or let the peer close first{how}"),
    )
}

pub(super) fn no_source_address(case: &Case<'_>) -> Vec<Advice> {
    let (family, has, other, has_other) = match case.peer.ip {
        IpAddr::V4(_) => ("IPv4", case.host.has_ipv4, "IPv6", case.host.has_ipv6),
        IpAddr::V6(_) => ("IPv6", case.host.has_ipv6, "IPv4", case.host.has_ipv4),
    };
    let disabled = case.peer.ip.is_ipv6() && case.host.ipv6_disabled == Some(true);
    let mut all = Vec::new();
    if disabled {
        all.push(enable_ipv6(case));
    }
    if !disabled || (has == Some(false) && !case.peer.ip.is_loopback()) {
        all.push(add_source_address(case, family, has));
    }
    if has_other == Some(true) || (case.peer.ip.is_loopback() && has_other != Some(false)) {
        all.push(new(
            "use_other_family",
            format!("{} is {family}; {other} has an address here", case.peer.ip),
            format!(
                "connect to the {other} address of the same server if it has one: \
             `getaddrinfo()` with AI_ADDRCONFIG, and try each address that it gives"
            ),
        ));
    }
    all
}

fn enable_ipv6(case: &Case<'_>) -> Advice {
    new(
        "enable_ipv6",
        format!(
            "net.ipv6.conf.all.disable_ipv6 or that of lo is 1, so no interface may have an \
             address to reach {} from",
            case.peer.ip
        ),
        "`sysctl -w net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.lo.disable_ipv6=0` (in a \
         container: `--sysctl` with the same)",
    )
}

fn add_source_address(case: &Case<'_>, family: &str, has: Option<bool>) -> Advice {
    let option = if case.peer.ip.is_ipv4() { "" } else { "-6 " };
    let peer = case.peer.ip;
    if peer.is_loopback() {
        let prefix = if peer.is_ipv4() {
            "127.0.0.1/8"
        } else {
            "::1/128"
        };
        return new(
            "add_source_address",
            format!("lo has no {family} address to reach {peer} from"),
            format!("`ip link set lo up; ip {option}addr add {prefix} dev lo`"),
        );
    }
    let why = match has {
        Some(false) => format!(
            "no interface that is up has an {family} address, loopback's aside, to reach {peer} \
             from"
        ),
        Some(true) => {
            format!("the interface that leads to {peer} has no {family} address that fits")
        }
        None => format!("the host has no {family} address to reach {peer} from"),
    };
    new(
        "add_source_address",
        why,
        format!(
            "`ip {option}route get {peer}` shows the interface, `ip {option}addr add \
             ADDRESS/PREFIX dev DEVICE` gives it an address"
        ),
    )
}
