//! Reading a `struct sock`, by typed loads where the program has a typed pointer and through
//! `bpf_probe_read_kernel` where it has not. The bodies are written once, over [`Reader`].

use aya_ebpf::helpers::{
    bpf_probe_read_kernel,
    generated::{bpf_get_socket_cookie, bpf_skc_to_tcp_sock},
};
use tracer_ebpf::{AF_INET, AF_INET6, Tuple};

use crate::globals::*;

/// How a program reads kernel memory.
pub(crate) trait Reader: Copy {
    /// Reads a `T` at `base + offset`; zero where the memory can't be read.
    fn read<T: Copy + Default>(self, base: *const u8, offset: u32) -> T;

    /// The same socket as a `tcp_sock`, null if it is none.
    fn tcp(self, sk: *const u8) -> *const u8;

    /// The socket's cookie, 0 if the kernel has made none and can't be asked to.
    fn cookie(self, sk: *const u8) -> u64;
}

/// For pointers that the verifier knows by type: tp_btf and fexit arguments.
#[derive(Clone, Copy)]
pub(crate) struct Typed;

impl Reader for Typed {
    #[inline(always)]
    fn read<T: Copy + Default>(self, base: *const u8, offset: u32) -> T {
        // SAFETY: the verifier rejects the program unless `offset` is inside the struct that
        // `base` points to; a load that faults yields zero. Volatile keeps its width.
        unsafe { base.add(offset as usize).cast::<T>().read_volatile() }
    }

    #[inline(always)]
    fn tcp(self, sk: *const u8) -> *const u8 {
        // SAFETY: the verifier checks that `sk` is a socket.
        unsafe { bpf_skc_to_tcp_sock(sk.cast_mut().cast()).cast() }
    }

    #[inline(always)]
    fn cookie(self, sk: *const u8) -> u64 {
        if HAS_SOCKET_COOKIE.load() == 0 {
            return self.read(sk, SOCK_COMMON_COOKIE.load());
        }
        // SAFETY: as above.
        unsafe { bpf_get_socket_cookie(sk.cast_mut().cast()) }
    }
}

/// For plain addresses: kprobes, raw and classic tracepoints.
#[derive(Clone, Copy)]
pub(crate) struct Probe;

impl Reader for Probe {
    #[inline(always)]
    fn read<T: Copy + Default>(self, base: *const u8, offset: u32) -> T {
        // SAFETY: the helper checks the address and fails on a bad one.
        unsafe { bpf_probe_read_kernel(base.wrapping_add(offset as usize).cast::<T>()) }
            .unwrap_or_default()
    }

    #[inline(always)]
    fn tcp(self, sk: *const u8) -> *const u8 {
        sk
    }

    #[inline(always)]
    fn cookie(self, sk: *const u8) -> u64 {
        self.read(sk, SOCK_COMMON_COOKIE.load())
    }
}

/// A TCP socket as the hooks pass it on: the same object under the two types whose fields we read.
#[derive(Clone, Copy)]
pub(crate) struct Sock<R> {
    reader: R,
    sk: *const u8,
    tcp: *const u8,
}

impl<R: Reader> Sock<R> {
    /// `None` if `sk` is not a TCP socket; `Probe` callers check the protocol themselves.
    #[inline(always)]
    pub(crate) fn new(reader: R, sk: *const u8) -> Option<Self> {
        let tcp = reader.tcp(sk);
        if tcp.is_null() {
            return None;
        }
        Some(Self { reader, sk, tcp })
    }

    /// The key of this socket in the maps.
    #[inline(always)]
    pub(crate) fn key(self) -> u64 {
        self.sk.addr() as u64
    }

    #[inline(always)]
    pub(crate) fn cookie(self) -> u64 {
        self.reader.cookie(self.sk)
    }

    #[inline(always)]
    pub(crate) fn family(self) -> u16 {
        self.reader.read(self.sk, SOCK_COMMON_FAMILY.load())
    }

    /// `sk_err`: why the connection ended, a positive errno; 0 while there is no error.
    #[inline(always)]
    pub(crate) fn err(self) -> i32 {
        self.reader.read(self.sk, SOCK_ERR.load())
    }

    /// `sk_shutdown`: not 0 once this end has called `shutdown()` or `close()`.
    #[inline(always)]
    pub(crate) fn shutdown(self) -> u8 {
        self.reader.read(self.sk, SOCK_SHUTDOWN.load())
    }

    /// `tcp_sock.packets_out`: not 0 once a SYN is under way.
    #[inline(always)]
    pub(crate) fn packets_out(self) -> u32 {
        self.reader.read(self.tcp, TCP_SOCK_PACKETS_OUT.load())
    }

    /// `tcp_sock.write_seq`: set once a port is taken, if it was 0 (`tcp_v4_connect`).
    #[inline(always)]
    pub(crate) fn write_seq(self) -> u32 {
        self.reader.read(self.tcp, TCP_SOCK_WRITE_SEQ.load())
    }

    /// `tcp_sock.rx_opt.mss_clamp`: 0 until an attempt to connect looks for a port, which sets it right before
    /// (`tcp_v4_connect` and `tcp_v6_connect`); `connect()` with AF_UNSPEC clears it.
    #[inline(always)]
    pub(crate) fn mss_clamp(self) -> u16 {
        self.reader.read(self.tcp, TCP_SOCK_MSS_CLAMP.load())
    }

    /// `inet_sport` in host byte order. Unlike `skc_num` it outlives the release of the port
    /// (`inet_put_port` in net/ipv4/inet_hashtables.c clears the latter only).
    #[inline(always)]
    pub(crate) fn local_port(self) -> u16 {
        u16::from_be(self.reader.read(self.tcp, INET_SOCK_SPORT.load()))
    }

    /// Inode number of the network namespace.
    #[inline(always)]
    pub(crate) fn netns(self) -> u32 {
        let net: u64 = self.reader.read(self.sk, SOCK_COMMON_NET.load());
        self.reader.read(net as *const u8, NET_INUM.load())
    }

    /// Writes the 4-tuple to a zeroed `tuple`.
    #[inline(always)]
    pub(crate) fn tuple(self, tuple: &mut Tuple) {
        let family = self.family();
        tuple.family = family;
        tuple.local_port = self.local_port();
        tuple.peer_port = u16::from_be(self.reader.read(self.sk, SOCK_COMMON_DPORT.load()));
        if family == AF_INET {
            self.ipv4(SOCK_COMMON_RCV_SADDR.load(), &mut tuple.local);
            self.ipv4(SOCK_COMMON_DADDR.load(), &mut tuple.peer);
        } else if family == AF_INET6 {
            self.ipv6(SOCK_COMMON_V6_RCV_SADDR.load(), &mut tuple.local);
            self.ipv6(SOCK_COMMON_V6_DADDR.load(), &mut tuple.peer);
        }
    }

    #[inline(always)]
    fn ipv4(self, offset: u32, to: &mut [u8; 16]) {
        let address: u32 = self.reader.read(self.sk, offset);
        // SAFETY: both addresses of a `Tuple` are aligned to 8 bytes and 16 bytes long.
        unsafe { to.as_mut_ptr().cast::<u32>().write(address) };
    }

    #[inline(always)]
    fn ipv6(self, offset: u32, to: &mut [u8; 16]) {
        let high: u64 = self.reader.read(self.sk, offset);
        let low: u64 = self.reader.read(self.sk, offset + 8);
        let to = to.as_mut_ptr().cast::<u64>();
        // SAFETY: as in `ipv4`.
        unsafe {
            to.write(high);
            to.add(1).write(low);
        }
    }
}
