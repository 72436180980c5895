//! Reads on every core: workers take blocks in turn and digest them; one thread gets the digests in order.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::Duration,
};

use super::{
    digest::{Digest, digest},
    source::{Block, Source},
};

/// So many blocks may be on their way: what bounds the memory if one takes long.
const AHEAD: u64 = 32;
/// How soon an interruption and progress are seen.
const TICK: Duration = Duration::from_millis(100);

/// A digested block.
#[derive(Debug)]
pub(super) struct Part {
    pub block: Block,
    pub bytes: u64,
    pub digest: Digest,
}

/// What the reading thread and its workers share.
#[derive(Default)]
pub struct Control {
    /// Set from outside: stop.
    pub interrupted: Arc<AtomicBool>,
    /// Bytes read from files, before they are decompressed.
    pub consumed: Arc<AtomicU64>,
}

struct Shared {
    source: Mutex<Source>,
    /// Blocks that have been delivered.
    delivered: Mutex<u64>,
    moved: Condvar,
    control: Arc<Control>,
}

/// Gives `each` the parts of all files in order, and `tick` now and then. Returns whether that was all: false if it
/// was interrupted.
pub(super) fn read(
    paths: Vec<PathBuf>,
    control: &Arc<Control>,
    mut each: impl FnMut(Part),
    mut tick: impl FnMut(),
) -> bool {
    let (shared, parts) = start(paths, control);
    let mut waiting = BTreeMap::new();
    let mut next = 0;
    loop {
        if control.interrupted.load(Relaxed) {
            return false;
        }
        match parts.recv_timeout(TICK) {
            Ok(part) => {
                waiting.insert(part.block.number, part);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return true,
        }
        while let Some(part) = waiting.remove(&next) {
            each(part);
            next += 1;
        }
        *lock(&shared.delivered) = next;
        shared.moved.notify_all();
        tick();
    }
}

/// The workers are not waited for: one may hang in a read of standard input.
fn start(paths: Vec<PathBuf>, control: &Arc<Control>) -> (Arc<Shared>, Receiver<Part>) {
    let shared = Arc::new(Shared {
        source: Mutex::new(Source::new(paths, control.consumed.clone())),
        delivered: Mutex::default(),
        moved: Condvar::new(),
        control: control.clone(),
    });
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let (sender, parts) = mpsc::sync_channel(cores);
    for _ in 0..cores {
        let (shared, sender) = (shared.clone(), sender.clone());
        thread::spawn(move || work(&shared, &sender));
    }
    (shared, parts)
}

fn work(shared: &Shared, sender: &SyncSender<Part>) {
    let mut bytes = Vec::new();
    while !shared.control.interrupted.load(Relaxed) {
        let Some(block) = lock(&shared.source).next(&mut bytes) else {
            return;
        };
        shared.wait_for_turn(block.number);
        let cut = block.ends || block.error.is_some();
        let part = Part {
            bytes: bytes.len() as u64 + block.too_long.unwrap_or(0),
            digest: digest(&bytes, cut),
            block,
        };
        if sender.send(part).is_err() {
            return;
        }
    }
}

impl Shared {
    /// Until no more than [`AHEAD`] blocks before this one are on their way.
    fn wait_for_turn(&self, number: u64) {
        let delivered = lock(&self.delivered);
        let too_far = |delivered: &mut u64| number > *delivered + AHEAD && !self.interrupted();
        drop(
            self.moved
                .wait_timeout_while(delivered, Duration::from_secs(3600), too_far),
        );
    }

    fn interrupted(&self) -> bool {
        self.control.interrupted.load(Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
