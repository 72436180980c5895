use std::os::unix::fs::MetadataExt as _;

use super::{super::Compress, *};

/// A directory of its own, which goes with it.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("tracer-file-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.join("a.jsonl")
    }

    /// The contents of all files, in the order of their names: the current one comes first.
    fn texts(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
            .iter()
            .map(|path| fs::read_to_string(path).unwrap())
            .collect()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn rotation(size: Option<u64>, age: Option<Duration>) -> Rotation {
    Rotation {
        size,
        age,
        keep: 7,
        compress: Compress::None,
        fsync: Fsync::Rotate,
    }
}

fn write_all(file: &mut File, mut lines: &[u8]) {
    while !lines.is_empty() {
        let taken = file.write(lines).unwrap();
        lines = &lines[taken..];
    }
}

#[test]
fn a_file_is_for_its_owner_and_group_and_is_continued() {
    let dir = Dir::new("mode");
    for _ in 0..2 {
        let mut file = File::open(&dir.path(), rotation(None, None)).unwrap();
        write_all(&mut file, b"one\n");
    }
    let mode = fs::metadata(dir.path()).unwrap().mode();
    assert_eq!(mode & 0o777 & !0o640, 0, "{mode:o}");
    assert_eq!(dir.texts(), ["one\none\n"]);
}

#[test]
fn half_a_line_of_an_earlier_run_is_not_continued() {
    let dir = Dir::new("half");
    fs::write(dir.path(), "whole\nhal").unwrap();
    let mut file = File::open(&dir.path(), rotation(None, None)).unwrap();
    write_all(&mut file, b"one\n");
    assert_eq!(dir.texts(), ["whole\nhal\none\n"]);
}

#[test]
fn a_file_holds_so_many_bytes_and_whole_lines() {
    let dir = Dir::new("size");
    let mut file = File::open(&dir.path(), rotation(Some(8), None)).unwrap();
    write_all(&mut file, b"one\ntwo\nthree\na line that is longer\nx\n");
    let texts = dir.texts();
    assert_eq!(
        texts,
        ["x\n", "one\ntwo\n", "three\n", "a line that is longer\n"]
    );
}

#[test]
fn a_file_that_is_old_is_rotated_without_a_line() {
    let dir = Dir::new("age");
    let mut file = File::open(&dir.path(), rotation(None, Some(Duration::from_millis(1)))).unwrap();
    thread::sleep(Duration::from_millis(20));
    file.tick().unwrap();
    assert_eq!(dir.texts(), [""]);
    write_all(&mut file, b"one\n");
    thread::sleep(Duration::from_millis(20));
    file.tick().unwrap();
    assert_eq!(dir.texts(), ["", "one\n"]);
}

#[test]
fn a_file_that_was_moved_away_is_opened_anew_when_asked() {
    let dir = Dir::new("reopen");
    let mut file = File::open(&dir.path(), rotation(None, None)).unwrap();
    write_all(&mut file, b"one\n");
    fs::rename(dir.path(), dir.0.join("b.jsonl")).unwrap();
    write_all(&mut file, b"two\n");
    file.reopen().unwrap();
    write_all(&mut file, b"three\n");
    assert_eq!(dir.texts(), ["three\n", "one\ntwo\n"]);
}

#[test]
fn what_is_no_file_is_refused_in_a_sentence() {
    let dir = Dir::new("bad");
    let missing = dir.0.join("missing/a.jsonl");
    let fifo = dir.0.join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    for (path, word) in [
        (&missing, "create it"),
        (&dir.0, "directory"),
        (&fifo, "neither"),
    ] {
        let Err(error) = File::open(path, rotation(None, None)) else {
            panic!("{} was opened", path.display());
        };
        assert!(error.to_string().contains(word), "{error}");
    }
    assert!(File::open(Path::new("/dev/null"), rotation(Some(1), None)).is_ok());
}

#[test]
fn a_full_device_takes_nothing() {
    let mut file = File::open(Path::new("/dev/full"), rotation(None, None)).unwrap();
    let full = file.write(b"one\n").unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
}
