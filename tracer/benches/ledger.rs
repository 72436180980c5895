//! How much memory a socket takes in the ledger, and how fast it takes events, dumps and questions.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
    net::Ipv4Addr,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tracer::{
    event::{Comm, End, Endpoint, Event, Family, Kind, Owner, Role, Row, State, Task, Tuple},
    ledger::{GROUP, Ledger},
};

/// Bytes that are allocated now.
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is the system's allocator, unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the rules of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the rules of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

const NETNS: u32 = 4_026_531_840;
const PROCESSES: u64 = 1000;
/// Connections that are made at one time; the others are in TIME_WAIT.
const AT_ONCE: u64 = 512;
/// Events of a connection's life.
const STEPS: u64 = 7;

fn task(number: u64) -> Task {
    Task {
        pid: 1000 + (number % PROCESSES) as u32,
        tid: 1000 + (number % PROCESSES) as u32,
        uid: 1000,
        start_ns: number % PROCESSES * 1_000_000,
        cgroup: 77,
        comm: Comm(*b"worker\0\0\0\0\0\0\0\0\0\0"),
    }
}

/// 28,000 ports for each of many destinations.
fn tuple(number: u64) -> Tuple {
    Tuple {
        family: Family::Ipv4,
        local: Endpoint {
            ip: Ipv4Addr::new(10, 0, 0, 7).into(),
            port: Some(32_768 + (number % 28_000) as u16),
        },
        peer: Endpoint {
            ip: Ipv4Addr::from_bits(0x0a01_0000 + (number / 28_000) as u32).into(),
            port: Some(443),
        },
    }
}

/// Addresses of timewait sockets are all over the memory.
fn timewait_key(number: u64) -> u64 {
    0xffff_8880_0000_0000 + number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (1 << 34) / 64 * 64
}

fn event(number: u64, sock: u64, old: State, new: State, timewait: Option<u64>) -> Event {
    let is_end = new == State::Close || timewait.is_some();
    let end = is_end.then_some(End {
        timewait,
        sent: 1000,
        received: 100_000,
        ..End::default()
    });
    Event {
        timestamps: true,
        socket_range: None,
        ts: number,
        sock,
        cookie: Some(number),
        netns: NETNS,
        tuple: tuple(number),
        held: None,
        role: Some(Role::Client),
        owner: Owner::Connect,
        task: Some(task(number)),
        kind: Kind::State { old, new, end },
    }
}

/// One step of a connection; the last one ends the connection that began `tracked` before.
fn step(number: u64, step: u64, tracked: u64) -> Event {
    use State::*;
    let (sock, timewait) = (
        0xffff_8881_0000_0000 + number % AT_ONCE * 2432,
        timewait_key(number),
    );
    match step {
        0 => {
            let mut start = event(number, sock, Close, SynSent, None);
            start.tuple.local.port = None;
            start
        }
        1 => event(number, sock, SynSent, Established, None),
        2 => event(number, sock, Established, FinWait1, None),
        3 => event(number, sock, FinWait1, FinWait2, None),
        4 => event(number, sock, FinWait2, FinWait2, Some(timewait)),
        5 => event(number, timewait, FinWait2, TimeWait, None),
        _ => {
            let oldest = number.saturating_sub(tracked);
            let mut end = event(oldest, timewait_key(oldest), TimeWait, Close, None);
            // Softirqs have no owner to tell.
            (end.owner, end.task) = (Owner::None, None);
            end
        }
    }
}

/// `AT_ONCE` connections side by side, from number `first` on.
fn batch(first: u64, tracked: u64, steps: u64, into: &mut Vec<Event>) {
    into.clear();
    for now in 0..steps {
        into.extend((first..first + AT_ONCE).map(|number| step(number, now, tracked)));
    }
}

/// A ledger with so many sockets in TIME_WAIT, and the number of the next connection.
fn filled(tracked: u64) -> (Ledger, u64) {
    let (mut ledger, mut events, mut next) = (Ledger::new(), Vec::new(), 0);
    while next < tracked {
        batch(next, tracked, STEPS - 1, &mut events);
        ingest(&mut ledger, &events);
        next += AT_ONCE;
        if next.is_multiple_of(64 * AT_ONCE) {
            ledger.usage(0);
        }
    }
    (ledger, next)
}

fn ingest(ledger: &mut Ledger, events: &[Event]) {
    for events in events.chunks(GROUP) {
        ledger.expect(events);
        for event in events {
            ledger.ingest(event, &mut |effect| {
                black_box(effect);
            });
        }
    }
}

fn memory() {
    for tracked in [200_000, 900_000, 1_000_000, 1_100_000, 1_900_000_u64] {
        let before = ALLOCATED.load(Ordering::Relaxed);
        let (ledger, _) = filled(tracked);
        let bytes = ALLOCATED.load(Ordering::Relaxed) - before;
        let sockets = ledger.totals().sockets;
        let each = bytes as f64 / sockets as f64;
        println!("{sockets} sockets: {each:.1} bytes per socket");
    }
}

fn ingesting(criterion: &mut Criterion) {
    memory();
    let mut group = criterion.benchmark_group("ingest");
    group.throughput(Throughput::Elements(AT_ONCE * STEPS));
    for tracked in [1000, 100_000, 1_000_000] {
        let (mut ledger, mut next) = filled(tracked);
        let mut events = Vec::new();
        group.bench_function(BenchmarkId::from_parameter(tracked), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut spent = Duration::ZERO;
                for _ in 0..iterations {
                    batch(next, tracked, STEPS, &mut events);
                    next += AT_ONCE;
                    let start = Instant::now();
                    ingest(&mut ledger, &events);
                    spent += start.elapsed();
                }
                spent
            });
        });
    }
    group.finish();
}

fn rows(count: u64) -> Vec<Row> {
    let row = |number| Row {
        timestamps: true,
        mode: None,
        connect_bind: None,
        sock: timewait_key(number),
        cookie: Some(number),
        netns: NETNS,
        tuple: tuple(number),
        held: None,
        state: State::Established,
        due: None,
        holder: None,
    };
    let holder = |number| Row {
        holder: Some(task(number)),
        ..row(number)
    };
    let sockets = (0..count).map(row);
    sockets.chain((0..count).map(holder)).collect()
}

fn resync(ledger: &mut Ledger, rows: &[Row]) {
    ledger.begin_resync(1 << 40);
    for row in rows {
        ledger.row(row, &mut |effect| {
            black_box(effect);
        });
    }
    let here = [NETNS].into();
    black_box(ledger.end_resync(&here, &here, 1 << 41, &mut |_| ()));
}

fn dumping(criterion: &mut Criterion) {
    let rows = rows(200_000);
    let mut group = criterion.benchmark_group("200000 sockets");
    group.sample_size(10);
    group.bench_function("first dump", |bencher| {
        bencher.iter_with_large_drop(|| {
            let mut ledger = Ledger::new();
            resync(&mut ledger, &rows);
            ledger
        });
    });
    let mut ledger = Ledger::new();
    resync(&mut ledger, &rows);
    group.bench_function("next dump", |bencher| {
        bencher.iter(|| resync(&mut ledger, &rows));
    });
    let (mut ledger, _) = filled(200_000);
    group.bench_function("usage", |bencher| {
        bencher.iter(|| black_box(ledger.usage(0)).len());
    });
    group.bench_function("totals", |bencher| bencher.iter(|| ledger.totals()));
    group.finish();
}

criterion_group!(benches, ingesting, dumping);
criterion_main!(benches);
