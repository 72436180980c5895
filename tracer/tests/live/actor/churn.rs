//! A client that does all that can be done with sockets, at random.
//!
//! What fails, fails: ports run out, tuples are taken, servers reset. The truth is what the kernel has
//! afterwards.

use std::{
    env,
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use socket2::Socket;

use super::{
    act::tcp,
    op::Held,
    orders::{self, Order},
    taker::Taker,
};
use crate::random::Random;

/// Where a client may go, and what is its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ground {
    /// Servers that obey orders.
    pub orders: Vec<SocketAddr>,
    /// A listener that accepts now and then, or never.
    pub idle: SocketAddr,
    /// A listener whose queue is full after the first.
    pub deaf: SocketAddr,
    /// Nobody listens there.
    pub nobody: SocketAddr,
    /// Its own address to bind at.
    pub ip: Ipv4Addr,
    /// The first of its own source ports.
    pub port: u16,
    /// It alone binds at `::1`.
    pub binds_v6: bool,
    /// It alone listens at ports that the kernel chooses.
    pub listens: bool,
}

/// So many sockets of each kind; above, one has to go.
const KEPT: usize = 16;
const BOUND: usize = 8;
/// Source ports of its own: few, so that they meet again.
const PORTS: usize = 12;

#[derive(Default)]
pub(super) struct Churn {
    /// Connected, half closed, or on their way.
    kept: Vec<Socket>,
    /// Bound and nothing else.
    bound: Vec<Socket>,
    listening: Vec<Socket>,
    taker: Option<Taker>,
    heirs: Vec<Child>,
    /// Pids of all heirs, the dead among them.
    ever: Vec<u32>,
}

impl Churn {
    /// Answers how many steps succeeded.
    pub(super) fn run(&mut self, ground: &Ground, seed: u64, steps: u32) -> i64 {
        let mut random = Random::new(seed);
        let mut walk = Walk {
            churn: self,
            ground,
            random: &mut random,
        };
        (0..steps).map(|_| i64::from(walk.step().is_ok())).sum()
    }

    /// The sockets that only hold a port.
    pub(super) fn held(&self) -> Vec<i64> {
        let addrs = self
            .bound
            .iter()
            .filter_map(|socket| socket.local_addr().ok()?.as_socket());
        addrs.map(|addr| Held(addr).to_number()).collect()
    }

    /// The processes that it ever gave sockets to.
    pub(super) fn heirs(&self) -> Vec<i64> {
        let taker = self.taker.as_ref().map(Taker::pid);
        let heirs = self.ever.iter().map(|pid| i64::from(*pid));
        heirs.chain(taker).collect()
    }

    pub(super) fn taker(&mut self) -> io::Result<&Taker> {
        if self.taker.is_none() {
            self.taker = Some(Taker::spawn()?);
        }
        self.taker
            .as_ref()
            .ok_or_else(|| io::Error::other("no taker"))
    }
}

struct Walk<'a> {
    churn: &'a mut Churn,
    ground: &'a Ground,
    random: &'a mut Random,
}

impl Walk<'_> {
    fn step(&mut self) -> io::Result<()> {
        self.make_room();
        match self.random.below(28) {
            0..4 => self.close_first(),
            4..7 => self.close_last(),
            7 => self.reset(),
            8 => self.is_reset(),
            9 => self.half_close(),
            10..13 => self.keep(Order::Keep),
            13 => self.keep(Order::KeepHalf),
            14 | 15 => self.drop_one(),
            16 => self.have_kept_dropped(),
            17 => self.use_own_port(),
            18 => self.use_own_port_twice(),
            19 => self.dissolve(),
            20 => self.bind(),
            21 => self.listen(),
            22 => self.be_left_waiting(),
            23 => self.be_ignored(),
            24 => self.be_refused(),
            25 => self.give(),
            26 => self.try_again(),
            _ => self.bequeath(),
        }
    }

    fn make_room(&mut self) {
        if self.churn.kept.len() > KEPT {
            self.random.take(&mut self.churn.kept);
        }
        if self.churn.bound.len() > BOUND {
            self.random.take(&mut self.churn.bound);
        }
        if self.churn.listening.len() > BOUND / 2 {
            self.random.take(&mut self.churn.listening);
        }
        // The dead are not to pile up as zombies.
        self.churn
            .heirs
            .retain_mut(|heir| matches!(heir.try_wait(), Ok(None)));
    }

    fn open(&mut self, order: Order) -> io::Result<Socket> {
        orders::open_new(*self.random.pick(&self.ground.orders), order)
    }

    fn close_first(&mut self) -> io::Result<()> {
        self.open(Order::CloseLast).map(drop)
    }

    fn close_last(&mut self) -> io::Result<()> {
        let socket = self.open(Order::CloseFirst)?;
        (&socket).read_to_end(&mut Vec::new()).map(drop)
    }

    fn reset(&mut self) -> io::Result<()> {
        let order = *self.random.pick(&[Order::CloseLast, Order::Keep]);
        let socket = self.open(order)?;
        socket.set_linger(Some(Duration::ZERO))
    }

    fn is_reset(&mut self) -> io::Result<()> {
        let socket = self.open(Order::Reset)?;
        (&socket).read_to_end(&mut Vec::new()).map(drop)
    }

    /// The descriptor may stay open beyond the socket's end: then the timewait socket has its port, and not it.
    fn half_close(&mut self) -> io::Result<()> {
        let order = *self.random.pick(&[Order::CloseLast, Order::Keep]);
        let socket = self.open(order)?;
        socket.shutdown(Shutdown::Write)?;
        if order == Order::CloseLast {
            (&socket).read_to_end(&mut Vec::new())?;
        }
        if self.random.one_in(2) {
            self.churn.kept.push(socket);
        }
        Ok(())
    }

    fn keep(&mut self, order: Order) -> io::Result<()> {
        let socket = self.open(order)?;
        self.churn.kept.push(socket);
        Ok(())
    }

    fn drop_one(&mut self) -> io::Result<()> {
        let kept = self.random.take(&mut self.churn.kept);
        if let Some(socket) = kept
            && self.random.one_in(4)
        {
            socket.set_linger(Some(Duration::ZERO))?;
        }
        Ok(())
    }

    fn have_kept_dropped(&mut self) -> io::Result<()> {
        self.open(Order::DropKept).map(drop)
    }

    /// A socket bound to one of the own source ports, beside whatever else is on it.
    fn on_own_port(&mut self, to: SocketAddr, port: u16) -> io::Result<Socket> {
        let socket = tcp(to.is_ipv6())?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(loopback_like(to), port).into())?;
        Ok(socket)
    }

    fn own_port(&mut self) -> u16 {
        let offset = u16::try_from(self.random.below(PORTS)).unwrap_or_default();
        self.ground.port + offset
    }

    fn use_own_port(&mut self) -> io::Result<()> {
        let (to, port) = (*self.random.pick(&self.ground.orders), self.own_port());
        let order = *self
            .random
            .pick(&[Order::CloseLast, Order::CloseFirst, Order::Keep]);
        let socket = orders::open(self.on_own_port(to, port)?, to, order)?;
        match order {
            Order::CloseFirst => drop((&socket).read_to_end(&mut Vec::new())?),
            Order::Keep => self.churn.kept.push(socket),
            _ => {}
        }
        Ok(())
    }

    /// The second SYN meets what the first connection left: a timewait socket of the server, or an own one.
    fn use_own_port_twice(&mut self) -> io::Result<()> {
        let (to, port) = (*self.random.pick(&self.ground.orders), self.own_port());
        let order = *self.random.pick(&[Order::CloseLast, Order::CloseFirst]);
        for _ in 0..2 {
            let socket = orders::open(self.on_own_port(to, port)?, to, order)?;
            if order == Order::CloseFirst {
                (&socket).read_to_end(&mut Vec::new())?;
            }
        }
        Ok(())
    }

    /// An own port outlives the connection from it.
    fn dissolve(&mut self) -> io::Result<()> {
        let (to, port) = (*self.random.pick(&self.ground.orders), self.own_port());
        let socket = orders::open(self.on_own_port(to, port)?, to, Order::CloseLast)?;
        rustix::net::connect_unspec(&socket)?;
        self.churn.bound.push(socket);
        Ok(())
    }

    fn bind(&mut self) -> io::Result<()> {
        let v6 = self.ground.binds_v6 && self.random.one_in(2);
        let ip: IpAddr = if v6 {
            Ipv6Addr::LOCALHOST.into()
        } else {
            self.ground.ip.into()
        };
        let port = if self.random.one_in(2) {
            0
        } else {
            self.own_port()
        };
        let socket = tcp(v6)?;
        socket.bind(&SocketAddr::new(ip, port).into())?;
        self.churn.bound.push(socket);
        if self.random.one_in(2) {
            self.random.take(&mut self.churn.bound);
        }
        Ok(())
    }

    fn listen(&mut self) -> io::Result<()> {
        let socket = tcp(false)?;
        if !self.ground.listens || self.random.one_in(2) {
            let port = self.own_port();
            socket.bind(&SocketAddr::new(self.ground.ip.into(), port).into())?;
        }
        socket.listen(1)?;
        self.churn.listening.push(socket);
        if self.random.one_in(2) {
            self.random.take(&mut self.churn.listening);
        }
        Ok(())
    }

    /// In the listener's queue.
    fn be_left_waiting(&mut self) -> io::Result<()> {
        let socket = tcp(self.ground.idle.is_ipv6())?;
        socket.set_nonblocking(true)?;
        let done = socket.connect(&self.ground.idle.into());
        done.or_else(pending)?;
        if self.random.one_in(2) {
            self.churn.kept.push(socket);
        }
        Ok(())
    }

    fn be_ignored(&mut self) -> io::Result<()> {
        let socket = tcp(self.ground.deaf.is_ipv6())?;
        socket.set_nonblocking(true)?;
        let done = socket.connect(&self.ground.deaf.into());
        done.or_else(pending)?;
        if self.random.one_in(3) {
            self.churn.kept.push(socket);
        }
        Ok(())
    }

    fn be_refused(&mut self) -> io::Result<()> {
        let to = self.ground.nobody;
        if self.random.one_in(2) {
            return tcp(to.is_ipv6())?.connect(&to.into());
        }
        let port = self.own_port();
        let socket = self.on_own_port(to, port)?;
        let refused = socket.connect(&to.into());
        self.churn.bound.push(socket);
        refused
    }

    /// With the same socket, which still shows the port that it had when it was refused.
    fn try_again(&mut self) -> io::Result<()> {
        let to = *self.random.pick(&self.ground.orders);
        let nobody = SocketAddr::new(to.ip(), self.ground.nobody.port());
        let socket = tcp(to.is_ipv6())?;
        if socket.connect(&nobody.into()).is_ok() {
            return Ok(());
        }
        let socket = orders::open(socket, to, Order::Keep)?;
        self.churn.kept.push(socket);
        Ok(())
    }

    /// Another process has it too, and closes it some day.
    fn give(&mut self) -> io::Result<()> {
        let socket = self.open(Order::Keep)?;
        self.churn.taker()?.give(&socket, false)?;
        if self.random.one_in(3) {
            self.churn.kept.push(socket);
        }
        Ok(())
    }

    /// A child has it too, until the server closes it. Starting processes is slow.
    fn bequeath(&mut self) -> io::Result<()> {
        if !self.random.one_in(6) {
            return self.close_first();
        }
        let socket = self.open(Order::Keep)?;
        let heir = Command::new(env::current_exe()?)
            .arg("--heir")
            .stdin(OwnedFd::from(socket))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.churn.ever.push(heir.id());
        self.churn.heirs.push(heir);
        Ok(())
    }
}

fn pending(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::EINPROGRESS) => Ok(()),
        _ => Err(error),
    }
}

/// The loopback address from which this one can be reached.
fn loopback_like(to: SocketAddr) -> IpAddr {
    match to.ip() {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
            Ipv4Addr::LOCALHOST.to_ipv6_mapped().into()
        }
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}
