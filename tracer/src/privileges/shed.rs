//! Gives up what is not needed any more.

use std::{fs, io, thread};

use rustix::{
    io::Errno,
    process::{DumpableBehavior, Gid, Uid, set_dumpable_behavior},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities,
        set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

use super::{
    User,
    needs::{failed, of_a_run},
};

/// Keeps of the capabilities only what a run needs, whether it was had by root, by a file or by systemd, and makes sure
/// that nothing more is ever gained. `goes_on` says whether what a run does is possible: it is asked in a thread that has
/// no more than that.
///
/// To be called before any other thread starts: these calls change one thread, and those that it starts later.
pub fn shed(user: Option<User>, goes_on: impl FnOnce() -> bool + Send) -> io::Result<()> {
    alone()?;
    let had = capabilities(None)?.permitted;
    let mut kept = had & of_a_run();
    if !tried(kept, goes_on)? {
        kept |= had & CapabilitySet::BPF;
    }
    // This takes CAP_SETPCAP, so it comes first. Without that it is not possible, nor of any use after `no_new_privs`.
    for capability in (!kept).iter() {
        let _ = remove_capability_from_bounding_set(capability);
    }
    match user {
        Some(user) => change_to(user)?,
        None => forget_groups()?,
    }
    clear_ambient_capability_set()?;
    limit_to(kept).map_err(|error| failed("capabilities can't be dropped", &error))?;
    set_no_new_privs(true)?;
    log::debug!("kept of the capabilities: {kept:?}");
    Ok(())
}

fn alone() -> io::Result<()> {
    match fs::read_dir("/proc/self/task")?.count() {
        1 => Ok(()),
        threads => Err(io::Error::other(format!(
            "capabilities can't be dropped while there are {threads} threads"
        ))),
    }
}

/// The answer of a thread that has only these.
fn tried(kept: CapabilitySet, goes_on: impl FnOnce() -> bool + Send) -> io::Result<bool> {
    thread::scope(|scope| {
        let attempt = thread::Builder::new().spawn_scoped(scope, || {
            limit_to(kept)?;
            Ok(goes_on())
        })?;
        let answer = attempt.join();
        answer.unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
}

fn limit_to(kept: CapabilitySet) -> io::Result<()> {
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

fn change_to(User { uid, gid }: User) -> io::Result<()> {
    let change = || {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        // Those in effect end with the change; the permitted ones stay and are taken up again.
        set_keep_capabilities(true)?;
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        // Otherwise our own files in /proc would be root's (`set_dumpable`, kernel/cred.c), and counters that
        // `fdinfo` tells unreadable. It takes our capabilities to trace us nevertheless (`cap_ptrace_access_check`).
        set_dumpable_behavior(DumpableBehavior::Dumpable)
    };
    change().map_err(|error: Errno| {
        let what = format!("tracer can't go on as user {uid}, group {gid}");
        failed(&what, &error.into())
    })
}

/// Whoever is not root has only those that it was given for this.
fn forget_groups() -> io::Result<()> {
    match set_thread_groups(&[]) {
        Err(Errno::PERM) => Ok(()),
        done => Ok(done?),
    }
}
