//! `cargo xtask vm`: the live tests on other kernels, each booted in QEMU.

mod apt;
mod guest;
mod initramfs;
mod kernel;
mod qemu;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

pub(crate) use self::kernel::Kernel;
use self::qemu::Boot;
use crate::{
    cargo,
    live::{self, Selection},
    prerequisites,
    process::say,
    report::{self, Outcome, Report},
};

/// How much of a console is shown when its VM failed.
const CONSOLE_TAIL: usize = 60;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Kernels of the matrix to boot: 5.10, 6.1, 6.12, newest [default: all]
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        conflicts_with = "kernel"
    )]
    only: Vec<String>,
    #[command(flatten)]
    pub(crate) machine: Machine,
    #[command(flatten)]
    selection: Selection,
}

/// How VMs are run; shared by `vm` and `test`.
#[derive(clap::Args)]
pub(crate) struct Machine {
    /// Boot this kernel instead of Debian's (no apt needed)
    #[arg(long, value_name = "VMLINUZ")]
    kernel: Option<PathBuf>,
    /// Modules of that kernel, such as /lib/modules/RELEASE
    #[arg(long, value_name = "DIR", requires = "kernel")]
    modules: Option<PathBuf>,
    /// Seconds after which a VM counts as hung
    #[arg(long, default_value_t = 1500, value_name = "SECONDS")]
    timeout: u64,
    /// VMs at a time
    #[arg(long, default_value_t = 2, value_name = "N")]
    jobs: usize,
    /// QEMU's accelerator; tcg (software emulation) works everywhere
    #[arg(long, default_value = "tcg", value_name = "NAME")]
    accel: String,
}

/// What runs inside: built once, the same for every kernel.
#[derive(Clone)]
pub(crate) struct Guest {
    pub(crate) tracer: PathBuf,
    pub(crate) live_test: PathBuf,
    init: PathBuf,
    arguments: Vec<String>,
    /// Settings of the live tests, beside those of this machine: names and values.
    variables: Vec<(String, String)>,
}

impl Guest {
    pub(crate) fn new(programs: &live::Programs, arguments: Vec<String>) -> Result<Self> {
        let (tracer, live_test) = (programs.tracer.clone(), programs.live_test.clone());
        Ok(Self {
            tracer,
            live_test,
            init: cargo::vm_init()?,
            arguments,
            variables: Vec::new(),
        })
    }

    /// The same for this trial alone.
    fn with(&self, trial: &str) -> Self {
        Self {
            arguments: live::one_trial(trial),
            ..self.clone()
        }
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    options.machine.check()?;
    let kernels = options.machine.kernels(&options.only)?;
    let guest = Guest::new(&options.selection.build()?, options.selection.arguments())?;
    let reports = options.machine.boot_all(&kernels, &guest)?;
    // Part of the matrix cannot show that no kernel exercises something.
    let complete = options.only.is_empty() && options.machine.kernel.is_none();
    report::conclude(&reports, complete)
}

impl Machine {
    /// Fails early, in one sentence, where VMs cannot work.
    pub(crate) fn check(&self) -> Result<()> {
        if std::env::consts::ARCH != "x86_64" {
            bail!(
                "the VM kernels are x86-64 and this machine is {}: use --no-vm",
                std::env::consts::ARCH
            );
        }
        prerequisites::require("qemu-system-x86_64")
    }

    /// Those of the VM matrix, downloaded the first time.
    pub(crate) fn all_kernels(&self) -> Result<Vec<Kernel>> {
        self.check()?;
        self.kernels(&[])
    }

    /// The VM matrix of `cargo xtask test`.
    pub(crate) fn matrix(
        &self,
        kernels: &[Kernel],
        programs: &live::Programs,
    ) -> Result<Vec<Report>> {
        if kernels.is_empty() {
            return Ok(Vec::new());
        }
        self.boot_all(kernels, &Guest::new(programs, live::vm_trials())?)
    }

    /// What a trial notes on these kernels, with this variable set.
    pub(crate) fn notes(&self, only: &[&str], trial: &str, variable: &str) -> Result<Vec<String>> {
        self.check()?;
        let kernels = self.kernels(&only.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let mut guest = Guest::new(&live::build()?, live::one_trial(trial))?;
        guest.variables.push((variable.to_owned(), "1".to_owned()));
        let reports = self.boot_all(&kernels, &guest)?;
        report::conclude(&reports, false)?;
        let trials = reports.into_iter().flat_map(|report| report.trials);
        Ok(trials.filter_map(|trial| trial.note).collect())
    }

    /// Whether all of Debian's kernels are booted.
    pub(crate) fn is_complete(&self) -> bool {
        self.kernel.is_none()
    }

    fn kernels(&self, only: &[String]) -> Result<Vec<Kernel>> {
        match &self.kernel {
            Some(image) => Ok(vec![Kernel::custom(image, self.modules.as_deref())?]),
            None => kernel::debian(only),
        }
    }

    /// Boots every kernel, a few at a time; a failure of one does not stop the others.
    fn boot_all(&self, kernels: &[Kernel], guest: &Guest) -> Result<Vec<Report>> {
        guest.say_what_is_missing();
        let next = AtomicUsize::new(0);
        let reports = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..self.jobs.clamp(1, kernels.len().max(1)) {
                scope.spawn(|| {
                    while let Some(kernel) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let mut report = self.boot_patiently(kernel, guest);
                        report.try_again(|trial| self.boot_patiently(kernel, &guest.with(trial)));
                        if let Ok(mut reports) = reports.lock() {
                            reports.push(report);
                        }
                    }
                });
            }
        });
        let mut reports = reports
            .into_inner()
            .ok()
            .context("a VM's thread panicked")?;
        let order = |report: &Report| kernels.iter().position(|kernel| kernel.name == report.name);
        reports.sort_by_key(order);
        Ok(reports)
    }

    /// Software emulation with several CPUs now and then runs into the breakpoint that the kernel sets while it rewrites
    /// an instruction (of a tracepoint that is switched on or off), when that is no longer there: `Oops: int3`, once in
    /// some dozens of runs. No kernel on a real CPU does; so that one counts for nothing, once.
    fn boot_patiently(&self, kernel: &Kernel, guest: &Guest) -> Report {
        let report = self.boot(kernel, guest);
        let console = fs::read(kernel.directory.join("console.log")).unwrap_or_default();
        let is_emulation = String::from_utf8_lossy(&console).contains("Oops: int3");
        if report.problem.is_none() || !is_emulation {
            return report;
        }
        say(&format!(
            "{}: the emulation failed (Oops: int3)",
            kernel.name
        ));
        self.boot(kernel, guest)
    }

    /// One kernel from start to report; whatever goes wrong becomes part of the report.
    fn boot(&self, kernel: &Kernel, guest: &Guest) -> Report {
        say(&format!("{}: booting", kernel.name));
        let start = Instant::now();
        let (console, report) = (
            kernel.directory.join("console.log"),
            kernel.directory.join("report.jsonl"),
        );
        let outcome = prepare(kernel, guest).and_then(|initramfs| {
            let (console, report) = (console.clone(), report.clone());
            let timeout = Duration::from_secs(self.timeout);
            let (image, accel) = (&kernel.image, self.accel.as_str());
            Boot {
                kernel: image,
                initramfs: &initramfs,
                console,
                report,
                accel,
                timeout,
            }
            .run()
        });
        let result = Report::of_vm(&kernel.name, &report, outcome);
        say(&format!(
            "{}: {} ({:.0} s)",
            kernel.name,
            result.in_short(),
            start.elapsed().as_secs_f64()
        ));
        if result.problem.is_some() {
            show_tail(&kernel.name, &console);
        } else if result.count(Outcome::Failed) > 0 {
            say(&format!(
                "{}: the tests' output is in {}",
                kernel.name,
                console.display()
            ));
        }
        result
    }
}

fn prepare(kernel: &Kernel, guest: &Guest) -> Result<PathBuf> {
    let directory = &kernel.directory;
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let path = directory.join("initramfs.cpio");
    guest.initramfs(kernel.modules.as_deref())?.write(&path)?;
    Ok(path)
}

fn show_tail(name: &str, console: &Path) {
    let log = fs::read(console).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().map(str::trim_end).collect();
    let tail = &lines[lines.len().saturating_sub(CONSOLE_TAIL)..];
    let tail: String = tail.iter().map(|line| format!("    {line}\n")).collect();
    say(&format!(
        "{name}: the end of its console ({}):\n{tail}",
        console.display()
    ));
}
