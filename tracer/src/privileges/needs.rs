//! Capabilities: which tracer needs and what for, which of them this process has, and what is lost without.
//!
//! Found by trial, see `tests/live/tool/privileges.rs`. CAP_NET_ADMIN, CAP_SYSLOG and CAP_DAC_OVERRIDE are not
//! needed for anything.

use std::io;

use rustix::thread::{CapabilitySet, capabilities};

use crate::host::home;

/// When a capability is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Until everything is attached; then it is dropped.
    Start,
    /// As long as tracer runs.
    Run,
}

/// A capability, and what it is for.
#[derive(Debug)]
pub struct Need {
    pub name: &'static str,
    pub set: CapabilitySet,
    pub when: When,
    /// Continues "needed to ...".
    pub purpose: &'static str,
    /// Continues "without it ...".
    pub without: &'static str,
    /// Nothing works without.
    pub is_vital: bool,
}

pub const NEEDS: [Need; 6] = [
    Need {
        name: "CAP_BPF",
        set: CapabilitySet::BPF,
        when: When::Start,
        purpose: "load programs and create maps",
        without: "nothing works",
        is_vital: true,
    },
    Need {
        name: "CAP_PERFMON",
        set: CapabilitySet::PERFMON,
        when: When::Start,
        purpose: "load and attach programs that read kernel memory",
        without: "nothing works",
        is_vital: true,
    },
    Need {
        name: "CAP_SYS_RESOURCE",
        set: CapabilitySet::SYS_RESOURCE,
        when: When::Start,
        purpose: "raise the limit on locked memory, before 5.11 only",
        without: "that limit (ulimit -l, LimitMEMLOCK=) has to be unlimited before 5.11",
        is_vital: false,
    },
    Need {
        name: "CAP_SYS_ADMIN",
        set: CapabilitySet::SYS_ADMIN,
        when: When::Run,
        purpose: "enter other network namespaces; when it starts, to mount tracefs where it is not",
        without: "the port settings of other network namespaces are not known, nor their sockets from before the start, \
            and what is lost of them is not made up for",
        is_vital: false,
    },
    Need {
        name: "CAP_SYS_PTRACE",
        set: CapabilitySet::SYS_PTRACE,
        when: When::Run,
        purpose: "read exe and ns/net of other users' processes",
        without: "`exe` of other users' processes is null, and network namespaces that only those are in are not found",
        is_vital: false,
    },
    Need {
        name: "CAP_DAC_READ_SEARCH",
        set: CapabilitySet::DAC_READ_SEARCH,
        when: When::Run,
        purpose: "list the descriptors of other users' processes; unless it starts as root, to read tracefs",
        without: "network namespaces that only such a descriptor leads to are not found, and hooks that tracefs describes \
            work as root only",
        is_vital: false,
    },
];

impl Need {
    /// CAP_SYS_ADMIN includes what was apart from it in 5.8 (`bpf_capable`, `perfmon_capable`).
    pub fn is_met_by(&self, effective: CapabilitySet) -> bool {
        let parts = CapabilitySet::BPF | CapabilitySet::PERFMON;
        effective.contains(self.set)
            || parts.contains(self.set) && effective.contains(CapabilitySet::SYS_ADMIN)
    }
}

/// Those in effect for this thread.
pub fn effective() -> CapabilitySet {
    let sets = capabilities(None).map(|sets| sets.effective);
    sets.unwrap_or(CapabilitySet::empty())
}

/// The names of vital capabilities that these lack.
pub fn lacks(effective: CapabilitySet) -> Vec<&'static str> {
    missing(effective)
        .filter(|need| need.is_vital)
        .map(|need| need.name)
        .collect()
}

/// What is not seen in another pid namespace than the initial one.
const HIDDEN: &str = "this is not the host's pid namespace: processes outside it are hidden, and the network namespaces that \
    they are in, and it is not known who has ended; start tracer in the host's (Kubernetes: hostPID, docker: --pid=host)";

/// Says what a run will miss, a sentence for each.
pub fn warn_of_missing() {
    if let Some(hidden) = hidden() {
        log::warn!("{hidden}");
    }
    for need in missing(effective()).filter(|need| need.when == When::Run) {
        log::warn!("{} is missing: {}", need.name, need.without);
    }
}

/// What is hidden whatever the capabilities, in a sentence.
pub fn hidden() -> Option<&'static str> {
    (!home::shows_all_processes()).then_some(HIDDEN)
}

/// Whether network namespaces may be hidden from us, with the processes that are in them, or closed.
pub fn is_half_blind() -> bool {
    let sees_all = CapabilitySet::SYS_PTRACE | CapabilitySet::SYS_ADMIN;
    !effective().contains(sees_all) || !home::shows_all_processes()
}

fn missing(effective: CapabilitySet) -> impl Iterator<Item = &'static Need> {
    NEEDS.iter().filter(move |need| !need.is_met_by(effective))
}

/// What a run keeps for good, if it has it.
pub(super) fn of_a_run() -> CapabilitySet {
    let of_run = NEEDS.iter().filter(|need| need.when == When::Run);
    of_run.map(|need| need.set).collect()
}

/// An error with what was tried.
pub(super) fn failed(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sys_admin_stands_for_its_parts_and_for_nothing_else() {
        let names = |set| {
            let names = missing(set).map(|need| need.name);
            names.collect::<Vec<_>>()
        };
        assert!(names(CapabilitySet::all()).is_empty());
        assert!(lacks(CapabilitySet::SYS_ADMIN).is_empty());
        assert_eq!(
            names(CapabilitySet::SYS_ADMIN),
            ["CAP_SYS_RESOURCE", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"]
        );
        assert_eq!(lacks(CapabilitySet::BPF), ["CAP_PERFMON"]);
        assert_eq!(lacks(CapabilitySet::empty()), ["CAP_BPF", "CAP_PERFMON"]);
    }

    #[test]
    fn what_only_a_start_needs_is_not_kept() {
        let kept = of_a_run();
        assert!(
            !kept.intersects(
                CapabilitySet::BPF | CapabilitySet::PERFMON | CapabilitySet::SYS_RESOURCE
            )
        );
        assert!(kept.contains(CapabilitySet::SYS_ADMIN));
    }
}
