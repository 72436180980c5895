//! All destinations that are asked about, at once.

use std::collections::BTreeSet;

use anyhow::Result;
use serde::Serialize;

use super::{Host, Look, Question};
use crate::{
    kernel::dump::Summary,
    ledger::{Closed, Ledger, Way},
};

/// Destinations that are looked at port by port: those that take the greatest part of theirs.
const LOOKED: usize = 200;

#[derive(Debug, Serialize)]
pub(super) struct Looks<'a> {
    pub(super) destinations: Vec<Look<'a>>,
    /// Those where ports are bound.
    pub(super) pools: Vec<Closed>,
    /// So many destinations take a smaller part of their ports than those that are shown.
    pub(super) not_looked_at: usize,
    /// Network namespaces that can't be read.
    pub(super) left_out: BTreeSet<u32>,
}

pub(super) fn several(
    ledger: &mut Ledger,
    summary: &Summary,
    host: &mut Host,
    question: &Question,
) -> Result<Looks<'static>> {
    let mut left_out: BTreeSet<u32> = summary
        .alive
        .difference(&summary.complete)
        .copied()
        .collect();
    let namespaces = ledger.namespaces();
    let namespaces = namespaces
        .into_iter()
        .filter(|netns| question.is_about(*netns));
    for netns in namespaces {
        match host.settings(netns) {
            Ok(settings) => ledger.set_settings(netns, &settings),
            Err(_) => _ = left_out.insert(netns),
        }
    }
    let mut pools = ledger.pools(usize::MAX);
    pools.retain(|pool| pool.bound > 0);
    left_out.retain(|netns| question.is_about(*netns));
    if !left_out.is_empty() {
        log::warn!(
            "{} network namespaces are left out: they can't be read",
            left_out.len()
        );
    }
    let ways = crowded(ledger, question);
    let mut destinations = Vec::new();
    for way in ways.iter().take(LOOKED) {
        let settings = host.settings(way.netns)?;
        destinations.push(Look::of(ledger, way, &settings));
    }
    destinations.sort_by_key(|look| (look.budget.free, look.netns, look.local_ip, look.peer));
    Ok(Looks {
        destinations,
        pools,
        not_looked_at: ways.len().saturating_sub(LOOKED),
        left_out,
    })
}

/// The destinations that are asked about, the fullest first.
fn crowded(ledger: &Ledger, question: &Question) -> Vec<Way> {
    let is_wanted = |way: &Way| {
        question.is_about(way.netns)
            && question.from.is_none_or(|from| from == way.local_ip)
            && question.to.is_none_or(|to| to.ip == way.peer.ip)
    };
    let ways = ledger.ways().into_iter().filter(|(way, _)| is_wanted(way));
    ledger.fullest(usize::MAX, ways)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Comm, Endpoint, Event, Family, Kind, Owner, Role, State, Task, Tuple},
        pool::Settings,
    };

    fn connected(sock: u64, netns: u32, port: u16, peer: Endpoint) -> Event {
        Event {
            timestamps: true,
            socket_range: None,
            ts: sock,
            sock,
            cookie: None,
            netns,
            tuple: Tuple {
                family: Family::Ipv4,
                local: Endpoint {
                    ip: [10, 0, 0, 1].into(),
                    port: Some(port),
                },
                peer,
            },
            held: None,
            role: Some(Role::Client),
            owner: Owner::Connect,
            task: Some(Task {
                pid: 1,
                tid: 1,
                uid: 0,
                start_ns: 1,
                cgroup: 1,
                comm: Comm([b'a'; 16]),
            }),
            kind: Kind::State {
                old: State::SynSent,
                new: State::Established,
                end: None,
            },
        }
    }

    #[test]
    fn a_small_range_that_is_used_up_comes_before_larger_ones_that_are_not() {
        let mut ledger = Ledger::new();
        for (netns, range) in [(7, (40_000, 49_999)), (8, (40_000, 40_001))] {
            let settings = Settings {
                range,
                ..Settings::default()
            };
            ledger.set_settings(netns, &settings);
        }
        let mut sock = 1;
        let mut connect = |netns, host: usize, ports| {
            let [.., high, low] = host.to_be_bytes();
            let peer = Endpoint {
                ip: [10, 1, high, low].into(),
                port: Some(80),
            };
            for port in (40_000..).take(ports) {
                ledger.ingest(&connected(sock, netns, port, peer), &mut |_| {});
                sock += 1;
            }
        };
        for host in 0..=LOOKED {
            connect(7, host, 3);
        }
        connect(8, 0, 2);
        let everything = Question {
            to: None,
            from: None,
            namespace: None,
            json: false,
        };
        let ways = crowded(&ledger, &everything);
        assert_eq!(ways.len(), LOOKED + 2);
        assert_eq!(ways[0].netns, 8);
    }
}
