//! The ways to watch: not at all, tracer's, and the peers'.

use std::{path::Path, process::Command};

use super::load::Kind;
use crate::process::find;

pub(super) struct Mode {
    pub(super) name: &'static str,
    pub(super) program: Program,
    arguments: &'static [&'static str],
    /// Those of its lines that count which are about the load's port.
    pub(super) counts: fn(&str) -> bool,
    /// How many of those there should be.
    pub(super) lines: Lines,
}

pub(super) enum Program {
    Nobody,
    Tracer,
    /// The first of these that is installed.
    Peer(&'static [&'static str]),
}

/// How many lines a connection, or an attempt, gives.
#[derive(Clone, Copy)]
pub(super) enum Lines {
    Unknown,
    /// One for each state transition.
    Transitions,
    /// One for each end.
    Ends,
    /// One for each failure for want of a port.
    Failures,
}

/// `args->` is understood by old versions, too.
const BPFTRACE: &str = "tracepoint:sock:inet_sock_set_state /args->protocol == 6/ { printf(\"%llu %s %d %d %d %d %d\\n\", \
                        nsecs, comm, pid, args->sport, args->dport, args->oldstate, args->newstate); }";

/// Nobody comes first: the others are measured against that.
pub(super) const MODES: [Mode; 8] = [
    Mode {
        name: "none",
        program: Program::Nobody,
        arguments: &[],
        counts: |_| false,
        lines: Lines::Unknown,
    },
    Mode {
        name: "tracer",
        program: Program::Tracer,
        arguments: &[],
        counts: is_transition,
        lines: Lines::Transitions,
    },
    Mode {
        name: "tracer-coalesced",
        program: Program::Tracer,
        arguments: &["--coalesce-failures"],
        counts: is_transition,
        lines: Lines::Transitions,
    },
    Mode {
        name: "tracer-connections",
        program: Program::Tracer,
        arguments: &["--emit", "connection,connect_failed,bind_failed,usage"],
        counts: |line| line.contains(r#""type":"connection""#),
        lines: Lines::Ends,
    },
    Mode {
        name: "tracer-quiet",
        program: Program::Tracer,
        arguments: &["--emit", "connect_failed,bind_failed,pressure,usage"],
        counts: |line| line.contains(r#""type":"connect_failed""#),
        lines: Lines::Failures,
    },
    Mode {
        name: "tcpstates",
        program: Program::Peer(&["tcpstates", "tcpstates-bpfcc"]),
        arguments: &[],
        counts: |line| line.contains("->"),
        lines: Lines::Transitions,
    },
    Mode {
        name: "tcplife",
        program: Program::Peer(&["tcplife", "tcplife-bpfcc"]),
        arguments: &[],
        counts: |_| true,
        lines: Lines::Ends,
    },
    Mode {
        name: "bpftrace",
        program: Program::Peer(&["bpftrace"]),
        arguments: &["-e", BPFTRACE],
        // The first line says what is attached.
        counts: |line| line.starts_with(|first: char| first.is_ascii_digit()),
        lines: Lines::Transitions,
    },
];

/// The end of TIME_WAIT is not for every tool to see.
fn is_transition(line: &str) -> bool {
    line.contains(r#""type":"state""#) && !line.contains(r#""old":"TIME_WAIT""#)
}

impl Mode {
    /// `None`: it is not installed here.
    pub(super) fn command(&self, tracer: &Path) -> Option<Command> {
        let program = match self.program {
            Program::Nobody => return None,
            Program::Tracer => tracer.to_owned(),
            Program::Peer(names) => names.iter().find_map(|name| find(name))?,
        };
        let mut command = Command::new(program);
        command.args(self.arguments);
        Some(command)
    }

    pub(super) fn is_here(&self, tracer: &Path) -> bool {
        matches!(self.program, Program::Nobody) || self.command(tracer).is_some()
    }
}

impl Lines {
    /// For one connection; `None`: not known.
    pub(super) fn expected(self, kind: Kind) -> Option<u64> {
        match self {
            Self::Unknown => None,
            Self::Transitions => Some(kind.transitions()),
            Self::Ends => Some(kind.ends()),
            Self::Failures => Some(u64::from(kind == Kind::Exhausted)),
        }
    }
}
