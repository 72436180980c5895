//! Holders of ports, made in every way there is: by a process that goes on, or by a child that ends.

use std::{
    io::{self, PipeReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr},
};

use serde::{Deserialize, Serialize};
use socket2::Socket;

use super::{
    act::{code, set_option, tcp},
    orders::{self, Order},
};

/// include/uapi/linux/in.h
const IP_LOCAL_PORT_RANGE: i32 = 51;

/// What holds a port, or held it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Step {
    Bind {
        at: SocketAddr,
        reuse: bool,
    },
    Listen {
        at: SocketAddr,
        only_v6: bool,
    },
    /// A listener, and a connection to it from this port, which is outside the range.
    Accept {
        at: SocketAddr,
        from: u16,
        listener_stays: bool,
        end: End,
    },
    Connect {
        from: Source,
        to: SocketAddr,
        end: End,
    },
    /// Binds another address to the port that an earlier step of this process got.
    BindOver {
        step: usize,
        stays: bool,
    },
}

/// How a socket comes to its port before `connect()`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Source {
    Auto,
    /// Port 0: the kernel chooses at `bind()`.
    Bound {
        at: SocketAddr,
        reuse: bool,
    },
    /// An address, and a port at `connect()`.
    Late {
        ip: IpAddr,
    },
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum End {
    Open,
    /// This side closes first, and then the other.
    TimeWait,
    /// This side closes, the other does not.
    Orphan,
    /// The other side closes, this one does not.
    CloseWait,
}

/// The connects of [`Op::Fill`](super::Op::Fill).
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Fill {
    pub v6: bool,
    pub to: SocketAddr,
    /// IP_LOCAL_PORT_RANGE.
    pub range: Option<(u16, u16)>,
    pub most: usize,
}

/// Sockets that are nobody's in particular.
#[derive(Default)]
pub(super) struct Held(Vec<Socket>);

impl Held {
    /// Answers the pid, and for each step its port or what it failed with.
    pub(super) fn hold(&mut self, steps: &[Step], dies: Option<&str>) -> io::Result<Vec<i64>> {
        match dies {
            Some(name) => in_child(name, steps),
            None => {
                let mut answer = vec![std::process::id().into()];
                answer.extend(self.take_steps(steps));
                Ok(answer)
            }
        }
    }

    /// What fails, fails: ports are taken, the range is full.
    fn take_steps(&mut self, steps: &[Step]) -> Vec<i64> {
        let mut ports = Vec::new();
        for step in steps {
            let port = self.take_step(step, &ports);
            ports.push(port.map_or_else(|error| code(&error), i64::from));
        }
        ports
    }

    fn take_step(&mut self, step: &Step, ports: &[i64]) -> io::Result<u16> {
        match *step {
            Step::Bind { at, reuse } => self.keep(bound(at, reuse)?),
            Step::Listen { at, only_v6 } => self.keep(listener(at, only_v6)?),
            Step::Accept {
                at,
                from,
                listener_stays,
                end,
            } => self.accept(at, from, listener_stays, end),
            Step::Connect { from, to, end } => self.connect(from, to, end),
            Step::BindOver { step, stays } => {
                let port = ports.get(step).copied().unwrap_or_default();
                let port = u16::try_from(port).map_err(io::Error::other)?;
                let socket = bound(([127, 0, 0, 77], port).into(), true)?;
                if stays { self.keep(socket) } else { Ok(port) }
            }
        }
    }

    fn keep(&mut self, socket: Socket) -> io::Result<u16> {
        let port = port(&socket)?;
        self.0.push(socket);
        Ok(port)
    }

    fn accept(
        &mut self,
        at: SocketAddr,
        from: u16,
        listener_stays: bool,
        end: End,
    ) -> io::Result<u16> {
        let listener = listener(at, false)?;
        let ip = match at.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let client = bound(SocketAddr::new(ip, from), true)?;
        client.connect(&SocketAddr::new(ip, at.port()).into())?;
        let child = listener.accept()?.0;
        if end == End::TimeWait {
            child.shutdown(Shutdown::Write)?;
            client.shutdown(Shutdown::Write)?;
            (&child).read_to_end(&mut Vec::new())?;
        } else {
            self.0.extend([child, client]);
        }
        if listener_stays {
            self.0.push(listener);
        }
        Ok(at.port())
    }

    fn connect(&mut self, from: Source, to: SocketAddr, end: End) -> io::Result<u16> {
        let socket = source(from, to.is_ipv6())?;
        let order = match end {
            End::Open | End::Orphan => Order::Keep,
            End::TimeWait => Order::CloseLast,
            End::CloseWait => Order::CloseFirst,
        };
        let socket = orders::open(socket, to, order)?;
        let port = port(&socket)?;
        match end {
            End::Open => self.0.push(socket),
            End::Orphan => {}
            End::TimeWait => {
                socket.shutdown(Shutdown::Write)?;
                (&socket).read_to_end(&mut Vec::new())?;
            }
            End::CloseWait => {
                (&socket).read_to_end(&mut Vec::new())?;
                self.0.push(socket);
            }
        }
        Ok(port)
    }

    /// Answers the first error, or 0, and the ports of those that connected.
    pub(super) fn fill(&mut self, fill: &Fill) -> io::Result<Vec<i64>> {
        let mut answer = vec![0];
        while answer.len() <= fill.most {
            let socket = tcp(fill.v6)?;
            if let Some((low, high)) = fill.range {
                let range = u32::from(high) << 16 | u32::from(low);
                set_option(&socket, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, range)?;
            }
            if let Err(error) = socket.connect(&fill.to.into()) {
                answer[0] = code(&error);
                break;
            }
            answer.push(self.keep(socket)?.into());
        }
        Ok(answer)
    }

    pub(super) fn let_go(&mut self) {
        self.0.clear();
    }
}

fn source(from: Source, v6: bool) -> io::Result<Socket> {
    match from {
        Source::Auto => tcp(v6),
        Source::Bound { at, reuse } => bound(at, reuse),
        Source::Late { ip } => {
            let socket = tcp(ip.is_ipv6())?;
            let name = libc::IP_BIND_ADDRESS_NO_PORT;
            set_option(&socket, libc::IPPROTO_IP, name, 1)?;
            socket.bind(&SocketAddr::new(ip, 0).into())?;
            Ok(socket)
        }
    }
}

fn bound(at: SocketAddr, reuse: bool) -> io::Result<Socket> {
    let socket = tcp(at.is_ipv6())?;
    socket.set_reuse_address(reuse)?;
    socket.bind(&at.into())?;
    Ok(socket)
}

fn listener(at: SocketAddr, only_v6: bool) -> io::Result<Socket> {
    let socket = tcp(at.is_ipv6())?;
    if at.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    socket.bind(&at.into())?;
    socket.listen(16)?;
    Ok(socket)
}

fn port(socket: &Socket) -> io::Result<u16> {
    let addr = socket.local_addr()?.as_socket();
    addr.map(|addr| addr.port())
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}

/// The child is another process of this name, and gone when this returns.
fn in_child(name: &str, steps: &[Step]) -> io::Result<Vec<i64>> {
    let (reader, mut writer) = io::pipe()?;
    // SAFETY: this process has one thread, so that the child may do what it could.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let done = live(name, steps).and_then(|answer| writer.write_all(&answer));
            // SAFETY: ends the child, without what the parent has registered for its own end.
            unsafe { libc::_exit(i32::from(done.is_err())) }
        }
        pid => {
            drop(writer);
            let ports = read_all(reader);
            // SAFETY: null is for those who do not want to know how it ended.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
            let mut answer = vec![pid.into()];
            answer.extend(ports?);
            Ok(answer)
        }
    }
}

fn live(name: &str, steps: &[Step]) -> io::Result<Vec<u8>> {
    let name = std::ffi::CString::new(name)?;
    rustix::thread::set_name(&name)?;
    let mut held = Held::default();
    let answer = serde_json::to_vec(&held.take_steps(steps))?;
    // They end with the process.
    std::mem::forget(held);
    Ok(answer)
}

fn read_all(mut reader: PipeReader) -> io::Result<Vec<i64>> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}
