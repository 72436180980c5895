//! Processes that do what a scenario tells them, one system call at a time.
//!
//! A process that owns sockets must be a real one: pid, name and death are what is tested. The test
//! binary starts itself with `--actor`, and sends operations as JSON lines.

mod act;
mod alone;
mod brood;
mod bulk;
mod churn;
mod client;
mod mix;
mod op;
mod orders;
mod storm;
mod taker;
mod uring;

use std::{env, io, os::unix::process::CommandExt as _, process::Command, process::ExitCode};

use anyhow::{Context as _, Result, bail};

pub(crate) use churn::Ground;
pub(crate) use client::{Actor, Server};
pub(crate) use mix::{End, Fill, Source, Step};
pub(crate) use op::{Held, Op};

use crate::netns;

/// `--actor NETNS COMM`: obey. `--heir`: hold the socket on standard input until its end.
/// `--taker`: take sockets from there. `--enter NETNS PROGRAM ARGS`: become another program. `--alone PROGRAM ARGS`: run it
/// in a pid namespace of its own.
pub(crate) fn run_if_asked() -> Option<ExitCode> {
    let args: Vec<String> = env::args().skip(1).collect();
    let done = match args.first()?.as_str() {
        "--actor" => obey(&args[1..]),
        "--heir" => hold(),
        "--taker" => taker::take(),
        "--alone" => alone::run(&args[1..]),
        "--enter" => become_program(&args[1..]),
        _ => return None,
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("actor: {error:#}");
            ExitCode::FAILURE
        }
    })
}

fn obey(args: &[String]) -> Result<()> {
    let [netns, comm] = args else {
        bail!("--actor wants NETNS and COMM")
    };
    netns::enter(netns)?;
    rustix::thread::set_name(&std::ffi::CString::new(comm.as_str())?)?;
    act::serve()
}

fn hold() -> Result<()> {
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn become_program(args: &[String]) -> Result<()> {
    let [netns, program, args @ ..] = args else {
        bail!("--enter wants NETNS and PROGRAM")
    };
    netns::enter(netns)?;
    Err(Command::new(program).args(args).exec()).context(program.clone())
}
