//! A process's BPF programs, by the descriptors that it holds (`bpf_prog_show_fdinfo`, kernel/bpf/syscall.c).

use std::{collections::BTreeMap, fs};

/// Since the programs were loaded.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stats {
    pub(crate) runs: u64,
    pub(crate) ns: u64,
}

/// How many programs it has loaded.
pub(crate) fn programs(pid: u32) -> usize {
    all(pid).len()
}

pub(crate) fn stats(pid: u32) -> Stats {
    let programs = all(pid).into_values();
    programs.fold(Stats::default(), |sum, program| Stats {
        runs: sum.runs + program.runs,
        ns: sum.ns + program.ns,
    })
}

/// By id: several descriptors may lead to one.
fn all(pid: u32) -> BTreeMap<u64, Stats> {
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo"));
    let entries = entries.into_iter().flatten().flatten();
    let texts = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    texts
        .filter_map(|text| {
            let id = field(&text, "prog_id:").filter(|_| text.contains("run_time_ns:"))?;
            let stats = Stats {
                runs: field(&text, "run_cnt:")?,
                ns: field(&text, "run_time_ns:")?,
            };
            Some((id, stats))
        })
        .collect()
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().parse().ok()
}
