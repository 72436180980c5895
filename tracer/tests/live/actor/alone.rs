//! A program as the first process of a pid namespace, as in a container without the host's.

use std::{
    io, os::unix::process::CommandExt as _, os::unix::process::ExitStatusExt as _, process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::{Signal, set_parent_process_death_signal},
    thread::{UnshareFlags, unshare_unsafe},
};

/// Waits for it. Whoever ends this process ends the program as SIGTERM does.
pub(super) fn run(args: &[String]) -> Result<()> {
    let [program, args @ ..] = args else {
        bail!("--alone wants PROGRAM")
    };
    // SAFETY: neither namespace touches a descriptor table.
    unsafe { unshare_unsafe(UnshareFlags::NEWPID | UnshareFlags::NEWNS) }
        .context("cannot make a pid namespace")?;
    let mut command = Command::new(program);
    // SAFETY: system calls only, which allocate nothing and take no locks.
    unsafe { command.args(args).pre_exec(look_around) };
    let status = command.status().with_context(|| program.clone())?;
    ensure!(status.into_raw() == 0, "{status}");
    Ok(())
}

/// In the new namespace: /proc is its own.
fn look_around() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    mount_change(
        c"/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    Ok(mount(
        c"proc",
        c"/proc",
        c"proc",
        MountFlags::empty(),
        None,
    )?)
}
