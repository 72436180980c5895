//! The operations of an actor. Sockets are named by their descriptor.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Op {
    /// Answers the descriptor.
    Socket {
        v6: bool,
    },
    UdpSocket {
        v6: bool,
    },
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
    /// Answers how many bytes came before the end.
    ReadToEnd {
        fd: i64,
    },
    /// Gives the socket to a new process, which holds it until the peer closes; answers its pid.
    HandOver {
        fd: i64,
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
}
