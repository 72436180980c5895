//! The command line, without logic.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};

use crate::{
    event::{Role, State},
    filter::{Cgroup, Name, Network, Ports},
    kernel::plan::Rung,
    record::Kind,
    sink::{Compress, Fsync, Keep, Target},
};

const ROTATE_KEEP: usize = 7;
const METRICS_TOP: u16 = 50;

/// Explains TCP ephemeral port exhaustion: who failed, why, and who holds the ports.
///
/// Without a command, streams JSON lines to standard output until it is interrupted.
///
/// Exit status: 0 done; 1 cannot run here; 2 ran, but data was lost, and said so.
#[derive(Debug, Parser)]
#[command(name = "tracer", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,

    #[command(flatten)]
    pub trace: Trace,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what this host allows: the hooks that work here, and why better ones do not; the ports of each network
    /// namespace.
    Check(Check),
    /// Show once how many more connects will succeed, and who has the other ports.
    ///
    /// Without a port in `--to`: the destinations with the fewest free ports, and network namespaces where ports are bound.
    ///
    /// Exit status: 0 done; 1 cannot run here; 2 something could not be read, and standard error says so.
    Budget(Budget),
    /// Say what happened, who did it, why, and what to change, from recorded lines.
    ///
    /// Exit status: 0 done; 1 nothing could be read; 2 something was skipped, lost or cut off, and the report says what.
    Report(Report),
    /// Make the lines of a recording again, with the same ledger and the same diagnosis.
    ///
    /// From the `input` lines of a run with `--replayable` every line comes as it was; other recordings are told anew
    /// from what their lines say, and a warning tells what they do not say. Exit status: 0 done; 1 the file can't be read;
    /// 2 lines were skipped or the recording has a hole, and standard error says which.
    Replay(Replay),
    /// Print the JSON Schema of the lines.
    Schema,
    /// Print the man page, or a shell's completions.
    Generate {
        #[arg(value_enum)]
        page: Page,
    },
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Page {
    Man,
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, clap::Args)]
pub struct Report {
    /// Recorded lines of any hosts, plain or compressed with gzip or zstd; `-` is standard input.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<std::path::PathBuf>,

    /// Only from here on: 2026-01-02T03:04:05Z; 14:05 (UTC, before the last line); -10m (before the last line).
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<crate::report::narrow::Moment>,

    /// Only up to here; as `--since`.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub until: Option<crate::report::narrow::Moment>,

    /// Only this process: its name (all of that name), pid or id.
    #[arg(long, value_name = "NAME|PID|ID")]
    pub process: Option<String>,

    /// Only these destinations.
    #[arg(long, value_name = "IP[:PORT]|CIDR")]
    pub peer: Option<crate::report::narrow::Peer>,

    /// Only this network namespace: its inode number.
    #[arg(long, value_name = "INODE", value_parser = crate::report::narrow::netns)]
    pub netns: Option<u32>,

    /// Print one JSON object instead of a text.
    #[arg(long)]
    pub json: bool,

    /// Write a page for a browser to this file instead, with all that it needs inside; `-` is standard output.
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub html: Option<std::path::PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct Replay {
    /// A recorded stream, plain or compressed; `-`: standard input.
    #[arg(value_name = "FILE")]
    pub file: std::path::PathBuf,

    /// So many times as fast as it was recorded; default: as fast as possible.
    #[arg(long, value_name = "N", value_parser = crate::config::speed)]
    pub speed: Option<f64>,
}

#[derive(Debug, clap::Args)]
pub struct Budget {
    /// The destination; 0.0.0.0 and :: are those that `connect()` takes them for.
    #[arg(long, value_name = "IP[:PORT]", value_parser = crate::config::parse_to)]
    pub to: Option<crate::config::To>,

    /// The source address; default: the one that the kernel would choose.
    #[arg(long, value_name = "IP", value_parser = crate::config::address)]
    pub from: Option<std::net::IpAddr>,

    /// The network namespace: of a process, by its name in `ip netns list`, or by its inode number; default: our own
    /// for a destination, else all.
    #[arg(long, value_name = "PID|NAME|INODE")]
    pub netns: Option<String>,

    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Check {
    /// Check this kind of hooks only.
    #[arg(long, value_enum, value_name = "KIND")]
    pub backend: Option<Rung>,

    /// Print one JSON object instead of a text.
    #[arg(long)]
    pub json: bool,

    /// Check this configuration file instead of the host.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["backend", "json"])]
    pub config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct Trace {
    /// Take options that are neither here nor in the environment from this file (TOML, the same names).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Use this kind of hooks only, instead of the best that work.
    #[arg(long, value_enum, value_name = "KIND")]
    pub backend: Option<Rung>,

    /// How many sockets the kernel side remembers the owner of, at least.
    #[arg(long, value_name = "N", default_value_t = 1 << 18,
          value_parser = clap::value_parser!(u32).range(1..=1 << 26))]
    pub max_sockets: u32,

    /// Size of the ring buffer in bytes, or with a suffix K or M; rounded up to a power of two.
    #[arg(long, value_name = "BYTES", default_value = "4M", value_parser = crate::config::ring_size)]
    pub ring_size: u32,

    /// A destination that has so many percent of its usable ports in use is under pressure: a `pressure` line says so.
    /// Destinations are watched from an eighth of their ports on, so a level below 13 is told then at the earliest.
    #[arg(long, value_name = "PERCENT", default_value_t = 70,
          value_parser = clap::value_parser!(u8).range(1..=100))]
    pub warn: u8,

    /// So many percent are critical.
    #[arg(long, value_name = "PERCENT", default_value_t = 90,
          value_parser = clap::value_parser!(u8).range(1..=100))]
    pub critical: u8,

    /// Count failures that an explained one stands for, instead of a line for each.
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, require_equals = true,
          num_args = 0..=1, default_missing_value = "true", default_value_t = false)]
    pub coalesce_failures: bool,

    /// Also write `input` lines, from which `tracer replay` of this version makes every other line again, to the byte.
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, require_equals = true,
          num_args = 0..=1, default_missing_value = "true", default_value_t = false)]
    pub replayable: bool,

    /// Every so many seconds, show who has how many ports.
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub interval: u16,

    /// Once everything is attached, go on as this user, without its groups; default: as the same.
    #[arg(long, value_name = "NAME|UID", value_parser = crate::privileges::user)]
    pub user: Option<crate::privileges::User>,

    #[command(flatten)]
    pub select: Select,

    #[command(flatten)]
    pub output: Output,

    #[command(flatten)]
    pub upkeep: Upkeep,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub struct Output {
    /// Where lines go: a file, unix:PATH or tcp:HOST:PORT of a reader that listens, or `-` for standard output. May be
    /// given several times.
    #[arg(long, value_name = "TO", default_value = "-")]
    pub output: Vec<Target>,

    /// A label for every line. May be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = crate::config::label)]
    pub label: Vec<(String, String)>,

    /// Memory for lines that no output has taken yet, with a suffix K, M or G; above it the least dear are dropped.
    #[arg(long, value_name = "BYTES", default_value = "64M", value_parser = crate::config::buffer_size)]
    pub buffer: usize,

    /// How long the lines that wait may take at the end.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = crate::config::duration)]
    pub drain_timeout: Duration,

    /// Begin a new file when this many bytes are in it, with a suffix K, M or G. The full one is renamed to
    /// FILE.TIME, and names sort by time.
    #[arg(long, value_name = "BYTES", value_parser = crate::config::bytes)]
    pub rotate_size: Option<u64>,

    /// Begin a new file when it is so old, such as 90s, 15m, 24h or 7d.
    #[arg(long, value_name = "DURATION", value_parser = crate::config::duration)]
    pub rotate_age: Option<Duration>,

    /// How many renamed files stay.
    #[arg(long, value_name = "N", default_value_t = ROTATE_KEEP)]
    pub rotate_keep: usize,

    /// What becomes of renamed files.
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Compress::None)]
    pub compress: Compress,

    /// When lines in files are made safe from a crash of the host.
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Fsync::Rotate)]
    pub fsync: Fsync,

    /// Record all lines in this directory, in so much as `--keep` says; keep the last minutes and the next one as a file
    /// on the first failure, when a destination becomes critical, and on SIGUSR1.
    #[arg(long, value_name = "DIR")]
    pub flight_recorder: Option<PathBuf>,

    /// How much the flight recorder holds: a time, a number of bytes, or both.
    #[arg(long, value_name = "TIME,BYTES", default_value = "10m,1GiB", value_parser = crate::config::keep)]
    pub keep: Keep,
}

/// Options that are right each for itself, but not together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    pub options: &'static [&'static str],
    /// A sentence.
    pub text: String,
}

impl Trace {
    pub fn contradiction(&self) -> Option<Contradiction> {
        let Select {
            emit,
            state,
            sample,
            ..
        } = &self.select;
        let emits = |kind| emit.is_empty() || emit.contains(&kind);
        let told_of_itself = self.upkeep.stats > 0 || self.upkeep.max_cpu.is_some();
        let recorded = self.output.flight_recorder.is_some();
        if self.replayable && (self.select.chooses() || recorded || told_of_itself) {
            return Some(Contradiction {
                options: &["replayable"],
                text: "replayable is for runs of which every line is made again: leave out the options that choose lines, \
                       stats, max-cpu and the flight recorder, or leave replayable out"
                    .into(),
            });
        }
        if self.warn > self.critical {
            return Some(Contradiction {
                options: &["warn", "critical"],
                text: format!(
                    "warn is {}, above critical, which is {}: give a smaller one, or the same",
                    self.warn, self.critical
                ),
            });
        }
        if sample.is_some() && !emits(Kind::State) {
            return Some(Contradiction {
                options: &["emit", "sample"],
                text: "sample is about state lines, and emit leaves those out: add state to emit, or leave sample out"
                    .into(),
            });
        }
        if !state.is_empty() && !emits(Kind::State) && !emits(Kind::Socket) {
            return Some(Contradiction {
                options: &["emit", "state"],
                text: "state is about state and socket lines, and emit leaves both out: add one of them to emit, or \
                       leave state out"
                    .into(),
            });
        }
        self.without_effect()
    }

    /// Options that are of no use without another one.
    fn without_effect(&self) -> Option<Contradiction> {
        let Output {
            output,
            rotate_size,
            rotate_age,
            ..
        } = &self.output;
        let rotates = rotate_size.is_some() || rotate_age.is_some();
        let has_file = output.iter().any(|to| matches!(to, Target::File(_)));
        let idle: [(bool, &[&str], _); 6] = [
            (
                self.select.emit.contains(&Kind::Input),
                &["emit"],
                "input lines are those of replayable, with which every line is written: leave input out of emit, or give \
                 replayable instead of emit",
            ),
            (
                !rotates && self.output.compress != Compress::None,
                &["compress"],
                "compress is about files that have been rotated: give rotate-size or rotate-age, or leave compress out",
            ),
            (
                !rotates && self.output.rotate_keep != ROTATE_KEEP,
                &["rotate-keep"],
                "rotate-keep is about files that have been rotated: give rotate-size or rotate-age, or leave rotate-keep out",
            ),
            (
                !has_file && self.output.fsync != Fsync::Rotate,
                &["fsync", "output"],
                "fsync is about files: give output a file, or leave fsync out",
            ),
            (
                self.output.flight_recorder.is_none() && self.output.keep != Keep::default(),
                &["keep"],
                "keep is about the flight recorder: give flight-recorder, or leave keep out",
            ),
            (
                self.upkeep.metrics.is_none() && self.upkeep.metrics_top != METRICS_TOP,
                &["metrics-top"],
                "metrics-top is about metrics: give metrics, or leave metrics-top out",
            ),
        ];
        let (_, options, text) = idle.into_iter().find(|(is_so, ..)| *is_so)?;
        Some(Contradiction {
            options,
            text: text.into(),
        })
    }
}

impl Select {
    /// Whether any line is left out.
    fn chooses(&self) -> bool {
        let Self {
            emit,
            pid,
            comm,
            cgroup,
            container,
            uid,
            netns,
            port,
            peer,
            role,
            state,
            sample,
        } = self;
        let of_processes = !(pid.is_empty() && comm.is_empty() && uid.is_empty());
        let of_places = !(cgroup.is_empty() && container.is_empty() && netns.is_empty());
        let of_sockets =
            !(port.is_empty() && peer.is_empty() && role.is_empty() && state.is_empty());
        !emit.is_empty() || of_processes || of_places || of_sockets || sample.is_some()
    }
}

/// Which lines are written. What is left out is counted all the same: usage, budgets and holders stay exact.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Lines (each option several times, or with commas)")]
pub struct Select {
    /// Write lines of these types only; and `start`, `loss` and `stop`, and `process` where another line refers to it.
    #[arg(long, value_name = "TYPE", value_enum, value_delimiter = ',')]
    pub emit: Vec<Kind>,

    /// Only of these processes, by id in the initial pid namespace.
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub pid: Vec<u32>,

    /// Only of processes of this name; `*`, `?` and `[a-z]` stand for others.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub comm: Vec<Name>,

    /// Only of processes in this cgroup or below.
    #[arg(long, value_name = "PATH", value_delimiter = ',')]
    pub cgroup: Vec<Cgroup>,

    /// Only of processes in a container whose id begins so, or in this systemd service.
    #[arg(long, value_name = "ID", value_delimiter = ',',
          value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub container: Vec<String>,

    /// Only of processes of this user, by id in the initial user namespace.
    #[arg(long, value_name = "UID", value_delimiter = ',')]
    pub uid: Vec<u32>,

    /// Only of this network namespace: of a process, by its name in `ip netns list`, or by its inode number.
    #[arg(long, value_name = "PID|NAME|INODE", value_delimiter = ',')]
    pub netns: Vec<String>,

    /// Only with this port, local or the peer's.
    #[arg(long, value_name = "PORT[-PORT]", value_delimiter = ',')]
    pub port: Vec<Ports>,

    /// Only with a peer in this network.
    #[arg(long, value_name = "IP[/BITS]", value_delimiter = ',')]
    pub peer: Vec<Network>,

    /// Only of sockets of this role.
    #[arg(long, value_enum, value_name = "ROLE", value_delimiter = ',')]
    pub role: Vec<Role>,

    /// Only of sockets in this state, and transitions from it or to it.
    #[arg(
        long,
        value_enum,
        value_name = "STATE",
        value_delimiter = ',',
        ignore_case = true
    )]
    pub state: Vec<State>,

    /// Show the transitions of one in N connections, and of that all.
    #[arg(long, value_name = "N", value_parser = crate::filter::sampling)]
    pub sample: Option<std::num::NonZeroU32>,
}

/// What tracer tells of itself, and what it may cost.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Metrics and own cost")]
pub struct Upkeep {
    /// Serve Prometheus metrics at `/metrics`, and `/healthz`; a port alone is served on loopback only.
    #[arg(long, value_name = "[IP:]PORT", value_parser = crate::metrics::parse)]
    pub metrics: Option<crate::metrics::Address>,

    /// So many destinations, and so many failing processes with their destinations, have metrics of their own; the
    /// others share one, `other`.
    #[arg(long, value_name = "K", default_value_t = METRICS_TOP,
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub metrics_top: u16,

    /// Every so many seconds, a `stats` line shows what tracer costs and how full its buffers are; 0: none.
    #[arg(long, value_name = "SECONDS", default_value_t = 0,
          value_parser = clap::value_parser!(u16).range(0..=3600))]
    pub stats: u16,

    /// Above so many percent of one core, leave out detail: first `state` lines, then `connection` lines, then most
    /// rounds of `usage` lines; never failures.
    #[arg(long, value_name = "PERCENT",
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub max_cpu: Option<u16>,
}
