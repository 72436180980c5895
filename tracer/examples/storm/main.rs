//! What failing connects cost the tracer, in figures: refused ones first, which are the same without a failure;
//! then ones that find no port of 16, and none of 28,232 in TIME_WAIT. A developer's tool, for root, on a machine
//! that does nothing else meanwhile:
//!
//!     cargo build --release -p tracer --bins --examples
//!     target/release/examples/storm target/release/tracer [OPTIONS OF THE TRACER]

#[path = "../../tests/loopback/mod.rs"]
mod loopback;
mod pool;
#[path = "../../tests/live/actor/storm.rs"]
mod storm;
mod watch;

use std::{env, net::SocketAddr, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};

use self::{pool::Pool, storm::storm, watch::Watch};

const THREADS: u32 = 4;
/// Connects per second that are tried.
const RATE: u32 = 20_000;
const TIME: Duration = Duration::from_secs(5);
/// What the tracer has to catch up with.
const REST: Duration = Duration::from_secs(1);

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (tracer, options) = arguments.split_first().context("which tracer?")?;
    run(tracer, options, "refused, 16 ports", Pool::empty)?;
    run(tracer, options, "failing, 16 ports", Pool::small)?;
    run(tracer, options, "failing, 28232 ports", Pool::large)
}

fn run(
    tracer: &str,
    options: &[String],
    name: &str,
    prepare: fn(SocketAddr) -> Result<Pool>,
) -> Result<()> {
    let watch = Watch::start(tracer, options)?;
    // The pool, and the network namespace of the thread that made it.
    let inside = || -> Result<(Vec<i64>, Duration)> {
        let pool = prepare(SocketAddr::from(([127, 0, 0, 1], 5774)))?;
        thread::sleep(REST);
        let before = watch.cpu_time()?;
        let mut counts = storm(pool.to, THREADS, RATE, TIME);
        counts[0] += pool.failed;
        thread::sleep(REST);
        let used = watch.cpu_time()?.saturating_sub(before);
        Ok((counts, used))
    };
    let done = thread::scope(|scope| scope.spawn(inside).join());
    let (counts, used) = done.map_err(|_| anyhow::anyhow!("the storm panicked"))??;
    let told = watch.stop()?;
    let [failed, others] = counts.as_slice() else {
        anyhow::bail!("the storm answered {counts:?}");
    };
    let seconds = TIME.as_secs_f64();
    println!(
        "{name}: {:.0} connects/s, tracer {:.1} % of a CPU; {failed} failed, {} told in {} lines ({} in full), \
         stop: {} failures, {} lost",
        (failed + others) as f64 / seconds,
        100.0 * used.as_secs_f64() / seconds,
        told.failures,
        told.lines,
        told.full,
        told.stop_failures,
        told.lost,
    );
    let sum = u64::try_from(*failed)?;
    ensure!(
        told.failures <= sum && sum <= told.failures + told.lost,
        "{sum} failed, {} are told",
        told.failures
    );
    Ok(())
}
