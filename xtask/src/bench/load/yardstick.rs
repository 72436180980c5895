//! How fast the CPU is meanwhile. A virtual machine shares it with others, and is half as fast from one second to the next:
//! the same little work again and again, between the connections, tells.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use super::super::cpu;

/// Connections between two measurements: some milliseconds.
const EVERY: u64 = 250;

/// What it took so far, which is not the load's.
pub(super) struct Yardstick {
    work: String,
    pub(super) times: u64,
    pub(super) cpu: Duration,
    pub(super) elapsed: Duration,
}

impl Yardstick {
    pub(super) fn new() -> Self {
        let item =
            |number: u32| format!(r#"{{"id":{number},"name":"n{number}","of":[{number},7]}}"#);
        let items: Vec<_> = (0..200).map(item).collect();
        Self {
            work: format!("[{}]", items.join(",")),
            times: 0,
            cpu: Duration::ZERO,
            elapsed: Duration::ZERO,
        }
    }

    /// In user space: nothing that an observer of the kernel makes slower.
    pub(super) fn before(&mut self, connection: u64) -> Result<()> {
        if connection.is_multiple_of(EVERY) {
            let (begin, used) = (Instant::now(), cpu::of_self());
            std::hint::black_box(serde_json::from_str::<Value>(&self.work)?);
            self.cpu += cpu::of_self() - used;
            self.elapsed += begin.elapsed();
            self.times += 1;
        }
        Ok(())
    }
}
