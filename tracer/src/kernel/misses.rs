//! Runs of our programs that the kernel skipped.

use std::{
    fs::File,
    io::Read as _,
    os::fd::{AsFd, AsRawFd, RawFd},
};

use aya::Ebpf;

/// The kernel runs no program while the same one (tp_btf, raw tracepoints, fexit), or any one (kprobes,
/// classic tracepoints), is running on that CPU: what a program does in task context hides what happens
/// in a softirq that interrupts it (`__bpf_trace_run` and `trace_call_bpf`, kernel/trace/bpf_trace.c).
///
/// It counts those runs per program, in `fdinfo`, since 5.12; for kprobes and classic tracepoints since
/// 6.7. Where it does not, this is 0. Runs of programs that only stand in for another one are not counted, and what
/// they saw to has been missed by that one (`tracer_ebpf::Counters::nested`).
pub fn count(ebpf: &Ebpf) -> u64 {
    let descriptors = ebpf
        .programs()
        .filter(|(name, _)| !name.ends_with(STAND_IN))
        .filter_map(|(_, program)| program.fd().ok())
        .map(|fd| fd.as_fd().as_raw_fd());
    descriptors.filter_map(of_program).sum()
}

/// How the names of such programs end.
const STAND_IN: &str = "_nested";

/// Three times as long as it is: one call reads all of it (`bpf_prog_show_fdinfo`, kernel/bpf/syscall.c). This is asked
/// every second, of each program.
const FDINFO: usize = 1024;

fn of_program(fd: RawFd) -> Option<u64> {
    let mut bytes = [0; FDINFO];
    let mut file = File::open(format!("/proc/self/fdinfo/{fd}")).ok()?;
    let length = file.read(&mut bytes).ok()?;
    parse(str::from_utf8(&bytes[..length]).ok()?)
}

fn parse(fdinfo: &str) -> Option<u64> {
    let line = fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("recursion_misses:"));
    line?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn reads_the_counter() {
        assert_eq!(
            parse("pos:\t0\nprog_type:\t26\nrecursion_misses:\t7\n"),
            Some(7)
        );
        assert_eq!(parse("pos:\t0\nprog_type:\t26\n"), None);
    }
}
