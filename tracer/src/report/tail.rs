//! When the last line of files is, without reading them.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::digest::digest;

/// So much of the end is looked at.
const TAIL: u64 = 1 << 18;

/// Nanoseconds since 1970.
pub(super) fn last_time(paths: &[PathBuf]) -> Result<i64, String> {
    let mut last = None;
    for path in paths {
        let time = of_file(path).map_err(|why| {
            format!("{}: {why}, so a time can't be taken from its end; give the date too, as 2026-01-02T03:04:05Z", path.display())
        })?;
        last = last.max(time);
    }
    last.ok_or_else(|| {
        "no file ends with a line of tracer: give the date too, as 2026-01-02T03:04:05Z".into()
    })
}

fn of_file(path: &Path) -> Result<Option<i64>, String> {
    if path == Path::new("-") {
        return Err("it is read only once".into());
    }
    let bytes = end(path).map_err(|error| error.to_string())?;
    if matches!(bytes[..], [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..]) {
        return Err("it is compressed".into());
    }
    Ok(digest(&bytes, true).items.iter().map(|item| item.ts).max())
}

fn end(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut magic = [0; 4];
    let read = file.read(&mut magic)?;
    let len = file.seek(SeekFrom::End(0))?;
    let mut bytes = Vec::new();
    if len > TAIL {
        // What it is shows only at its begin.
        if matches!(
            magic[..read],
            [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..]
        ) {
            return Ok(magic.into());
        }
        file.seek(SeekFrom::Start(len - TAIL))?;
    } else {
        file.rewind()?;
    }
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(bytes)
}
