use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::{record::Kind, stream::Line};

const LIMIT: usize = 1 << 20;
const SOON: Duration = Duration::from_secs(10);

/// Answers each write as it is told to, and says what was to be written.
struct Told {
    answers: Receiver<io::Result<usize>>,
    writes: Sender<String>,
}

impl Sink for Told {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.writes
            .send(String::from_utf8(lines.to_vec()).unwrap())
            .unwrap();
        let answer = self.answers.recv();
        answer
            .unwrap_or(Ok(usize::MAX))
            .map(|count| count.min(lines.len()))
    }
}

fn told() -> (Writer, Sender<io::Result<usize>>, Receiver<String>) {
    let (answer, answers) = channel();
    let (writes, write) = channel();
    let sink = Box::new(Told { answers, writes });
    (
        Writer::start("told".into(), Backlog::new(LIMIT, false), sink).unwrap(),
        answer,
        write,
    )
}

fn line(text: &str) -> Batch {
    let mut batch = Batch::default();
    batch.push(Line {
        kind: Kind::State,
        detail: false,
        bytes: text.as_bytes(),
    });
    batch
}

#[test]
fn what_was_not_taken_is_written_again_from_there() {
    let (writer, answer, writes) = told();
    writer.push(&line("one line\n"));
    assert_eq!(writes.recv_timeout(SOON).unwrap(), "one line\n");
    answer.send(Ok(4)).unwrap();
    assert_eq!(writes.recv_timeout(SOON).unwrap(), "line\n");
    answer
        .send(Err(io::Error::from_raw_os_error(libc::ENOSPC)))
        .unwrap();
    assert_eq!(writes.recv_timeout(SOON).unwrap(), "line\n");
    answer.send(Ok(5)).unwrap();
    let until = Instant::now() + SOON;
    writer.end(until);
    assert_eq!(writer.wait(until), (0, false));
}

#[test]
fn a_sink_that_takes_nothing_holds_up_nobody() {
    let (mut writer, answer, writes) = told();
    writer.push(&line("first\n"));
    assert_eq!(writes.recv_timeout(SOON).unwrap(), "first\n");
    let long = format!("{}\n", "x".repeat(999));
    for _ in 0..5000 {
        writer.push(&line(&long));
    }
    assert!(
        writer.take_dropped(true).is_none(),
        "said while it is stalled"
    );
    answer.send(Ok(6)).unwrap();
    assert!(writes.recv_timeout(SOON).unwrap().starts_with('x'));
    let dropped = writer.take_dropped(true).unwrap();
    let until = Instant::now() + Duration::from_millis(10);
    writer.end(until);
    let (unwritten, _) = writer.wait(until);
    assert_eq!(dropped.total() + unwritten, 5000);
    assert!(dropped.total() > 3000);
}

#[test]
fn a_reader_that_has_gone_is_the_end() {
    let (writer, answer, writes) = told();
    writer.push(&line("first\n"));
    writes.recv_timeout(SOON).unwrap();
    answer.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
    let until = Instant::now() + SOON;
    assert_eq!(writer.wait(until), (0, false));
    assert!(writer.is_closed());
    assert!(!writer.push(&line("second\n")));
}

#[test]
fn a_sink_that_looks_around_does_not_take_lines_by_that() {
    let (writer, answer, writes) = told();
    writer.push(&line("first\n"));
    let full = || io::Error::from_raw_os_error(libc::ENOSPC);
    // Pauses grow all the while, though it ticks well each second.
    let mut before = Instant::now();
    let mut pauses = Vec::new();
    for _ in 0..7 {
        writes.recv_timeout(SOON).unwrap();
        pauses.push(before.elapsed());
        before = Instant::now();
        answer.send(Err(full())).unwrap();
    }
    assert!(
        pauses[6] > Duration::from_millis(700),
        "it is tried as often as at first: {pauses:?}"
    );
    drop(answer);
    let until = Instant::now() + SOON;
    writer.end(until);
    assert_eq!(writer.wait(until), (0, false));
}
