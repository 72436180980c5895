//! What the committed object was made from.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    FLAGS, KPROBE_ARCHITECTURE, TARGET, read,
    toolchain::{LINKER, RUSTC},
    write,
};
use crate::process::workspace;

const FILE: &str = "manifest.json";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// SHA-256 of the object.
    pub(crate) object: String,
    /// SHA-256 of the sources: see [`digest_of_sources`].
    sources: String,
    rustc: String,
    bpf_linker: String,
    target: String,
    kprobe_architecture: String,
    flags: Vec<String>,
}

impl Manifest {
    pub(crate) fn of(object: &[u8]) -> Result<Self> {
        Ok(Self {
            object: hex(&Sha256::digest(object)),
            sources: digest_of_sources()?,
            rustc: RUSTC.into(),
            bpf_linker: LINKER.into(),
            target: TARGET.into(),
            kprobe_architecture: KPROBE_ARCHITECTURE.into(),
            flags: FLAGS.map(Into::into).into(),
        })
    }

    pub(crate) fn read() -> Result<Self> {
        read(FILE)
    }

    pub(crate) fn write(&self) -> Result<()> {
        write(FILE, self)
    }

    /// Whether `object` is the one described, made from today's sources.
    pub(crate) fn check(&self, object: &[u8]) -> Result<()> {
        ensure!(
            self.object == hex(&Sha256::digest(object)),
            "the committed object is not the one that its manifest describes: run `cargo xtask \
             build-ebpf` and commit both"
        );
        ensure!(
            self.sources == digest_of_sources()?,
            "the committed object is not of today's sources: run `cargo xtask build-ebpf` and \
             commit the object with its manifest"
        );
        Ok(())
    }
}

/// Over everything that decides what the object is, path and content: the package, the profile it is
/// built with, and the locked versions of what it uses.
fn digest_of_sources() -> Result<String> {
    let mut digest = Sha256::new();
    for path in sources()? {
        let content = fs::read(&path).with_context(|| format!("{}", path.display()))?;
        let name = path
            .strip_prefix(workspace())?
            .to_string_lossy()
            .into_owned();
        digest.update(format!("{name}\0{}\0", content.len()));
        digest.update(content);
    }
    digest.update(profile()?);
    digest.update(locked()?);
    Ok(hex(&digest.finalize()))
}

fn sources() -> Result<Vec<PathBuf>> {
    let package = workspace().join("tracer-ebpf");
    let mut files = vec![package.join("Cargo.toml")];
    let mut directories = vec![package.join("src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// `[profile.ebpf]` and what follows it in the workspace's manifest.
fn profile() -> Result<String> {
    let manifest = fs::read_to_string(workspace().join("Cargo.toml"))?;
    let at = manifest
        .find("[profile.ebpf]")
        .context("Cargo.toml has no [profile.ebpf]")?;
    Ok(manifest[at..].into())
}

/// The entries of the aya packages in Cargo.lock.
fn locked() -> Result<String> {
    let lock = fs::read_to_string(workspace().join("Cargo.lock"))?;
    let ours = lock
        .split("\n\n")
        .filter(|entry| entry.contains("name = \"aya-ebpf") || entry.contains("name = \"aya-log"));
    Ok(ours.collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
