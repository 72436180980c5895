//! One network namespace of the soak: a server and a client, for as long as it lives.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result};

use crate::{
    actor::{Actor, Ground, Held, Op},
    dump::Row,
    lines::{self, SocketSeen},
    netns::Netns,
    random::Random,
};

const ORDERS: u16 = 5000;
const ORDERS_V6: u16 = 5100;
const IDLE: u16 = 5200;
const DEAF: u16 = 5300;
const NOBODY: u16 = 5400;

/// Now and then ports run out.
const RANGES: [&str; 4] = ["32768 60999", "32768 60999", "40000 40063", "41000 41007"];

pub(super) struct Patch {
    pub(super) netns: Netns,
    server: Actor,
    client: Actor,
}

/// What is wrong with the owner of a socket, if anything.
pub(super) type Judge = Box<dyn Fn(&SocketSeen, &[Row]) -> Option<String>>;

impl Patch {
    pub(super) fn new(random: &mut Random) -> Result<Self> {
        let netns = Netns::new()?;
        // Its lines would fill the memory.
        lines::forget(netns.inode);
        netns.sysctl("ipv4/tcp_fin_timeout", "1")?;
        let range = *random.pick(&RANGES);
        netns.sysctl("ipv4/ip_local_port_range", range)?;
        // Soon full: then there are no more, and no fewer.
        let buckets = *random.pick(&["60", "120"]);
        netns.sysctl("ipv4/tcp_max_tw_buckets", buckets)?;
        let mut server = Actor::spawn(&netns.path(), "server")?;
        serve(&mut server)?;
        let client = Actor::spawn(&netns.path(), "client")?;
        Ok(Self {
            netns,
            server,
            client,
        })
    }

    /// The client takes steps, while others take theirs.
    pub(super) fn begin(&mut self, seed: u64, steps: u32) -> Result<()> {
        self.client.begin(&Op::Churn {
            ground: ground(),
            seed,
            steps,
        })
    }

    /// How many of the steps succeeded.
    pub(super) fn end(&mut self) -> Result<u64> {
        let done = self.client.answer()?;
        let done = done.first().context("no answer")?;
        Ok(u64::try_from(*done)?)
    }

    /// What the client holds by `bind()` alone.
    pub(super) fn held(&mut self) -> Result<Vec<Held>> {
        let held = self.client.all(&Op::Held)?.into_iter();
        held.map(|number| Held::from_number(number).context("not an address"))
            .collect()
    }

    /// An owner is a process of this namespace, or one that has a descriptor.
    pub(super) fn judge(&mut self) -> Result<Judge> {
        let taker = u32::try_from(self.client.run(&Op::Taker)?)?;
        let pids = [self.server.pid, self.client.pid, taker];
        Ok(Box::new(move |seen, rows| {
            let pid = seen.process.as_ref()?.pid;
            let row = rows.iter().find(|row| row.is(seen));
            let is_right = pids.contains(&pid) || row.is_some_and(|row| row.is_open_in(pid));
            (!is_right).then(|| format!("wrong owner: {seen:?}"))
        }))
    }
}

fn serve(server: &mut Actor) -> Result<()> {
    let v4 = |port| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
    for addr in [
        v4(ORDERS),
        SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), ORDERS_V6),
    ] {
        let fd = listen(server, addr, 64)?;
        server.run(&Op::ServeOrders { fd })?;
    }
    listen(server, v4(IDLE), 8)?;
    listen(server, v4(DEAF), 0)?;
    Ok(())
}

fn listen(server: &mut Actor, addr: SocketAddr, backlog: i32) -> Result<i64> {
    let fd = server.bound(addr)?;
    server.run(&Op::Listen { fd, backlog })?;
    Ok(fd)
}

fn ground() -> Ground {
    let v4: IpAddr = Ipv4Addr::LOCALHOST.into();
    let mapped: IpAddr = Ipv4Addr::LOCALHOST.to_ipv6_mapped().into();
    Ground {
        orders: vec![
            SocketAddr::new(v4, ORDERS),
            SocketAddr::new(mapped, ORDERS),
            SocketAddr::new(Ipv6Addr::LOCALHOST.into(), ORDERS_V6),
        ],
        idle: SocketAddr::new(v4, IDLE),
        deaf: SocketAddr::new(v4, DEAF),
        nobody: SocketAddr::new(v4, NOBODY),
        ip: Ipv4Addr::new(127, 0, 0, 10),
        port: 20_000,
        binds_v6: true,
        listens: true,
    }
}
