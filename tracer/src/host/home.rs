//! Whether this process is in the namespaces that the host began with: in others it does not see what is on the host.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::Path,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

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

/// Has paths of cgroups begin at the host's root from now on, for this thread and those that it starts. That takes
/// CAP_SYS_ADMIN, and the host's /proc.
pub fn join_cgroups() -> io::Result<()> {
    match shows_whole_cgroups() {
        true => Ok(()),
        false => join("/proc/1/ns/cgroup"),
    }
}

fn join(link: &str) -> io::Result<()> {
    let kind = LinkNameSpaceType::ControlGroup;
    Ok(move_into_link_name_space(
        File::open(link)?.as_fd(),
        Some(kind),
    )?)
}

/// A link that can't be read raises no suspicion: that kernel, or whoever lets us look, has no such namespaces.
fn leads_to(link: &str, initial: &str) -> bool {
    fs::read_link(link).map_or(true, |to| to == Path::new(initial))
}

#[cfg(test)]
mod tests {
    use rustix::{
        process::geteuid,
        thread::{UnshareFlags, unshare_unsafe},
    };

    use super::*;

    #[test]
    fn a_namespace_is_known_by_its_number() {
        let own = fs::read_link("/proc/self/ns/pid").unwrap();
        let own = own.to_str().unwrap();
        assert!(leads_to("/proc/self/ns/pid", own));
        assert!(!leads_to("/proc/self/ns/pid", "pid:[1]"));
        assert!(leads_to("/proc/self/ns/none", own));
    }

    #[test]
    fn a_thread_comes_back_to_whole_cgroups() {
        if !geteuid().is_root() || !shows_whole_cgroups() {
            eprintln!(
                "skipped: making a cgroup namespace needs root, and the host's to come back to"
            );
            return;
        }
        let elsewhere = std::thread::spawn(|| {
            // SAFETY: `NEWCGROUP` touches no descriptor table.
            unsafe { unshare_unsafe(UnshareFlags::NEWCGROUP) }.unwrap();
            assert!(!shows_whole_cgroups());
            // That of the process's first thread.
            join("/proc/self/ns/cgroup").unwrap();
            assert!(shows_whole_cgroups());
        });
        elsewhere.join().unwrap();
    }
}
