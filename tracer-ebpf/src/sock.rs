//! Reading a `struct sock` or a `struct inet_timewait_sock`, by typed loads where the program has a typed
//! pointer and through `bpf_probe_read_kernel` where it has not. The bodies are written once, over [`Reader`].

use core::{
    mem::MaybeUninit,
    ptr::{self, from_mut},
};

use aya_ebpf::helpers::generated::{
    bpf_get_socket_cookie, bpf_probe_read_kernel, bpf_skc_to_tcp_sock,
};
use tracer_ebpf::{
    AF_INET, AF_INET6, FACT_BIND_MODE, FACT_CONNECT_BIND, FACT_CONNECT_MODE, FACT_NO_CONNECT_BIND,
    FACT_TIMESTAMPS, Tuple, tcp,
};

use crate::{globals::*, maps::SCRATCH};

/// How a program reads kernel memory.
pub(crate) trait Reader: Copy {
    /// Reads a `T` at `base + offset`; zero where the memory can't be read.
    fn read<T: Copy + Default>(self, base: *const u8, offset: u32) -> T;

    /// The same of the `struct sock_common` at `sk`.
    #[inline(always)]
    fn common<T: Copy + Default>(self, sk: *const u8, offset: u32) -> T {
        self.read(sk, offset)
    }

    /// The address as a number to reckon with.
    #[inline(always)]
    fn address(self, sk: *const u8) -> u64 {
        sk.addr() as u64
    }

    /// The same socket as a `tcp_sock`, null if it is none.
    fn tcp(self, sk: *const u8) -> *const u8;

    /// The socket's cookie, 0 if the kernel has made none and can't be asked to.
    fn cookie(self, sk: *const u8) -> u64;

    /// `struct net` of the socket, read before anybody asks for it; 0: it is read by those who do.
    #[inline(always)]
    fn net_at_once(self, _sk: *const u8) -> u64 {
        0
    }

    /// The same for somebody who asks.
    #[inline(always)]
    fn net(self, sk: *const u8, _at_once: u64) -> u64 {
        self.common(sk, SOCK_COMMON_NET.load())
    }

    /// `inet_sport` of the `tcp_sock`, as [`net_at_once`](Self::net_at_once).
    #[inline(always)]
    fn port_at_once(self, _sk: *const u8, _tcp: *const u8) -> u16 {
        0
    }

    /// The same for somebody who asks.
    #[inline(always)]
    fn port(self, tcp: *const u8, _at_once: u16) -> u16 {
        self.read(tcp, INET_SOCK_SPORT.load())
    }
}

/// For pointers that the verifier knows by type: tp_btf and fexit arguments.
#[derive(Clone, Copy)]
pub(crate) struct Typed {
    /// Of `SCRATCH`.
    slot: u32,
}

impl Typed {
    pub(crate) const ANY: Self = Self { slot: 0 };
    /// For a program that any other one may interrupt.
    pub(crate) const OUTER: Self = Self { slot: 1 };
    /// For one that interrupts that one.
    pub(crate) const INNER: Self = Self { slot: 2 };
    /// For those that read a copy.
    const COPIED: Self = Self { slot: 3 };
}

impl Reader for Typed {
    #[inline(always)]
    fn read<T: Copy + Default>(self, base: *const u8, offset: u32) -> T {
        // SAFETY: the verifier rejects the program unless `offset` is inside the struct that
        // `base` points to; a load that faults yields zero. Volatile keeps its width.
        unsafe { base.add(offset as usize).cast::<T>().read_volatile() }
    }

    /// The verifier wants no arithmetic with typed pointers, and takes what comes out of a map for a number.
    #[inline(always)]
    fn address(self, sk: *const u8) -> u64 {
        let Some(scratch) = SCRATCH.get_ptr_mut(self.slot) else {
            return 0;
        };
        // SAFETY: this CPU's value, which no program that interrupts this one writes.
        unsafe {
            scratch.cast::<*const u8>().write_volatile(sk);
            scratch.read_volatile()
        }
    }

    #[inline(always)]
    fn tcp(self, sk: *const u8) -> *const u8 {
        // SAFETY: the verifier checks that `sk` is a socket.
        unsafe { bpf_skc_to_tcp_sock(sk.cast_mut().cast()).cast() }
    }

    #[inline(always)]
    fn cookie(self, sk: *const u8) -> u64 {
        let cookie = self.read(sk, SOCK_COMMON_COOKIE.load());
        if cookie != 0 || HAS_SOCKET_COOKIE.load() == 0 {
            return cookie;
        }
        // SAFETY: as above.
        unsafe { bpf_get_socket_cookie(sk.cast_mut().cast()) }
    }

    /// For each load that gives a pointer the verifier looks some names up in the kernel's BTF, one by one: 0.2 ms for each
    /// way that leads there (`btf_nested_type_is_trusted`, kernel/bpf/btf.c, since 6.4). At once, all ways are one.
    #[inline(always)]
    fn net_at_once(self, sk: *const u8) -> u64 {
        self.read(sk, SOCK_COMMON_NET.load())
    }

    #[inline(always)]
    fn net(self, _sk: *const u8, at_once: u64) -> u64 {
        at_once
    }
}

/// For plain addresses: kprobes, raw and classic tracepoints.
#[derive(Clone, Copy)]
pub(crate) struct Probe;

impl Reader for Probe {
    #[inline(always)]
    fn read<T: Copy + Default>(self, base: *const u8, offset: u32) -> T {
        let mut value = T::default();
        read_to(&mut value, base.wrapping_add(offset as usize));
        value
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

/// From any address; zeros if that is a bad one (`bpf_probe_read_kernel_common`, kernel/trace/bpf_trace.c).
#[inline(always)]
fn read_to<T: Copy>(to: &mut T, from: *const u8) {
    // SAFETY: `to` is writable for the size of a `T`; the helper checks the address.
    unsafe { bpf_probe_read_kernel(from_mut(to).cast(), size_of::<T>() as u32, from.cast()) };
}

/// The beginning of a socket at a plain address, read at once, which costs as much as a single field: so many words of its
/// `struct sock_common`.
pub(crate) struct Copied<const WORDS: usize>(MaybeUninit<[u64; WORDS]>);

impl<const WORDS: usize> Copied<WORDS> {
    const LEN: usize = WORDS * size_of::<u64>();

    #[inline(always)]
    pub(crate) fn of(sk: u64) -> Self {
        // Not zeroed, which is a call of `memset`: the helper writes all of it.
        let mut copied = Self(MaybeUninit::uninit());
        copied.update(sk);
        copied
    }

    /// Of another socket.
    #[inline(always)]
    pub(crate) fn update(&mut self, sk: u64) {
        read_to(&mut self.0, sk as *const u8);
    }

    #[inline(always)]
    pub(crate) fn get<T: Copy + Default>(&self, offset: u32) -> T {
        let start = self.0.as_ptr().cast::<u8>();
        // SAFETY: the verifier knows the offset, and rejects the program unless it is inside.
        unsafe { start.add(offset as usize).cast::<T>().read_volatile() }
    }
}

/// As [`Probe`], of a socket whose beginning has been copied.
#[derive(Clone, Copy)]
pub(crate) struct Beginning<'a, const WORDS: usize>(pub(crate) &'a Copied<WORDS>);

impl<const WORDS: usize> Reader for Beginning<'_, WORDS> {
    #[inline(always)]
    fn read<T: Copy + Default>(self, base: *const u8, offset: u32) -> T {
        Probe.read(base, offset)
    }

    #[inline(always)]
    fn common<T: Copy + Default>(self, sk: *const u8, offset: u32) -> T {
        if offset as usize + size_of::<T>() <= Copied::<WORDS>::LEN {
            self.0.get(offset)
        } else {
            Probe.read(sk, offset)
        }
    }

    #[inline(always)]
    fn tcp(self, sk: *const u8) -> *const u8 {
        sk
    }

    #[inline(always)]
    fn cookie(self, sk: *const u8) -> u64 {
        self.common(sk, SOCK_COMMON_COOKIE.load())
    }

    /// It may have come as a typed pointer.
    #[inline(always)]
    fn address(self, sk: *const u8) -> u64 {
        Typed::COPIED.address(sk)
    }

    /// It is asked for twice. As long as the socket holds a port, that is it.
    #[inline(always)]
    fn port_at_once(self, sk: *const u8, tcp: *const u8) -> u16 {
        match self.common::<u16>(sk, SOCK_COMMON_NUM.load()) {
            0 => self.read(tcp, INET_SOCK_SPORT.load()),
            held => held.to_be(),
        }
    }

    #[inline(always)]
    fn port(self, _tcp: *const u8, at_once: u16) -> u16 {
        at_once
    }
}

/// What full and timewait sockets share: both begin with a `struct sock_common`.
pub(crate) trait Common: Copy {
    type Reader: Reader;

    fn reader(self) -> Self::Reader;

    /// The `struct sock_common`.
    fn common(self) -> *const u8;

    fn cookie(self) -> u64;

    /// In host byte order.
    fn local_port(self) -> u16;

    /// In host byte order.
    #[inline(always)]
    fn peer_port(self) -> u16 {
        u16::from_be(self.field(SOCK_COMMON_DPORT.load()))
    }

    /// The port that it holds itself, in host byte order; 0 if none.
    fn held(self) -> u16;

    /// [`key`](Self::key) to reckon with.
    #[inline(always)]
    fn address(self) -> u64 {
        self.reader().address(self.common())
    }

    /// The key of this socket in the maps.
    #[inline(always)]
    fn key(self) -> u64 {
        self.common().addr() as u64
    }

    #[inline(always)]
    fn field<T: Copy + Default>(self, offset: u32) -> T {
        self.reader().common(self.common(), offset)
    }

    #[inline(always)]
    fn family(self) -> u16 {
        self.field(SOCK_COMMON_FAMILY.load())
    }

    /// `struct net` of the socket.
    #[inline(always)]
    fn net(self) -> u64 {
        self.field(SOCK_COMMON_NET.load())
    }

    /// Inode number of the network namespace.
    #[inline(always)]
    fn netns(self) -> u32 {
        self.reader().read(self.net() as *const u8, NET_INUM.load())
    }

    /// Writes the 4-tuple to a zeroed `tuple`.
    #[inline(always)]
    fn tuple(self, tuple: &mut Tuple) {
        let family = self.family();
        tuple.family = family;
        tuple.held = self.held();
        tuple.local_port = self.local_port();
        tuple.peer_port = self.peer_port();
        if family == AF_INET {
            ipv4(self, SOCK_COMMON_RCV_SADDR.load(), &mut tuple.local);
            ipv4(self, SOCK_COMMON_DADDR.load(), &mut tuple.peer);
        } else if family == AF_INET6 {
            ipv6(self, SOCK_COMMON_V6_RCV_SADDR.load(), &mut tuple.local);
            ipv6(self, SOCK_COMMON_V6_DADDR.load(), &mut tuple.peer);
        }
    }
}

#[inline(always)]
fn ipv4<C: Common>(sock: C, offset: u32, to: &mut [u8; 16]) {
    let address: u32 = sock.field(offset);
    // SAFETY: both addresses of a `Tuple` are aligned to 8 bytes and 16 bytes long.
    unsafe { to.as_mut_ptr().cast::<u32>().write(address) };
}

#[inline(always)]
fn ipv6<C: Common>(sock: C, offset: u32, to: &mut [u8; 16]) {
    let high: u64 = sock.field(offset);
    let low: u64 = sock.field(offset + 8);
    let to = to.as_mut_ptr().cast::<u64>();
    // SAFETY: as in `ipv4`.
    unsafe {
        to.write(high);
        to.add(1).write(low);
    }
}

/// A TCP socket as the hooks pass it on: the same object under the two types whose fields we read. Of one that is brief
/// only those that a `struct sock` has, and of its ports the one that it holds.
#[derive(Clone, Copy)]
pub(crate) struct Sock<R> {
    reader: R,
    sk: *const u8,
    /// Null: it is brief.
    tcp: *const u8,
    /// See [`Reader::net_at_once`].
    net: u64,
    /// See [`Reader::port_at_once`].
    port: u16,
}

impl<R: Reader> Sock<R> {
    /// `None` if `sk` is not a TCP socket; `Probe` callers check the protocol themselves.
    #[inline(always)]
    pub(crate) fn new(reader: R, sk: *const u8) -> Option<Self> {
        Self::brief(reader, sk).whole()
    }

    /// Of a socket that is known to be a TCP socket.
    #[inline(always)]
    pub(crate) fn brief(reader: R, sk: *const u8) -> Self {
        Self {
            reader,
            sk,
            tcp: ptr::null(),
            net: reader.net_at_once(sk),
            port: 0,
        }
    }

    /// As [`new`](Self::new).
    #[inline(always)]
    pub(crate) fn whole(self) -> Option<Self> {
        let tcp = self.reader.tcp(self.sk);
        if tcp.is_null() {
            return None;
        }
        Some(Self {
            tcp,
            port: self.reader.port_at_once(self.sk, tcp),
            ..self
        })
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

    /// `sk_lock.owned`: a system call works on it.
    #[inline(always)]
    pub(crate) fn is_locked(self) -> bool {
        self.reader.read::<i32>(self.sk, SOCK_LOCK_OWNED.load()) != 0
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

    /// `sk_state`.
    #[inline(always)]
    pub(crate) fn state(self) -> u8 {
        self.field(SOCK_COMMON_STATE.load())
    }

    /// `sk_flags`: bits of `enum sock_flags` (include/net/sock.h).
    #[inline(always)]
    pub(crate) fn flags(self) -> u64 {
        self.field(SOCK_COMMON_FLAGS.load())
    }

    /// `tcp_sock.linger2`: negative if no FIN_WAIT2 is wanted (TCP_LINGER2).
    #[inline(always)]
    pub(crate) fn linger2(self) -> i32 {
        self.reader.read(self.tcp, TCP_SOCK_LINGER2.load())
    }

    /// FACT_TIMESTAMPS, or 0. `tcp_sock.rx_opt.ts_recent_stamp`: when the peer's timestamp was last taken down, 0 if it
    /// sends none. A listener has something else there (`tcp_synq_overflow`, include/net/tcp.h).
    #[inline(always)]
    pub(crate) fn timestamps(self) -> u32 {
        let stamp: u32 = self.reader.read(self.tcp, TCP_SOCK_TS_RECENT_STAMP.load());
        u32::from(stamp != 0) * FACT_TIMESTAMPS
    }

    /// `inet_sock.local_port_range`: 0 the lower end, 1 the upper one. Two members, or, since 6.8, the halves of one.
    #[inline(always)]
    pub(crate) fn range_end(self, end: u32) -> u16 {
        self.reader
            .read(self.tcp, INET_SOCK_PORT_RANGE.load() + 2 * end)
    }

    /// Bytes of payload sent, not counting what was sent again (`bytes_sent` and `bytes_retrans`, since 4.19).
    #[inline(always)]
    pub(crate) fn bytes_sent(self) -> u64 {
        let sent: u64 = self.reader.read(self.tcp, TCP_SOCK_BYTES_SENT.load());
        let again: u64 = self.reader.read(self.tcp, TCP_SOCK_BYTES_RETRANS.load());
        sent.wrapping_sub(again)
    }

    /// Bytes of payload received in order: the kernel counts the peer's FIN as one (`tcp_rcv_nxt_update`), and
    /// `tcp_fin` marks the socket SOCK_DONE (both net/ipv4/tcp_input.c).
    #[inline(always)]
    pub(crate) fn bytes_received(self) -> u64 {
        let received: u64 = self.reader.read(self.tcp, TCP_SOCK_BYTES_RECEIVED.load());
        if self.flags() & SOCK_DONE != 0 {
            received.saturating_sub(1)
        } else {
            received
        }
    }
}

/// `enum sock_flags`: orphaned; the peer has sent its FIN.
pub(crate) const SOCK_DEAD: u64 = 1 << 0;
pub(crate) const SOCK_DONE: u64 = 1 << 1;

/// `sk_userlocks`: `connect()` chose the port (include/net/sock.h, since 6.18).
const SOCK_CONNECT_BIND: u8 = 0x10;

impl Sock<Probe> {
    /// `Event::facts` of a socket in a dump.
    #[inline(always)]
    pub(crate) fn facts(self) -> u32 {
        let bucket: u64 = self.field(CONNECTION_SOCK_BIND_HASH.load());
        let locks: u8 = self.field(SOCK_USERLOCKS.load());
        let timestamps = if self.state() == tcp::LISTEN {
            0
        } else {
            self.timestamps()
        };
        timestamps | mode(bucket, self.local_port()) | connect_bind(locks & SOCK_CONNECT_BIND)
    }
}

/// What the kernel keeps of a port, `struct inet_bind_bucket`. It may be gone meanwhile, and the memory another
/// port's. Both members are negative as long as only `connect()` chooses it (`__inet_hash_connect`).
#[inline(always)]
fn mode(bucket: u64, port: u16) -> u32 {
    let bucket = bucket as *const u8;
    if bucket.is_null() || Probe.read::<u16>(bucket, BIND_BUCKET_PORT.load()) != port {
        return 0;
    }
    let reuse: i8 = Probe.read(bucket, BIND_BUCKET_FASTREUSE.load());
    let reuse_port: i8 = Probe.read(bucket, BIND_BUCKET_FASTREUSEPORT.load());
    if reuse & reuse_port < 0 {
        FACT_CONNECT_MODE
    } else {
        FACT_BIND_MODE
    }
}

/// Where the kernel has a bit for it.
#[inline(always)]
fn connect_bind(bit: u8) -> u32 {
    if TIMEWAIT_CONNECT_BIND.load() == 0 {
        FACT_NO_CONNECT_BIND
    } else {
        u32::from(bit != 0) * FACT_CONNECT_BIND
    }
}

impl<R: Reader> Common for Sock<R> {
    type Reader = R;

    #[inline(always)]
    fn reader(self) -> R {
        self.reader
    }

    #[inline(always)]
    fn common(self) -> *const u8 {
        self.sk
    }

    #[inline(always)]
    fn cookie(self) -> u64 {
        self.reader.cookie(self.sk)
    }

    #[inline(always)]
    fn net(self) -> u64 {
        self.reader.net(self.sk, self.net)
    }

    /// `inet_sport`. Unlike `skc_num` it outlives the release of the port (`inet_put_port` in
    /// net/ipv4/inet_hashtables.c clears the latter only).
    #[inline(always)]
    fn local_port(self) -> u16 {
        if self.tcp.is_null() {
            return self.held();
        }
        u16::from_be(self.reader.port(self.tcp, self.port))
    }

    /// Never from a copy: the port is given back before the transition to CLOSE is told, so a record that comes after that
    /// one must not have it.
    #[inline(always)]
    fn held(self) -> u16 {
        self.reader.read(self.sk, SOCK_COMMON_NUM.load())
    }
}

/// A `struct inet_timewait_sock`: what the kernel keeps of a connection in FIN_WAIT2 without a process, or in
/// TIME_WAIT.
#[derive(Clone, Copy)]
pub(crate) struct TimeWait<R> {
    reader: R,
    tw: *const u8,
}

impl<R: Reader> TimeWait<R> {
    #[inline(always)]
    pub(crate) fn new(reader: R, tw: *const u8) -> Self {
        Self { reader, tw }
    }

    /// `tw_substate`: FIN_WAIT2 or TIME_WAIT, while `skc_state` is TIME_WAIT for both.
    #[inline(always)]
    pub(crate) fn substate(self) -> u8 {
        self.field(TIMEWAIT_SUBSTATE.load())
    }

    /// [`substate`](Self::substate) and [`local_port`](Common::local_port), at the price of one where they lie close
    /// together.
    #[inline(always)]
    pub(crate) fn substate_and_port(self) -> (u8, u16) {
        const ROOM: u32 = (size_of::<u64>() - size_of::<u16>()) as u32;
        let distance = TIMEWAIT_SPORT.load().wrapping_sub(TIMEWAIT_SUBSTATE.load());
        if distance > ROOM {
            return (self.substate(), self.local_port());
        }
        let both = u64::from_le(self.field(TIMEWAIT_SUBSTATE.load()));
        // The port is big-endian.
        let port = ((both >> (8 * distance)) as u16).swap_bytes();
        (both as u8, port)
    }
}

impl TimeWait<Probe> {
    /// When its timer is due, in jiffies.
    #[inline(always)]
    pub(crate) fn expires(self) -> u64 {
        self.field(TIMEWAIT_TIMER.load() + TIMER_EXPIRES.load())
    }

    /// `Event::facts` of a timewait socket in a dump.
    #[inline(always)]
    pub(crate) fn facts(self) -> u32 {
        let stamp: u32 = self.field(TIMEWAIT_TS_RECENT_STAMP.load());
        let bucket: u64 = self.field(TIMEWAIT_BIND_BUCKET.load());
        let place = TIMEWAIT_CONNECT_BIND.load();
        let byte: u8 = self.field(place / 8);
        let timestamps = u32::from(stamp != 0) * FACT_TIMESTAMPS;
        timestamps | mode(bucket, self.local_port()) | connect_bind(byte >> (place % 8) & 1)
    }

    /// The function that its timer calls, the same for every timewait socket.
    #[inline(always)]
    pub(crate) fn timer_function(self) -> u64 {
        self.field(TIMEWAIT_TIMER.load() + TIMER_FUNCTION.load())
    }
}

impl<R: Reader> Common for TimeWait<R> {
    type Reader = R;

    #[inline(always)]
    fn reader(self) -> R {
        self.reader
    }

    #[inline(always)]
    fn common(self) -> *const u8 {
        self.tw
    }

    /// That of the socket whose place it took (`inet_twsk_alloc`, net/ipv4/inet_timewait_sock.c).
    #[inline(always)]
    fn cookie(self) -> u64 {
        self.field(SOCK_COMMON_COOKIE.load())
    }

    #[inline(always)]
    fn local_port(self) -> u16 {
        u16::from_be(self.field(TIMEWAIT_SPORT.load()))
    }

    /// Its port is that of its tuple.
    #[inline(always)]
    fn held(self) -> u16 {
        0
    }
}
