//! The programs the tests need beyond Rust, and their installation by the system's package manager.

mod engines;
mod kubernetes;

use std::{ffi::OsStr, process::Command};

use anyhow::{Result, bail};

use crate::process::{as_root, find, run, say};
pub(crate) use engines::python;

pub(crate) struct Prerequisite {
    pub(crate) command: &'static str,
    package: &'static str,
    purpose: &'static str,
    /// What a user does who cannot install it.
    avoid: &'static str,
    /// Only the VM matrix needs it.
    for_vm: bool,
}

const PREREQUISITES: &[Prerequisite] = &[
    Prerequisite {
        command: "qemu-system-x86_64",
        package: "qemu-system-x86",
        purpose: "boots the test kernels",
        avoid: "--no-vm",
        for_vm: true,
    },
    Prerequisite {
        command: "dpkg-deb",
        package: "dpkg",
        purpose: "unpacks kernel packages",
        avoid: "--kernel VMLINUZ",
        for_vm: true,
    },
    Prerequisite {
        command: "nginx",
        package: "nginx",
        purpose: "is the real server of the live tests; where systemd runs, Debian also starts it on port 80",
        avoid: "--skip-install, which skips its tests",
        for_vm: false,
    },
    Prerequisite {
        command: "rsyslogd",
        package: "rsyslog",
        purpose: "collects the lines of a live test; where systemd runs, Debian also starts it for the system's log",
        avoid: "--skip-install, which skips its test",
        for_vm: false,
    },
    Prerequisite {
        command: "logrotate",
        package: "logrotate",
        purpose: "rotates the files of a live test",
        avoid: "--skip-install, which skips its test",
        for_vm: false,
    },
    Prerequisite {
        command: "chromium",
        package: "chromium",
        purpose: "opens the page of a report",
        avoid: "--skip-install, which skips its tests",
        for_vm: false,
    },
    Prerequisite {
        command: "systemd-analyze",
        package: "systemd",
        purpose: "checks the unit that is shipped; nothing has to run under it",
        avoid: "--skip-install, which skips its tests",
        for_vm: false,
    },
    Prerequisite {
        command: "python3",
        package: "python3-venv",
        purpose: "runs the engines that the queries under docs/engines are tried on",
        avoid: "--skip-install, which skips their tests",
        for_vm: false,
    },
];

/// Programs that the live tests run, copied into the VMs when this machine has them.
pub(crate) const REAL_PROGRAMS: [&str; 3] = ["nginx", "ip", "ss"];

/// Installs what is missing, after saying so.
pub(crate) fn install(with_vm: bool) -> Result<()> {
    install_programs(with_vm)?;
    engines::install();
    kubernetes::install();
    Ok(())
}

fn install_programs(with_vm: bool) -> Result<()> {
    let missing = missing(with_vm);
    if missing.is_empty() {
        return Ok(());
    }
    if find("apt-get").is_none() {
        bail!("{}", advice(&missing));
    }
    for each in &missing {
        say(&format!(
            "installing {} ({} {})",
            each.package, each.command, each.purpose
        ));
    }
    let packages: Vec<&str> = missing.iter().map(|each| each.package).collect();
    // Package lists are often absent (containers) or stale; refresh them only when they fail us.
    if apt_install(&packages).is_err() {
        say("refreshing the package lists first");
        run(apt_get()?.arg("update"))?;
        apt_install(&packages)?;
    }
    match self::missing(with_vm) {
        still if still.is_empty() => Ok(()),
        still => bail!("{}", advice(&still)),
    }
}

/// For commands that do not install: the missing programs are an error.
pub(crate) fn require(command: &str) -> Result<()> {
    if find(command).is_some() {
        return Ok(());
    }
    match PREREQUISITES.iter().find(|each| each.command == command) {
        Some(each) => bail!(
            "{command} is not installed: `cargo xtask test` installs it, or install the package {}",
            each.package
        ),
        None => bail!("{command} is not installed"),
    }
}

fn missing(with_vm: bool) -> Vec<&'static Prerequisite> {
    PREREQUISITES
        .iter()
        .filter(|each| (with_vm || !each.for_vm) && find(each.command).is_none())
        .collect()
}

fn advice(missing: &[&Prerequisite]) -> String {
    let list: Vec<String> = missing
        .iter()
        .map(|each| {
            format!(
                "{} ({}; or pass {})",
                each.command, each.purpose, each.avoid
            )
        })
        .collect();
    format!(
        "install with this system's package manager: {}",
        list.join(", ")
    )
}

fn apt_install(packages: &[&str]) -> Result<()> {
    run(apt_get()?
        .args(["install", "--yes", "--no-install-recommends"])
        .args(packages))
}

pub(crate) fn apt_get() -> Result<Command> {
    as_root(
        "apt-get",
        &[("DEBIAN_FRONTEND", OsStr::new("noninteractive"))],
    )
}
