//! How often the BPF programs run, and for how long: the kernel counts while somebody asks it to.

use std::{collections::HashMap, os::fd::OwnedFd, time::Duration};

use aya::{
    Ebpf,
    sys::{Stats, enable_stats},
};

use crate::record::{Bpf, Program, seconds, tenths};

/// Counting takes the time twice at each run of every BPF program of the host, so it is only done for a sample. The
/// kernel ends it with the descriptor, and so with this process however that ends (bpf(2), BPF_ENABLE_STATS).
#[derive(Debug, Default)]
pub struct Programs {
    sample: Option<Sample>,
}

#[derive(Debug)]
struct Sample {
    /// The kernel counts as long as it is open.
    _counting: OwnedFd,
    began: u64,
    before: HashMap<String, Runs>,
}

/// Of one program, since it was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Runs {
    count: u64,
    time: Duration,
}

impl Programs {
    /// Counts from `now` on, unless that is not permitted.
    pub fn begin(&mut self, ebpf: &Ebpf, now: u64) {
        if self.sample.is_some() {
            return;
        }
        match enable_stats(Stats::RunTime) {
            Ok(counting) => {
                self.sample = Some(Sample {
                    _counting: counting,
                    began: now,
                    before: runs(ebpf).collect(),
                });
            }
            Err(error) => log::debug!("runs of BPF programs are not counted: {error}"),
        }
    }

    /// What was counted until `now`; `None`: nothing was. Nobody counts any more.
    pub fn end(&mut self, ebpf: &Ebpf, now: u64) -> Option<Bpf> {
        let sample = self.sample.take()?;
        let since = runs(ebpf).map(|(name, runs)| {
            let before = sample.before.get(&name).copied().unwrap_or_default();
            (name, runs.since(before))
        });
        Some(told(since.collect(), now.saturating_sub(sample.began)))
    }
}

fn runs(ebpf: &Ebpf) -> impl Iterator<Item = (String, Runs)> {
    ebpf.programs().filter_map(|(name, program)| {
        let info = program.info().ok()?;
        let runs = Runs {
            count: info.run_count(),
            time: info.run_time(),
        };
        Some((name.to_owned(), runs))
    })
}

impl Runs {
    fn since(self, before: Self) -> Self {
        Self {
            count: self.count.saturating_sub(before.count),
            time: self.time.saturating_sub(before.time),
        }
    }
}

/// `lasted`: nanoseconds.
fn told(since: Vec<(String, Runs)>, lasted: u64) -> Bpf {
    let time: Duration = since.iter().map(|(_, runs)| runs.time).sum();
    let ran = since.into_iter().filter(|(_, runs)| runs.count > 0);
    Bpf {
        sampled_s: seconds(lasted),
        cpu_percent: tenths(time.as_nanos() as f64 * 100.0 / lasted.max(1) as f64),
        programs: ran
            .map(|(name, runs)| Program {
                name,
                runs: runs.count,
                ns_per_run: tenths(runs.time.as_nanos() as f64 / runs.count as f64),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_that_ran_are_told() {
        let runs = |count, ns| Runs {
            count,
            time: Duration::from_nanos(ns),
        };
        let since = runs(30, 9000).since(runs(10, 1000));
        let bpf = told(
            vec![("a".into(), since), ("b".into(), runs(0, 0))],
            1_000_000,
        );
        assert_eq!((bpf.sampled_s, bpf.cpu_percent), (0.001, 0.8));
        assert_eq!(bpf.programs.len(), 1);
        assert_eq!(
            (bpf.programs[0].runs, bpf.programs[0].ns_per_run),
            (20, 400.0)
        );
    }
}
