use super::*;

/// A directory of its own, which goes with it.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("tracer-rec-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        Self(dir)
    }

    fn files(&self, prefix: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap());
        let ours = entries.filter(|entry| entry.file_name().to_str().unwrap().starts_with(prefix));
        let mut files: Vec<_> = ours.map(|entry| entry.path()).collect();
        files.sort();
        files
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const KEEP: Keep = Keep {
    age: Duration::from_secs(600),
    size: 1 << 20,
};

fn open(dir: &Dir, notices: &Notices) -> Recorder {
    Recorder::open(&dir.0, KEEP, notices.clone()).unwrap()
}

fn line(kind: &str, seq: u64, rest: &str) -> String {
    format!("{{\"v\":1,\"type\":\"{kind}\",\"seq\":{seq}{rest}}}\n")
}

fn write(recorder: &mut Recorder, mut lines: &[u8]) {
    while !lines.is_empty() {
        let taken = recorder.write(lines).unwrap();
        lines = &lines[taken..];
    }
}

/// Lines that compress badly.
fn states(numbers: std::ops::Range<u64>) -> String {
    let noise = |seq: u64| {
        (0..20).fold(seq, |hash, _| {
            hash.wrapping_mul(6_364_136_223_846_793_005) + 1
        })
    };
    numbers
        .map(|seq| {
            line(
                "state",
                seq,
                &format!(",\"noise\":\"{}\"", noise(seq).wrapping_mul(seq | 1)),
            )
        })
        .collect()
}

fn text(path: &Path) -> String {
    String::from_utf8(zstd::decode_all(fs::File::open(path).unwrap()).unwrap()).unwrap()
}

fn seqs(text: &str) -> Vec<u64> {
    let own = text.lines().filter(|line| !line.contains("repeated"));
    own.map(|line| {
        serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"]
            .as_u64()
            .unwrap()
    })
    .collect()
}

fn events(notices: &Notices) -> Vec<RecordingEvent> {
    notices
        .take()
        .iter()
        .map(|recording| recording.event)
        .collect()
}

#[test]
fn a_failure_keeps_what_was_before_and_what_comes_after() {
    let (dir, notices) = (Dir::new("failure"), Notices::default());
    let mut recorder = open(&dir, &notices);
    write(&mut recorder, line("start", 0, "").as_bytes());
    write(&mut recorder, line("process", 1, "").as_bytes());
    write(&mut recorder, states(2..1000).as_bytes());
    write(
        &mut recorder,
        line("connect_failed", 1000, ",\"reason\":\"ports_exhausted\"").as_bytes(),
    );
    write(&mut recorder, states(1001..2000).as_bytes());
    write(&mut recorder, line("bind_failed", 2000, "").as_bytes());
    recorder.finish(Instant::now()).unwrap();
    let kept = dir.files("tracer-");
    assert_eq!(kept.len(), 1);
    assert!(kept[0].to_str().unwrap().ends_with("-failure.jsonl.zst"));
    let text = text(&kept[0]);
    assert!(text.starts_with("{\"v\":1,\"repeated\":true,\"type\":\"start\""));
    assert_eq!(text.matches("repeated").count(), 2);
    assert!(seqs(&text).into_iter().eq(0..=2000));
    assert_eq!(
        events(&notices),
        [RecordingEvent::Frozen, RecordingEvent::Closed]
    );
}

#[test]
fn the_ring_holds_so_much_and_removes_nothing_else() {
    let (dir, notices) = (Dir::new("ring"), Notices::default());
    let mut recorder = open(&dir, &notices);
    fs::write(dir.0.join("ring-notes"), "of somebody else").unwrap();
    for at in 0..200 {
        write(&mut recorder, states(at * 1000..(at + 1) * 1000).as_bytes());
        recorder.tick().unwrap();
    }
    let files = dir.files("ring-2");
    let size: u64 = files
        .iter()
        .map(|file| fs::metadata(file).unwrap().len())
        .sum();
    assert!(
        files.len() > 8 && size <= KEEP.size,
        "{} files, {size} bytes",
        files.len()
    );
    assert_eq!(dir.files("ring-notes").len(), 1);
    let all: Vec<u64> = files.iter().flat_map(|file| seqs(&text(file))).collect();
    let first = all[0];
    assert!(first > 0 && all.into_iter().eq(first..200_000));
}

#[test]
fn a_run_that_was_killed_leaves_whole_frames_and_the_next_one_keeps_them() {
    let (dir, notices) = (Dir::new("killed"), Notices::default());
    let mut recorder = open(&dir, &notices);
    write(&mut recorder, line("start", 0, "").as_bytes());
    write(&mut recorder, states(1..1000).as_bytes());
    recorder.freeze().unwrap();
    drop(recorder);
    let segment = dir.files("ring-").pop().unwrap();
    let part = dir.files("tracer-").pop().unwrap();
    assert!(part.to_str().unwrap().ends_with(".part"));
    for file in [&segment, &part] {
        let mut torn = fs::OpenOptions::new().append(true).open(file).unwrap();
        io::Write::write_all(&mut torn, &[0x28, 0xb5, 0x2f, 0xfd, 4]).unwrap();
    }
    let mut recorder = open(&dir, &notices);
    let kept = dir.files("tracer-").pop().unwrap();
    assert!(seqs(&text(&kept)).into_iter().eq(0..1000));
    write(&mut recorder, line("start", 0, "").as_bytes());
    write(&mut recorder, states(1..100).as_bytes());
    recorder.freeze().unwrap();
    recorder.finish(Instant::now()).unwrap();
    let kept = dir.files("tracer-").pop().unwrap();
    assert!(seqs(&text(&kept)).into_iter().eq((0..1000).chain(0..100)));
}

#[test]
fn only_so_many_files_are_kept() {
    let (dir, notices) = (Dir::new("many"), Notices::default());
    let mut recorder = open(&dir, &notices);
    fs::write(dir.0.join("tracer-notes.jsonl.zst"), "of somebody else").unwrap();
    write(&mut recorder, states(0..10).as_bytes());
    for _ in 0..13 {
        recorder.freeze().unwrap();
        recorder.close(None);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(dir.files("tracer-").len(), 10 + 1);
}

#[test]
fn a_directory_is_for_one_recorder() {
    let (dir, notices) = (Dir::new("lock"), Notices::default());
    let recorder = open(&dir, &notices);
    let Err(error) = Recorder::open(&dir.0, KEEP, notices.clone()) else {
        panic!("it was opened twice");
    };
    assert!(error.to_string().contains("another tracer"), "{error}");
    drop(recorder);
    open(&dir, &notices);
    let missing = dir.0.join("missing/dir");
    let Err(error) = Recorder::open(&missing, KEEP, notices) else {
        panic!("it was opened");
    };
    assert!(error.to_string().contains("create it first"), "{error}");
}
