//! The committed BPF object: builds it, byte for byte the same everywhere, and tells whether the
//! committed one is what today's sources give.

pub(crate) mod instructions;
mod manifest;
mod toolchain;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Serialize, de::DeserializeOwned};

use crate::process::{run, say, target_directory, workspace};
use instructions::Instructions;
use manifest::Manifest;
use toolchain::Toolchain;

/// Where the object and its manifest are committed.
const COMMITTED: &str = "tracer/bpf";
const OBJECT: &str = "tracer.o";

const TARGET: &str = "bpfel-unknown-none";

/// Registers of kprobes are read as this architecture has them; everything else is the same for all.
const KPROBE_ARCHITECTURE: &str = "x86_64";

/// Builds the object, its manifest and the count of its instructions into the tree.
pub(crate) fn build() -> Result<()> {
    let toolchain = Toolchain::find()?;
    let object = compile(&toolchain)?;
    fs::create_dir_all(workspace().join(COMMITTED))?;
    fs::write(committed(OBJECT), &object)?;
    let manifest = Manifest::of(&object)?;
    manifest.write()?;
    let mut instructions = Instructions::read()?;
    instructions.set_object(&object)?;
    instructions.write()?;
    say(&format!(
        "{COMMITTED}/tracer.o: {} bytes, SHA-256 {}",
        object.len(),
        manifest.object
    ));
    Ok(())
}

/// Rebuilds the object and compares it with the committed one, byte for byte.
pub(crate) fn verify() -> Result<()> {
    let committed = fs::read(committed(OBJECT)).context("the committed object")?;
    Manifest::read()?.check(&committed)?;
    Instructions::read()?.check(&committed)?;
    let toolchain = match Toolchain::find() {
        Ok(toolchain) => toolchain,
        Err(error) => {
            not_done("the committed BPF object was NOT rebuilt", &error);
            say("its digests match today's sources, which the test of them also checks");
            return Ok(());
        }
    };
    let object = compile(&toolchain)?;
    ensure!(
        object == committed,
        "{COMMITTED}/tracer.o differs from what today's sources give: run `cargo xtask build-ebpf` \
         and commit it"
    );
    say(&format!(
        "{COMMITTED}/tracer.o is what today's sources give"
    ));
    Ok(())
}

/// Keeps what the verifiers of these kernels said, by series.
pub(crate) fn record(verified: BTreeMap<String, instructions::Counts>) -> Result<()> {
    let mut instructions = Instructions::read()?;
    instructions.set_verified(verified);
    instructions.write()
}

fn committed(file: &str) -> PathBuf {
    workspace().join(COMMITTED).join(file)
}

/// What is committed beside the object about it, as JSON.
fn read<T: DeserializeOwned>(file: &str) -> Result<T> {
    let path = committed(file);
    let text = fs::read(&path).with_context(|| format!("{}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{}", path.display()))
}

fn write<T: Serialize>(file: &str, value: &T) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    let path = committed(file);
    fs::write(&path, text).with_context(|| format!("{}", path.display()))
}

/// clippy on the kernel side.
pub(crate) fn clippy() -> Result<()> {
    let toolchain = match Toolchain::find() {
        Ok(toolchain) => toolchain,
        Err(error) => {
            not_done("clippy did NOT run on the kernel side", &error);
            return Ok(());
        }
    };
    run(cargo(&toolchain, "clippy")?.args(["--", "-D", "warnings"]))
}

fn not_done(what: &str, why: &anyhow::Error) {
    say("!".repeat(72).as_str());
    say(&format!("{what}: {why:#}"));
    say("!".repeat(72).as_str());
}

fn compile(toolchain: &Toolchain) -> Result<Vec<u8>> {
    run(&mut cargo(toolchain, "build")?)?;
    let built = target_dir().join(TARGET).join("ebpf/tracer-ebpf");
    let stripped = target_dir().join("tracer.o");
    // BTF stays; DWARF is ten times as large and nobody reads it.
    run(toolchain
        .objcopy()
        .arg("--strip-debug")
        .args([&built, &stripped]))?;
    let object = fs::read(&stripped).with_context(|| format!("{}", stripped.display()))?;
    for path in [workspace(), &toolchain.sysroot, &toolchain::cargo_home()?] {
        ensure_absent(&object, path)?;
    }
    Ok(object)
}

/// A path of this machine in the object would make it differ from everybody else's.
fn ensure_absent(object: &[u8], path: &Path) -> Result<()> {
    let path = path.to_str().context("a path is not UTF-8")?.as_bytes();
    if object.windows(path.len()).any(|window| window == path) {
        bail!("the object contains a path of this machine, {path:?}: extend the remapping");
    }
    Ok(())
}

fn target_dir() -> PathBuf {
    target_directory().join("ebpf")
}

fn cargo(toolchain: &Toolchain, subcommand: &str) -> Result<Command> {
    let mut command = Command::new("cargo");
    command
        .current_dir(workspace())
        .arg(format!("+{}", toolchain.name))
        .arg(subcommand)
        .args(["--package", "tracer-ebpf", "--bin", "tracer-ebpf"])
        .args(["--profile", "ebpf", "--target", TARGET])
        .args(["-Z", "build-std=core", "--locked", "--target-dir"])
        .arg(target_dir())
        // Set below alone: flags from outside would change the object.
        .env_remove("RUSTFLAGS")
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            rustflags(toolchain)?.join("\x1f"),
        );
    Ok(command)
}

/// Flags without the paths of this machine, for the manifest.
const FLAGS: [&str; 1] = ["-Clink-arg=--btf"];

fn rustflags(toolchain: &Toolchain) -> Result<Vec<String>> {
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let mut flags = FLAGS.map(String::from).to_vec();
    flags.extend([
        format!("-Clinker={}", toolchain.linker.display()),
        format!("--cfg=bpf_target_arch=\"{KPROBE_ARCHITECTURE}\""),
        remap(workspace(), "/tracer"),
        remap(&toolchain.sysroot, "/rust"),
    ]);
    // The directory of a registry is named after its host, which may be a mirror.
    for registry in registries()? {
        flags.push(remap(&registry, "/crates"));
    }
    Ok(flags)
}

/// Where cargo unpacks the packages of each registry.
fn registries() -> Result<Vec<PathBuf>> {
    run(Command::new("cargo")
        .current_dir(workspace())
        .args(["fetch", "--locked", "--quiet"]))?;
    let sources = toolchain::cargo_home()?.join("registry/src");
    let entries = fs::read_dir(&sources).with_context(|| format!("{}", sources.display()))?;
    let mut registries = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    registries.sort();
    Ok(registries)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stale object can never pass: whoever changes the sources must rebuild it.
    #[test]
    fn the_committed_object_is_of_todays_sources() {
        let object = fs::read(committed(OBJECT)).unwrap();
        Manifest::read().unwrap().check(&object).unwrap();
    }

    #[test]
    fn the_instructions_are_those_of_the_committed_object() {
        let object = fs::read(committed(OBJECT)).unwrap();
        Instructions::read().unwrap().check(&object).unwrap();
    }
}
