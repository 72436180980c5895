//! When the ledger is compared with the kernel's sockets: at the start, after a loss, and where the hooks do not
//! show every end of TIME_WAIT, at each interval.

use std::mem::take;

use tokio::sync::mpsc::Receiver;

use crate::{
    clock,
    kernel::{
        dump::{Dumper, Part, Summary},
        load::Loaded,
        plan::{Backend, Capability},
    },
    record::Where,
    stream::Stream,
};

/// While losses go on a dump would soon be out of date: it waits for a tick without one, but not longer than
/// so many ticks.
const PATIENCE: u32 = 2;

pub(super) struct Resync {
    /// `None`: this kernel has no iterators.
    dumper: Option<Dumper>,
    /// Hooks alone do not show everything.
    corrects: bool,
    /// The dump in progress.
    dump: Option<Receiver<Part>>,
    /// Losses that the dump in progress heals.
    healing: Vec<(u64, Where)>,
    /// Losses since it began.
    lost: Vec<(u64, Where)>,
    /// Ticks since the first of `lost`.
    waited: u32,
    /// There were losses since the last tick.
    losing: bool,
    /// The dump in progress is to be followed by the usage.
    usage: bool,
    dumps: u64,
}

/// What a dump was for.
pub(super) struct Ended {
    pub(super) after_loss: bool,
    pub(super) usage: bool,
}

impl Resync {
    pub(super) fn new(loaded: &mut Loaded) -> Self {
        let corrects = loaded.coverage.iter().any(|covered| {
            let backend = covered.by.map(|(backend, _)| backend);
            // Before 6.7 nobody counts the kprobes that are skipped.
            let uncertain = [Some(Backend::Kprobe), Some(Backend::RawTracepoint)];
            covered.capability == Capability::TimeWait && uncertain.contains(&backend)
        });
        Self {
            dumper: Dumper::new(&mut loaded.ebpf).ok(),
            corrects,
            dump: None,
            healing: Vec::new(),
            lost: Vec::new(),
            waited: 0,
            losing: false,
            usage: false,
            dumps: 0,
        }
    }

    /// Begins a dump, if that is possible.
    pub(super) fn start(&mut self, stream: &mut Stream) {
        let Some(dumper) = &self.dumper else { return };
        stream.begin_resync(clock::now());
        self.healing = take(&mut self.lost);
        self.waited = 0;
        match dumper.start() {
            Ok(parts) => self.dump = Some(parts),
            Err(error) => {
                log::warn!("the kernel's sockets can't be dumped: {error}");
                self.end(&Summary::default(), stream);
            }
        }
    }

    /// The next part of the dump in progress; never, when there is none.
    pub(super) async fn part(&mut self) -> Option<Part> {
        match &mut self.dump {
            Some(parts) => parts.recv().await,
            None => std::future::pending().await,
        }
    }

    /// The dump is over; all its rows have been compared. One that read no namespace to its end has failed.
    pub(super) fn end(&mut self, summary: &Summary, stream: &mut Stream) -> Ended {
        self.dump = None;
        self.dumps += 1;
        self.report(&summary.problems);
        let succeeded = !summary.complete.is_empty();
        if succeeded {
            let mut alive = summary.alive.clone();
            // What nobody could look for is not gone.
            if summary.is_half_blind {
                alive.extend(stream.namespaces());
            }
            stream.end_resync(&summary.complete, &alive, clock::now());
        } else {
            stream.give_up_resync();
        }
        let healed = take(&mut self.healing);
        for (count, place) in &healed {
            stream.loss(*count, *place, succeeded && !summary.is_half_blind);
        }
        Ended {
            after_loss: !healed.is_empty(),
            usage: take(&mut self.usage),
        }
    }

    /// What can't be read once can't be read ever after: it is said once.
    fn report(&self, problems: &[String]) {
        let level = if self.dumps == 1 {
            log::Level::Warn
        } else {
            log::Level::Debug
        };
        for problem in problems {
            log::log!(level, "{problem}");
        }
    }

    /// `count` things were lost at `place`. It is told once a dump has made up for it.
    pub(super) fn lost(&mut self, count: u64, place: Where, stream: &mut Stream) {
        if self.dumper.is_none() {
            stream.loss(count, place, false);
            return;
        }
        self.losing = true;
        match self.lost.iter_mut().find(|(_, known)| *known == place) {
            Some((sum, _)) => *sum += count,
            None => self.lost.push((count, place)),
        }
    }

    pub(super) fn tick(&mut self, stream: &mut Stream) {
        let losing = take(&mut self.losing);
        if self.lost.is_empty() {
            return;
        }
        self.waited += 1;
        if self.dump.is_none() && (!losing || self.waited >= PATIENCE) {
            self.start(stream);
        }
    }

    /// Whether the usage is told after a dump, because only that makes it true.
    pub(super) fn usage_follows(&mut self, stream: &mut Stream) -> bool {
        if self.dumper.is_none() || !self.corrects || !stream.is_unsure() {
            return false;
        }
        self.usage = true;
        if self.dump.is_none() {
            self.start(stream);
        }
        true
    }

    /// The run ends: what no dump has made up for is told.
    pub(super) fn give_up(&mut self, stream: &mut Stream) {
        for (count, place) in take(&mut self.healing)
            .into_iter()
            .chain(take(&mut self.lost))
        {
            stream.loss(count, place, false);
        }
    }
}
