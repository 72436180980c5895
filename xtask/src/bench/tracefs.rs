//! tracefs: peers don't mount it where a host has not.

use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};

const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Mounts it, if nobody has, for this process and those that it starts only. To be called before any other thread starts.
pub(super) fn ensure() -> Result<()> {
    if PLACES
        .iter()
        .any(|place| Path::new(place).join("events").is_dir())
    {
        return Ok(());
    }
    // SAFETY: there is no other thread, and no descriptor table is unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.context("a mount namespace can't be made")?;
    let down = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", down).context("mounts can't be kept apart from the host's")?;
    mount("tracefs", PLACES[0], "tracefs", MountFlags::empty(), None)
        .context("tracefs can't be mounted")
}
