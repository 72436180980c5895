//! A sink and the thread that writes to it.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{Backlog, Dropped, Sink, health::Health, retry::Retry};
use crate::stream::Batch;

/// How often a sink looks whether there is anything to do besides writing.
const TICK: Duration = Duration::from_secs(1);

/// At the end it is not waited for longer before it is tried again.
const LAST: Duration = Duration::from_millis(100);

/// What the thread and the others share.
struct Shared {
    state: Mutex<State>,
    /// There is something to do.
    work: Condvar,
    /// The thread has got on.
    progress: Condvar,
}

struct State {
    backlog: Backlog,
    reopen: bool,
    freeze: bool,
    /// No more lines will come, and what there is may take so long.
    until: Option<Instant>,
    /// How many chunks have been written.
    written: u64,
    /// Lines of the chunk that is being written.
    writing: u64,
    /// Nobody will ever read what is written.
    closed: bool,
    ended: bool,
    /// Of what was taken, some may not arrive.
    uncertain: bool,
}

/// The end of the sink that lines are put into.
pub(super) struct Writer {
    shared: Arc<Shared>,
    pub(super) name: String,
    /// Chunks that had been written when a loss was last told.
    told: u64,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(name: String, backlog: Backlog, sink: Box<dyn Sink>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                backlog,
                reopen: false,
                freeze: false,
                until: None,
                written: 0,
                writing: 0,
                closed: false,
                ended: false,
                uncertain: false,
            }),
            work: Condvar::new(),
            progress: Condvar::new(),
        });
        let worker = Worker {
            shared: shared.clone(),
            name: name.clone(),
            sink,
            retry: Retry::default(),
            health: Health::default(),
            due: Instant::now() + TICK,
        };
        thread::Builder::new()
            .name("output".into())
            .spawn(move || worker.run())?;
        Ok(Self {
            shared,
            name,
            told: 0,
        })
    }

    /// Never waits for the sink. Answers whether lines that introduce processes had to go.
    pub(super) fn push(&self, lines: &Batch) -> bool {
        self.put(|backlog| backlog.push(lines))
    }

    /// As [`push`](Self::push), and may take the batch as it is: what remains of it is no longer needed.
    pub(super) fn give(&self, lines: &mut Batch) -> bool {
        self.put(|backlog| backlog.give(lines))
    }

    /// The last lines of the run.
    pub(super) fn push_last(&self, lines: &Batch) {
        self.put(|backlog| backlog.append(lines));
    }

    /// Puts lines into the backlog, unless nobody will ever read what is written.
    fn put<T: Default>(&self, put: impl FnOnce(&mut Backlog) -> T) -> T {
        let mut state = self.shared.lock();
        if state.closed {
            return T::default();
        }
        let done = put(&mut state.backlog);
        self.shared.work.notify_one();
        done
    }

    /// Memory of the lines that wait, bytes.
    pub(super) fn size(&self) -> usize {
        self.shared.lock().backlog.size()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.shared.lock().closed
    }

    pub(super) fn reopen(&self) {
        self.shared.lock().reopen = true;
        self.shared.work.notify_one();
    }

    pub(super) fn freeze(&self) {
        self.shared.lock().freeze = true;
        self.shared.work.notify_one();
    }

    /// What was dropped since the last call. `flowing`: only if something has been written since.
    pub(super) fn take_dropped(&mut self, flowing: bool) -> Option<Dropped> {
        let mut state = self.shared.lock();
        if state.closed || (flowing && state.written == self.told) {
            return None;
        }
        self.told = state.written;
        Some(state.backlog.take_dropped()).filter(|dropped| dropped.total() > 0)
    }

    /// No more lines come.
    pub(super) fn end(&self, until: Instant) {
        self.shared.lock().until = Some(until);
        self.shared.work.notify_one();
    }

    /// Waits for the end of the thread, after [`end`](Self::end). Answers how many lines were not written, and whether
    /// others may not have arrived.
    pub(super) fn wait(&self, until: Instant) -> (u64, bool) {
        let mut state = self.shared.lock();
        while !state.ended && !state.closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.shared.progress.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        match state.closed {
            true => (0, false),
            false => (state.backlog.lines() + state.writing, state.uncertain),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's side.
struct Worker {
    shared: Arc<Shared>,
    name: String,
    sink: Box<dyn Sink>,
    retry: Retry,
    health: Health,
    /// When the sink next looks around.
    due: Instant,
}

/// What the thread is to do next.
enum Task {
    Write(Batch),
    Reopen,
    Freeze,
    Tick,
    End(Instant),
}

/// Nobody will ever read what is written.
struct Closed;

impl Worker {
    fn run(mut self) {
        if self.work().is_err() {
            self.shared.lock().closed = true;
        }
        self.shared.lock().ended = true;
        self.shared.progress.notify_all();
    }

    fn work(&mut self) -> Result<(), Closed> {
        let mut used = None;
        loop {
            match self.next(used.take()) {
                Task::Write(lines) => {
                    self.write(&lines)?;
                    used = Some(lines);
                }
                Task::Reopen => self.reopen(),
                Task::Freeze => {
                    let frozen = self.sink.freeze();
                    self.judge(frozen)?;
                }
                Task::Tick => self.tick()?,
                Task::End(until) => {
                    self.finish(until);
                    return Ok(());
                }
            }
        }
    }

    fn next(&mut self, mut used: Option<Batch>) -> Task {
        let mut state = self.shared.lock();
        if used.is_some() {
            state.written += 1;
        }
        loop {
            state.writing = 0;
            if std::mem::take(&mut state.reopen) {
                return Task::Reopen;
            }
            if std::mem::take(&mut state.freeze) {
                return Task::Freeze;
            }
            let now = Instant::now();
            if now >= self.due {
                return Task::Tick;
            }
            if let Some(lines) = state.backlog.take(used.take()) {
                state.writing = lines.len() as u64;
                return Task::Write(lines);
            }
            if let Some(until) = state.until {
                return Task::End(until);
            }
            let waited = self.shared.work.wait_timeout(state, self.due - now);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn write(&mut self, lines: &Batch) -> Result<(), Closed> {
        let mut rest = lines.bytes();
        while !rest.is_empty() {
            let taken = self.sink.write(rest);
            match self.judge(taken)? {
                Some(count) => {
                    rest = &rest[count.min(rest.len())..];
                    self.retry.succeeded();
                    self.health.took_lines(Instant::now());
                }
                None => self.pause(),
            }
            if Instant::now() >= self.due {
                self.tick()?;
            }
        }
        Ok(())
    }

    /// `None`: it has to be tried again.
    fn judge<T>(&mut self, done: io::Result<T>) -> Result<Option<T>, Closed> {
        match done {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Closed),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => {
                if self.health.failed() {
                    log::warn!(
                        "{}: {error}; it is tried again, lines wait meanwhile, and those that there is no room for are \
                         dropped",
                        self.name
                    );
                }
                Ok(None)
            }
        }
    }

    /// Until it may be tried again, or something happens that may help.
    fn pause(&mut self) {
        let mut pause = self.retry.pause();
        let mut state = self.shared.lock();
        let ending = state.until.is_some();
        if ending {
            pause = pause.min(LAST);
        }
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // A file that was moved away is not the one that the disk had no room for; and at the end there is no time
            // for long pauses.
            if left.is_zero() || state.reopen || (state.until.is_some() && !ending) {
                break;
            }
            let waited = self.shared.work.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let reopen = std::mem::take(&mut state.reopen);
        drop(state);
        if reopen {
            self.reopen();
        }
    }

    fn reopen(&mut self) {
        if let Err(error) = self.sink.reopen() {
            log::warn!("{}: {error}", self.name);
        }
    }

    fn tick(&mut self) -> Result<(), Closed> {
        self.due = Instant::now() + TICK;
        let done = self.sink.tick();
        self.judge(done)?;
        if self.health.has_recovered(Instant::now()) {
            log::warn!("{} takes lines again", self.name);
        }
        Ok(())
    }

    fn finish(&mut self, until: Instant) {
        let Err(error) = self.sink.finish(until) else {
            return;
        };
        if error.kind() != io::ErrorKind::BrokenPipe {
            log::warn!("{}: {error}", self.name);
            self.shared.lock().uncertain = true;
        }
    }
}

#[cfg(test)]
mod tests;
