//! The process that is a load.

use std::{
    fs, io,
    io::{BufRead as _, Read as _},
    net::{Ipv4Addr, Shutdown, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use socket2::{Domain, Socket, Type};

use super::{
    super::{cpu, loopback, yardstick::Yardstick},
    Kind, Load, Order,
};

/// Nobody's by convention: by it lines about the load are known.
pub(in super::super) const PORT: u16 = 7421;
/// Not counted: the first ones fill caches.
const WARM_UP: u64 = 500;
/// Connections to one address of loopback: with more in TIME_WAIT, a connect() has to search long for a port.
const DESTINATION: u64 = 25_000;

/// Connections between two looks at the yardstick: some milliseconds.
const LOOK: u64 = 250;

/// The hidden command.
pub(crate) fn run(order: &Order) -> Result<()> {
    if let Some(cpu) = order.cpu {
        cpu::pin(cpu)?;
    }
    enter_namespace(match order.kind {
        Kind::Exhausted => "40000 40015",
        _ => "1024 65535",
    })?;
    let ends = Ends::new(order.kind)?;
    for number in 0..WARM_UP {
        ends.connect(number)?;
    }
    println!("ready");
    let mut orders = io::stdin().lock();
    orders.read_line(&mut String::new())?;
    println!("{}", serde_json::to_string(&make(order, &ends)?)?);
    orders.read_line(&mut String::new())?;
    Ok(())
}

/// A new one for this thread alone, with loopback, so many ports, and room for TIME_WAIT.
pub(in super::super) fn enter_namespace(ports: &str) -> Result<()> {
    // SAFETY: `NEWNET` touches no descriptor table.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("a network namespace needs root")?;
    loopback::up()?;
    for (name, value) in [
        ("ip_local_port_range", ports),
        ("tcp_max_tw_buckets", "2000000"),
        ("tcp_tw_reuse", "0"),
    ] {
        let path = format!("/proc/sys/net/ipv4/{name}");
        fs::write(&path, value).with_context(|| format!("{path} can't be set"))?;
    }
    Ok(())
}

fn make(order: &Order, ends: &Ends) -> Result<Load> {
    let mut yardstick = Yardstick::new();
    let (begin, used) = (Instant::now(), cpu::of_self());
    for number in 0..order.connections {
        if order.rate > 0 {
            wait_until(begin, number, order.rate);
        } else if number.is_multiple_of(LOOK) {
            yardstick.measure()?;
        }
        ends.connect(WARM_UP + number)?;
    }
    let (elapsed, used) = (begin.elapsed(), cpu::of_self() - used);
    Ok(Load {
        connections: order.connections,
        seconds: (elapsed - yardstick.elapsed).as_secs_f64(),
        cpu_seconds: (used - yardstick.cpu).as_secs_f64(),
        in_all: order.connections + WARM_UP,
        yardstick_us: yardstick.mean_us(),
    })
}

/// An open loop: the next one is due whether or not the last was slow.
fn wait_until(begin: Instant, number: u64, rate: u64) {
    let due = begin + Duration::from_nanos(number.saturating_mul(1_000_000_000) / rate);
    let rest = due.saturating_duration_since(Instant::now());
    if rest > Duration::from_micros(100) {
        thread::sleep(rest);
    }
}

/// Both ends of each connection.
struct Ends {
    kind: Kind,
    listener: Option<Socket>,
    /// They hold every port, where none is to be free.
    _held: Vec<Socket>,
}

impl Ends {
    fn new(kind: Kind) -> Result<Self> {
        let listener = (kind != Kind::Refused).then(listen).transpose()?;
        let mut held = Vec::new();
        if kind == Kind::Exhausted {
            for _ in 0..16 {
                held.push(connected(0)?);
            }
        }
        Ok(Self {
            kind,
            listener,
            _held: held,
        })
    }

    fn connect(&self, number: u64) -> Result<()> {
        match self.kind {
            Kind::Refused => fails_with(libc::ECONNREFUSED),
            Kind::Exhausted => fails_with(libc::EADDRNOTAVAIL),
            kind => self.exchange(kind, number).context("a connection failed"),
        }
    }

    fn exchange(&self, kind: Kind, number: u64) -> io::Result<()> {
        let client = connected(number)?;
        let Some(listener) = &self.listener else {
            return Ok(());
        };
        let (server, _) = listener.accept()?;
        match kind {
            Kind::FinServer => close_first(server, client),
            Kind::Rst => {
                client.set_linger(Some(Duration::ZERO))?;
                drop(client);
                Ok(())
            }
            _ => close_first(client, server),
        }
    }
}

fn close_first(mut first: Socket, mut last: Socket) -> io::Result<()> {
    first.shutdown(Shutdown::Write)?;
    last.read_to_end(&mut Vec::new())?;
    drop(last);
    first.read_to_end(&mut Vec::new()).map(drop)
}

fn listen() -> io::Result<Socket> {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    listener.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
    listener.listen(128)?;
    Ok(listener)
}

/// Connection number so and so, to 127.0.0.1 or, when that has got enough of them, to the next one.
fn connected(number: u64) -> io::Result<Socket> {
    let client = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let address = u32::try_from(number / DESTINATION).map_err(io::Error::other)?;
    let to = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + address);
    client.connect(&SocketAddr::from((to, PORT)).into())?;
    Ok(client)
}

fn fails_with(errno: i32) -> Result<()> {
    let error = connected(0).err().and_then(|error| error.raw_os_error());
    ensure!(
        error == Some(errno),
        "a connect gave {error:?} instead of {errno}"
    );
    Ok(())
}
