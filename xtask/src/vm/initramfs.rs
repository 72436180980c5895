//! The VMs' only file system: our init, the programs under test and what they need to run.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Cursor, Read, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
// Of the crates that write the kernel's `newc` format, cpio does that and nothing else, has no
// dependencies and is MIT; cpio-archive writes only the older `odc`, which the kernel does not
// read, and is MPL-2.0.
use cpio::{
    NewcBuilder,
    newc::{ModeFileType, trailer},
};

/// An archive in the making: every path in it once, parents before children.
#[derive(Default)]
pub(super) struct Initramfs {
    entries: BTreeMap<String, Entry>,
}

enum Entry {
    Directory { mode: u32 },
    Copy { from: PathBuf },
    Text { content: String },
}

impl Initramfs {
    pub(super) fn directory(&mut self, path: &str, mode: u32) {
        self.insert(path, Entry::Directory { mode });
    }

    pub(super) fn text(&mut self, path: &str, content: impl Into<String>) {
        self.insert(
            path,
            Entry::Text {
                content: content.into(),
            },
        );
    }

    pub(super) fn file(&mut self, path: &str, from: &Path) {
        self.insert(
            path,
            Entry::Copy {
                from: from.to_path_buf(),
            },
        );
    }

    /// A program with its shared libraries and the ELF interpreter.
    pub(super) fn program(&mut self, path: &str, from: &Path) -> Result<()> {
        self.file(path, from);
        for library in libraries(from)? {
            if let Some(name) = library.to_str() {
                self.file(name, &library);
            }
        }
        Ok(())
    }

    fn insert(&mut self, path: &str, entry: Entry) {
        let path = path.trim_start_matches('/');
        for (slash, _) in path.match_indices('/') {
            self.entries
                .entry(path[..slash].to_owned())
                .or_insert(Entry::Directory { mode: 0o755 });
        }
        self.entries.insert(path.to_owned(), entry);
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        self.archive(path)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn archive(&self, path: &Path) -> Result<()> {
        let mut archive = BufWriter::new(File::create(path)?);
        for (inode, (name, entry)) in (1..).zip(&self.entries) {
            let (builder, size, mut content) = entry.open(NewcBuilder::new(name).ino(inode))?;
            let mut writer = builder.write(archive, size);
            io::copy(&mut content, &mut writer).with_context(|| format!("at {name}"))?;
            archive = writer.finish()?;
        }
        Ok(trailer(archive)?.flush()?)
    }
}

impl Entry {
    fn open(&self, builder: NewcBuilder) -> Result<(NewcBuilder, u32, Box<dyn Read>)> {
        // The type goes last: setting the mode overwrites it.
        let typed = |mode, kind| builder.mode(mode).set_mode_file_type(kind);
        Ok(match self {
            Self::Directory { mode } => (
                typed(*mode, ModeFileType::Directory),
                0,
                Box::new(io::empty()),
            ),
            Self::Text { content } => {
                let content = content.clone().into_bytes();
                let size = u32::try_from(content.len())?;
                (
                    typed(0o644, ModeFileType::Regular),
                    size,
                    Box::new(Cursor::new(content)),
                )
            }
            Self::Copy { from } => {
                let cannot_read = || format!("cannot read {}", from.display());
                let file = File::open(from).with_context(cannot_read)?;
                let size = u32::try_from(fs::metadata(from).with_context(cannot_read)?.len())?;
                // Executable or not makes no difference in there.
                (typed(0o755, ModeFileType::Regular), size, Box::new(file))
            }
        })
    }
}

/// What the dynamic linker loads for a program; nothing for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("cannot start ldd")?;
    // For a static program ldd fails, and lists nothing.
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(library)
        .collect())
}

/// The path in `libc.so.6 => /lib/libc.so.6 (0x…)` or `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn library(line: &str) -> Option<PathBuf> {
    let path = line.split_once("=>").map_or(line, |(_, path)| path).trim();
    let (path, _address) = path.split_once(' ')?;
    path.starts_with('/').then(|| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        assert_eq!(
            library("\tlibc.so.6 => /lib/libc.so.6 (0x00007f)"),
            Some("/lib/libc.so.6".into())
        );
        assert_eq!(
            library("\t/lib64/ld.so (0x00007f)"),
            Some("/lib64/ld.so".into())
        );
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007ffc)"), None);
        assert_eq!(library("\tlibodd.so => not found"), None);
        assert_eq!(library("\tstatically linked"), None);
    }

    #[test]
    fn parents_come_before_children() {
        let mut initramfs = Initramfs::default();
        initramfs.text("/etc/ssl/file", "x");
        initramfs.directory("/tmp", 0o1777);
        let paths: Vec<&String> = initramfs.entries.keys().collect();
        assert_eq!(paths, ["etc", "etc/ssl", "etc/ssl/file", "tmp"]);
    }
}
