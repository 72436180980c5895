//! Addresses that a call was given, in a `sockaddr`.

use tracer_ebpf::{AF_INET, Event};

use crate::sock::{Probe, Reader};

/// Where the address of a call can be read.
#[derive(Clone, Copy)]
pub(crate) enum Address {
    Kernel(u64),
    User(u64),
    /// Only what the socket itself still holds.
    Socket,
}

/// `sockaddr_in` and `sockaddr_in6` (include/uapi/linux/in.h, in6.h): where the parts are.
const PORT: u64 = 2;
const IPV4: u64 = 4;
const IPV6: u64 = 8;

/// Writes the destination that was asked for: the socket's own fields are not set, or cleared again.
#[inline(always)]
pub(crate) fn destination(event: &mut Event, address: Address) {
    let from = match address {
        Address::Socket => return,
        Address::Kernel(from) | Address::User(from) => from,
    };
    let user = matches!(address, Address::User(_));
    event.tuple.peer_port = u16::from_be(read(user, from + PORT));
    copy(
        event.tuple.family,
        user,
        from,
        event.tuple.peer.as_mut_ptr(),
    );
}

/// As [`destination`], the local address.
#[inline(always)]
pub(crate) fn source(event: &mut Event, address: Address) {
    let from = match address {
        Address::Socket => return,
        Address::Kernel(from) | Address::User(from) => from,
    };
    let user = matches!(address, Address::User(_));
    event.tuple.local_port = u16::from_be(read(user, from + PORT));
    copy(
        event.tuple.family,
        user,
        from,
        event.tuple.local.as_mut_ptr(),
    );
}

/// `to` is an address of a `Tuple`.
#[inline(always)]
fn copy(family: u16, user: bool, from: u64, to: *mut u8) {
    // SAFETY: it is 16 bytes long and aligned to 8.
    unsafe {
        if family == AF_INET {
            to.cast::<u32>().write(read(user, from + IPV4));
        } else {
            to.cast::<u64>().write(read(user, from + IPV6));
            to.add(8).cast::<u64>().write(read(user, from + IPV6 + 8));
        }
    }
}

#[inline(always)]
fn read<T: Copy + Default>(user: bool, from: u64) -> T {
    if !user {
        return Probe.read(from as *const u8, 0);
    }
    // SAFETY: the helper checks the address and fails on a bad one.
    unsafe { aya_ebpf::helpers::bpf_probe_read_user(from as *const T) }.unwrap_or_default()
}
