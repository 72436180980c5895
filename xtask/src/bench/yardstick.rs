//! How fast a CPU is meanwhile. A virtual machine shares it with others, and is half as fast from one second to the next:
//! the same little work again and again tells, on the load's CPU and on the observer's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use serde_json::Value;

use super::cpu;

/// Between two measurements beside an observer, which then has all but a hundredth of the CPU.
const PAUSE: Duration = Duration::from_millis(20);

pub(super) struct Yardstick {
    work: String,
    times: u64,
    measured: Duration,
    /// What it took in all so far, which is nobody else's.
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
            measured: Duration::ZERO,
            cpu: Duration::ZERO,
            elapsed: Duration::ZERO,
        }
    }

    /// In user space, and for the second time: nothing that an observer makes slower, by what it does in the kernel or by
    /// what it leaves of the caches.
    pub(super) fn measure(&mut self) -> Result<()> {
        let (begin, before) = (Instant::now(), cpu::of_thread());
        self.work()?;
        let warm = cpu::of_thread();
        self.work()?;
        let after = cpu::of_thread();
        self.measured += after - warm;
        self.cpu += after - before;
        self.elapsed += begin.elapsed();
        self.times += 1;
        Ok(())
    }

    fn work(&self) -> Result<()> {
        std::hint::black_box(serde_json::from_str::<Value>(&self.work)?);
        Ok(())
    }

    /// CPU time of one measurement; 0: there was none.
    pub(super) fn mean_us(&self) -> f64 {
        self.measured.as_secs_f64() * 1e6 / self.times.max(1) as f64
    }
}

/// One that is measured all the time.
pub(super) struct Beside {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Result<f64>>,
}

impl Beside {
    pub(super) fn start(cpu: usize) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let until = is_over.clone();
        let thread = thread::spawn(move || {
            cpu::pin(cpu)?;
            let mut yardstick = Yardstick::new();
            while !until.load(Ordering::Relaxed) {
                yardstick.measure()?;
                thread::sleep(PAUSE);
            }
            Ok(yardstick.mean_us())
        });
        Self { is_over, thread }
    }

    /// As [`Yardstick::mean_us`].
    pub(super) fn stop(self) -> Result<f64> {
        self.is_over.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        ended.map_err(|_| anyhow!("the yardstick failed"))?
    }
}
