//! A small world of servers and clients that do everything that can be done with sockets.
//!
//! Which process took a socket is to be read from its ports: each client has destinations and source
//! ports of its own.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;

use crate::{
    actor::{Actor, Ground, Held, Op, Server},
    dump::{self, Row},
    lines::SocketSeen,
    netns::Netns,
    random::Random,
};

/// How many clients there can be, one after the other; each has a listener of each kind.
const CLIENTS: u16 = 6;
const AT_A_TIME: usize = 3;

/// Where a client connects to, plus its number.
const ACCEPTED: u16 = 5000;
/// As above, with IPv6 and IPv4, and accepted by another process than the one that listens.
const TAKEN: u16 = 5100;
/// Accepted when the test says so.
const IDLE: u16 = 5200;
const DEAF: u16 = 5300;
const NOBODY: u16 = 5400;

/// Source ports of a client, from here on, so many each. Below them, and above, are no ephemeral ports.
const OWN: u16 = 20_000;
const OWN_EACH: u16 = 100;

pub(crate) struct World {
    server: Actor,
    /// Accepts what `server` listens for.
    taker: u32,
    idle: Vec<Server>,
    /// Accepted sockets of `idle`.
    waiting: Vec<(usize, i64)>,
    clients: Vec<Client>,
    random: Random,
}

struct Client {
    actor: Actor,
    number: u16,
    alive: bool,
    ground: Ground,
    /// Whom it gave descriptors of its sockets.
    heirs: Vec<u32>,
}

impl World {
    pub(crate) fn new(netns: &Netns, seed: u64) -> Result<Self> {
        let path = netns.path();
        let mut server = Actor::spawn(&path, "server")?;
        let taker = u32::try_from(server.run(&Op::Taker)?)?;
        let mut idle = Vec::new();
        for number in 0..CLIENTS {
            serve(&mut server, number)?;
            let actor = Actor::spawn(&path, "idle")?;
            let addr = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), IDLE + number);
            idle.push(Server::listen(actor, addr, 64)?);
        }
        let mut world = Self {
            server,
            taker,
            idle,
            waiting: Vec::new(),
            clients: Vec::new(),
            random: Random::new(seed),
        };
        for _ in 0..AT_A_TIME {
            world.add_client(netns)?;
        }
        Ok(world)
    }

    fn add_client(&mut self, netns: &Netns) -> Result<()> {
        let number = u16::try_from(self.clients.len())?;
        self.clients.push(Client {
            actor: Actor::spawn(&netns.path(), "client")?,
            number,
            alive: true,
            ground: ground(number),
            heirs: Vec::new(),
        });
        Ok(())
    }

    /// Every client takes so many steps, all at once.
    pub(crate) fn churn(&mut self, steps: u32) -> Result<()> {
        let seed = self.random.next();
        for client in self.clients.iter_mut().filter(|client| client.alive) {
            client.actor.begin(&Op::Churn {
                ground: client.ground.clone(),
                seed: seed.wrapping_add(client.number.into()),
                steps,
            })?;
        }
        for client in self.clients.iter_mut().filter(|client| client.alive) {
            let done = client.actor.answer()?;
            ensure!(done[0] > 0, "none of {steps} steps succeeded");
            let heirs = client.actor.all(&Op::Heirs)?.into_iter();
            client.heirs = heirs.map(u32::try_from).collect::<Result<_, _>>()?;
        }
        Ok(())
    }

    /// Accepts some of the connections that wait, and closes some.
    pub(crate) fn tend_idle(&mut self) -> Result<()> {
        for index in 0..self.clients.len() {
            let idle = &mut self.idle[index];
            let fd = idle.fd;
            idle.actor.run(&Op::Nonblocking { fd })?;
            for _ in 0..self.random.below(4) {
                match idle.actor.try_do(&Op::Accept { fd })? {
                    accepted @ 0.. => self.waiting.push((index, accepted)),
                    _ => break,
                }
            }
        }
        while self.waiting.len() > 6 {
            if let Some((index, fd)) = self.random.take(&mut self.waiting) {
                self.idle[index].actor.close(fd)?;
            }
        }
        Ok(())
    }

    /// Ends a client, its sockets open, and starts another; as long as there are destinations left.
    pub(crate) fn replace_client(&mut self, netns: &Netns) -> Result<()> {
        if self.clients.len() == usize::from(CLIENTS) {
            return Ok(());
        }
        let Some(client) = self.clients.iter_mut().find(|client| client.alive) else {
            return Ok(());
        };
        client.alive = false;
        if self.random.one_in(2) {
            client.actor.kill()?;
        } else {
            client.actor.exit()?;
        }
        self.add_client(netns)
    }

    /// What the clients hold by `bind()` alone.
    pub(crate) fn held(&mut self) -> Result<Vec<Held>> {
        let mut held = Vec::new();
        for client in self.clients.iter_mut().filter(|client| client.alive) {
            for number in client.actor.all(&Op::Held)? {
                held.push(Held::from_number(number).context("not an address")?);
            }
        }
        Ok(held)
    }

    /// Ends some sockets from outside. Answers how many of them were timewait sockets.
    pub(crate) fn destroy_some(&mut self, netns: &Netns) -> Result<usize> {
        let mut rows = dump::dump(netns)?;
        rows.retain(|row| ["ESTABLISHED", "TIME_WAIT"].contains(&row.state));
        let mut timewait = 0;
        for _ in 0..6 {
            let Some(row) = self.random.take(&mut rows) else {
                break;
            };
            match dump::destroy(netns, &row)? {
                Ok(()) => timewait += usize::from(row.timewait),
                // Gone meanwhile; or this kernel does not do it, at least not to timewait sockets.
                Err(Errno::NOENT | Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error).context(format!("cannot destroy {row:?}")),
            }
        }
        Ok(timewait)
    }

    /// What is wrong if the tracer does not name the process that took the socket. Where it was not there
    /// when that happened, it may name another one that has a descriptor.
    pub(crate) fn judge(&self, seen: &SocketSeen, rows: &[Row]) -> Option<String> {
        let Some(process) = &seen.process else {
            return (seen.owner != "none").then(|| format!("an owner without a process: {seen:?}"));
        };
        let takers = self.takers(seen);
        let right = match seen.owner.as_str() {
            "snapshot" => {
                let row = rows.iter().find(|row| row.is(seen));
                takers.into_values().flatten().any(|pid| pid == process.pid)
                    || self.is_heir(seen, process.pid)
                    || row.is_some_and(|row| row.is_open_in(process.pid))
            }
            owner => takers
                .get(owner)
                .is_some_and(|pids| pids.contains(&process.pid)),
        };
        let id = process.id.starts_with(&format!("{}-", process.pid));
        (!right || !id).then(|| format!("wrong owner: {seen:?}"))
    }

    /// As [`World::judge`], where the tracer may have missed how a socket was taken on: then it knows what is
    /// older, that the listener had it, or whoever held a bound port.
    pub(crate) fn judge_after_loss(&self, seen: &SocketSeen, rows: &[Row]) -> Option<String> {
        let process = seen.process.as_ref()?.pid;
        let anyhow = self
            .takers(seen)
            .into_values()
            .flatten()
            .any(|pid| pid == process);
        let of_listener = seen.owner == "inherited" && process == self.server.pid;
        if anyhow || of_listener {
            return None;
        }
        self.judge(seen, rows)
    }

    /// Whether the socket's client gave sockets to this process. Once closed, the socket cannot tell whether it was
    /// among them.
    fn is_heir(&self, seen: &SocketSeen, pid: u32) -> bool {
        let destination = seen.peer.port.and_then(destination);
        let client = destination.and_then(|(_, number)| self.clients.get(usize::from(number)));
        client.is_some_and(|client| client.heirs.contains(&pid))
    }

    /// Who may have taken it, by the way of taking.
    fn takers(&self, seen: &SocketSeen) -> BTreeMap<&'static str, Vec<u32>> {
        let local = seen.local.port.unwrap_or_default();
        let peer = seen.peer.port.unwrap_or_default();
        let role = seen.role.as_deref();
        let listens = seen.state == "LISTEN";
        if let Some((_, number)) = destination(peer).filter(|_| has_peer(seen)) {
            let wrong = !matches!(role, Some("client") | None);
            return if wrong {
                [].into()
            } else {
                [("connect", self.client(number))].into()
            };
        }
        let Some((kind, number)) = destination(local) else {
            return self.binders(seen, local);
        };
        let server = match kind {
            IDLE => self.idle[usize::from(number)].actor.pid,
            _ => self.server.pid,
        };
        match (kind, listens) {
            (_, true) => [("bind", vec![server])].into(),
            // What has its orders has been accepted.
            (ACCEPTED, _) => [("accept", vec![server])].into(),
            (TAKEN, _) => [("accept", vec![self.taker])].into(),
            _ => [("accept", vec![server]), ("inherited", vec![server])].into(),
        }
    }

    fn client(&self, number: u16) -> Vec<u32> {
        let client = self.clients.get(usize::from(number));
        client.map(|client| client.actor.pid).into_iter().collect()
    }

    /// Of sockets that a client has bound.
    fn binders(&self, seen: &SocketSeen, port: u16) -> BTreeMap<&'static str, Vec<u32>> {
        let own = (OWN..OWN + CLIENTS * OWN_EACH).contains(&port);
        let binder = |client: &&Client| {
            let ground = &client.ground;
            match seen.local.ip.as_str() {
                _ if own => (ground.port..ground.port + OWN_EACH).contains(&port),
                "0.0.0.0" => ground.listens,
                "::1" => ground.binds_v6,
                ip => ip == ground.ip.to_string(),
            }
        };
        let binders: Vec<u32> = self
            .clients
            .iter()
            .filter(binder)
            .map(|client| client.actor.pid)
            .collect();
        // A socket that is bound again after its connection ended was a client's meanwhile.
        [("bind", binders.clone()), ("connect", binders)].into()
    }
}

fn has_peer(seen: &SocketSeen) -> bool {
    !["LISTEN", "CLOSE"].contains(&seen.state.as_str())
}

/// The kind of a destination, and whose it is.
fn destination(port: u16) -> Option<(u16, u16)> {
    let kinds = [ACCEPTED, TAKEN, IDLE, DEAF, NOBODY];
    kinds
        .into_iter()
        .find(|kind| (*kind..kind + CLIENTS).contains(&port))
        .map(|kind| (kind, port - kind))
}

/// The listeners for a client.
fn serve(server: &mut Actor, number: u16) -> Result<()> {
    let v4 = |port| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port + number);
    let both = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), TAKEN + number);
    let fd = listen(server, v4(ACCEPTED), 64)?;
    server.run(&Op::ServeOrders { fd })?;
    let fd = listen(server, both, 64)?;
    server.run(&Op::Give { fd, serve: true })?;
    listen(server, v4(DEAF), 0)?;
    Ok(())
}

fn listen(server: &mut Actor, addr: SocketAddr, backlog: i32) -> Result<i64> {
    let fd = server.bound(addr)?;
    server.run(&Op::Listen { fd, backlog })?;
    Ok(fd)
}

fn ground(number: u16) -> Ground {
    let v4: IpAddr = Ipv4Addr::LOCALHOST.into();
    let v6: IpAddr = Ipv6Addr::LOCALHOST.into();
    let mapped: IpAddr = Ipv4Addr::LOCALHOST.to_ipv6_mapped().into();
    let at = |ip, port| SocketAddr::new(ip, port + number);
    // The later ones take the place of the first, which are the first to end.
    let place = usize::from(number) % AT_A_TIME;
    Ground {
        orders: vec![
            at(v4, ACCEPTED),
            at(v4, TAKEN),
            at(mapped, ACCEPTED),
            at(v6, TAKEN),
        ],
        idle: at(v4, IDLE),
        deaf: at(v4, DEAF),
        nobody: at(v4, NOBODY),
        ip: Ipv4Addr::new(127, 0, 0, u8::try_from(number).unwrap_or(u8::MAX) + 10),
        port: OWN + number * OWN_EACH,
        binds_v6: place == 0,
        listens: place == 1,
    }
}
