//! The tracer of each backend, started when the first scenario asks for it.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    lines::Keep,
    netns::Netns,
    report::skip,
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
    let slot =
        slots
            .entry(backend)
            .or_insert_with(|| match Tracer::start(&backend.args(), Keep::All) {
                Ok(Started::Running(tracer)) => Slot::Running(Arc::new(tracer)),
                Ok(Started::Refused(why)) => Slot::Refused(why),
                Err(error) => Slot::Broken(format!("{error:#}")),
            });
    match slot {
        Slot::Running(tracer) => Ok(tracer.clone()),
        // Without `--backend` there is no kernel of ours where it may refuse.
        Slot::Refused(why) if backend == Backend::Auto => bail!("the tracer did not start: {why}"),
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

/// Takes the tracer of this backend out of use.
pub(crate) fn take(backend: Backend) -> Result<Tracer> {
    let tracer = tracer(backend)?;
    SLOTS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&backend);
    USED.lock().unwrap_or_else(PoisonError::into_inner).clear();
    Arc::into_inner(tracer).context("a scenario still uses the tracer")
}

pub(crate) fn stop_all() {
    SLOTS.lock().unwrap_or_else(PoisonError::into_inner).clear();
}
