//! Kernel packages through this machine's own apt: its mirrors, proxies and keys, other suites.
//!
//! A private apt root (lists, cache, sources) lets an ordinary user download packages of any suite
//! and leaves the machine's configuration alone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::process::{find, output, run};

/// Every archive key of Debian, old suites included; ordinary installations have it.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Suites that a Debian mirror offers: a source with one of them can serve the others too.
/// Updates and security suites live elsewhere or hold less, so they are not listed.
const SUITES: [&str; 10] = [
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "sid",
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
];

pub(super) struct Apt {
    suite: &'static str,
    root: PathBuf,
}

impl Apt {
    /// Sets up a private root for the suite and fetches its package list.
    pub(super) fn update(suite: &'static str, root: &Path) -> Result<Self> {
        let apt = Self {
            suite,
            root: root.to_path_buf(),
        };
        for directory in ["lists/partial", "cache/archives/partial", "download"] {
            let path = apt.root.join(directory);
            fs::create_dir_all(&path)
                .with_context(|| format!("cannot create {}", path.display()))?;
        }
        // Nothing is installed as far as this root knows.
        apt.write("status", "")?;
        apt.write("apt.conf", &apt.configuration())?;
        let mut failures = Vec::new();
        for mirror in mirrors()? {
            // A mirror signed by keys of its own is trusted as the machine trusts it.
            for keyring in [Some(KEYRING), None] {
                if keyring.is_some_and(|path| !Path::new(path).exists()) {
                    continue;
                }
                apt.write("debian.sources", &apt.source(&mirror, keyring))?;
                match run(apt.get().args(["-qq", "--error-on=any", "update"])) {
                    Ok(()) => return Ok(apt),
                    Err(error) => failures.push(format!("{mirror}: {error}")),
                }
            }
        }
        bail!(
            "no apt source of this machine serves Debian {suite} (tried {}); if a signature could \
             not be verified, upgrade debian-archive-keyring; else pass --kernel VMLINUZ",
            if failures.is_empty() {
                "none, as none is Debian's".into()
            } else {
                failures.join("; ")
            }
        )
    }

    /// The packages that hold the newest cloud kernel of the suite and its modules.
    ///
    /// `linux-image-cloud-amd64` is empty and depends on the kernel of the day, whose vmlinuz and
    /// modules are since Linux 7 packages of their own.
    pub(super) fn kernel_packages(&self) -> Result<Vec<String>> {
        let mut packages = vec!["linux-image-cloud-amd64".to_owned()];
        let mut next = 0;
        while let Some(package) = packages.get(next) {
            for dependency in self.kernel_dependencies(package)? {
                if !packages.contains(&dependency) {
                    packages.push(dependency);
                }
            }
            next += 1;
        }
        packages.remove(0);
        if packages.is_empty() {
            bail!(
                "linux-image-cloud-amd64 of Debian {} depends on no kernel package",
                self.suite
            );
        }
        Ok(packages)
    }

    fn kernel_dependencies(&self, package: &str) -> Result<Vec<String>> {
        let depends = output(
            self.command("apt-cache")
                .args(["depends", "--important", package]),
        )?;
        Ok(depends.lines().filter_map(kernel_package).collect())
    }

    /// Downloads the packages and unpacks them into `into`.
    pub(super) fn unpack(&self, packages: &[String], into: &Path) -> Result<()> {
        let download = self.root.join("download");
        run(self
            .get()
            .current_dir(&download)
            .args(["-qq", "download"])
            .args(packages))?;
        for entry in fs::read_dir(&download)? {
            run(Command::new("dpkg-deb")
                .arg("-x")
                .arg(entry?.path())
                .arg(into))?;
        }
        Ok(())
    }

    fn source(&self, mirror: &str, keyring: Option<&str>) -> String {
        let signed_by = keyring
            .map(|path| format!("Signed-By: {path}\n"))
            .unwrap_or_default();
        format!(
            "Types: deb\nURIs: {mirror}\nSuites: {}\nComponents: main\nArchitectures: amd64\n\
             Targets: Packages\n{signed_by}",
            self.suite
        )
    }

    fn get(&self) -> Command {
        self.command("apt-get")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.root.join("apt.conf"));
        command
    }

    fn configuration(&self) -> String {
        let root = self.root.display();
        format!(
            r#"Dir::State "{root}";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
Dir::Etc::sourcelist "{root}/debian.sources";
Dir::Etc::sourceparts "-";
// Frozen mirrors and suites past their end of life are good enough for a test kernel.
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
// apt's own user may be unable to reach this directory.
APT::Sandbox::User "root";
// What the machine does after its own updates is not for this root.
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"#
        )
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.root.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The Debian mirrors among this machine's sources. apt itself reads the sources, so that both of
/// its formats, their options and mirror lists are understood.
fn mirrors() -> Result<Vec<String>> {
    if find("apt-get").is_none() {
        bail!("apt is not installed, so kernels cannot be downloaded: pass --kernel VMLINUZ");
    }
    match choose_mirrors(&index_targets(&[])?, "Debian") {
        // Before the first `apt-get update` apt tells of no source unless asked to leave out what
        // only that knows, the origin among it, which then stands in the answer as in the question.
        known if known.is_empty() => Ok(choose_mirrors(
            &index_targets(&["--no-release-info"])?,
            "$(ORIGIN)",
        )),
        known => Ok(known),
    }
}

fn index_targets(options: &[&str]) -> Result<String> {
    let format = "$(CREATED_BY) $(COMPONENT) $(RELEASE) $(ORIGIN) $(REPO_URI)";
    output(
        Command::new("apt-get")
            .args(["indextargets", "--format", format])
            .args(options),
    )
}

fn choose_mirrors(targets: &str, wanted_origin: &str) -> Vec<String> {
    let mut mirrors = Vec::new();
    for target in targets.lines() {
        let fields: Vec<&str> = target.split_whitespace().collect();
        let ["Packages", "main", release, origin, uri] = fields[..] else {
            continue;
        };
        let serves = origin == wanted_origin && SUITES.contains(&release);
        if serves && !mirrors.iter().any(|each| each == uri) {
            mirrors.push(uri.to_owned());
        }
    }
    mirrors
}

/// The package that a line like `  Depends: linux-modules-7.2.13+deb14-cloud-amd64` names, if it
/// is part of a kernel.
fn kernel_package(line: &str) -> Option<String> {
    let package = line.trim().strip_prefix("Depends: ")?;
    let holds_kernel = ["linux-image-", "linux-binary-", "linux-modules-"]
        .iter()
        .any(|prefix| package.starts_with(prefix));
    holds_kernel.then(|| package.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debian_main_mirrors_are_chosen() {
        let targets = "\
DEP-11 main bookworm Debian file:/mirror/debian/
Packages main bookworm Debian file:/mirror/debian/
Packages main bookworm-security Debian file:/mirror/debian-security/
Packages contrib bookworm Debian file:/contrib/debian/
Packages main trixie Debian file:/mirror/debian/
Packages main bookworm Vendor file:/vendor/apt/
Packages $(COMPONENT) ./ $(ORIGIN) file:/flat/apt/
Packages main stable $(ORIGIN) file:/new/apt/
";
        assert_eq!(choose_mirrors(targets, "Debian"), ["file:/mirror/debian/"]);
        assert_eq!(choose_mirrors(targets, "$(ORIGIN)"), ["file:/new/apt/"]);
    }

    #[test]
    fn dependencies_lead_to_kernel_packages_only() {
        let name = "linux-binary-7.2.13+deb14-cloud-amd64";
        assert_eq!(
            kernel_package(&format!("  Depends: {name}")),
            Some(name.to_owned())
        );
        assert_eq!(kernel_package("  Depends: linux-base"), None);
        assert_eq!(kernel_package(" |Depends: initramfs-tools"), None);
        assert_eq!(kernel_package("linux-image-cloud-amd64"), None);
    }
}
