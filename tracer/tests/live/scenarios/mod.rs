//! What happens to sockets, and what the tracer must say about it, on every backend.

mod again;
mod bind_failed;
mod conflict;
mod connections;
mod connections_cut;
mod exhaustion;
mod exhaustion_range;
mod exhaustion_uring;
mod explained;
mod failure;
pub(crate) mod filters;
pub(crate) mod leak;
mod lifecycle;
mod namespaces;
mod nginx;
mod no_source;
mod owners;
mod processes;
pub(crate) mod replays;
pub(crate) mod stream;
mod timewait;
pub(crate) mod truth;
mod unfinished;
mod usage;

use anyhow::Result;

use crate::{scene::Scene, shared::Backend};

pub(crate) struct Scenario {
    pub name: &'static str,
    pub run: fn(&Scene) -> Result<()>,
}

type Alone = (&'static str, fn(Backend) -> Result<()>);

/// Trials with a tracer of their own.
pub(crate) const ALONE: [Alone; 6] = [
    ("truth", truth::truth),
    ("truth_quiet", truth::quiet),
    ("usage", usage::usage),
    ("filters", filters::filters),
    ("replays", replays::replays),
    ("namespace_ends", namespaces::ends),
];

const fn scenario(name: &'static str, run: fn(&Scene) -> Result<()>) -> Scenario {
    Scenario { name, run }
}

pub(crate) fn all() -> impl Iterator<Item = &'static Scenario> {
    [
        lifecycle::ALL,
        unfinished::ALL,
        again::ALL,
        owners::ALL,
        timewait::ALL,
        processes::ALL,
        exhaustion::ALL,
        exhaustion_range::ALL,
        exhaustion_uring::ALL,
        conflict::ALL,
        explained::ALL,
        bind_failed::ALL,
        no_source::ALL,
        nginx::ALL,
        connections::ALL,
        connections_cut::ALL,
        namespaces::ALL,
    ]
    .into_iter()
    .flatten()
}
