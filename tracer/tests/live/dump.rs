//! What the kernel itself says of the TCP sockets of a namespace, by sock_diag.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    sync::LazyLock,
};

use anyhow::{Context as _, Result, bail};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, SOCK_DESTROY},
    inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags, Timer},
};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use rustix::io::Errno;
use socket2::{Domain, Type};

use crate::{lines::SocketSeen, netns::Netns};

/// Bound sockets that neither listen nor connect (`TCP_BOUND_INACTIVE`, since 6.8); older kernels ignore it.
const BOUND_INACTIVE: u32 = 1 << 13;

/// By the kernel's number, under the names of `ss`.
const STATES: [&str; 12] = [
    "?",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
];

/// A socket or timewait socket.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub family: &'static str,
    pub state: &'static str,
    pub local: SocketAddr,
    pub peer: SocketAddr,
    pub timewait: bool,
    pub cookie: u64,
    /// 0: no descriptor was ever made of it, or the last one is closed.
    pub inode: u32,
    id: SocketId,
}

impl Row {
    fn new(header: InetResponseHeader) -> Self {
        let id = header.socket_id;
        let at = |ip: IpAddr, port| SocketAddr::new(ip.to_canonical(), port);
        Self {
            family: if header.family == AF_INET6 {
                "ipv6"
            } else {
                "ipv4"
            },
            state: STATES.get(usize::from(header.state)).unwrap_or(&"?"),
            local: at(id.source_address, id.source_port),
            peer: at(id.destination_address, id.destination_port),
            timewait: header.timer == Some(Timer::TimeWait),
            cookie: u64::from_ne_bytes(id.cookie),
            inode: header.inode,
            id,
        }
    }

    /// Whether this is the socket that the tracer speaks of. The kernel makes a cookie when it is first asked for
    /// one, and before 5.12 the tracer can't ask.
    pub(crate) fn is(&self, seen: &SocketSeen) -> bool {
        match &seen.cookie {
            Some(cookie) => *cookie == self.cookie.to_string(),
            None => {
                let ends = [(self.local, &seen.local), (self.peer, &seen.peer)];
                ends.into_iter().all(|(ours, theirs)| {
                    ours.ip().to_canonical().to_string() == theirs.ip
                        && ours.port() == theirs.port.unwrap_or_default()
                })
            }
        }
    }

    /// Whether the process has a descriptor of it.
    pub(crate) fn is_open_in(&self, pid: u32) -> bool {
        let link = format!("socket:[{}]", self.inode);
        let fds = fs::read_dir(format!("/proc/{pid}/fd"));
        let mut fds = fds.into_iter().flatten().flatten();
        self.inode != 0
            && fds.any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == &*link))
    }

    fn raw_family(&self) -> u8 {
        if self.id.source_address.is_ipv6() {
            AF_INET6
        } else {
            AF_INET
        }
    }
}

/// All sockets, of both families. Connection requests are not sockets yet, and left out.
pub(crate) fn dump(netns: &Netns) -> Result<Vec<Row>> {
    netns.run(|| {
        let mut rows = Vec::new();
        for family in [AF_INET, AF_INET6] {
            rows.extend(dump_family(family).context("no dump by sock_diag")?);
        }
        rows.retain(|row| row.state != "SYN_RECV");
        Ok(rows)
    })
}

/// Whether this kernel's dumps have bound sockets that neither listen nor connect.
pub(crate) fn lists_bound() -> bool {
    static LISTS: LazyLock<bool> = LazyLock::new(|| {
        let listed = || -> Result<bool> {
            let netns = Netns::new()?;
            let _bound = netns.run(|| {
                let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None)?;
                socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
                Ok(socket)
            })?;
            Ok(dump(&netns)?.iter().any(|row| row.state == "CLOSE"))
        };
        listed().unwrap_or(false)
    });
    *LISTS
}

/// Ends a socket as an administrator does (`ss -K`). Not every kernel can, and it may be gone meanwhile.
pub(crate) fn destroy(netns: &Netns, row: &Row) -> Result<Result<(), Errno>> {
    let request = request(row.raw_family(), StateFlags::all(), row.id.clone());
    netns.run(|| {
        let socket = send(SOCK_DESTROY, NLM_F_ACK, request)?;
        let (bytes, _) = socket.recv_from_full()?;
        match parse(&bytes)?.payload {
            NetlinkPayload::Error(error) => Ok(match error.raw_code() {
                0 => Ok(()),
                code => Err(Errno::from_raw_os_error(-code)),
            }),
            other => bail!("the answer to SOCK_DESTROY is {other:?}"),
        }
    })
}

fn dump_family(family: u8) -> Result<Vec<Row>> {
    let any = if family == AF_INET6 {
        SocketId::new_v6()
    } else {
        SocketId::new_v4()
    };
    let states = StateFlags::from_bits_retain(StateFlags::all().bits() | BOUND_INACTIVE);
    // What goes for one type of messages, `SOCK_DIAG_BY_FAMILY`, is the default.
    let request = request(family, states, any);
    let socket = send(request.message_type(), NLM_F_DUMP, request)?;
    let mut rows = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let message = parse(rest)?;
            let length = usize::try_from(message.header.length)?.next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    rows.push(Row::new(response.header));
                }
                NetlinkPayload::Done(_) => return Ok(rows),
                other => bail!("a dump contains {other:?}"),
            }
        }
    }
}

fn request(family: u8, states: StateFlags, socket_id: SocketId) -> SockDiagMessage {
    SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id,
    })
}

fn send(kind: u16, flags: u16, request: SockDiagMessage) -> Result<Socket> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, request.into());
    message.finalize();
    message.header.message_type = kind;
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.send_to(&bytes, &netlink_sys::SocketAddr::new(0, 0), 0)?;
    Ok(socket)
}

fn parse(bytes: &[u8]) -> Result<NetlinkMessage<SockDiagMessage>> {
    NetlinkMessage::deserialize(bytes).context("sock_diag's answer is not understood")
}
