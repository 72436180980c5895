//! Debian's Prometheus for the live tests, unpacked and not installed: installed, it would be a service on port 9090
//! where systemd runs, with a page full of packages that no test needs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    prerequisites::apt_get,
    process::{find, run, say, target_directory},
};

const PACKAGE: &str = "prometheus";

/// What the live tests run.
const PROGRAMS: [&str; 2] = ["prometheus", "promtool"];

/// Where the programs are if they are not in the PATH, for the live tests (`TRACER_PROMETHEUS`).
pub(crate) fn directory() -> PathBuf {
    root().join("usr").join("bin")
}

fn root() -> PathBuf {
    target_directory().join("tools").join(PACKAGE)
}

/// Unpacks the package below the target directory, unless the programs are here.
pub(crate) fn provide() -> Result<()> {
    let is_here = |program: &str| find(program).is_some() || directory().join(program).is_file();
    if PROGRAMS.iter().all(|program| is_here(program)) {
        return Ok(());
    }
    if find("apt-get").is_none() || find("dpkg-deb").is_none() {
        bail!(
            "install prometheus with this system's package manager (the live tests have it scrape), or pass --skip-install, which skips its test"
        );
    }
    say(&format!(
        "unpacking Debian's {PACKAGE} into {} (it scrapes in the live tests)",
        root().display()
    ));
    let download = root().join("download");
    fs::create_dir_all(&download)
        .with_context(|| format!("cannot create {}", download.display()))?;
    // Package lists are often absent (containers) or stale.
    if fetch(&download).is_err() {
        say("refreshing the package lists first");
        run(apt_get()?.arg("update"))?;
        fetch(&download)?;
    }
    unpack(&download)
}

fn fetch(into: &Path) -> Result<()> {
    run(Command::new("apt-get")
        .current_dir(into)
        .args(["-qq", "download", PACKAGE]))
}

fn unpack(download: &Path) -> Result<()> {
    for entry in
        fs::read_dir(download).with_context(|| format!("cannot read {}", download.display()))?
    {
        let package = entry?.path();
        run(Command::new("dpkg-deb").arg("-x").arg(package).arg(root()))?;
    }
    fs::remove_dir_all(download).with_context(|| format!("cannot remove {}", download.display()))
}
