//! Addresses that a call was given, in a `sockaddr`.

use tracer_ebpf::{AF_INET, Event};

use crate::sock::{Probe, Reader};

/// Where the address of a call can be read. No `enum`: the verifier refuses to copy what a variant leaves unset.
#[derive(Clone, Copy)]
pub(crate) struct Address {
    /// 0: there is only what the socket itself still holds.
    at: u64,
    is_user: bool,
}

impl Address {
    pub(crate) const OF_SOCKET: Self = Self {
        at: 0,
        is_user: false,
    };

    #[inline(always)]
    pub(crate) fn kernel(at: u64) -> Self {
        Self { at, is_user: false }
    }

    #[inline(always)]
    pub(crate) fn user(at: u64) -> Self {
        Self { at, is_user: true }
    }

    #[inline(always)]
    pub(crate) fn is_of_socket(self) -> bool {
        self.at == 0
    }

    /// What is at an offset of the `sockaddr`.
    #[inline(always)]
    fn read<T: Copy + Default>(self, offset: u64) -> T {
        let from = self.at + offset;
        if !self.is_user {
            return Probe.read(from as *const u8, 0);
        }
        // SAFETY: the helper checks the address and fails on a bad one.
        unsafe { aya_ebpf::helpers::bpf_probe_read_user(from as *const T) }.unwrap_or_default()
    }
}

/// `sockaddr_in` and `sockaddr_in6` (include/uapi/linux/in.h, in6.h): where the parts are.
const PORT: u64 = 2;
const IPV4: u64 = 4;
const IPV6: u64 = 8;

/// Writes the destination that was asked for: the socket's own fields are not set, or cleared again.
#[inline(always)]
pub(crate) fn destination(event: &mut Event, address: Address) {
    if !address.is_of_socket() {
        event.tuple.peer_port = u16::from_be(address.read(PORT));
        copy(event.tuple.family, address, event.tuple.peer.as_mut_ptr());
    }
}

/// As [`destination`], the local address.
#[inline(always)]
pub(crate) fn source(event: &mut Event, address: Address) {
    if !address.is_of_socket() {
        event.tuple.local_port = u16::from_be(address.read(PORT));
        copy(event.tuple.family, address, event.tuple.local.as_mut_ptr());
    }
}

/// `to` is an address of a `Tuple`.
#[inline(always)]
fn copy(family: u16, address: Address, to: *mut u8) {
    // SAFETY: it is 16 bytes long and aligned to 8.
    unsafe {
        if family == AF_INET {
            to.cast::<u32>().write(address.read(IPV4));
        } else {
            to.cast::<u64>().write(address.read(IPV6));
            to.add(8).cast::<u64>().write(address.read(IPV6 + 8));
        }
    }
}
