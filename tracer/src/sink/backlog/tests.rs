use proptest::prelude::*;

use super::*;

const LIMIT: usize = 1 << 20;

/// Lines that say which they are.
fn lines(kind: Kind, numbers: std::ops::Range<u32>) -> Batch {
    let mut batch = Batch::default();
    for number in numbers {
        batch.push(Line {
            kind,
            detail: false,
            bytes: format!("{number:0199}\n").as_bytes(),
        });
    }
    batch
}

/// Everything that waits, oldest first.
fn drain(backlog: &mut Backlog) -> Vec<(Kind, u32)> {
    let (mut all, mut used) = (Vec::new(), None);
    while let Some(batch) = backlog.take(used.take()) {
        all.extend(batch.lines().map(|line| {
            let number = std::str::from_utf8(line.bytes).unwrap();
            (line.kind, number.trim_end().parse::<u32>().unwrap())
        }));
        used = Some(batch);
    }
    all
}

#[test]
fn lines_come_out_as_they_went_in() {
    let mut backlog = Backlog::new(LIMIT, false);
    for at in 0..20 {
        backlog.push(&lines(Kind::State, at * 100..(at + 1) * 100));
    }
    assert_eq!(backlog.lines(), 2000);
    let all = drain(&mut backlog);
    let expected: Vec<_> = (0..2000).map(|at| (Kind::State, at)).collect();
    assert_eq!(all, expected);
    assert_eq!((backlog.lines(), backlog.size()), (0, 0));
    assert_eq!(backlog.take_dropped().total(), 0);
}

#[test]
fn batches_of_any_size_are_given_away_in_order() {
    let mut backlog = Backlog::new(LIMIT, false);
    let mut next = 0;
    for length in [1, 30, 40, 160, 700, 1, 160, 3, 900] {
        let mut batch = lines(Kind::State, next..next + length);
        assert!(!backlog.give(&mut batch));
        next += length;
    }
    assert_eq!(backlog.lines(), u64::from(next));
    let expected: Vec<_> = (0..next).map(|at| (Kind::State, at)).collect();
    assert_eq!(drain(&mut backlog), expected);
    assert_eq!((backlog.lines(), backlog.size()), (0, 0));
}

#[test]
fn batches_that_are_given_away_keep_to_the_limit() {
    let mut backlog = Backlog::new(LIMIT, false);
    backlog.give(&mut lines(Kind::ConnectFailed, 0..160));
    for _ in 0..100 {
        backlog.give(&mut lines(Kind::State, 0..160));
        assert!(backlog.size() <= LIMIT);
    }
    let dropped = backlog.take_dropped();
    assert!(dropped.total() > 0 && dropped.total() == dropped.of(Kind::State));
    assert_eq!(backlog.lines() + dropped.total(), 160 * 101);
}

#[test]
fn the_oldest_of_the_least_dear_go_first() {
    let mut backlog = Backlog::new(LIMIT, false);
    backlog.push(&lines(Kind::ConnectFailed, 0..100));
    backlog.push(&lines(Kind::State, 0..2000));
    backlog.push(&lines(Kind::Usage, 0..100));
    backlog.push(&lines(Kind::Connection, 0..2500));
    let dropped = backlog.take_dropped();
    assert_eq!(dropped.total(), dropped.of(Kind::State));
    let rest = drain(&mut backlog);
    let states: Vec<u32> = of(&rest, Kind::State);
    assert_eq!(states.len() as u64, 2000 - dropped.total());
    assert!(states.iter().copied().eq(dropped.total() as u32..2000));
    assert_eq!(of(&rest, Kind::ConnectFailed).len(), 100);

    backlog.push(&lines(Kind::Usage, 0..100));
    backlog.push(&lines(Kind::State, 0..1000));
    backlog.push(&lines(Kind::ConnectFailed, 0..20_000));
    let dropped = backlog.take_dropped();
    assert_eq!(dropped.of(Kind::State), 1000);
    assert_eq!(dropped.of(Kind::Usage), 100);
    let last = drain(&mut backlog).pop();
    assert_eq!(last, Some((Kind::ConnectFailed, 19_999)));
}

fn of(lines: &[(Kind, u32)], kind: Kind) -> Vec<u32> {
    let of = lines.iter().filter(|(is, _)| *is == kind);
    of.map(|(_, number)| *number).collect()
}

#[test]
fn processes_stay_as_long_as_anybody_may_refer_to_them() {
    let mut backlog = Backlog::new(LIMIT, false);
    assert!(!backlog.push(&lines(Kind::Process, 0..1000)));
    assert!(!backlog.push(&lines(Kind::ConnectFailed, 0..20_000)));
    let forgot = backlog.push(&lines(Kind::Process, 1000..6000));
    assert!(forgot);
    assert!(of(&drain(&mut backlog), Kind::ConnectFailed).is_empty());
}

#[test]
fn details_are_for_those_who_take_them() {
    let mut batch = lines(Kind::Usage, 0..3);
    let bytes: &[u8] = b"3\n";
    batch.push(Line {
        kind: Kind::State,
        detail: true,
        bytes,
    });
    for (details, count) in [(false, 3), (true, 4)] {
        let mut backlog = Backlog::new(LIMIT, details);
        backlog.push(&batch);
        assert_eq!(backlog.lines(), count);
        assert_eq!(drain(&mut backlog).len() as u64, count);
    }
}

#[test]
fn what_is_being_written_counts() {
    let mut backlog = Backlog::new(LIMIT, false);
    backlog.push(&lines(Kind::State, 0..4000));
    let before = backlog.size();
    let taken = backlog.take(None).unwrap();
    assert_eq!(backlog.size(), before);
    assert_eq!(backlog.lines() + taken.len() as u64, 4000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever comes: memory is bounded, order is kept, and every line is there or counted.
    #[test]
    fn nothing_is_lost_in_silence(
        steps in prop::collection::vec((0..Kind::ALL.len(), 1_u32..2000, prop::bool::weighted(0.2)), 1..60)
    ) {
        let mut backlog = Backlog::new(LIMIT, false);
        let (mut pushed, mut written, mut number) = (0, Vec::new(), 0);
        for (kind, count, takes) in steps {
            backlog.push(&lines(Kind::ALL[kind], number..number + count));
            number += count;
            pushed += u64::from(count);
            prop_assert!(backlog.size() <= LIMIT);
            if takes && let Some(batch) = backlog.take(None) {
                written.extend(batch.lines().map(|line| line.bytes.to_vec()));
            }
        }
        let dropped = backlog.take_dropped().total();
        while let Some(batch) = backlog.take(None) {
            written.extend(batch.lines().map(|line| line.bytes.to_vec()));
        }
        prop_assert_eq!(written.len() as u64 + dropped, pushed);
        prop_assert!(written.is_sorted());
    }
}

#[test]
fn the_room_that_a_batch_had_for_more_lines_does_not_count() {
    let mut backlog = Backlog::new(LIMIT, false);
    let mut batch = Batch::with_capacity(2 * LIMIT);
    batch.push(Line {
        kind: Kind::Process,
        detail: false,
        bytes: &[b'x'; LIMIT / PIECES],
    });
    assert!(
        !backlog.give(&mut batch),
        "a process must be introduced anew"
    );
    assert_eq!((backlog.lines(), backlog.take_dropped().total()), (1, 0));
    assert!(backlog.size() < LIMIT / 2 && batch.size() < LIMIT / 2);
}
