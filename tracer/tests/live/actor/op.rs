//! The operations of an actor. Sockets are named by their descriptor.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{
    churn::Ground,
    mix::{Fill, Step},
};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Op {
    /// Answers the descriptor.
    Socket {
        v6: bool,
    },
    UdpSocket {
        v6: bool,
    },
    /// Of IPPROTO_TCP.
    RawSocket,
    ReuseAddress {
        fd: i64,
    },
    Nonblocking {
        fd: i64,
    },
    /// `close()` sends a reset.
    LingerZero {
        fd: i64,
    },
    Bind {
        fd: i64,
        addr: SocketAddr,
    },
    /// `setsockopt()` of a number.
    Option {
        fd: i64,
        level: i32,
        name: i32,
        value: u32,
    },
    Listen {
        fd: i64,
        backlog: i32,
    },
    /// Answers the new descriptor.
    Accept {
        fd: i64,
    },
    Connect {
        fd: i64,
        to: SocketAddr,
    },
    /// Many in a row, each on a socket of its own that is closed at once when it failed.
    /// Answers one code each; the sockets that connected stay open.
    ConnectMany {
        v6: bool,
        to: SocketAddr,
        times: u32,
    },
    /// Answers the thread's id and the result.
    ConnectInThread {
        fd: i64,
        to: SocketAddr,
        name: String,
    },
    /// `connect()` with `AF_UNSPEC`.
    Disconnect {
        fd: i64,
    },
    /// The end of a connect in progress.
    Finish {
        fd: i64,
    },
    /// `sendto()` with `MSG_FASTOPEN`, which connects.
    FastOpen {
        fd: i64,
        to: SocketAddr,
    },
    /// All connects in one submission. `punt` has them done by a worker thread of the kernel.
    /// Answers one result each.
    Uring {
        connects: Vec<(i64, SocketAddr)>,
        punt: bool,
    },
    /// `bind()` by io_uring.
    UringBind {
        fd: i64,
        addr: SocketAddr,
    },
    ShutdownWrite {
        fd: i64,
    },
    Send {
        fd: i64,
    },
    /// So many bytes, all of them.
    Write {
        fd: i64,
        bytes: usize,
    },
    /// So many bytes, all of them.
    Read {
        fd: i64,
        bytes: usize,
    },
    /// Answers how many bytes came before the end.
    ReadToEnd {
        fd: i64,
    },
    /// Gives the socket to a new process, which holds it until the peer closes; answers its pid.
    HandOver {
        fd: i64,
    },
    /// Takes another name, of any bytes.
    Rename {
        name: Vec<u8>,
    },
    /// Moves to another network namespace; the sockets stay where they were made.
    Enter {
        netns: String,
    },
    LocalPort {
        fd: i64,
    },
    Close {
        fd: i64,
    },
    /// Connects that nobody answers; answers how many were refused.
    Refused {
        to: SocketAddr,
        times: u64,
    },
    /// Connections in turn, every other one closed here first; answers how many came about.
    Exchange {
        to: SocketAddr,
        times: u32,
    },
    /// The other side of `Exchange`, in the background.
    ServeExchange {
        fd: i64,
        times: u32,
    },
    /// Burns the CPUs in the background.
    Spin {
        threads: usize,
    },
    /// Answers HTTP requests in the background and leaves it to the client to close.
    ServeHttp {
        fd: i64,
    },
    /// Answers the status code.
    Get {
        to: SocketAddr,
    },
    /// Does in the background what the first byte of each connection says.
    ServeOrders {
        fd: i64,
    },
    /// Starts the process that takes sockets; answers its pid.
    Taker,
    /// Gives that process a descriptor of the socket too; with `serve` to obey orders there.
    Give {
        fd: i64,
        serve: bool,
    },
    /// So many random steps; answers how many succeeded.
    Churn {
        ground: Ground,
        seed: u64,
        steps: u32,
    },
    /// Answers what the churn holds by `bind()` alone, each as a [`Held`].
    Held,
    /// Answers the pids of those that have ever had descriptors of the churn's sockets too.
    Heirs,
    /// As `ServeOrders`, and what is to be kept is kept as long as the process lives.
    ServeAndKeep {
        fd: i64,
    },
    /// Takes ports; `dies` names a child that does it and then ends. Answers the pid, and for each step the port.
    Hold {
        steps: Vec<Step>,
        dies: Option<String>,
    },
    /// Connects until one fails. Answers the first error, or 0, and the ports of the others, which stay open.
    Fill(Fill),
    /// Closes all that `Hold` and `Fill` opened.
    LetGo,
    /// Connects that are to fail, for so long, by so many threads, so many per second of all. Answers how many
    /// failed for the lack of a port, and how many ended otherwise.
    Storm {
        to: SocketAddr,
        threads: u32,
        rate: u32,
        millis: u64,
    },
    /// Processes that live for one connection each; answers pid and port of each.
    Brood {
        to: SocketAddr,
        times: u32,
    },
}

/// An address of the loopback interface, as a number of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held(pub SocketAddr);

impl Held {
    pub(super) fn to_number(self) -> i64 {
        let (kind, last) = match self.0.ip() {
            IpAddr::V4(ip) => (0, ip.octets()[3]),
            IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
                Some(ip) => (1, ip.octets()[3]),
                None => (2, 0),
            },
        };
        kind << 32 | i64::from(last) << 16 | i64::from(self.0.port())
    }

    pub(crate) fn from_number(number: i64) -> Option<Self> {
        let [port, last, kind] = [0, 16, 32].map(|shift| number >> shift & 0xffff);
        let v4 = Ipv4Addr::new(127, 0, 0, u8::try_from(last).ok()?);
        let ip = match kind {
            0 => v4.into(),
            1 => v4.to_ipv6_mapped().into(),
            2 => Ipv6Addr::LOCALHOST.into(),
            _ => return None,
        };
        Some(Self(SocketAddr::new(ip, u16::try_from(port).ok()?)))
    }
}
