//! `tracer budget`: one look at how many more connects will succeed, and who has the other ports.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{Outcome, print};
use crate::{
    cli, clock,
    config::To,
    diagnosis::surroundings::Surroundings,
    event::Endpoint,
    host::{
        netns::{self, Namespace, Watch},
        process::Processes,
    },
    kernel::{
        dump::{Dumper, Part, Summary},
        facts::Facts,
        load, rules,
    },
    ledger::{Holder, Ledger, Query, Way},
    pool::Settings,
    privileges,
    record::{self, Budget, WholeProcess},
};

mod several;
mod text;

use several::several;

/// One destination, or one of several.
#[derive(Debug, Serialize)]
struct Look<'a> {
    netns: u32,
    local_ip: IpAddr,
    peer: Endpoint,
    budget: Budget,
    #[serde(skip_serializing_if = "Option::is_none")]
    holders: Option<Vec<record::Holder<'a>>>,
}

/// What is asked, as the kernel takes it.
struct Question {
    to: Option<To>,
    from: Option<IpAddr>,
    namespace: Option<Namespace>,
    json: bool,
}

pub fn run(args: &cli::Budget) -> Result<Outcome> {
    let facts = Facts::read()?;
    privileges::warn_of_missing();
    let question = Question::new(args)?;
    let (mut ledger, summary) = look(&facts)?;
    let mut is_whole = summary.problems.is_empty();
    let mut host = Host::default();
    let page = match question.to {
        Some(To {
            ip,
            port: Some(port),
        }) => {
            let port = Some(port);
            one(
                &ledger,
                &summary,
                &mut host,
                question,
                Endpoint { ip, port },
            )?
        }
        _ => {
            let looks = several(&mut ledger, &summary, &mut host, &question)?;
            is_whole &= looks.left_out.is_empty();
            match question.json {
                true => serde_json::to_string(&looks)? + "\n",
                false => text::table(&looks),
            }
        }
    };
    print(page.as_bytes())?;
    Ok(match is_whole {
        true => Outcome::Done,
        false => Outcome::Lossy,
    })
}

impl Question {
    fn new(args: &cli::Budget) -> Result<Self> {
        let from = args.from.filter(|ip| !ip.is_unspecified());
        Ok(Self {
            to: args.to.map(|to| To {
                ip: reached(to.ip, from),
                ..to
            }),
            from,
            namespace: args.netns.as_deref().map(netns::named).transpose()?,
            json: args.json,
        })
    }

    fn is_about(&self, netns: u32) -> bool {
        let namespace = self.namespace.as_ref();
        namespace.is_none_or(|namespace| namespace.inode == netns)
    }
}

/// Where `connect()` goes: from an unspecified address of IPv4 to its own one or to loopback, of IPv6 to loopback
/// (`ip_route_output_key_hash_rcu`, net/ipv4/route.c; `tcp_v6_connect`, net/ipv6/tcp_ipv6.c).
fn reached(to: IpAddr, from: Option<IpAddr>) -> IpAddr {
    match to {
        _ if !to.is_unspecified() => to,
        IpAddr::V4(_) => from.unwrap_or(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

/// All sockets that the kernel has now, as far as they can be read.
fn look(facts: &Facts) -> Result<(Ledger, Summary)> {
    let mut ebpf = load::for_dumps(facts)?;
    let dumper = Dumper::new(&mut ebpf)?;
    let mut ledger = Ledger::new();
    ledger.set_rules(rules::rules(facts));
    ledger.begin_resync(clock::now());
    let mut parts = dumper
        .start()
        .context("the kernel's sockets can't be read")?;
    let mut whole = Summary::default();
    while let Some(part) = parts.blocking_recv() {
        match part {
            Part::Rows(rows) => rows.iter().for_each(|row| ledger.row(row, &mut |_| {})),
            Part::Done(summary) => {
                for problem in &summary.problems {
                    log::warn!("{problem}");
                }
                ledger.end_resync(&summary.complete, &summary.alive, clock::now(), &mut |_| {});
                whole = summary;
            }
        }
    }
    Ok((ledger, whole))
}

/// What is asked of the host.
#[derive(Default)]
struct Host {
    watch: Watch,
    known: HashMap<u32, Settings>,
}

impl Host {
    fn settings(&mut self, netns: u32) -> Result<Settings> {
        if let Some(settings) = self.known.get(&netns) {
            return Ok(settings.clone());
        }
        let settings =
            Surroundings::settings(&mut self.watch, netns, None, clock::now(), Duration::ZERO);
        let settings = settings
            .with_context(|| format!("the settings of network namespace {netns} can't be read"))?;
        self.known.insert(netns, settings.clone());
        Ok(settings)
    }
}

fn one(
    ledger: &Ledger,
    summary: &Summary,
    host: &mut Host,
    question: Question,
    peer: Endpoint,
) -> Result<String> {
    let namespace = match question.namespace {
        Some(namespace) => namespace,
        None => netns::own()?,
    };
    let local_ip = match question.from {
        Some(ip) => ip,
        None => netns::source_for(&namespace, peer.ip).with_context(|| {
            format!(
                "there is no way to {}; --from names a source address",
                peer.ip
            )
        })?,
    };
    if local_ip.is_ipv4() != peer.ip.is_ipv4() {
        bail!(
            "--from {local_ip} and --to {} are not of one family",
            peer.ip
        );
    }
    let netns = namespace.inode;
    if !summary.complete.contains(&netns) {
        bail!("the sockets of network namespace {netns} can't be read");
    }
    let settings = host.settings(netns)?;
    drop(namespace);
    let query = Query {
        netns,
        local_ip,
        peer: Some(peer),
        settings: &settings,
        socket_range: None,
        now: clock::now(),
    };
    let explained = ledger.explain(&query);
    let names = Names::of(&explained.holders);
    let look = Look {
        netns: query.netns,
        local_ip,
        peer,
        budget: explained.budget.into(),
        holders: Some(names.holders(&explained.holders)),
    };
    if question.json {
        return Ok(serde_json::to_string(&look)? + "\n");
    }
    Ok(text::page(&look, &explained, &settings))
}

impl Look<'_> {
    fn of(ledger: &Ledger, way: &Way, settings: &Settings) -> Self {
        let budget = ledger.budget(&Query {
            netns: way.netns,
            local_ip: way.local_ip,
            peer: Some(way.peer),
            settings,
            socket_range: None,
            now: clock::now(),
        });
        Self {
            netns: way.netns,
            local_ip: way.local_ip,
            peer: way.peer,
            budget: budget.into(),
            holders: None,
        }
    }
}

/// Ids of the processes that are named.
struct Names(Vec<Option<String>>);

impl Names {
    fn of(holders: &[Holder]) -> Self {
        let id = |holder: &Holder| {
            let task = holder.task?;
            Some(format!("{}-{}", task.pid, task.start_ns))
        };
        Self(holders.iter().map(id).collect())
    }

    fn holders<'a>(&'a self, holders: &[Holder<'a>]) -> Vec<record::Holder<'a>> {
        let processes = Processes::default();
        let rows = holders.iter().zip(&self.0).map(|(holder, id)| {
            let process = holder.task.zip(id.as_ref()).map(|(task, id)| WholeProcess {
                id,
                pid: task.pid,
                comm: String::from_utf8_lossy(task.comm.bytes()),
            });
            record::Holder {
                process,
                exited: holder.task.and_then(|task| processes.has_exited(task)),
                others: None,
                ports: holder.ports,
                states: holder.states.clone(),
                bound: holder.bound,
            }
        });
        rows.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_is_ones_own() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (to, from, is) in [
            ("0.0.0.0", None, "127.0.0.1"),
            ("0.0.0.0", Some("10.0.0.7"), "10.0.0.7"),
            ("::", None, "::1"),
            ("::", Some("2001:db8::7"), "::1"),
            ("10.0.0.9", Some("10.0.0.7"), "10.0.0.9"),
        ] {
            assert_eq!(reached(ip(to), from.map(ip)), ip(is), "{to} {from:?}");
        }
    }
}
