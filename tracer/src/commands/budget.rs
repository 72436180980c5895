//! `tracer budget`: one look at how many more connects will succeed, and who has the other ports.

use std::{borrow::Cow, collections::HashMap, fmt::Write as _, net::IpAddr, time::Duration};

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
        dump::{Dumper, Part},
        facts::Facts,
        load, rules,
    },
    ledger::{Explained, Holder, Ledger, Query, Way},
    pool::Settings,
    record::{self, Budget, WholeProcess},
};

/// Destinations that a page shows.
const ROWS: usize = 20;

/// Destinations that are looked at port by port: those with most ports.
const LOOKED: usize = 200;

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

#[derive(Debug, Serialize)]
struct Looks<'a> {
    destinations: Vec<Look<'a>>,
}

pub fn run(args: &cli::Budget) -> Result<Outcome> {
    let facts = Facts::read()?;
    let namespace = args.netns.as_deref().map(netns::named).transpose()?;
    let ledger = look(&facts)?;
    let mut host = Host::default();
    let page = match args.to {
        Some(To {
            ip,
            port: Some(port),
        }) => one(
            &ledger,
            &mut host,
            args,
            Endpoint {
                ip,
                port: Some(port),
            },
            namespace,
        )?,
        to => several(
            &ledger,
            &mut host,
            args,
            to.map(|to| to.ip),
            namespace.as_ref(),
        )?,
    };
    print(page.as_bytes())?;
    Ok(Outcome::Done)
}

/// All sockets that the kernel has now.
fn look(facts: &Facts) -> Result<Ledger> {
    let mut ebpf = load::for_dumps(facts)?;
    let dumper = Dumper::new(&mut ebpf)?;
    let mut ledger = Ledger::new();
    ledger.set_rules(rules::rules(facts));
    ledger.begin_resync(clock::now());
    let mut parts = dumper
        .start()
        .context("the kernel's sockets can't be read")?;
    while let Some(part) = parts.blocking_recv() {
        match part {
            Part::Rows(rows) => rows.iter().for_each(|row| ledger.row(row, &mut |_| {})),
            Part::Done(summary) => {
                for problem in &summary.problems {
                    log::warn!("{problem}");
                }
                ledger.end_resync(&summary.complete, &summary.alive, clock::now(), &mut |_| {});
            }
        }
    }
    Ok(ledger)
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
    host: &mut Host,
    args: &cli::Budget,
    peer: Endpoint,
    namespace: Option<Namespace>,
) -> Result<String> {
    let namespace = match namespace {
        Some(namespace) => namespace,
        None => netns::own()?,
    };
    let local_ip = match args.from {
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
    if args.json {
        return Ok(serde_json::to_string(&look)? + "\n");
    }
    Ok(page(&look, &explained, &settings))
}

fn several(
    ledger: &Ledger,
    host: &mut Host,
    args: &cli::Budget,
    to: Option<IpAddr>,
    namespace: Option<&Namespace>,
) -> Result<String> {
    let is_wanted = |way: &Way| {
        namespace.is_none_or(|namespace| namespace.inode == way.netns)
            && args.from.is_none_or(|from| from == way.local_ip)
            && to.is_none_or(|to| to == way.peer.ip)
    };
    let ways = ledger.ways().into_iter().map(|(way, _)| way);
    let mut looks = Vec::new();
    for way in ways.filter(is_wanted).take(LOOKED) {
        let Ok(settings) = host.settings(way.netns) else {
            continue;
        };
        let budget = ledger.budget(&Query {
            netns: way.netns,
            local_ip: way.local_ip,
            peer: Some(way.peer),
            settings: &settings,
            socket_range: None,
            now: clock::now(),
        });
        looks.push(Look {
            netns: way.netns,
            local_ip: way.local_ip,
            peer: way.peer,
            budget: budget.into(),
            holders: None,
        });
    }
    looks.sort_by_key(|look| (look.budget.free, look.netns, look.local_ip, look.peer));
    if args.json {
        let looks = Looks {
            destinations: looks,
        };
        return Ok(serde_json::to_string(&looks)? + "\n");
    }
    Ok(table(&looks))
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

fn page(look: &Look, explained: &Explained, settings: &Settings) -> String {
    let budget = &look.budget;
    let mut page = format!(
        "{} -> {} in network namespace {}\n\
         free {} of {} ports ({}-{}): {} reserved, {} bound, {} in use ({} of them in TIME_WAIT)\n",
        look.local_ip,
        place(&look.peer),
        look.netns,
        budget.free,
        budget.range,
        budget.ports[0],
        budget.ports[1],
        budget.reserved,
        budget.bound,
        budget.in_use,
        budget.time_wait,
    );
    if budget.reusable > 0 {
        let _ = writeln!(
            page,
            "{} of the free ones are in TIME_WAIT and give way (tcp_tw_reuse {})",
            budget.reusable, settings.tw_reuse
        );
    }
    if budget.uncertain {
        page.push_str(
            "the range has an odd number of ports: one of the free ones may never be tried\n",
        );
    }
    if let Some(soonest) = explained.releases.iter().position(|count| *count > 0) {
        let _ = writeln!(
            page,
            "the next port comes back from TIME_WAIT in about {soonest} s"
        );
    }
    if explained.holders.is_empty() {
        return page;
    }
    let _ = writeln!(page, "\n{:>6}  {:<30}  SOCKETS", "PORTS", "PROCESS");
    let holders = look.holders.iter().flatten();
    for holder in holders {
        let _ = writeln!(
            page,
            "{:>6}  {:<30}  {}",
            holder.ports,
            who(holder),
            sockets(holder)
        );
    }
    page
}

fn who(holder: &record::Holder) -> String {
    let Some(process) = &holder.process else {
        return "not known".into();
    };
    let ended = match holder.exited {
        Some(true) => ", ended",
        _ => "",
    };
    format!("{} ({}{ended})", printable(&process.comm), process.pid)
}

/// A process may call itself what it likes; a terminal obeys some of that.
fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        text.escape_debug().to_string().into()
    } else {
        text.into()
    }
}

fn sockets(holder: &record::Holder) -> String {
    let states = holder.states.iter();
    let mut parts: Vec<String> = states
        .map(|(state, count)| format!("{} {count}", state.name()))
        .collect();
    if holder.bound > 0 {
        parts.push(format!("bound {}", holder.bound));
    }
    parts.join(", ")
}

fn table(looks: &[Look]) -> String {
    if looks.is_empty() {
        return "no connection takes a port\n".into();
    }
    let mut table = format!(
        "{:>6}  {:>6}  {:>9}  {:>6}  {:<28}  {:<28}  NETNS\n",
        "FREE", "IN USE", "TIME_WAIT", "BOUND", "FROM", "TO"
    );
    for look in looks.iter().take(ROWS) {
        let budget = &look.budget;
        let _ = writeln!(
            table,
            "{:>6}  {:>6}  {:>9}  {:>6}  {:<28}  {:<28}  {}",
            budget.free,
            budget.in_use,
            budget.time_wait,
            budget.bound,
            look.local_ip,
            place(&look.peer),
            look.netns
        );
    }
    if looks.len() > ROWS {
        let _ = writeln!(table, "and {} more (--json shows them)", looks.len() - ROWS);
    }
    table
}

fn place(peer: &Endpoint) -> String {
    match (peer.ip, peer.port) {
        (IpAddr::V6(ip), Some(port)) => format!("[{ip}]:{port}"),
        (ip, Some(port)) => format!("{ip}:{port}"),
        (ip, None) => ip.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_command_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb"), "a\\u{1b}[31mb");
        assert_eq!(printable("kworker/0:1"), "kworker/0:1");
    }
}
