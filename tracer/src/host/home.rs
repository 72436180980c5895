//! Whether this process is in the namespaces that the host began with: in others it does not see what is on the host.

use std::{fs, path::Path};

/// `PROC_PID_INIT_INO` and `PROC_CGROUP_INIT_INO` (include/linux/proc_ns.h).
const PID: &str = "pid:[4026531836]";
const CGROUP: &str = "cgroup:[4026531835]";

/// Whether every process shows in /proc, and in the kernel's iterators.
pub fn shows_all_processes() -> bool {
    leads_to("/proc/self/ns/pid", PID)
}

/// Whether paths of cgroups begin at the host's root.
pub fn shows_whole_cgroups() -> bool {
    leads_to("/proc/thread-self/ns/cgroup", CGROUP)
}

/// A link that can't be read raises no suspicion: that kernel, or whoever lets us look, has no such namespaces.
fn leads_to(link: &str, initial: &str) -> bool {
    fs::read_link(link).map_or(true, |to| to == Path::new(initial))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_known_by_its_number() {
        let own = fs::read_link("/proc/self/ns/pid").unwrap();
        let own = own.to_str().unwrap();
        assert!(leads_to("/proc/self/ns/pid", own));
        assert!(!leads_to("/proc/self/ns/pid", "pid:[1]"));
        assert!(leads_to("/proc/self/ns/none", own));
    }
}
