//! The program itself: how it starts, ends, and what it says when it cannot.

mod instances;
mod latency;
mod limits;
mod refusals;

use anyhow::Result;

pub(crate) struct Test {
    pub name: &'static str,
    pub run: fn() -> Result<()>,
}

const fn test(name: &'static str, run: fn() -> Result<()>) -> Test {
    Test { name, run }
}

pub(crate) fn all() -> impl Iterator<Item = &'static Test> {
    [refusals::ALL, instances::ALL, limits::ALL, latency::ALL]
        .into_iter()
        .flatten()
}
