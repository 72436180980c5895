//! The pinned toolchain of the kernel side: found, or installed, or not to be had.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::process::{output, run, say, target_directory};

/// The one compiler whose output is committed, as `rustc --version` prints it, and the channel that
/// has it.
pub(crate) const RUSTC: &str = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)";
const CHANNEL: &str = "nightly-2026-05-20";

/// Reads the bitcode of that compiler with the compiler's own LLVM 22; later versions of it want an
/// installed LLVM 23.
pub(crate) const LINKER: &str = "0.10.4";

pub(crate) struct Toolchain {
    /// As rustup knows it.
    pub(crate) name: String,
    pub(crate) sysroot: PathBuf,
    pub(crate) linker: PathBuf,
}

impl Toolchain {
    /// Finds all parts, installing what is missing.
    pub(crate) fn find() -> Result<Self> {
        let name = compiler()?;
        let sysroot = rustc(&name, &["--print", "sysroot"]).context("rustc has no sysroot")?;
        let sysroot = PathBuf::from(sysroot.trim());
        if !sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
            say(&format!("installing rust-src for {name}"));
            let install = ["component", "add", "rust-src", "--toolchain", &name];
            run(Command::new("rustup").args(install)).context("rust-src can't be had")?;
        }
        Ok(Self {
            linker: linker(&name)?,
            name,
            sysroot,
        })
    }

    /// Comes with rustc, and uses its LLVM.
    pub(crate) fn objcopy(&self) -> Command {
        let lib = self.sysroot.join("lib");
        let host = format!("rustlib/{}-unknown-linux-gnu", env::consts::ARCH);
        let mut command = Command::new(lib.join(host).join("bin/rust-objcopy"));
        command.env("LD_LIBRARY_PATH", lib);
        command
    }
}

/// A channel's name does not tell what is installed under it, so ask the compilers.
fn compiler() -> Result<String> {
    let installed = output(Command::new("rustup").args(["toolchain", "list", "--quiet"]))
        .context("rustup is needed for the pinned toolchain")?;
    let mut names: Vec<&str> = installed.lines().map(str::trim).collect();
    names.retain(|name| name.contains("nightly"));
    if let Some(name) = names.iter().find(|name| is_pinned(name)) {
        return Ok((*name).into());
    }
    say(&format!("installing the pinned toolchain {CHANNEL}"));
    run(Command::new("rustup")
        .args(["toolchain", "install", CHANNEL, "--profile", "minimal"])
        .args(["--component", "rust-src", "--component", "clippy"]))
    .with_context(|| format!("the pinned toolchain, {RUSTC}, can't be had"))?;
    if !is_pinned(CHANNEL) {
        bail!("{CHANNEL} is not {RUSTC}");
    }
    Ok(CHANNEL.into())
}

fn is_pinned(name: &str) -> bool {
    rustc(name, &["--version"]).is_ok_and(|version| version.trim() == RUSTC)
}

fn rustc(name: &str, args: &[&str]) -> Result<String> {
    output(Command::new("rustc").arg(format!("+{name}")).args(args))
}

fn linker(toolchain: &str) -> Result<PathBuf> {
    let ours = target_directory().join("tools/bin/bpf-linker");
    let installed = cargo_home()?.join("bin/bpf-linker");
    if let Some(linker) = [ours.clone(), installed]
        .into_iter()
        .find(|path| is_linker(path))
    {
        return Ok(linker);
    }
    say(&format!(
        "installing bpf-linker {LINKER}, which takes a minute or two"
    ));
    run(Command::new("cargo")
        .arg(format!("+{toolchain}"))
        .args(["install", "--locked", "--quiet"])
        .arg(format!("bpf-linker@{LINKER}"))
        .arg("--root")
        .arg(target_directory().join("tools")))
    .with_context(|| format!("bpf-linker {LINKER} can't be had"))?;
    Ok(ours)
}

fn is_linker(path: &Path) -> bool {
    let version = output(Command::new(path).arg("--version"));
    version.is_ok_and(|version| version.trim() == format!("bpf-linker {LINKER}"))
}

pub(crate) fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME") {
        return Ok(home.into());
    }
    let home = env::home_dir().context("neither CARGO_HOME nor HOME is set")?;
    Ok(home.join(".cargo"))
}
