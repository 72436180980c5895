//! `tracer`: streams lines until it is interrupted or its reader has gone.

use std::{io, time::Duration};

use anyhow::{Context, Result};
use aya_log::EbpfLogger;
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval, sleep},
};

use super::Outcome;
use crate::{
    clock::Clock,
    config::Config,
    host::netns,
    kernel::{facts::Facts, load, load::Loaded, misses, tracefs},
    record::{Coverage, Refused, Start, Where},
    ring::Ring,
    sink::{Sink, Stdout},
    stream::Stream,
};

/// How long events gather after the wakeup for the first: one wakeup of the reader costs ten to
/// twenty times an event, so it is not for one event.
const NAP: Duration = Duration::from_millis(5);

/// How often losses are looked for.
const TICK: Duration = Duration::from_secs(1);

pub fn run(config: Config) -> Result<Outcome> {
    // Before any thread starts: it may enter a mount namespace of its own.
    if let Err(error) = tracefs::ensure() {
        log::debug!("tracefs can't be mounted: {error}");
    }
    let facts = Facts::read()?;
    let loaded = load::load(&facts, config.sizes, config.forced)?;
    warn_of_gaps(&loaded);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the asynchronous runtime can't start")?
        .block_on(trace(&facts.release, loaded))
}

fn warn_of_gaps(loaded: &Loaded) {
    for covered in loaded
        .coverage
        .iter()
        .filter(|covered| covered.by.is_none())
    {
        log::warn!(
            "{:?} is not covered here; `tracer check` says why",
            covered.capability
        );
    }
}

async fn trace(release: &str, mut loaded: Loaded) -> Result<Outcome> {
    let signals = Signals::new()?;
    let logger =
        EbpfLogger::init(&mut loaded.ebpf).context("kernel-side messages can't be read")?;
    let ring = Ring::take(&mut loaded.ebpf).context("the object lacks a map")?;
    // SAFETY: the ring owns its descriptor and never changes it.
    let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
        .context("the ring buffer can't be waited for")?;
    let mut stream = Stream::new();
    stream.start(&start(release, &loaded));
    let mut tracer = Tracer {
        loaded: Some(loaded),
        ring,
        misses: 0,
        stream,
        logger,
        sink: Stdout,
    };
    match tracer.run(signals).await {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Outcome::Done),
        Err(error) => Err(error).context("standard output can't be written"),
        Ok(()) if tracer.stream.has_lost() => Ok(Outcome::Lossy),
        Ok(()) => Ok(Outcome::Done),
    }
}

fn start(release: &str, loaded: &Loaded) -> Start {
    let coverage = loaded.coverage.iter().map(|covered| Coverage {
        capability: covered.capability,
        hook: covered.by.map(|(_, hook)| hook),
        backend: covered.by.map(|(backend, _)| backend),
        refused: covered
            .refused
            .iter()
            .map(|refusal| Refused {
                hook: refusal.hook,
                backend: refusal.backend,
                reason: refusal.reason.clone(),
            })
            .collect(),
        limits: covered.limits.clone(),
    });
    Start {
        tracer: env!("CARGO_PKG_VERSION").into(),
        kernel: release.into(),
        coverage: coverage.collect(),
        netns: vec![netns::current()],
    }
}

struct Tracer {
    /// `None` once detached.
    loaded: Option<Loaded>,
    /// Skipped runs that have been reported.
    misses: u64,
    ring: AsyncFd<Ring>,
    stream: Stream,
    logger: EbpfLogger<&'static dyn log::Log>,
    sink: Stdout,
}

impl Tracer {
    async fn run(&mut self, signals: Signals) -> io::Result<()> {
        self.flush()?;
        self.stream(signals).await?;
        self.finish()
    }

    /// Until a signal.
    async fn stream(&mut self, mut signals: Signals) -> io::Result<()> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = signals.received() => return Ok(()),
                _ = tick.tick() => self.tick()?,
                ready = self.ring.readable_mut() => {
                    // Cleared before draining: an event that comes later makes it ready anew.
                    ready?.clear_ready();
                    sleep(NAP).await;
                    while self.drain()? {
                        if signals.pending().await {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }

    /// One batch, written out; true if there may be more.
    fn drain(&mut self) -> io::Result<bool> {
        let stream = &mut self.stream;
        let more = self.ring.get_mut().drain(|event| stream.event(event));
        self.flush()?;
        Ok(more)
    }

    fn tick(&mut self) -> io::Result<()> {
        if self.sink.is_closed() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.stream.set_clock(Clock::read());
        self.logger.flush();
        self.report_losses()?;
        self.drain().map(drop)
    }

    fn report_losses(&mut self) -> io::Result<()> {
        let losses = self.ring.get_mut().losses().map_err(io::Error::other)?;
        let missed = self.missed();
        for (count, place) in [
            (losses.ring, Where::Ring),
            (missed, Where::Program),
            (losses.table, Where::Table),
            (losses.malformed, Where::Output),
        ] {
            if count > 0 {
                self.stream.loss(count, place);
            }
        }
        Ok(())
    }

    /// Runs that were skipped since the last call.
    fn missed(&mut self) -> u64 {
        let Some(loaded) = &self.loaded else { return 0 };
        let total = misses::count(&loaded.ebpf);
        total.saturating_sub(std::mem::replace(&mut self.misses, total))
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.stream.lines().is_empty() {
            return Ok(());
        }
        let written = self.sink.write(self.stream.lines());
        self.stream.clear();
        written
    }

    fn finish(&mut self) -> io::Result<()> {
        // The counters end with the programs. What is in the ring after them is all there will be.
        self.report_losses()?;
        self.loaded = None;
        while self.drain()? {}
        self.logger.flush();
        self.report_losses()?;
        self.stream.stop();
        self.flush()
    }
}

/// SIGINT and SIGTERM: a normal end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let on = |kind| signal(kind).context("signals can't be received");
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Whether one has come already.
    async fn pending(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.received() => true,
            () = tokio::task::yield_now() => false,
        }
    }
}
