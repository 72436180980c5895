//! Rotated files: the oldest go, the others are compressed.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::rotation::{self, Compress, Rotation, ZSTD};

/// 300 MB/s, and lines are a tenth as long.
const LEVEL: i32 = 3;

/// Looks after all rotated files of `path`: what an earlier run has left too.
pub(super) fn tidy(path: &Path, rotation: &Rotation) -> io::Result<()> {
    let rotated = rotated(path)?;
    let (old, kept) = rotated.split_at(rotated.len().saturating_sub(rotation.keep));
    for file in old {
        fs::remove_file(file)?;
    }
    if rotation.compress == Compress::Zstd {
        let zstd = |file: &&PathBuf| file.extension().is_some_and(|end| end == ZSTD);
        for file in kept.iter().filter(|file| !zstd(file)) {
            compress(file)?;
        }
    }
    Ok(())
}

/// Oldest first.
fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let name = path.file_name().unwrap_or_default();
    let mut rotated = Vec::new();
    for entry in fs::read_dir(directory(path))? {
        let entry = entry?;
        if rotation::is_rotated(name, &entry.file_name()) {
            rotated.push(entry.path());
        }
    }
    rotated.sort();
    Ok(rotated)
}

pub(super) fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The uncompressed file goes when the other one is whole: whoever stops in between loses nothing.
fn compress(file: &Path) -> io::Result<()> {
    let done = rotation::with(file, ZSTD);
    let part = rotation::with(&done, "part");
    let written = write(file, &part).and_then(|()| fs::rename(&part, &done));
    match written {
        Ok(()) => fs::remove_file(file),
        Err(error) => {
            let _ = fs::remove_file(&part);
            Err(error)
        }
    }
}

fn write(file: &Path, part: &Path) -> io::Result<()> {
    // A leftover of a run that was killed.
    let _ = fs::remove_file(part);
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true);
    let part = options.mode(super::file::MODE).open(part)?;
    zstd::stream::copy_encode(File::open(file)?, &part, LEVEL)?;
    part.sync_all()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::Fsync, *};

    #[test]
    fn old_files_go_others_are_compressed_and_those_of_others_stay() {
        let dir = std::env::temp_dir().join(format!("tracer-tidy-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("a.jsonl");
        let names = [
            "a.jsonl.20260101T000000.000Z",
            "a.jsonl.20260102T000000.000Z.zst",
            "a.jsonl.20260103T000000.000Z",
            "a.jsonl.1",
            "b.jsonl.20260101T000000.000Z",
        ];
        for name in names {
            fs::write(dir.join(name), name).unwrap();
        }
        let rotation = Rotation {
            size: None,
            age: Some(Duration::from_secs(1)),
            keep: 2,
            compress: Compress::Zstd,
            fsync: Fsync::Never,
        };
        tidy(&path, &rotation).unwrap();
        let mut left: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let compressed = "a.jsonl.20260103T000000.000Z.zst";
        assert_eq!(left, [names[3], names[1], compressed, names[4]]);
        let text = zstd::decode_all(File::open(dir.join(compressed)).unwrap()).unwrap();
        assert_eq!(text, names[2].as_bytes());
        fs::remove_dir_all(&dir).unwrap();
    }
}
