//! Comparing failing connects with the lines that must stand for them: each one, and none else.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};

use crate::{actor::Actor, bpf::skipped_runs, lines::ConnectFailed, scene::Scene};

/// So many failures of one kind.
#[derive(Debug)]
pub(super) struct Expected {
    pid: u32,
    comm: String,
    peer: SocketAddr,
    reason: &'static str,
    times: usize,
    /// `None`: the kernel had not come to a local address, and what is shown does not matter.
    local: Option<(IpAddr, Option<u16>)>,
    /// A worker thread of the kernel may have done it.
    any_thread: bool,
    /// The kernel may not tell the destination's port.
    peer_port_may_lack: bool,
}

impl Expected {
    fn new(actor: &Actor, peer: SocketAddr, reason: &'static str, times: usize) -> Self {
        Self {
            pid: actor.pid,
            comm: actor.comm.clone(),
            peer,
            reason,
            times,
            local: None,
            any_thread: false,
            peer_port_may_lack: false,
        }
    }

    /// No free port from the source address that the route gives, which on loopback is always the same.
    pub(super) fn exhausted(actor: &Actor, peer: SocketAddr, times: usize) -> Self {
        let loopback: SocketAddr = if peer.ip().to_canonical().is_ipv4() {
            ([127, 0, 0, 1], 0).into()
        } else {
            peer
        };
        Self::exhausted_from(actor, loopback.ip(), peer, times)
    }

    pub(super) fn exhausted_from(
        actor: &Actor,
        local: IpAddr,
        peer: SocketAddr,
        times: usize,
    ) -> Self {
        Self {
            local: Some((local, None)),
            ..Self::new(actor, peer, "ports_exhausted", times)
        }
    }

    pub(super) fn in_use(actor: &Actor, local: SocketAddr, peer: SocketAddr, times: usize) -> Self {
        Self {
            local: Some((local.ip(), Some(local.port()))),
            ..Self::new(actor, peer, "tuple_in_use", times)
        }
    }

    pub(super) fn no_source(actor: &Actor, peer: SocketAddr, times: usize) -> Self {
        Self::new(actor, peer, "no_source_address", times)
    }

    pub(super) fn by_any_thread(self) -> Self {
        Self {
            any_thread: true,
            ..self
        }
    }

    pub(super) fn peer_port_may_lack(self) -> Self {
        Self {
            peer_port_may_lack: true,
            ..self
        }
    }

    fn is(&self, failed: &ConnectFailed) -> bool {
        self.is_by(failed)
            && self.is_between(failed)
            && failed.reason == self.reason
            && (failed.errno, failed.error.as_str()) == (libc::EADDRNOTAVAIL, "EADDRNOTAVAIL")
    }

    fn is_by(&self, failed: &ConnectFailed) -> bool {
        let process = &failed.process;
        failed.owner == "connect"
            && process.pid == self.pid
            && process.comm == self.comm
            && (self.any_thread || process.tid == self.pid)
            && process.id.starts_with(&format!("{}-", self.pid))
    }

    fn is_between(&self, failed: &ConnectFailed) -> bool {
        let family = if self.peer.is_ipv6() { "ipv6" } else { "ipv4" };
        let local = self.local.is_none_or(|(ip, port)| {
            let ip = ip.to_canonical().to_string();
            // Where the kernel skipped the hooks inside the call, it has cleared the address.
            let cleared = ["0.0.0.0", "::"].contains(&failed.local.ip.as_str());
            (failed.local.ip == ip || cleared) && failed.local.port == port
        });
        let lacks_port = self.peer_port_may_lack && failed.peer.port.is_none();
        let peer_port = lacks_port || failed.peer.port == Some(self.peer.port());
        let peer_ip = self.peer.ip().to_canonical().to_string();
        failed.family == family && local && peer_port && failed.peer.ip == peer_ip
    }
}

/// Exactly these failures were seen in this namespace.
pub(super) fn expect(scene: &Scene, expected: &[Expected]) -> Result<()> {
    let failures = scene.failures()?;
    let others: Vec<_> = failures
        .iter()
        .filter(|failed| !expected.iter().any(|expected| expected.is(failed)))
        .collect();
    ensure!(
        others.is_empty(),
        "{} of {} failures are not as expected, first {:?}; expected {expected:?}",
        others.len(),
        failures.len(),
        others[0]
    );
    let skipped = skipped_runs(scene.tracer.pid())?;
    for expected in expected {
        let times = failures.iter().filter(|failed| expected.is(failed)).count();
        // Whether what the kernel did not let the tracer see is counted, the trial `stream` asks.
        ensure!(
            times <= expected.times && times + skipped >= expected.times,
            "seen {times} times, {skipped} runs skipped: {expected:?}"
        );
    }
    Ok(())
}

/// Every code of an operation is this one.
pub(super) fn every(codes: &[i64], times: usize, code: i64) -> Result<()> {
    ensure!(
        codes.len() == times && codes.iter().all(|found| *found == code),
        "expected {times} times {code}: {codes:?}"
    );
    Ok(())
}

pub(super) const EADDRNOTAVAIL: i64 = -99;
