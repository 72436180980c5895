//! The scenario's side of an actor.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, SocketAddr},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use super::Op;

/// Longer than any single operation takes, the longest being floods on emulated machines.
const ANSWER: Duration = Duration::from_secs(900);

pub(crate) struct Actor {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    pub pid: u32,
    pub comm: String,
}

impl Actor {
    pub(crate) fn spawn(netns: &str, comm: &str) -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args(["--actor", netns, comm])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start an actor")?;
        let mut actor = Self {
            stdin: child.stdin.take(),
            stdout: BufReader::new(child.stdout.take().context("no stdout")?),
            pid: child.id(),
            comm: comm.to_owned(),
            child,
        };
        actor
            .answer()
            .with_context(|| format!("{comm} did not come up"))?;
        Ok(actor)
    }

    /// Has it begin; [`Actor::answer`] waits for the end.
    pub(crate) fn begin(&mut self, op: &Op) -> Result<()> {
        let mut line = serde_json::to_vec(op)?;
        line.push(b'\n');
        let stdin = self.stdin.as_mut().context("the actor has ended")?;
        stdin
            .write_all(&line)
            .with_context(|| format!("{} is gone", self.comm))
    }

    /// Numbers, negative ones being an errno.
    pub(crate) fn answer(&mut self) -> Result<Vec<i64>> {
        if self.stdout.buffer().is_empty() {
            let timeout = ANSWER.try_into()?;
            let mut fds = [PollFd::new(self.stdout.get_ref(), PollFlags::IN)];
            ensure!(
                poll(&mut fds, Some(&timeout))? == 1,
                "{} does not answer",
                self.comm
            );
        }
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("{} said {line:?}", self.comm))
    }

    pub(crate) fn all(&mut self, op: &Op) -> Result<Vec<i64>> {
        self.begin(op)?;
        self.answer().with_context(|| format!("{op:?}"))
    }

    /// The result of an operation, whatever it is.
    pub(crate) fn try_do(&mut self, op: &Op) -> Result<i64> {
        let answer = self.all(op)?;
        answer
            .first()
            .copied()
            .with_context(|| format!("no answer to {op:?}"))
    }

    /// The result of an operation that must succeed.
    pub(crate) fn run(&mut self, op: &Op) -> Result<i64> {
        let value = self.try_do(op)?;
        if value < 0 {
            let errno = std::io::Error::from_raw_os_error(i32::try_from(-value)?);
            bail!("{}: {op:?} failed: {errno}", self.comm);
        }
        Ok(value)
    }

    /// An operation that must fail in this way.
    pub(crate) fn fails(&mut self, op: &Op, errno: Errno) -> Result<()> {
        let value = self.try_do(op)?;
        ensure!(
            value == -i64::from(errno.raw_os_error()),
            "{}: {op:?} gave {value} instead of {errno:?}",
            self.comm
        );
        Ok(())
    }

    pub(crate) fn socket(&mut self, like: SocketAddr) -> Result<i64> {
        self.run(&Op::Socket { v6: like.is_ipv6() })
    }

    /// A connected socket.
    pub(crate) fn open(&mut self, to: SocketAddr) -> Result<i64> {
        let fd = self.socket(to)?;
        self.run(&Op::Connect { fd, to })?;
        Ok(fd)
    }

    /// A socket whose SYN is under way.
    pub(crate) fn open_pending(&mut self, to: SocketAddr) -> Result<i64> {
        let fd = self.socket(to)?;
        self.run(&Op::Nonblocking { fd })?;
        self.fails(&Op::Connect { fd, to }, Errno::INPROGRESS)?;
        Ok(fd)
    }

    /// A socket bound to this address, which others may share.
    pub(crate) fn bound(&mut self, addr: SocketAddr) -> Result<i64> {
        let fd = self.socket(addr)?;
        self.run(&Op::ReuseAddress { fd })?;
        self.run(&Op::Bind { fd, addr })?;
        Ok(fd)
    }

    /// A socket bound to this address, whose port is chosen at `connect()`.
    pub(crate) fn bound_without_port(&mut self, addr: SocketAddr) -> Result<i64> {
        let fd = self.socket(addr)?;
        self.option(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        self.run(&Op::Bind { fd, addr })?;
        Ok(fd)
    }

    pub(crate) fn option(&mut self, fd: i64, level: i32, name: i32, value: u32) -> Result<()> {
        self.run(&Op::Option {
            fd,
            level,
            name,
            value,
        })
        .map(drop)
    }

    pub(crate) fn local(&mut self, fd: i64, ip: IpAddr) -> Result<SocketAddr> {
        let port = self.run(&Op::LocalPort { fd })?;
        Ok(SocketAddr::new(ip, port.try_into()?))
    }

    pub(crate) fn close(&mut self, fd: i64) -> Result<()> {
        self.run(&Op::Close { fd }).map(drop)
    }

    /// Ends it as a program ends, with its sockets open.
    pub(crate) fn exit(&mut self) -> Result<()> {
        self.stdin = None;
        let status = self.child.wait()?;
        ensure!(status.success(), "{} ended with {status}", self.comm);
        Ok(())
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An actor with a listening socket.
pub(crate) struct Server {
    pub actor: Actor,
    pub addr: SocketAddr,
    pub fd: i64,
}

impl Server {
    pub(crate) fn listen(mut actor: Actor, addr: SocketAddr, backlog: i32) -> Result<Self> {
        let fd = actor.bound(addr)?;
        actor.run(&Op::Listen { fd, backlog })?;
        Ok(Self { actor, addr, fd })
    }

    pub(crate) fn accept(&mut self) -> Result<i64> {
        self.actor.run(&Op::Accept { fd: self.fd })
    }
}
