//! The load: processes, each in a network namespace of its own, that make connections over loopback, both ends of
//! each, and say what that cost them.

mod make;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

pub(crate) use self::make::run;
pub(super) use self::make::{PORT, enter_namespace};

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

/// What a load is to do; as arguments, the hidden command that is one.
#[derive(Clone, Copy, clap::Args)]
pub(crate) struct Order {
    pub(super) kind: Kind,
    #[arg(long)]
    pub(super) connections: u64,
    /// Per second; 0: as fast as it goes
    #[arg(long, default_value_t = 0)]
    pub(super) rate: u64,
    #[arg(long)]
    pub(super) cpu: Option<usize>,
}

/// What a load says of itself.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Load {
    /// Connections, or attempts that failed as they should.
    pub(crate) connections: u64,
    pub(crate) seconds: f64,
    /// User and system time, softirq of its own packets included.
    pub(crate) cpu_seconds: f64,
    /// Every connection, those of the warm-up included.
    pub(crate) in_all: u64,
    /// CPU time of the same little work, meanwhile; 0: not measured.
    pub(crate) yardstick_us: f64,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::FinClient => "fin-client",
            Self::FinServer => "fin-server",
            Self::Rst => "rst",
            Self::Refused => "refused",
            Self::Exhausted => "exhausted",
        }
    }

    /// State transitions of a connection, both ends; the end of TIME_WAIT is not among them, as only some tools see it.
    pub(super) fn transitions(self) -> u64 {
        match self {
            Self::FinClient | Self::FinServer => 10,
            Self::Rst => 6,
            Self::Refused | Self::Exhausted => 2,
        }
    }

    /// Sockets of a connection, or of an attempt.
    pub(super) fn ends(self) -> u64 {
        match self {
            Self::FinClient | Self::FinServer | Self::Rst => 2,
            Self::Refused | Self::Exhausted => 1,
        }
    }
}

impl Load {
    /// As one, of loads at the same time.
    fn and(self, other: Self) -> Self {
        Self {
            connections: self.connections + other.connections,
            seconds: self.seconds.max(other.seconds),
            cpu_seconds: self.cpu_seconds + other.cpu_seconds,
            in_all: self.in_all + other.in_all,
            yardstick_us: self.yardstick_us.max(other.yardstick_us),
        }
    }
}

/// So many such loads at a time, to their end.
pub(super) fn measure(order: &Order, processes: u64) -> Result<Load> {
    let (load, running) = hold(order, processes)?;
    drop(running);
    Ok(load)
}

/// As [`measure`]; what is left of the connections stays until the loads are dropped.
pub(super) fn hold(order: &Order, processes: u64) -> Result<(Load, Vec<Running>)> {
    let running = (0..processes).map(|_| Running::start(order));
    let mut running = running.collect::<Result<Vec<_>>>()?;
    running.iter_mut().try_for_each(Running::go)?;
    let mut load = Load::default();
    for each in &mut running {
        load = load.and(each.done()?);
    }
    Ok((load, running))
}

/// Sockets in TIME_WAIT (or FIN_WAIT2, without a socket) in the loads' network namespaces.
pub(super) fn timewait(loads: &[Running]) -> Result<u64> {
    let mut sum = 0;
    for load in loads {
        let path = format!("/proc/{}/net/sockstat", load.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("{path} can't be read"))?;
        let count = text.split_once(" tw ").map(|(_, rest)| rest);
        let count = count.and_then(|rest| rest.split_whitespace().next());
        sum += count
            .with_context(|| format!("no tw in {path}"))?
            .parse::<u64>()?;
    }
    Ok(sum)
}

/// A load that is ready, at work, or done; its network namespace lasts as long.
pub(super) struct Running {
    child: Child,
    /// A line starts the work, the end of it the end.
    orders: Option<ChildStdin>,
    /// A line says that it is ready, the next one what it did.
    answers: BufReader<ChildStdout>,
}

impl Running {
    /// Answers once it is ready.
    fn start(order: &Order) -> Result<Self> {
        // Even if it has been built anew since this process started.
        let mut command = Command::new("/proc/self/exe");
        command.args(["bench-load", order.kind.name()]);
        command.args(["--connections", &order.connections.to_string()]);
        command.args(["--rate", &order.rate.to_string()]);
        if let Some(cpu) = order.cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("the load can't be started")?;
        let answers = child.stdout.take().context("the load has no output")?;
        let mut running = Self {
            orders: child.stdin.take(),
            child,
            answers: BufReader::new(answers),
        };
        running.answer()?;
        Ok(running)
    }

    fn go(&mut self) -> Result<()> {
        let orders = self.orders.as_mut().context("the load is over")?;
        orders.write_all(b"\n").context("the load has gone")
    }

    fn done(&mut self) -> Result<Load> {
        let answer = self.answer()?;
        serde_json::from_str(&answer).context("the load's answer can't be read")
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the load failed");
        Ok(line)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.orders = None;
        // Whether it succeeded its answer has told.
        let _ = self.child.wait();
    }
}
