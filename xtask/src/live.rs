//! The live tests: what to build for them, which of them to run, and their run on this machine.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::{
    cargo,
    process::{as_root, say, target_directory},
    prometheus,
    report::Report,
};

/// The trial that takes as long as one likes.
pub(crate) const SOAK: &str = "tool::soak";

/// Which live tests run, and how.
#[derive(clap::Args)]
pub(crate) struct Selection {
    /// Only the trials of this backend: auto, fexit, kprobe, tracepoint or tool
    #[arg(long, value_name = "B")]
    backend: Option<String>,
    /// Run this program instead of building the live tests
    #[arg(long, value_name = "PROGRAM")]
    live_test: Option<PathBuf>,
    /// Filter and options for the live tests
    #[arg(last = true, value_name = "LIVE-TEST-FILTERS")]
    filters: Vec<String>,
}

pub(crate) struct Programs {
    pub(crate) tracer: PathBuf,
    pub(crate) live_test: PathBuf,
}

/// Builds the tracer and its live tests.
pub(crate) fn build() -> Result<Programs> {
    Ok(Programs {
        tracer: cargo::tracer()?,
        live_test: cargo::live_test()?,
    })
}

impl Selection {
    pub(crate) fn build(&self) -> Result<Programs> {
        match &self.live_test {
            None => build(),
            Some(program) if !program.is_file() => {
                bail!("--live-test {}: there is no such file", program.display())
            }
            Some(program) => Ok(Programs {
                tracer: cargo::tracer()?,
                live_test: program.clone(),
            }),
        }
    }

    /// The arguments of the live tests.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = all_trials();
        let Some(backend) = &self.backend else {
            arguments.extend(self.filters.iter().cloned());
            return arguments;
        };
        // A filter is a part of the name, so a backend and a scenario make one: `kprobe::refused`.
        let (options, scenarios): (Vec<_>, Vec<_>) = self
            .filters
            .iter()
            .partition(|filter| filter.starts_with('-'));
        arguments.extend(options.into_iter().cloned());
        match scenarios.as_slice() {
            [] => arguments.push(format!("{backend}::")),
            _ => arguments.extend(
                scenarios
                    .iter()
                    .map(|scenario| format!("{backend}::{scenario}")),
            ),
        }
        arguments
    }
}

/// One at a time, as trials look at what the whole system does; no colours, as logs are files.
pub(crate) fn all_trials() -> Vec<String> {
    ["--test-threads=1", "--color=never"]
        .map(str::to_owned)
        .to_vec()
}

/// That one, of all backends and scenarios.
pub(crate) fn one_trial(name: &str) -> Vec<String> {
    let exactly = ["--exact", name].map(str::to_owned);
    [all_trials(), exactly.to_vec()].concat()
}

/// What lies behind the ledger is the same on every kernel, and much of it takes time, memory or many tracers at once: too
/// much for a machine that is emulated.
const NATIVE: &[&str] = &[
    "auto::",
    SOAK,
    "tool::check_ports",
    "tool::coalesced_failures",
    "tool::configuration",
    "tool::cpu_guard",
    "tool::disk_full",
    "tool::failure_storm",
    "tool::filters",
    "tool::flight_recorder",
    "tool::generate",
    "tool::hostile_names",
    "tool::killed_at_any_moment",
    "tool::killed_under_load",
    "tool::logrotate",
    "tool::loss_replays",
    "tool::metrics",
    "tool::nohup",
    "tool::pressure",
    "tool::prometheus",
    "tool::recorder_",
    "tool::rotation",
    "tool::rsyslog",
    "tool::sighup",
    "tool::sigint",
    "tool::slow_reader",
    "tool::stalled_",
    "tool::stats",
    "tool::stdout_closed",
    "tool::systemd_notify",
];

/// As [`all_trials`], in a VM: there `auto` is `fexit` once more. What `auto` mixes where fentry is refused is tried
/// natively, and the `tool` trials use it everywhere.
pub(crate) fn vm_trials() -> Vec<String> {
    let mut trials = all_trials();
    trials.extend(
        NATIVE
            .iter()
            .flat_map(|trial| ["--skip", trial].map(str::to_owned)),
    );
    trials
}

/// Runs every trial on this machine's own kernel, as root.
pub(crate) fn run_natively(programs: &Programs) -> Result<Report> {
    say("running the live tests on this machine's kernel");
    let mut report = run_these_natively(programs, &all_trials())?;
    report.try_again(|trial| {
        let again = run_these_natively(programs, &one_trial(trial));
        again.unwrap_or_else(|error| Report::problem(trial, format!("{error:#}")))
    });
    Ok(report)
}

fn run_these_natively(programs: &Programs, trials: &[String]) -> Result<Report> {
    let directory = target_directory().join("vm").join("native");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let file = directory.join("report.jsonl");
    fs::write(&file, "").with_context(|| format!("cannot write {}", file.display()))?;
    let tools = target_directory().join("tools");
    let prometheus = prometheus::directory();
    let variables = [
        ("TRACER_BIN", programs.tracer.as_os_str()),
        ("TRACER_PROMETHEUS", prometheus.as_os_str()),
        ("TRACER_LIVE_REPORT", file.as_os_str()),
        ("TRACER_TOOLS", tools.as_os_str()),
    ];
    let status = as_root(&programs.live_test, &variables)?
        .args(trials)
        .status()
        .with_context(|| format!("cannot start {}", programs.live_test.display()))?;
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    Ok(Report::native(
        &format!("native {release}"),
        &file,
        status.code(),
    ))
}

#[cfg(test)]
mod tests {
    use super::Selection;

    fn arguments(backend: Option<&str>, filters: &[&str]) -> Vec<String> {
        let filters = filters.iter().map(ToString::to_string).collect();
        Selection {
            backend: backend.map(str::to_owned),
            live_test: None,
            filters,
        }
        .arguments()[2..]
            .to_vec()
    }

    #[test]
    fn backend_and_scenario_become_one_filter() {
        assert!(arguments(None, &[]).is_empty());
        assert_eq!(arguments(None, &["refused"]), ["refused"]);
        assert_eq!(arguments(Some("kprobe"), &[]), ["kprobe::"]);
        assert_eq!(
            arguments(Some("kprobe"), &["--list", "refused"]),
            ["--list", "kprobe::refused"]
        );
    }
}
