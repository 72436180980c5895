//! `cargo xtask test`: every test there is, on this machine and in the VMs.

use std::{thread, time::Instant};

use anyhow::{Error, Result, anyhow};

use crate::{
    cargo,
    live::{self, Programs},
    prerequisites,
    process::say,
    prometheus,
    report::{self, Report},
    vm::{Kernel, Machine},
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave out the VM matrix
    #[arg(long)]
    no_vm: bool,
    /// Install nothing; tests of programs that are missing are skipped
    #[arg(long)]
    skip_install: bool,
    #[command(flatten)]
    machine: Machine,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    if !options.skip_install {
        prerequisites::install(options.vms())?;
        prometheus::provide()?;
    }
    let mut reports = Vec::new();
    let (pure, kernels) = thread::scope(|scope| {
        let kernels = scope.spawn(|| options.kernels());
        // Optimizing it as a whole is work for one CPU. If it fails, the live tests say so.
        scope.spawn(cargo::tracer);
        (cargo::pure_tests(), kernels.join())
    });
    if let Err(error) = pure {
        reports.push(problem("pure tests", &error));
    }
    let kernels = kernels.unwrap_or_else(|_| Err(panicked()));
    match live::build() {
        Ok(programs) => reports.extend(options.live_tests(&programs, kernels)),
        Err(error) => reports.push(problem("live tests", &error)),
    }
    let seconds = start.elapsed().as_secs();
    say(&format!("all tests took {seconds} s"));
    report::conclude(&reports, options.vms() && options.machine.is_complete())
}

impl Options {
    fn vms(&self) -> bool {
        !self.no_vm
    }

    fn kernels(&self) -> Result<Vec<Kernel>> {
        if !self.vms() {
            return Ok(Vec::new());
        }
        self.machine.all_kernels()
    }

    /// Here and in the VMs at the same time: much of it is waiting.
    fn live_tests(&self, programs: &Programs, kernels: Result<Vec<Kernel>>) -> Vec<Report> {
        thread::scope(|scope| {
            let vms = scope.spawn(|| self.machine.matrix(&kernels?, programs));
            let native = live::run_natively(programs);
            let mut reports = vec![native.unwrap_or_else(|error| problem("native", &error))];
            match vms.join().unwrap_or_else(|_| Err(panicked())) {
                Ok(vms) => reports.extend(vms),
                Err(error) => reports.push(problem("VMs", &error)),
            }
            reports
        })
    }
}

fn panicked() -> Error {
    anyhow!("a thread panicked")
}

fn problem(name: &str, error: &Error) -> Report {
    Report::problem(name, format!("{error:#}"))
}
