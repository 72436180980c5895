//! How many instructions each BPF program has, and how many the verifier went through on its way: recorded beside the
//! object, so that no change makes the kernel side dearer unnoticed.

mod count;

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{read, write};

const FILE: &str = "instructions.json";

/// By program.
pub(crate) type Counts = BTreeMap<String, u64>;

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Instructions {
    /// Of the object: each program with the functions that it calls.
    object: Counts,
    /// By series of kernels (6.12): `verified_insns` of `struct bpf_prog_info`, which is there since 5.16. The live trial
    /// `tool::instructions` compares.
    verified: BTreeMap<String, Counts>,
}

impl Instructions {
    pub(crate) fn read() -> Result<Self> {
        read(FILE)
    }

    pub(crate) fn write(&self) -> Result<()> {
        write(FILE, self)
    }

    /// Those of another object.
    pub(crate) fn set_object(&mut self, object: &[u8]) -> Result<()> {
        self.object = count::count(object)?;
        Ok(())
    }

    /// What a kernel of each series said.
    pub(crate) fn set_verified(&mut self, verified: BTreeMap<String, Counts>) {
        self.verified.extend(verified);
    }

    /// Whether they are those of this object.
    pub(crate) fn check(&self, object: &[u8]) -> Result<()> {
        ensure!(
            self.object == count::count(object)?,
            "{FILE} is not about the committed object: run `cargo xtask build-ebpf` and commit both"
        );
        Ok(())
    }
}
