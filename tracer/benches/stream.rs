//! How fast records of the ring buffer become events, and those become lines: for a connection over loopback, both
//! ends.

use std::{hint::black_box, path::Path};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tracer::{
    cli::Select,
    clock::Clock,
    event::Event,
    filter::Filter,
    host::process::Processes,
    ledger::{Connection, Effect, EndReason, Socket, Transition},
    record::Kind,
    stream::{Lines, Stream},
};
use tracer_ebpf as abi;

const CLIENT: u64 = 0xffff_8881_0000_0000;
const SERVER: u64 = 0xffff_8881_0000_1000;
const TIMEWAIT: u64 = 0xffff_8881_0000_2000;

/// Socket, old and new state; the last one of all ends TIME_WAIT.
const STEPS: [(u64, u8, u8); 11] = {
    use abi::tcp::*;
    [
        (CLIENT, CLOSE, SYN_SENT),
        (SERVER, LISTEN, SYN_RECV),
        (SERVER, SYN_RECV, ESTABLISHED),
        (CLIENT, SYN_SENT, ESTABLISHED),
        (CLIENT, ESTABLISHED, FIN_WAIT1),
        (SERVER, ESTABLISHED, CLOSE_WAIT),
        (CLIENT, FIN_WAIT1, FIN_WAIT2),
        (SERVER, CLOSE_WAIT, LAST_ACK),
        (CLIENT, FIN_WAIT2, TIME_WAIT),
        (SERVER, LAST_ACK, CLOSE),
        (TIMEWAIT, TIME_WAIT, CLOSE),
    ]
};

/// One step of a connection.
fn record(connection: u64, step: usize) -> Vec<u8> {
    let (sock, old, new) = STEPS[step];
    let mut event = abi::Event::default();
    tell(&mut event, sock, old, new);
    event.ts = 1_000_000_000 + connection * 100_000 + step as u64 * 10_000;
    tell_apart(&mut event, connection);
    if is_whole(old, new) {
        return bytes(&event);
    }
    event.size = size_of::<abi::Head>() as u16;
    event.owner = abi::OWNER_NONE;
    bytes(&event)[..size_of::<abi::Head>()].to_vec()
}

/// Only the first and the last of a socket tell more than the head.
fn is_whole(old: u8, new: u8) -> bool {
    use abi::tcp::*;
    matches!(old, CLOSE | LISTEN) || matches!(new, CLOSE | TIME_WAIT)
}

fn tell(event: &mut abi::Event, sock: u64, old: u8, new: u8) {
    event.kind = abi::KIND_STATE;
    event.size = size_of::<abi::Event>() as u16;
    (event.sock, event.old, event.new) = (sock, old, new);
    event.cookie = 4711 + u64::from(sock == SERVER);
    event.netns = 4_026_531_840;
    if new == abi::tcp::TIME_WAIT {
        event.timewait = TIMEWAIT;
    }
    (event.sent, event.received) = (1000, 100_000);
    event.tuple.family = abi::AF_INET;
    event.tuple.local[..4].copy_from_slice(&[10, 0, 0, 7]);
    event.tuple.peer[..4].copy_from_slice(&[10, 0, 0, 9]);
    (event.tuple.local_port, event.tuple.peer_port) = match sock == SERVER {
        true => (443, 40_123),
        false => (40_123, 443),
    };
    let (role, owner, pid) = match sock {
        CLIENT => (abi::ROLE_CLIENT, abi::OWNER_CONNECT, 812),
        SERVER => (abi::ROLE_SERVER, abi::OWNER_ACCEPT, 655),
        // Softirqs have no owner to tell.
        _ => (abi::ROLE_CLIENT, abi::OWNER_NONE, 0),
    };
    (event.role, event.owner) = (role, owner);
    (event.task.pid, event.task.tid) = (pid, pid);
    event.task.comm[..6].copy_from_slice(b"worker");
}

/// Connections have their own ports and timewait sockets, and share a few sockets.
fn tell_apart(event: &mut abi::Event, connection: u64) {
    match event.sock {
        TIMEWAIT => event.sock += connection * 256,
        _ => event.sock += connection % 64 * 0x4000,
    }
    if event.timewait != 0 {
        event.timewait += connection * 256;
    }
    event.cookie += 2 * connection;
    let port = match event.tuple.local_port {
        443 => &mut event.tuple.peer_port,
        _ => &mut event.tuple.local_port,
    };
    *port = (10_000 + (u64::from(*port) + connection) % 50_000) as u16;
}

fn bytes(event: &abi::Event) -> Vec<u8> {
    let start = std::ptr::from_ref(event).cast::<u8>();
    // SAFETY: `Event` is `repr(C)`, made of integers, without implicit padding.
    unsafe { std::slice::from_raw_parts(start, size_of::<abi::Event>()) }.to_vec()
}

fn records_of(connection: u64) -> Vec<Vec<u8>> {
    (0..STEPS.len())
        .map(|step| record(connection, step))
        .collect()
}

fn records() -> Vec<Vec<u8>> {
    records_of(0)
}

fn decoded(record: &[u8]) -> Event {
    Event::decode(record).expect("the records are well-formed")
}

fn nobody() -> Processes {
    Processes::at(Path::new("/nonexistent"))
}

fn decoding(criterion: &mut Criterion) {
    let records = records();
    let mut group = criterion.benchmark_group("record");
    group.throughput(Throughput::Elements(records.len() as u64));
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            for record in &records {
                let _ = black_box(Event::decode(black_box(record)));
            }
        });
    });
    group.finish();
}

fn socket(event: &Event) -> Socket<'_> {
    Socket {
        key: event.sock,
        cookie: event.cookie,
        netns: event.netns,
        tuple: event.tuple,
        state: tracer::event::State::Established,
        is_timewait: false,
        role: event.role,
        owner: event.owner,
        task: event.task.as_ref(),
        due: None,
    }
}

fn transition(event: &Event) -> Effect<'_> {
    let tracer::event::Kind::State { old, new, .. } = event.kind else {
        unreachable!("all records are of transitions");
    };
    Effect::Transition(Transition {
        ts: event.ts,
        socket: socket(event),
        old,
        new,
        corrected: false,
        opened: None,
    })
}

fn connection(event: &Event) -> Effect<'_> {
    Effect::Connection(Connection {
        socket: socket(event),
        opened: Some(event.ts),
        established: true,
        closed: event.ts + 1_234_567,
        reason: EndReason::Fin,
        closed_by: None,
        bytes: Some((1000, 100_000)),
        time_wait: Some(60_000_000_000),
        in_time_wait: false,
    })
}

fn formatting(criterion: &mut Criterion) {
    let events: Vec<_> = records().iter().map(|record| decoded(record)).collect();
    let mut group = criterion.benchmark_group("line");
    let mut bench = |name, effects: Vec<Effect>| {
        let mut lines = Lines::new("web-3".into(), Clock::fixed(0, 0), nobody());
        group.throughput(Throughput::Elements(effects.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for effect in &effects {
                    lines.effect(effect);
                }
                black_box(lines.bytes());
                lines.clear();
            });
        });
    };
    bench("state", events.iter().map(transition).collect());
    bench("connection", events[..2].iter().map(connection).collect());
    group.finish();
}

/// The whole way, from the record to the line, with the ledger.
fn streaming(criterion: &mut Criterion) {
    let records = records();
    let mut group = criterion.benchmark_group("stream");
    group.throughput(Throughput::Elements(records.len() as u64));
    let quiet = [
        Kind::ConnectFailed,
        Kind::BindFailed,
        Kind::Pressure,
        Kind::Usage,
    ];
    let connections = [
        Kind::Connection,
        Kind::ConnectFailed,
        Kind::BindFailed,
        Kind::Usage,
    ];
    let modes = [
        ("full", Vec::new()),
        ("connections", connections.to_vec()),
        ("quiet", quiet.to_vec()),
    ];
    for (name, emit) in modes {
        let mut stream = Stream::with("web-3".into(), Clock::fixed(0, 0), nobody());
        let select = Select {
            emit,
            ..Select::default()
        };
        stream.select(Filter::with(&select, Vec::new()));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for record in &records {
                    stream.event(&decoded(record));
                }
                black_box(stream.lines());
                stream.clear();
            });
        });
    }
    group.finish();
}

/// The same for connections that are all different, while so many others are in TIME_WAIT: not everything is in the
/// cache then.
fn streaming_many(criterion: &mut Criterion) {
    const WAITING: u64 = 20_000;
    /// Afterwards they begin anew.
    const ALL: u64 = 30_000;
    /// Connections whose lines are taken away at once.
    const AT_ONCE: u64 = 100;
    let all: Vec<_> = (0..ALL).map(records_of).collect();
    let mut stream = Stream::with("web-3".into(), Clock::fixed(0, 0), nobody());
    let (mut events, mut next) = (Vec::new(), 0);
    let mut connect = || {
        let (end, life) = (STEPS.len() - 1, &all[(next % ALL) as usize]);
        let over = next
            .checked_sub(WAITING)
            .map(|over| &all[(over % ALL) as usize]);
        let records = life[..end].iter().chain(over.map(|over| &over[end]));
        events.clear();
        for record in records {
            events.push(decoded(record));
        }
        stream.events(&events);
        next += 1;
        if next.is_multiple_of(AT_ONCE) {
            black_box(stream.lines());
            stream.clear();
        }
    };
    (0..ALL).for_each(|_| connect());
    let mut group = criterion.benchmark_group("stream");
    group.throughput(Throughput::Elements(STEPS.len() as u64));
    group.bench_function("many", |bencher| bencher.iter(&mut connect));
    group.finish();
}

criterion_group!(benches, decoding, formatting, streaming, streaming_many);
criterion_main!(benches);
