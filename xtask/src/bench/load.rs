//! The load: one process in a network namespace of its own that makes connections over loopback, both ends of each,
//! and says what that cost it.

use std::{
    fs,
    io::{self, Read as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use super::{cpu, loopback};

const TO: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 5774));
/// Not counted: the first ones fill caches.
const WARM_UP: u64 = 500;

/// How connections end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// The client closes first: its port goes to TIME_WAIT
    FinClient,
    /// The server closes first
    FinServer,
    /// The client aborts
    Rst,
    /// Nobody listens
    Refused,
    /// No port is free: every connect fails
    Exhausted,
}

/// The hidden command that is the load.
#[derive(clap::Args)]
pub(crate) struct Options {
    kind: Kind,
    #[arg(long)]
    connections: u64,
    /// Per second; 0: as fast as it goes
    #[arg(long, default_value_t = 0)]
    rate: u64,
    #[arg(long)]
    cpu: Option<usize>,
}

/// What a load says of itself.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    /// Connections, or attempts that failed as they should.
    pub(crate) connections: u64,
    pub(crate) seconds: f64,
    /// User and system time, softirq of its own packets included.
    pub(crate) cpu_seconds: f64,
    /// Every connection, those of the warm-up included.
    pub(crate) in_all: u64,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FinClient => "fin-client",
            Self::FinServer => "fin-server",
            Self::Rst => "rst",
            Self::Refused => "refused",
            Self::Exhausted => "exhausted",
        }
    }

    /// State transitions of a connection, both ends; TIME_WAIT's are not among them, as only some tools see it.
    pub(crate) fn transitions(self) -> u64 {
        match self {
            Self::FinClient | Self::FinServer => 10,
            Self::Rst => 6,
            Self::Refused | Self::Exhausted => 2,
        }
    }
}

/// Starts a load and waits for its figures.
pub(crate) fn measure(kind: Kind, connections: u64, rate: u64, cpu: Option<usize>) -> Result<Load> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench-load", kind.name()]);
    command.args(["--connections", &connections.to_string()]);
    command.args(["--rate", &rate.to_string()]);
    if let Some(cpu) = cpu {
        command.args(["--cpu", &cpu.to_string()]);
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = output.output().context("the load can't be started")?;
    ensure!(
        output.status.success(),
        "the load failed ({})",
        output.status
    );
    serde_json::from_slice(&output.stdout).context("the load's answer can't be read")
}

/// The hidden command itself.
pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(cpu) = options.cpu {
        cpu::pin(cpu)?;
    }
    enter_namespace(options.kind)?;
    let load = make(options)?;
    println!("{}", serde_json::to_string(&load)?);
    Ok(())
}

fn enter_namespace(kind: Kind) -> Result<()> {
    // SAFETY: `NEWNET` touches no descriptor table, and there is one thread only.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("a network namespace needs root")?;
    loopback::up()?;
    let range = match kind {
        Kind::Exhausted => "40000 40015",
        _ => "1024 65535",
    };
    for (name, value) in [
        ("ip_local_port_range", range),
        ("tcp_max_tw_buckets", "1000000"),
        ("tcp_tw_reuse", "0"),
    ] {
        let path = format!("/proc/sys/net/ipv4/{name}");
        fs::write(&path, value).with_context(|| format!("{path} can't be set"))?;
    }
    Ok(())
}

fn make(options: &Options) -> Result<Load> {
    let ends = Ends::new(options.kind)?;
    for _ in 0..WARM_UP {
        ends.connect()?;
    }
    let (begin, used) = (Instant::now(), cpu::of_self());
    for number in 0..options.connections {
        if options.rate > 0 {
            wait_until(begin, number, options.rate);
        }
        ends.connect()?;
    }
    Ok(Load {
        connections: options.connections,
        seconds: begin.elapsed().as_secs_f64(),
        cpu_seconds: (cpu::of_self() - used).as_secs_f64(),
        in_all: options.connections + WARM_UP,
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
                held.push(connected()?);
            }
        }
        Ok(Self {
            kind,
            listener,
            _held: held,
        })
    }

    fn connect(&self) -> Result<()> {
        match self.kind {
            Kind::Refused => fails_with(libc::ECONNREFUSED),
            Kind::Exhausted => fails_with(libc::EADDRNOTAVAIL),
            kind => self.exchange(kind).context("a connection failed"),
        }
    }

    fn exchange(&self, kind: Kind) -> io::Result<()> {
        let client = connected()?;
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
    listener.bind(&TO.into())?;
    listener.listen(128)?;
    Ok(listener)
}

fn connected() -> io::Result<Socket> {
    let client = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    client.connect(&TO.into())?;
    Ok(client)
}

fn fails_with(errno: i32) -> Result<()> {
    let error = connected().err().and_then(|error| error.raw_os_error());
    ensure!(
        error == Some(errno),
        "a connect gave {error:?} instead of {errno}"
    );
    Ok(())
}
