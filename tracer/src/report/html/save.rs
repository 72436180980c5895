//! The page as a file: whole, or not at all.

use std::{
    fs::{self, File, Permissions},
    io::{self, BufWriter, Write},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use tempfile::Builder;

use super::{Report, page};

/// Everybody may read it, as far as the umask allows.
const MODE: u32 = 0o644;

/// Writes the page of `report` to `path`; `-` is standard output. A file that is there is replaced when the page is
/// complete; pipes and devices are written to.
pub fn save(report: &Report, path: &Path) -> Result<()> {
    place(path, |out| page(report, out))
}

fn place(path: &Path, write: impl Fn(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let failed = || format!("cannot write the page to {}", path.display());
    if path == Path::new("-") {
        return to_stdout(write).context("cannot write the page to standard output");
    }
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => bail!("{}: it is a directory; name a file in it", failed()),
        Ok(found) if !found.is_file() => {
            let file = File::options().write(true).open(path);
            buffered(file.with_context(failed)?, write).with_context(failed)
        }
        _ => replace(path, write).with_context(failed),
    }
}

/// A reader that goes away has seen enough.
fn to_stdout(write: impl Fn(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    match buffered(io::stdout().lock(), write) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// A temporary file beside it takes its place when it is complete.
fn replace(path: &Path, write: impl Fn(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let path = behind_links(path);
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = parent.unwrap_or(Path::new("."));
    let file = Builder::new()
        .prefix(".tracer-report-")
        .permissions(Permissions::from_mode(MODE))
        .tempfile_in(directory)
        .context("no file can be made in its directory")?;
    buffered(file.as_file(), write)?;
    file.persist(&path)?;
    Ok(())
}

/// A symbolic link stays one: what it leads to is replaced.
fn behind_links(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn buffered(out: impl Write, write: impl Fn(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    write(&mut out)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::{TempDir, tempdir};

    use super::*;

    fn whole(out: &mut dyn Write) -> io::Result<()> {
        out.write_all(b"new")
    }

    fn names(directory: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(directory.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|each| each.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_file_can_be_read_by_all() {
        let directory = tempdir().unwrap();
        let path = directory.path().join("page.html");
        place(&path, whole).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        // As the umask has it, which tests share with other threads and leave alone.
        assert_eq!(mode & !MODE, 0);
        assert_eq!(mode & 0o600, 0o600);
        assert_eq!(names(&directory), ["page.html"]);
    }

    #[test]
    fn a_page_that_fails_leaves_what_was_there() {
        let directory = tempdir().unwrap();
        let path = directory.path().join("page.html");
        fs::write(&path, "old").unwrap();
        let broken = |out: &mut dyn Write| {
            out.write_all(b"ne")?;
            Err(io::Error::other("disk full"))
        };
        let error = place(&path, broken).unwrap_err();
        assert!(
            format!("{error:#}").ends_with("page.html: disk full"),
            "{error:#}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(&directory), ["page.html"]);
    }

    #[test]
    fn a_link_stays_one() {
        let directory = tempdir().unwrap();
        let (file, link) = (
            directory.path().join("a.html"),
            directory.path().join("b.html"),
        );
        fs::write(&file, "old").unwrap();
        symlink(&file, &link).unwrap();
        place(&link, whole).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn what_is_no_file_is_written_to() {
        place(Path::new("/dev/null"), whole).unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn errors_say_what_to_do() {
        let directory = tempdir().unwrap();
        let said = |path: &Path| format!("{:#}", place(path, whole).unwrap_err());
        assert!(said(directory.path()).ends_with("it is a directory; name a file in it"));
        let text = said(&directory.path().join("none/page.html"));
        assert!(
            text.contains("none/page.html: no file can be made in its directory"),
            "{text}"
        );
    }
}
