//! The program itself: how it starts, ends, and what it says when it cannot.

pub(crate) mod budget;
mod collected;
mod configuration;
mod deployment;
mod failures;
mod healing;
mod instances;
mod instructions;
mod latency;
mod limits;
mod metrics;
mod older;
mod ports;
mod pressure;
mod privileges;
mod prometheus;
mod recorded;
mod refusals;
mod rotated;
mod soak;
mod stalled;
mod stats;
mod yardstick;

use anyhow::Result;

pub(crate) struct Test {
    pub name: &'static str,
    pub run: fn() -> Result<()>,
}

const fn test(name: &'static str, run: fn() -> Result<()>) -> Test {
    Test { name, run }
}

pub(crate) fn all() -> impl Iterator<Item = &'static Test> {
    [
        yardstick::ALL,
        budget::ALL,
        failures::ALL,
        pressure::ALL,
        refusals::ALL,
        privileges::ALL,
        ports::ALL,
        configuration::ALL,
        instances::ALL,
        instructions::ALL,
        limits::ALL,
        older::ALL,
        healing::ALL,
        latency::ALL,
        rotated::ALL,
        stalled::ALL,
        collected::ALL,
        recorded::ALL,
        metrics::ALL,
        prometheus::ALL,
        stats::ALL,
        deployment::ALL,
        soak::ALL,
    ]
    .into_iter()
    .flatten()
}
