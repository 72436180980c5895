//! The tracer of each backend, started when the first scenario asks for it.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    lines::Keep,
    netns::Netns,
    report::{Skip, skip},
    tracer::{Started, Tracer},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Backend {
    Auto,
    Fexit,
    Kprobe,
    Tracepoint,
}

impl Backend {
    pub(crate) const ALL: [Self; 4] = [Self::Auto, Self::Fexit, Self::Kprobe, Self::Tracepoint];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fexit => "fexit",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }

    pub(crate) fn args(self) -> Vec<&'static str> {
        match self {
            Self::Auto => vec![],
            forced => vec!["--backend", forced.name()],
        }
    }
}

/// An own tracer of this backend, with these further arguments; skips the trial where the kernel has no such
/// backend.
pub(crate) fn start(backend: Backend, args: &[&str], keep: Keep) -> Result<Tracer> {
    let mut all = backend.args();
    all.extend(args);
    match Tracer::start(&all, keep)? {
        Started::Running(tracer) => Ok(tracer),
        // Without `--backend` there is no kernel of ours where it may refuse.
        Started::Refused(why) if backend == Backend::Auto => {
            bail!("the tracer did not start: {why}")
        }
        Started::Refused(why) => skip(why),
    }
}

enum Slot {
    Running(Arc<Tracer>),
    Refused(String),
    /// It failed in a way that it must not; said once per trial.
    Broken(String),
}

static SLOTS: LazyLock<Mutex<HashMap<Backend, Slot>>> = LazyLock::new(Mutex::default);

/// The tracer of this backend; skips the trial where the kernel has no such backend.
pub(crate) fn tracer(backend: Backend) -> Result<Arc<Tracer>> {
    let mut slots = SLOTS.lock().unwrap_or_else(PoisonError::into_inner);
    let slot = slots.entry(backend).or_insert_with(|| {
        match start(backend, &["--interval", "1"], Keep::All) {
            Ok(tracer) => Slot::Running(Arc::new(tracer)),
            Err(error) => match error.downcast::<Skip>() {
                Ok(Skip(why)) => Slot::Refused(why),
                Err(error) => Slot::Broken(format!("{error:#}")),
            },
        }
    });
    match slot {
        Slot::Running(tracer) => Ok(tracer.clone()),
        Slot::Refused(why) => skip(why.clone()),
        Slot::Broken(why) => bail!("{why}"),
    }
}

/// Namespaces whose scenario is over. The kernel gives the inode number of one that is gone to the
/// next, which would then find the lines of its predecessor: they stay until their tracer ends.
static USED: Mutex<Vec<Netns>> = Mutex::new(Vec::new());

pub(crate) fn keep(netns: Netns) {
    USED.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(netns);
}

/// Takes the tracer of this backend out of use, with the namespaces that its lines are about: TIME_WAIT there
/// would end with them.
pub(crate) fn take(backend: Backend) -> Result<(Tracer, Vec<Netns>)> {
    let tracer = tracer(backend)?;
    SLOTS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&backend);
    let used = std::mem::take(&mut *USED.lock().unwrap_or_else(PoisonError::into_inner));
    let tracer = Arc::into_inner(tracer).context("a scenario still uses the tracer")?;
    Ok((tracer, used))
}

pub(crate) fn stop_all() {
    SLOTS.lock().unwrap_or_else(PoisonError::into_inner).clear();
}
