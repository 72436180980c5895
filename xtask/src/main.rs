//! Everything of this project that would otherwise be a shell script: one file per subcommand.

mod bench;
mod bench_report;
mod cargo;
mod ebpf;
mod live;
mod prerequisites;
mod process;
mod prometheus;
mod record_instructions;
mod report;
mod run;
mod soak;
mod test;
mod unix;
mod vm;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, runs and tests tracer")]
enum Command {
    /// Build tracer and run it as root
    Run(run::Options),
    /// Run every test: pure, live on this machine, live in VMs; installs what it needs
    Test(test::Options),
    /// Measure `tracer report` beside DuckDB on simulated lines
    BenchReport(bench_report::Options),
    /// Rebuild the committed BPF object with the pinned toolchain
    BuildEbpf,
    /// Rebuild the BPF object and compare it with the committed one
    VerifyEbpf,
    /// Record how many instructions of each BPF program the verifiers of the VM matrix go through
    RecordInstructions(vm::Machine),
    /// Run clippy on the kernel side
    ClippyEbpf,
    /// Check that tracer compiles for a Unix that is not Linux
    CheckUnix,
    /// Run tracer for minutes or days amid namespaces that come and go: does it grow, does it lose anything?
    Soak(soak::Options),
    /// Run the live tests in VMs with other kernels
    Vm(vm::Options),
    /// Measure what watching costs, beside the peers that are installed
    Bench(bench::Options),
    #[command(hide = true)]
    BenchLoad(bench::load::Order),
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Run(options) => run::run(options),
        Command::Test(options) => test::run(&options),
        Command::BenchReport(options) => bench_report::run(&options),
        Command::BuildEbpf => ebpf::build(),
        Command::VerifyEbpf => ebpf::verify(),
        Command::RecordInstructions(machine) => record_instructions::run(&machine),
        Command::ClippyEbpf => ebpf::clippy(),
        Command::CheckUnix => unix::check(),
        Command::Soak(options) => soak::run(&options),
        Command::Vm(options) => vm::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::BenchLoad(order) => bench::load::run(&order),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            process::say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Command::command().debug_assert();
    }
}
