//! Where connections are whose transitions the kernel side does not tell ([`Needs::no_steps`]).
//!
//! [`Needs::no_steps`]: crate::config::Needs::no_steps

use std::{
    io,
    os::fd::AsFd as _,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use aya::{
    Ebpf,
    maps::{Map, MapError},
};
use thiserror::Error;
use tracer_ebpf::{STEPS, Step};

use super::mapping::{Mapping, clear};
use crate::{decode, event::State, ledger};

const LENGTH: usize = STEPS as usize * size_of::<Step>();

/// The kernel side's map.
pub struct Steps(Mapping);

/// A [`Step`] that changes while it is looked at.
#[repr(C)]
struct Cell {
    sock: AtomicU64,
    ports: AtomicU32,
    state: AtomicU32,
}

const _: () = assert!(size_of::<Cell>() == size_of::<Step>());

#[derive(Debug, Error)]
pub enum Error {
    #[error("the object lacks the map STEPS")]
    Missing,
    #[error(transparent)]
    Map(#[from] MapError),
    #[error("the map STEPS can't be mapped into memory: {0}")]
    Memory(#[from] io::Error),
}

impl Steps {
    pub fn new(ebpf: &Ebpf) -> Result<Self, Error> {
        match ebpf.map("STEPS") {
            Some(Map::Array(map)) => Ok(Self(Mapping::to_write(map.fd().as_fd(), 0, LENGTH)?)),
            _ => Err(Error::Missing),
        }
    }

    fn cells(&self) -> &[Cell] {
        // SAFETY: the mapping is as long as that, and lives as long as this; all of it is atomic, any bytes are valid.
        unsafe { std::slice::from_raw_parts(self.0.start().cast().as_ptr(), STEPS as usize) }
    }
}

impl ledger::Steps for Steps {
    fn each(&self, tell: &mut dyn FnMut(u64, [u16; 2], State)) {
        for cell in self.cells() {
            // The kernel side sets the socket after the rest.
            let sock = cell.sock.load(Ordering::Acquire);
            if sock == 0 {
                continue;
            }
            let ports = cell.ports.load(Ordering::Relaxed);
            let state = cell.state.load(Ordering::Relaxed) as u8;
            if let Ok(state) = decode::state(state) {
                tell(sock, [(ports >> 16) as u16, ports as u16], state);
            }
        }
    }

    fn forget(&self, is_gone: &dyn Fn(u64) -> bool) {
        for cell in self.cells() {
            clear(&cell.sock, is_gone);
        }
    }
}
