//! What to change, and what not.

mod exhaustion;
mod notes;
mod refusal;
mod room;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Serialize;

use super::case::{Case, Trouble};

/// One thing to change, or not to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Advice {
    /// Stable name. Those that begin with `not_` name a remedy that is often told and does not help here.
    pub id: &'static str,
    /// Why it applies to this case, in its numbers.
    pub why: String,
    /// The command, setting or code.
    pub how: String,
}

/// What applies to this host and case, best first; what not to do comes last.
pub fn advice(case: &Case<'_>) -> Vec<Advice> {
    let mut all = match case.trouble {
        Trouble::NoPort | Trouble::NoPortToBind | Trouble::NoPortToListen => {
            exhaustion::advice(case)
        }
        Trouble::AddressInUse => refusal::address_in_use(case),
        Trouble::TupleInUse => refusal::tuple_in_use(case),
        Trouble::NoSourceAddress => refusal::no_source_address(case),
    };
    all.extend(notes::look_alikes(case));
    all.extend(notes::not_to_do(case));
    if let Some(pid) = case.pid.filter(|_| case.host.is_elsewhere) {
        // The limit of conntrack is one for the whole host (`nf_conntrack_standalone_init_sysctl`).
        for advice in all
            .iter_mut()
            .filter(|advice| advice.id != "conntrack_full")
        {
            advice.how = inside(&advice.how, pid);
        }
    }
    all
}

/// Has the commands of `how` act on the network namespace of a process, where they would change the host's.
fn inside(how: &str, pid: u32) -> String {
    let commands = [("`", "sysctl "), ("$(", "sysctl "), ("`", "ip ")];
    commands
        .iter()
        .fold(how.to_owned(), |how, (quote, command)| {
            let there = format!("{quote}nsenter -t {pid} -n {command}");
            how.replace(&format!("{quote}{command}"), &there)
        })
}

fn new(id: &'static str, why: impl Into<String>, how: impl Into<String>) -> Advice {
    Advice {
        id,
        why: why.into(),
        how: how.into(),
    }
}

/// Whether a part is at least this many percent of a whole.
fn is_share(part: u32, percent: u32, whole: u32) -> bool {
    part > 0 && u64::from(part) * 100 >= u64::from(whole) * u64::from(percent)
}

/// `1 port`, `2 ports`.
fn ports(count: u32) -> String {
    format!("{count} port{}", if count == 1 { "" } else { "s" })
}

/// The command that adds ports to `ip_local_reserved_ports`, and keeps those that are there.
fn reserve(case: &Case<'_>, add: &[u16]) -> String {
    let add: Vec<_> = add.iter().map(u16::to_string).collect();
    let add = add.join(",");
    if case.settings.reserved.is_empty() {
        format!("`sysctl -w net.ipv4.ip_local_reserved_ports={add}`")
    } else {
        format!(
            "`sysctl -w net.ipv4.ip_local_reserved_ports=\"$(sysctl -n net.ipv4.ip_local_reserved_ports),{add}\"`"
        )
    }
}

/// The destination.
fn peer(case: &Case<'_>) -> String {
    match (case.peer.ip, case.peer.port) {
        (ip, None) => ip.to_string(),
        (IpAddr::V4(ip), Some(port)) => format!("{ip}:{port}"),
        (IpAddr::V6(ip), Some(port)) => format!("[{ip}]:{port}"),
    }
}
