//! For a range that has no port left, or soon will have none.

use std::cmp::Reverse;

use super::{Advice, is_share, new, peer, ports, room};
use crate::{
    diagnosis::case::{Case, Trouble},
    event::State,
    ledger::Holder,
};

/// Best first: what cures the cause of most held ports, then what makes room for more.
pub(super) fn advice(case: &Case<'_>) -> Vec<Advice> {
    let time_wait = case.time_wait();
    let kept = case.in_state(State::Established) + case.in_state(State::CloseWait);
    let mut all = [
        (u32::MAX, socket_range(case)),
        (time_wait, reuse_connections(case)),
        (time_wait, tw_reuse(case)),
        (time_wait, enable_timestamps(case)),
        (time_wait, let_peer_close_first(case)),
        (kept, close_leak(case, kept)),
        (case.in_state(State::SynSent), unanswered(case)),
        (case.in_state(State::FinWait2), fin_wait2(case)),
        (case.bound_connections, bind_address_no_port(case)),
        (0, room::unix_socket(case)),
        (0, room::more_addresses(case)),
        (0, room::widen_range(case)),
        (case.budget.reserved, room::reserved_ports(case)),
        (case.listening, room::listener_in_range(case)),
    ];
    // A few ports are no cause: these come last, in the order above.
    let is_cause = |held: u32| is_share(held, 5, case.budget.range);
    all.sort_by_key(|(held, _)| Reverse(Some(*held).filter(|held| is_cause(*held))));
    all.into_iter().filter_map(|(_, advice)| advice).collect()
}

fn socket_range(case: &Case<'_>) -> Option<Advice> {
    let (low, high) = case.socket_range.filter(|_| case.is_narrowed())?;
    let (first, last) = case.settings.range;
    let all = u32::from(last.saturating_sub(first)) + 1;
    Some(new(
        "socket_range",
        format!(
            "IP_LOCAL_PORT_RANGE of the socket is {low}-{high}, which leaves it {} of the {all} of \
             ip_local_port_range ({first}-{last})",
            ports(case.budget.range),
        ),
        "widen it, or drop it: `uint32_t none = 0; setsockopt(fd, IPPROTO_IP, 51 /* \
         IP_LOCAL_PORT_RANGE */, &none, sizeof none)`",
    ))
}

fn reuse_connections(case: &Case<'_>) -> Option<Advice> {
    let (taken, time_wait) = (case.taken(), case.time_wait());
    let lasts = f64::from(case.budget.in_use + case.budget.free) / case.time_wait_hold();
    let kept = case.in_state(State::Established) + case.in_state(State::CloseWait);
    let rapid = case
        .open_rate
        .filter(|rate| *rate >= lasts / 2.0 && !is_share(kept, 50, taken));
    if !is_share(time_wait, 50, taken) && rapid.is_none() {
        return None;
    }
    let mut why = format!(
        "{time_wait} of {} held are in TIME_WAIT: connections that were used once",
        ports(taken)
    );
    if let Some(rate) = case.open_rate {
        why += &format!(
            "; {} are opened per second, those that fail aside, and the range bears about {} short \
             ones per second to one destination",
            few(rate),
            few(lasts),
        );
    }
    Some(new(
        "reuse_connections",
        why,
        "keep connections open and use them again. HTTP: keep-alive (nginx: `upstream app { server \
         ADDRESS:PORT; keepalive 64; }`, and where `proxy_pass http://app;` is, `proxy_http_version 1.1; \
         proxy_set_header Connection \"\";`; Go: read each body to its end, then close it, \
         and raise `http.Transport.MaxIdleConnsPerHost` from 2; Python: one \
         `requests.Session()`); databases: a connection pool",
    ))
}

/// Only for `connect()`: `bind()` does not take ports from TIME_WAIT.
fn wants_reuse(case: &Case<'_>) -> bool {
    case.trouble == Trouble::NoPort && is_share(case.budget.time_wait, 25, case.taken())
}

/// What `tcp_tw_reuse` says now, in words.
fn reuse_now(case: &Case<'_>) -> &'static str {
    match case.settings.tw_reuse {
        0 => "net.ipv4.tcp_tw_reuse is 0 (never)",
        2 => "net.ipv4.tcp_tw_reuse is 2, which covers loopback only",
        _ => "net.ipv4.tcp_tw_reuse is 1",
    }
}

fn tw_reuse(case: &Case<'_>) -> Option<Advice> {
    if !wants_reuse(case) || !case.settings.timestamps || case.reuses_time_wait() {
        return None;
    }
    let remark = if case.is_loopback() {
        " (2, the kernel's default, covers loopback only, and is enough for this destination)"
    } else {
        " (2 covers loopback only)"
    };
    Some(new(
        "tw_reuse",
        format!(
            "{} in TIME_WAIT could be taken again after one second, where the peer has TCP \
             timestamps as this host has: {}",
            ports(case.budget.time_wait),
            reuse_now(case),
        ),
        format!(
            "`sysctl -w net.ipv4.tcp_tw_reuse=1`{remark}; for connections that this host opens, at \
             once, also to those that are in TIME_WAIT now"
        ),
    ))
}

fn enable_timestamps(case: &Case<'_>) -> Option<Advice> {
    if !wants_reuse(case) || case.settings.timestamps {
        return None;
    }
    let command = if case.is_covered_by_tw_reuse() {
        "`sysctl -w net.ipv4.tcp_timestamps=1`"
    } else {
        "`sysctl -w net.ipv4.tcp_timestamps=1 net.ipv4.tcp_tw_reuse=1`"
    };
    Some(new(
        "enable_timestamps",
        format!(
            "net.ipv4.tcp_timestamps is 0: without timestamps none of the {} in TIME_WAIT can be \
             reused, whatever tcp_tw_reuse says ({})",
            ports(case.budget.time_wait),
            reuse_now(case),
        ),
        format!(
            "{command}; it acts on connections made from then on, if the peer has timestamps too"
        ),
    ))
}

fn let_peer_close_first(case: &Case<'_>) -> Option<Advice> {
    let time_wait = case.time_wait();
    is_share(time_wait, 50, case.taken()).then(|| {
        new(
            "let_peer_close_first",
            format!(
                "the side that closes first keeps TIME_WAIT: here this one did, {time_wait} \
             times. On the accepting side it would hold no ephemeral port"
            ),
            "let the server end the connection: in HTTP send `Connection: close` and read to the \
             end; in your own protocol the server closes after its last answer; `read()` until it \
             returns 0, then `close()`",
        )
    })
}

fn close_leak(case: &Case<'_>, kept: u32) -> Option<Advice> {
    if !is_share(kept, 50, case.taken()) {
        return None;
    }
    let (established, close_wait) = (
        case.in_state(State::Established),
        case.in_state(State::CloseWait),
    );
    let mut why = format!(
        "{kept} of {} held belong to connections that are kept: {established} ESTABLISHED, \
         {close_wait} CLOSE_WAIT",
        ports(case.taken()),
    );
    if let Some(name) = most(case, &[State::Established, State::CloseWait]) {
        why += &format!("; most by {name}");
    }
    let how = if close_wait >= established {
        "CLOSE_WAIT: the peer has closed, and this side never does. Close the socket when `read()` \
         returns 0, and on every error path (Go: `defer resp.Body.Close()`; Python: `with`; Java: \
         try-with-resources)"
    } else {
        "close connections when their work is done (look for paths that forget it), bound the \
         pool, and end idle connections (nginx: `keepalive_timeout`; pools: maximum size and idle \
         time)"
    };
    Some(new("close_leak", why, how))
}

/// Who has most ports in these states, and how many.
fn most(case: &Case<'_>, states: &[State]) -> Option<String> {
    let count = |holder: &Holder<'_>| -> u32 {
        states
            .iter()
            .filter_map(|state| holder.states.get(state))
            .sum()
    };
    let holder = case
        .holders
        .iter()
        .filter(|holder| holder.task.is_some())
        .max_by_key(|holder| count(holder))?;
    let task = holder.task?;
    let comm = String::from_utf8_lossy(task.comm.bytes());
    (count(holder) > 0).then(|| format!("{comm} (pid {}): {}", task.pid, count(holder)))
}

fn unanswered(case: &Case<'_>) -> Option<Advice> {
    let waiting = case.in_state(State::SynSent);
    is_share(waiting, 25, case.taken()).then(|| {
        new(
            "unanswered",
            format!(
                "{waiting} of {} held are in SYN_SENT: {} does not \
             answer",
                ports(case.taken()),
                peer(case)
            ),
            "give `connect()` a timeout of a few seconds and bound how many run at once; `sysctl \
             -w net.ipv4.tcp_syn_retries=3` ends them after about 15 s instead of 127 s; look \
             whether a firewall drops them",
        )
    })
}

fn fin_wait2(case: &Case<'_>) -> Option<Advice> {
    let waiting = case.in_state(State::FinWait2);
    is_share(waiting, 25, case.taken()).then(|| {
        new(
            "fin_wait2",
            format!(
                "{waiting} of {} held are in FIN_WAIT2: this side has closed, {} not",
                ports(case.taken()),
                match case.peer.port {
                    Some(_) => format!("{} has", peer(case)),
                    None => "the peers have".to_owned(),
                }
            ),
            "have the peer close (it sees them in CLOSE_WAIT); `sysctl -w \
             net.ipv4.tcp_fin_timeout=15` ends this state sooner for sockets that are closed, \
             though not TIME_WAIT",
        )
    })
}

fn bind_address_no_port(case: &Case<'_>) -> Option<Advice> {
    let bound = case.bound_connections;
    let to_bind = case.trouble == Trouble::NoPortToBind;
    let why = if is_share(bound, 5, case.budget.range) {
        format!(
            "{bound} of {} are held by connections that were bound before connect(): each blocks \
             its port for every destination",
            ports(case.budget.range),
        )
    } else if to_bind && is_share(case.budget.in_use, 50, case.taken()) {
        format!(
            "bind() to port 0 must find a port that no connection of this address has, and {} have \
             one; connect() only minds those to the same destination",
            case.budget.in_use,
        )
    } else {
        return None;
    };
    Some(new(
        "bind_address_no_port",
        why,
        "before `bind()` to an address with port 0: `int one = 1; setsockopt(fd, IPPROTO_IP, \
         IP_BIND_ADDRESS_NO_PORT /* 24 */, &one, sizeof one)`: the port is chosen in `connect()`, \
         and shared between destinations. Without need for a certain address: no `bind()` at all",
    ))
}

/// A rate: a few per second are not told from none by whole numbers.
fn few(rate: f64) -> String {
    if rate < 9.95 {
        format!("{rate:.1}")
    } else {
        format!("{rate:.0}")
    }
}
