//! A fleet of hosts that never were: made-up kernels, whose events go through the tracer's own stream. So the lines are
//! those that a tracer would have written, and what they ought to say is known (`truth`).

mod agenda;
mod begin;
mod host;
mod life;
mod people;
mod ports;
mod random;
mod scene;
mod tally;
mod truth;

use std::io;

use anyhow::Result;
use clap::ValueEnum;

use self::{host::Host, truth::SECOND};
pub(crate) use truth::{HostTruth, Truth};

/// What is to be simulated.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) scenario: Scenario,
    pub(crate) seed: u64,
    pub(crate) hosts: usize,
    /// The end comes after so many seconds, or once so many bytes are written.
    pub(crate) seconds: u64,
    pub(crate) bytes: u64,
    /// Calls per second of the busiest flow of a host.
    pub(crate) rate: f64,
    /// Ephemeral ports of each network namespace.
    pub(crate) ports: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Nothing is wrong.
    Healthy,
    /// A new version uses each connection once: all ports come to be in TIME_WAIT.
    TimeWait,
    /// A load test binds a port for each socket, and closes none.
    Bind,
    /// A program insists on its source port, and meets its own TIME_WAIT.
    Conflict,
    /// A program prefers IPv6 on a host without.
    NoSource,
    /// All of these.
    Mixed,
}

impl Plan {
    /// When the trouble begins, nanoseconds: after a minute, or in a short simulation after a fifth of it.
    pub(crate) fn trouble(&self) -> u64 {
        (self.seconds * SECOND / 5).min(60 * SECOND)
    }

    fn range(&self) -> (u16, u16) {
        (32_768, 32_767 + self.ports)
    }
}

/// Runs it, second by second, and writes the lines of all hosts as they come.
pub(crate) fn simulate(
    plan: &Plan,
    write: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<Truth> {
    let mut hosts = (0..plan.hosts)
        .map(|number| Host::new(plan, number))
        .collect::<Result<Vec<Host>>>()?;
    let mut bytes = 0;
    let mut take = |lines: &[u8]| {
        bytes += lines.len() as u64;
        write(lines).map(|()| bytes)
    };
    for second in 1..=plan.seconds {
        let mut written = 0;
        for host in &mut hosts {
            host.run(second * SECOND)?;
            written = take(host.lines())?;
            host.clear();
        }
        if written >= plan.bytes {
            break;
        }
    }
    for host in &mut hosts {
        host.stop(&mut |lines| take(lines).map(drop))?;
        take(host.lines())?;
    }
    let hosts: Vec<HostTruth> = hosts.iter().map(Host::truth).collect();
    Ok(Truth {
        bytes,
        lines: hosts.iter().map(|host| host.lines).sum(),
        hosts,
    })
}
