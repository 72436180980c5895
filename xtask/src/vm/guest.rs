//! What a VM holds and where: agreed between this side and `vm-init`.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{Guest, initramfs::Initramfs};
use crate::{
    prerequisites::REAL_PROGRAMS,
    process::{find, say},
};

/// Kernel modules the tests use, each after those it needs. Built-in ones are simply not found.
/// The kernel itself decompresses them: those that ship compressed modules can since 5.17.
const MODULES: [&str; 4] = ["inet_diag", "tcp_diag", "dummy", "veth"];

/// The leak test's flood of refused connects, natively a million, at emulation's thousand a second.
/// Twice the entries of that test's table, so that a leak fills it; and it finds single ones too.
const REFUSED: (&str, &str) = ("TRACER_LIVE_REFUSED", "10000");

/// How often the ledger is compared with the kernel in a random life, natively 20 times.
const ROUNDS: (&str, &str) = ("TRACER_LIVE_ROUNDS", "5");

/// Users that real servers drop their privileges to.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n\
    nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n";

/// Mount points, and directories that programs expect.
const DIRECTORIES: [(&str, u32); 10] = [
    ("/proc", 0o755),
    ("/sys", 0o755),
    ("/dev", 0o755),
    ("/run", 0o755),
    ("/tmp", 0o1777),
    ("/root", 0o700),
    ("/var/log/nginx", 0o755),
    ("/var/lib/nginx", 0o755),
    ("/var/tmp", 0o1777),
    ("/vm/modules", 0o755),
];

impl Guest {
    /// The file system of a VM for kernels with these modules.
    pub(super) fn initramfs(&self, modules: Option<&Path>) -> Result<Initramfs> {
        let mut initramfs = Initramfs::default();
        for (path, mode) in DIRECTORIES {
            initramfs.directory(path, mode);
        }
        initramfs.text("/etc/passwd", PASSWD);
        initramfs.text("/etc/group", GROUP);
        initramfs.text("/etc/hosts", "127.0.0.1 localhost vm\n::1 localhost\n");
        initramfs.program("/init", &self.init)?;
        initramfs.program("/bin/tracer", &self.tracer)?;
        initramfs.program("/bin/live", &self.live_test)?;
        initramfs.text("/vm/arguments", self.arguments.join("\n"));
        initramfs.text("/vm/environment", environment(&self.variables));
        for program in REAL_PROGRAMS.into_iter().filter_map(find) {
            let path = program.to_str().context("a program's path is not UTF-8")?;
            initramfs.program(path, &program)?;
        }
        for (order, module) in find_modules(modules)?.iter().enumerate() {
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            initramfs.file(&format!("/vm/modules/{order}-{name}"), module);
        }
        Ok(initramfs)
    }

    /// Says which real programs the tests will miss.
    pub(super) fn say_what_is_missing(&self) {
        for program in REAL_PROGRAMS
            .into_iter()
            .filter(|program| find(program).is_none())
        {
            say(&format!(
                "{program} is not installed here, so the VMs have none"
            ));
        }
    }
}

/// Settings of the live tests, as lines `NAME=VALUE`: this machine's, on top of ours, and these on top.
fn environment(variables: &[(String, String)]) -> String {
    let ours = [REFUSED, ROUNDS].map(|(name, value)| (name.to_owned(), value.to_owned()));
    ours.into_iter()
        .chain(env::vars().filter(|(name, _)| name.starts_with("TRACER_LIVE_")))
        .chain(variables.iter().cloned())
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect()
}

/// The module files that exist, in the order to load them.
fn find_modules(directory: Option<&Path>) -> Result<Vec<PathBuf>> {
    let Some(directory) = directory else {
        return Ok(Vec::new());
    };
    let mut files = Vec::new();
    collect_files(directory, &mut files)
        .with_context(|| format!("cannot read the modules in {}", directory.display()))?;
    if !files.iter().any(|file| module_name(file).is_some()) {
        bail!("{} holds no kernel modules (*.ko)", directory.display());
    }
    let find = |name: &&str| {
        files
            .iter()
            .find(|file| module_name(file) == Some(name))
            .cloned()
    };
    Ok(MODULES.iter().filter_map(find).collect())
}

fn collect_files(directory: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // Links such as `build` lead out of the tree and are left alone.
        if entry.file_type()?.is_dir() {
            collect_files(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// `tcp_diag` of `tcp_diag.ko`, `tcp_diag.ko.xz` or `tcp_diag.ko.zst`.
fn module_name(file: &Path) -> Option<&str> {
    let (name, suffix) = file.file_name()?.to_str()?.split_once('.')?;
    matches!(suffix, "ko" | "ko.xz" | "ko.zst" | "ko.gz").then_some(name)
}

#[cfg(test)]
mod tests {
    use super::module_name;

    #[test]
    fn modules_are_known_by_name_compressed_or_not() {
        assert_eq!(module_name("/m/net/tcp_diag.ko".as_ref()), Some("tcp_diag"));
        assert_eq!(
            module_name("/m/net/tcp_diag.ko.xz".as_ref()),
            Some("tcp_diag")
        );
        assert_eq!(module_name("/m/modules.dep".as_ref()), None);
        assert_eq!(module_name("/m/vmlinuz".as_ref()), None);
    }
}
