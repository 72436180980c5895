//! `tracer`: streams lines until it is interrupted or its reader has gone.

use std::{collections::BTreeMap, io, mem::MaybeUninit, time::Duration};

use anyhow::{Context, Result};
use aya_log::EbpfLogger;
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{Signal, SignalKind, signal},
    task::yield_now,
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep},
};

use super::{
    Outcome,
    resync::Resync,
    upkeep::{Around, Upkeep},
};
use crate::{
    clock::{self, Clock},
    config::Config,
    filter::Filter,
    host::{
        home, memory,
        netns::{self, Watch},
    },
    kernel::{
        dump::{Dumper, Part, Summary},
        facts::Facts,
        load,
        load::Loaded,
        misses,
        plan::Capability,
        rules,
        steps::Steps,
        tracefs,
    },
    metrics::{About, Covered, Listener},
    notify,
    pool::Settings,
    privileges,
    record::{Coverage, Netns, Refused, Start, Table, Where},
    ring::Ring,
    sink::{Output, Target},
    stream::{Diagnosis, Stream},
};

/// How long events gather after the wakeup for the first: one wakeup of the reader costs ten to
/// twenty times an event, so it is not for one event.
const NAP: Duration = Duration::from_millis(5);

/// How often it is looked for destinations that run out of ports.
const WATCH: Duration = Duration::from_millis(250);

/// How often losses are looked for.
const TICK: Duration = Duration::from_secs(1);

/// What another cgroup namespace than the initial one hides.
const RELATIVE: &str = "this is not the host's cgroup namespace: paths of cgroups begin at that of tracer, so that containers may not be known, and \
    --cgroup and --container may leave out lines that fit; start tracer in the host's (docker: --cgroupns=host), or where it can join that of process 1 \
    (Kubernetes: hostPID, CAP_SYS_ADMIN and CAP_SYS_PTRACE)";

pub fn run(config: Config) -> Result<Outcome> {
    // Before anything that takes time: the port may be taken.
    let metrics = config.upkeep.metrics.map(Listener::bind).transpose()?;
    // Before any thread starts: they may enter namespaces.
    if let Err(error) = tracefs::ensure() {
        log::debug!("tracefs can't be mounted: {error}");
    }
    if let Err(error) = home::join_cgroups() {
        log::debug!("the host's cgroup namespace can't be joined: {error}");
    }
    let facts = Facts::read()?;
    let mut filter = Filter::new(&config.select)?;
    if config.output.recorder.is_some() {
        filter.record_all();
    }
    if metrics.is_some() {
        filter.count_all();
    }
    let mut loaded = load::load(&facts, config.sizes, &filter.needs(), config.forced)?;
    warn_of_gaps(&loaded);
    privileges::warn_of_missing();
    if !home::shows_whole_cgroups() {
        log::warn!("{RELATIVE}");
    }
    memory::give_back();
    let dumper = Dumper::new(&mut loaded.ebpf).ok();
    privileges::shed(config.user, || dumper.is_some_and(|dumper| dumper.works()))?;
    // What its user may not write should show now, and not when files are rotated.
    let output = Output::open(&config.output)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the asynchronous runtime can't start")?
        .block_on(trace(config, filter, &facts, loaded, output, metrics))
}

fn warn_of_gaps(loaded: &Loaded) {
    for covered in loaded
        .coverage
        .iter()
        .filter(|covered| covered.by.is_none())
    {
        log::warn!(
            "not covered here: {}; `tracer check` says why",
            covered.capability.name()
        );
    }
}

async fn trace(
    config: Config,
    filter: Filter,
    facts: &Facts,
    mut loaded: Loaded,
    output: Output,
    metrics: Option<Listener>,
) -> Result<Outcome> {
    let signals = Signals::new(&config)?;
    let logger =
        EbpfLogger::init(&mut loaded.ebpf).context("kernel-side messages can't be read")?;
    let ring = Ring::take(&mut loaded.ebpf).context("the object lacks a map")?;
    // SAFETY: the ring owns its descriptor and never changes it.
    let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
        .context("the ring buffer can't be waited for")?;
    let mut stream = Stream::new();
    if config.replayable {
        stream.record_inputs();
    }
    stream.set_labels(config.labels);
    let namespaces = namespaces();
    stream.start(&Start {
        filter: filter.given().clone(),
        ..start(&facts.release, &loaded, &namespaces)
    });
    if filter.needs().no_steps {
        stream.ask_for_steps(Box::new(Steps::new(&loaded.ebpf)?));
    }
    stream.select(filter);
    let how = Diagnosis {
        coalesces: config.coalesces,
        levels: config.levels,
        rules: rules::rules(facts),
    };
    stream.diagnose(how, Box::new(Watch::new()));
    stream.set_settings(namespaces);
    let upkeep = Upkeep::new(config.upkeep, metrics, about(facts, &loaded), &mut stream)?;
    let mut tracer = Tracer {
        resync: Resync::new(&mut loaded),
        loaded: Some(loaded),
        table: config.sizes.sockets,
        ring,
        misses: 0,
        stream,
        logger,
        output,
        upkeep,
    };
    let ended = tracer.run(signals, config.interval).await;
    ended.context("the ring buffer can't be read")?;
    Ok(tracer.outcome(config.output.grace))
}

/// Which hooks are in use, and why not better ones.
pub(super) fn coverage(loaded: &Loaded) -> Vec<Coverage> {
    let coverage = loaded.coverage.iter().map(|covered| Coverage {
        capability: covered.capability,
        hook: covered.by.map(|(_, hook)| hook.into()),
        backend: covered.by.map(|(backend, _)| backend),
        refused: covered
            .refused
            .iter()
            .map(|refusal| Refused {
                hook: refusal.hook.into(),
                backend: refusal.backend,
                reason: refusal.reason.clone(),
            })
            .collect(),
        limits: covered.limits.clone(),
    });
    coverage.collect()
}

/// The same for metrics.
fn about(facts: &Facts, loaded: &Loaded) -> About {
    let coverage = loaded.coverage.iter().map(|covered| Covered {
        capability: word(covered.capability),
        backend: covered.by.map_or("", |(backend, _)| load::name(backend)),
        hook: covered.by.map_or("", |(_, hook)| hook),
    });
    About {
        version: env!("CARGO_PKG_VERSION"),
        kernel: facts.release.clone(),
        coverage: coverage.collect(),
        started: clock::unix(),
    }
}

/// As the lines name it.
fn word(capability: Capability) -> String {
    let value = serde_json::to_value(capability).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

fn start(release: &str, loaded: &Loaded, namespaces: &[(u32, Option<Settings>)]) -> Start {
    Start {
        tracer: env!("CARGO_PKG_VERSION").into(),
        kernel: release.into(),
        coverage: coverage(loaded),
        netns: namespaces
            .iter()
            .map(|(inode, settings)| Netns::new(*inode, settings.as_ref()))
            .collect(),
        filter: BTreeMap::new(),
    }
}

/// Those of the host, or at least our own.
fn namespaces() -> Vec<(u32, Option<Settings>)> {
    match netns::all() {
        Ok(namespaces) => netns::settings(&namespaces),
        Err(error) => {
            log::warn!("network namespaces can't be listed: {error}");
            vec![netns::current()]
        }
    }
}

struct Tracer {
    /// `None` once detached.
    loaded: Option<Loaded>,
    /// Skipped runs that have been reported.
    misses: u64,
    /// Size of the kernel-side socket table.
    table: u32,
    ring: AsyncFd<Ring>,
    stream: Stream,
    resync: Resync,
    logger: EbpfLogger<&'static dyn log::Log>,
    output: Output,
    upkeep: Upkeep,
}

/// What the loop woke up for.
enum Wake {
    Stop,
    Snapshot,
    Reopen,
    Freeze,
    Nothing,
    Tick,
    Watch,
    Usage,
    Dump(Option<Part>),
    /// The first events after a pause, which are soon followed by others.
    Ring(io::Result<()>),
    /// Events that there was no room for in the last batch.
    More,
}

impl Tracer {
    async fn run(&mut self, signals: Signals, every: Duration) -> io::Result<()> {
        match self.stream(signals, every).await {
            // Nobody reads any more, which is a normal end.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            ended => ended?,
        }
        notify::stopping();
        self.output.conclude();
        self.finish()
    }

    /// Until a signal.
    async fn stream(&mut self, mut signals: Signals, every: Duration) -> io::Result<()> {
        self.flush()?;
        notify::ready();
        self.resync.start(&mut self.stream);
        let mut tick = regular(TICK);
        let mut watch = regular(WATCH);
        let mut usage = regular(every);
        let mut more = false;
        loop {
            let wake = tokio::select! {
                heard = signals.heard() => heard,
                _ = tick.tick() => Wake::Tick,
                _ = watch.tick() => Wake::Watch,
                _ = usage.tick() => Wake::Usage,
                part = self.resync.part() => Wake::Dump(part),
                ready = self.ring.readable_mut() => {
                    // Cleared before draining: an event that comes later makes it ready anew.
                    Wake::Ring(ready.map(|mut ready| ready.clear_ready()))
                }
                () = yield_now(), if more => Wake::More,
            };
            match wake {
                Wake::Stop => return Ok(()),
                Wake::Snapshot => self.snapshot()?,
                Wake::Reopen => self.output.reopen(),
                Wake::Freeze => self.output.freeze(),
                Wake::Nothing => {}
                Wake::Tick => self.tick()?,
                Wake::Watch => self.watch()?,
                Wake::Usage => self.usage()?,
                Wake::Dump(part) => self.take_part(part)?,
                Wake::Ring(ready) => {
                    ready?;
                    sleep(NAP).await;
                    more = self.drain()?;
                }
                Wake::More => more = self.drain()?,
            }
        }
    }

    /// One batch, written out; true if there may be more.
    fn drain(&mut self) -> io::Result<bool> {
        let stream = &mut self.stream;
        let more = self.ring.get_mut().drain(|events| stream.events(events));
        self.flush()?;
        Ok(more)
    }

    /// Everything until now. What comes meanwhile can wait: there may be no end to it.
    fn drain_until_now(&mut self) -> io::Result<()> {
        let now = clock::now();
        while self.stream.last_event() < now && self.drain()? {}
        Ok(())
    }

    fn tick(&mut self) -> io::Result<()> {
        self.output.check()?;
        self.stream.set_clock(Clock::read());
        self.logger.flush();
        self.look_for_losses()?;
        self.resync.tick(&mut self.stream);
        self.tell_of_outputs(false);
        self.upkeep()?;
        notify::alive();
        self.drain().map(drop)
    }

    /// Says which lines the outputs did not take, and what the flight recorder did.
    fn tell_of_outputs(&mut self, over: bool) {
        for recording in self.output.take_notices() {
            self.stream.recording(&recording);
        }
        for (output, dropped) in self.output.take_dropped(over) {
            self.stream.dropped(dropped.by_type(), output.as_deref());
        }
    }

    fn upkeep(&mut self) -> io::Result<()> {
        let (waiting, buffer) = self.output.waiting();
        let used = self.ring.get_ref().table_used().map_err(io::Error::other)?;
        let (peak, size) = self.ring.get_mut().take_peak();
        let around = Around {
            ebpf: self.loaded.as_ref().map(|loaded| &loaded.ebpf),
            ring: Table { used: peak, size },
            table: Table {
                used,
                size: self.table.into(),
            },
            output: Table {
                used: waiting as u64,
                size: buffer as u64,
            },
        };
        self.upkeep.tick(&mut self.stream, around, clock::now());
        Ok(())
    }

    fn watch(&mut self) -> io::Result<()> {
        self.drain()?;
        self.stream.watch(clock::now());
        self.flush()
    }

    /// What SIGUSR2 asks for.
    fn snapshot(&mut self) -> io::Result<()> {
        self.drain_until_now()?;
        self.look_at_table()?;
        let output = &mut self.output;
        self.stream
            .snapshot(clock::now(), &mut |lines| output.give(lines))?;
        self.flush()
    }

    fn usage(&mut self) -> io::Result<()> {
        if self.upkeep.puts_off_usage(&mut self.stream) {
            return Ok(());
        }
        if self.resync.usage_follows(&mut self.stream) {
            return Ok(());
        }
        self.drain_until_now()?;
        self.tell_usage()?;
        self.flush()
    }

    fn tell_usage(&mut self) -> io::Result<()> {
        self.look_at_table()?;
        self.stream.usage(clock::now());
        notify::status(&self.stream.brief());
        Ok(())
    }

    /// Rows are compared after all events from before they were read, and the end after all from before
    /// that.
    fn take_part(&mut self, part: Option<Part>) -> io::Result<()> {
        self.drain_until_now()?;
        match part {
            Some(Part::Rows(rows)) => {
                for row in &rows {
                    self.stream.row(row);
                }
            }
            Some(Part::Done(summary)) => self.resynced(&summary)?,
            None => self.resynced(&Summary::default())?,
        }
        self.flush()
    }

    fn resynced(&mut self, summary: &Summary) -> io::Result<()> {
        let ended = self.resync.end(summary, &mut self.stream);
        if ended.after_loss {
            let stream = &self.stream;
            match self.ring.get_mut().forget(|sock| !stream.knows(sock)) {
                Ok(gone) => log::debug!("{gone} sockets of the kernel-side table are gone"),
                Err(error) => log::warn!("the kernel-side table can't be tidied up: {error}"),
            }
        }
        if ended.usage {
            self.tell_usage()?;
        }
        Ok(())
    }

    fn look_at_table(&mut self) -> io::Result<()> {
        let used = self.ring.get_ref().table_used().map_err(io::Error::other)?;
        let size = self.table.into();
        self.stream.set_table(Table { used, size });
        Ok(())
    }

    fn look_for_losses(&mut self) -> io::Result<()> {
        let losses = self.ring.get_mut().losses().map_err(io::Error::other)?;
        self.stream.add_overflow(losses.overflow);
        let missed = self.missed()?;
        for (count, place) in [
            (losses.ring, Where::Ring),
            (missed + losses.timewait, Where::Program),
            (losses.table, Where::Table),
            (losses.malformed, Where::Decode),
        ] {
            if count > 0 {
                self.stream.lost();
                self.resync.lost(count, place, &mut self.stream);
            }
        }
        Ok(())
    }

    /// Runs that were skipped since the last call, and that no other program stood in for.
    fn missed(&mut self) -> io::Result<u64> {
        let Some(loaded) = &self.loaded else {
            return Ok(0);
        };
        // In this order: of what comes in between, too much rather than too little is taken off, and it is
        // counted the next time.
        let skipped = misses::count(&loaded.ebpf);
        let stood_in = self.ring.get_ref().stood_in().map_err(io::Error::other)?;
        let total = skipped.saturating_sub(stood_in).max(self.misses);
        Ok(total - std::mem::replace(&mut self.misses, total))
    }

    /// Hands the lines over; the outputs write them when they can.
    fn flush(&mut self) -> io::Result<()> {
        if self.stream.batch().is_empty() {
            return Ok(());
        }
        let sent = self.output.give(self.stream.batch_mut());
        if self.output.take_forgot() {
            self.stream.forget_introductions();
        }
        sent
    }

    fn finish(&mut self) -> io::Result<()> {
        // The counters end with the programs. What is in the ring after them is all there will be.
        self.look_for_losses()?;
        self.loaded = None;
        while self.drain()? {}
        self.logger.flush();
        self.look_for_losses()?;
        self.resync.give_up(&mut self.stream);
        let output = &mut self.output;
        self.stream
            .wind_up(clock::now(), &mut |lines| output.give(lines))?;
        self.flush()?;
        self.tell_of_outputs(true);
        self.upkeep.end(&mut self.stream, clock::now());
        self.stream.end();
        self.output.send_last(self.stream.batch());
        Ok(())
    }

    /// Waits for the outputs, but not for longer than so.
    fn outcome(self, grace: Duration) -> Outcome {
        let mut lossy = self.stream.has_lost();
        for end in self.output.finish() {
            lossy |= end.unwritten > 0 || end.uncertain;
            if end.unwritten > 0 {
                log::warn!(
                    "{}: the last {} lines were not taken within {grace:?} (--drain-timeout)",
                    end.name,
                    end.unwritten
                );
            }
        }
        match lossy {
            true => Outcome::Lossy,
            false => Outcome::Done,
        }
    }
}

/// The first tick comes after the period.
fn regular(period: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// SIGINT and SIGTERM: a normal end. SIGUSR2 asks for a snapshot, SIGUSR1 the flight recorder to keep what it has. SIGHUP
/// opens files anew; where there are none, it ends the run as it ends other programs: the terminal has gone. Unless whoever
/// started it had it ignored, as `nohup` does.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    ask: Signal,
    hangup: Signal,
    has_files: bool,
    outlives_terminal: bool,
    freeze: Signal,
    has_recorder: bool,
}

impl Signals {
    fn new(config: &Config) -> Result<Self> {
        let on = |kind| signal(kind).context("signals can't be received");
        let is_file = |to: &Target| matches!(to, Target::File(_));
        // Before the handler takes its place.
        let outlives_terminal = is_ignored(libc::SIGHUP);
        Ok(Self {
            outlives_terminal,
            hangup: on(SignalKind::hangup())?,
            has_files: config.output.targets.iter().any(is_file),
            freeze: on(SignalKind::user_defined1())?,
            has_recorder: config.output.recorder.is_some(),
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            ask: on(SignalKind::user_defined2())?,
        })
    }

    async fn heard(&mut self) -> Wake {
        tokio::select! {
            _ = self.interrupt.recv() => Wake::Stop,
            _ = self.terminate.recv() => Wake::Stop,
            _ = self.ask.recv() => Wake::Snapshot,
            _ = self.freeze.recv() => match self.has_recorder {
                true => Wake::Freeze,
                // By itself it would end the run.
                false => Wake::Nothing,
            },
            _ = self.hangup.recv() => match self.has_files {
                true => Wake::Reopen,
                false if self.outlives_terminal => Wake::Nothing,
                false => Wake::Stop,
            },
        }
    }
}

/// Whether the process was started with that signal ignored.
fn is_ignored(signal: libc::c_int) -> bool {
    let mut now = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: nothing is changed, and the kernel fills `now`, which is of its kind, if the call succeeds.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr()) == 0
            && now.assume_init().sa_sigaction == libc::SIG_IGN
    }
}
