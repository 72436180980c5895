//! What looks like the trouble and is another, and remedies that are none.

use super::{Advice, is_share, new};
use crate::{
    diagnosis::case::{Case, Trouble},
    event::State,
};

/// Fewer TIME_WAIT entries of a server are not worth a word.
const MANY: u64 = 1_000;
/// `struct tcp_timewait_sock`, as slabs hold it: 248 to 264 bytes.
const TIME_WAIT_BYTES: f64 = 264.0;

/// Not the cause, but what somebody who looks for it comes upon.
pub(super) fn look_alikes(case: &Case<'_>) -> Vec<Advice> {
    if matches!(
        case.trouble,
        Trouble::AddressInUse | Trouble::NoSourceAddress
    ) {
        return Vec::new();
    }
    let all = [
        conntrack_full(case),
        accept_backlog(case),
        serving_time_wait(case),
    ];
    all.into_iter().flatten().collect()
}

fn serving_time_wait(case: &Case<'_>) -> Option<Advice> {
    let entries = case.serving_time_wait;
    let mib = entries as f64 * TIME_WAIT_BYTES / f64::from(1 << 20);
    (entries >= MANY && is_exhaustion(case)).then(|| {
        new(
            "serving_time_wait",
            format!(
                "{entries} more TIME_WAIT entries are of accepted connections: they share the \
             listener's port, hold no ephemeral port of this host, and are in nobody's way but of \
             the same client's same port; they cost about {mib:.1} MiB"
            ),
            "nothing to do: leave them, and don't count them with the others",
        )
    })
}

fn conntrack_full(case: &Case<'_>) -> Option<Advice> {
    let (count, max) = case.host.conntrack?;
    (max > 0 && count.saturating_mul(10) >= max.saturating_mul(9)).then(|| {
        new(
            "conntrack_full",
            format!(
                "the conntrack table has {count} of {max} entries: once it is full, packets \
             are dropped and connects time out, which more ports do not cure"
            ),
            format!(
                "`sysctl -w net.netfilter.nf_conntrack_max={}`, or shorten \
             net.netfilter.nf_conntrack_tcp_timeout_time_wait",
                max.saturating_mul(2)
            ),
        )
    })
}

/// Of this host's listeners: of use only where the server is here.
fn accept_backlog(case: &Case<'_>) -> Option<Advice> {
    let dropped = case
        .host
        .listen_overflows
        .filter(|dropped| *dropped > 0 && case.peer_is_local)?;
    Some(new(
        "accept_backlog",
        format!(
            "{dropped} connections were dropped since the start as a listener's accept backlog was \
             full: connects then hang or time out, but for another reason than ports"
        ),
        "`ss -ltn` shows each backlog (Recv-Q of Send-Q); raise it in `listen()` and with `sysctl \
         -w net.core.somaxconn=4096`, or accept faster",
    ))
}

fn is_exhaustion(case: &Case<'_>) -> bool {
    case.trouble.is_shortage()
}

/// Only those that somebody would think of here.
pub(super) fn not_to_do(case: &Case<'_>) -> Vec<Advice> {
    match case.trouble {
        _ if is_exhaustion(case) && is_share(case.time_wait(), 25, case.taken()) => {
            against_time_wait(case)
        }
        Trouble::TupleInUse => vec![new(
            "not_reuse_address",
            format!(
                "SO_REUSEADDR and SO_REUSEPORT let `bind()` succeed, but not `connect()` to {}: \
                 the 4-tuple stays taken",
                case.peer.ip
            ),
            "don't set them for this",
        )],
        _ => Vec::new(),
    }
}

fn against_time_wait(case: &Case<'_>) -> Vec<Advice> {
    let time_wait = case.time_wait();
    let mut all = vec![new(
        "not_tw_recycle",
        "net.ipv4.tcp_tw_recycle is gone since Linux 4.12; it broke clients behind NAT",
        "don't look for it; tcp_tw_reuse is another thing",
    )];
    if !is_share(case.in_state(State::FinWait2), 25, case.taken()) {
        all.push(new(
            "not_fin_timeout",
            format!(
                "net.ipv4.tcp_fin_timeout is about FIN_WAIT2; it does not shorten TIME_WAIT, \
             which is fixed at 60 s: the {time_wait} here would stay as long"
            ),
            "leave it as it is",
        ));
    }
    all.push(new(
        "not_linger_0",
        format!(
            "SO_LINGER with 0 avoids the {time_wait} TIME_WAIT entries by aborting each \
         connection: the peer gets a RST, and data that is on its way is lost"
        ),
        "don't set it on sockets whose data matters",
    ));
    let now = case
        .settings
        .max_tw_buckets
        .map(|max| format!(" (now {max})"));
    all.push(new(
        "not_fewer_tw_buckets",
        format!(
            "a lower net.ipv4.tcp_max_tw_buckets{} has the kernel skip TIME_WAIT above it: \
         late packets of an old connection can then reach a new one, or reset \
         it",
            now.unwrap_or_default()
        ),
        "leave it as it is",
    ));
    all
}
