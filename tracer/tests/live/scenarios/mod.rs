//! What happens to sockets, and what the tracer must say about it, on every backend.

mod conflict;
mod exhaustion;
mod exhaustion_range;
mod exhaustion_uring;
mod failure;
pub(crate) mod leak;
mod lifecycle;
mod nginx;
mod no_source;
mod owners;
mod processes;
pub(crate) mod stream;
mod timewait;
pub(crate) mod truth;
mod unfinished;

use anyhow::Result;

use crate::scene::Scene;

pub(crate) struct Scenario {
    pub name: &'static str,
    pub run: fn(&Scene) -> Result<()>,
}

const fn scenario(name: &'static str, run: fn(&Scene) -> Result<()>) -> Scenario {
    Scenario { name, run }
}

pub(crate) fn all() -> impl Iterator<Item = &'static Scenario> {
    [
        lifecycle::ALL,
        unfinished::ALL,
        owners::ALL,
        timewait::ALL,
        processes::ALL,
        exhaustion::ALL,
        exhaustion_range::ALL,
        exhaustion_uring::ALL,
        conflict::ALL,
        no_source::ALL,
        nginx::ALL,
    ]
    .into_iter()
    .flatten()
}
