//! The answer in words.

use std::{borrow::Cow, fmt::Write as _, net::IpAddr};

use super::{Look, several::Looks};
use crate::{event::Endpoint, ledger::Explained, pool::Settings, record};

/// Destinations that a page shows, and network namespaces with bound ports.
const ROWS: usize = 20;

pub(super) fn page(look: &Look, explained: &Explained, settings: &Settings) -> String {
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

pub(super) fn table(looks: &Looks) -> String {
    let Looks {
        destinations,
        pools,
        not_looked_at,
        ..
    } = looks;
    if destinations.is_empty() && pools.is_empty() {
        return "no connection takes a port\n".into();
    }
    let mut table = String::new();
    if !destinations.is_empty() {
        table += &rows(destinations);
    }
    let hidden = destinations.len().saturating_sub(ROWS);
    if hidden > 0 {
        let _ = writeln!(table, "and {hidden} more (--json shows them)");
    }
    if *not_looked_at > 0 {
        let _ = writeln!(
            table,
            "{not_looked_at} destinations, which take a smaller part of their ports, were not looked at"
        );
    }
    for pool in pools.iter().take(ROWS) {
        let _ = writeln!(
            table,
            "{} of {} ports are bound in network namespace {}, and closed to every destination",
            pool.bound, pool.usable, pool.netns
        );
    }
    table
}

fn rows(looks: &[Look]) -> String {
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
