//! Whatever comes in whatever order, the ledger takes it, and what it says adds up.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use tracer::{
    clock::Clock,
    event::{Event, Row},
    host::process::Processes,
    ledger::Ledger,
    stream::Stream,
};
use tracer_ebpf as abi;

const RECORD: usize = size_of::<abi::Event>();
const JIFFY: u64 = 4_000_000;

/// What a byte before each record asks for.
enum Order {
    Begin,
    End,
    GiveUp,
    Usage,
    /// The record as it is.
    Raw,
    /// The record, made likely to be understood, and to be of a socket that is known.
    Record,
}

impl From<u8> for Order {
    fn from(byte: u8) -> Self {
        match byte {
            0..8 => Self::Begin,
            8..16 => Self::End,
            16..20 => Self::GiveUp,
            20..24 => Self::Usage,
            24..32 => Self::Raw,
            _ => Self::Record,
        }
    }
}

struct Both {
    ledger: Ledger,
    stream: Stream,
    now: u64,
}

impl Both {
    fn new() -> Self {
        let nowhere = Processes::at("/nonexistent".as_ref());
        Self {
            ledger: Ledger::new(),
            stream: Stream::with("host".into(), Clock::fixed(0, 0), nowhere),
            now: 0,
        }
    }

    fn obey(&mut self, order: Order, bytes: &[u8]) {
        match order {
            Order::Begin => {
                self.ledger.begin_resync(self.now);
                self.stream.begin_resync(self.now);
            }
            Order::End => self.end(bytes),
            Order::GiveUp => {
                self.ledger.give_up_resync();
                self.stream.give_up_resync();
            }
            Order::Usage => self.check(),
            Order::Raw => self.record(bytes),
            Order::Record => self.record(&likely(bytes)),
        }
        self.stream.clear();
    }

    fn end(&mut self, bytes: &[u8]) {
        let some = |bits: u8| (0..4).filter(move |netns| bits >> netns & 1 == 1);
        let complete: BTreeSet<u32> = some(bytes[0]).collect();
        let alive: BTreeSet<u32> = some(bytes[1]).collect();
        let now = self.now;
        let here = self.ledger.end_resync(&complete, &alive, now, &mut |_| ());
        let there = self.stream.end_resync(&complete, &alive, now);
        assert_eq!(here, there);
    }

    fn record(&mut self, bytes: &[u8]) {
        if let Ok(event) = Event::decode(bytes) {
            self.now = self.now.max(event.ts);
            self.ledger.ingest(&event, &mut |_| ());
            self.stream.event(&event);
        } else if let Ok(row) = Row::decode(bytes, JIFFY) {
            self.ledger.row(&row, &mut |_| ());
            self.stream.row(&row);
        }
    }

    /// No key twice, and every socket counted once.
    fn check(&mut self) {
        let keys: BTreeSet<u64> = self.ledger.sockets().map(|socket| socket.key).collect();
        let sockets = self.ledger.totals().sockets;
        assert_eq!(keys.len() as u64, sockets);
        let counted = self
            .ledger
            .usage(self.now)
            .iter()
            .map(|usage| {
                let states = usage.ports.values().chain(usage.serving.values());
                states.sum::<u64>() + usage.bound
            })
            .sum::<u64>();
        assert_eq!(counted, sockets);
        self.stream.usage(self.now);
    }

    fn finish(mut self) {
        self.check();
        let now = self.now;
        self.stream
            .snapshot(now, &mut |_| Ok(()))
            .expect("nothing is written");
        self.stream
            .stop(now, &mut |_| Ok(()))
            .expect("nothing is written");
    }
}

/// Few sockets, addresses and processes, and numbers that mean something.
fn likely(bytes: &[u8]) -> Vec<u8> {
    // SAFETY: the length is that of a record, every field is an integer, and alignment is not assumed.
    let mut event: abi::Event = unsafe { bytes.as_ptr().cast::<abi::Event>().read_unaligned() };
    event.size = RECORD as u16;
    event.kind = 1 + event.kind % 12;
    event.sock %= 8;
    event.timewait %= 8;
    event.cookie %= 8;
    event.netns %= 3;
    event.old = 1 + event.old % 11;
    event.new = 1 + event.new % 11;
    event.role %= 4;
    event.owner %= 4;
    event.tuple.family = if event.tuple.family.is_multiple_of(4) {
        abi::AF_INET6
    } else {
        abi::AF_INET
    };
    event.tuple.local = few(event.tuple.local[0]);
    event.tuple.peer = few(event.tuple.peer[0]);
    event.tuple.local_port %= 3;
    event.tuple.peer_port %= 3;
    event.tuple.held %= 3;
    event.task.pid %= 4;
    event.task.start_ns %= 2;
    // SAFETY: made of integers, without padding.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(&event).cast::<u8>(), RECORD) }.to_vec()
}

fn few(byte: u8) -> [u8; 16] {
    let mut ip = [0; 16];
    ip[0] = byte % 3;
    ip
}

fuzz_target!(|bytes: &[u8]| {
    let mut both = Both::new();
    for chunk in bytes.chunks_exact(RECORD + 1) {
        both.obey(chunk[0].into(), &chunk[1..]);
    }
    both.finish();
});
