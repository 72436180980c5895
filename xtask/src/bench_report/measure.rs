//! What a program costs.

use std::{
    io,
    mem::MaybeUninit,
    os::unix::process::ExitStatusExt as _,
    process::{Command, ExitStatus},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Cost {
    /// Seconds.
    pub(super) wall: f64,
    /// Seconds, in the program and in the kernel for it.
    pub(super) cpu: f64,
    /// The most memory that it had at a time, bytes.
    pub(super) rss: u64,
}

/// Runs it to its end.
pub(super) fn measure(command: &mut Command) -> Result<Cost> {
    let began = Instant::now();
    let child = command.spawn().context("it can't be started")?;
    let (status, usage) = wait(child.id()).context("it can't be waited for")?;
    let wall = began.elapsed().as_secs_f64();
    ensure!(status.success(), "{status}");
    Ok(Cost {
        wall,
        cpu: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        // Linux counts in KiB.
        rss: u64::try_from(usage.ru_maxrss).unwrap_or_default() * 1024,
    })
}

/// The standard library waits, but does not tell what the child used.
fn wait(pid: u32) -> io::Result<(ExitStatus, libc::rusage)> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let (mut status, mut usage) = (0, MaybeUninit::zeroed());
    loop {
        // SAFETY: both point to memory of the types that the call fills.
        let waited = unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
        if waited == pid {
            // SAFETY: all zeroes are a valid `rusage`, and the call has filled it.
            return Ok((ExitStatus::from_raw(status), unsafe { usage.assume_init() }));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn seconds(time: libc::timeval) -> f64 {
    time.tv_sec as f64 + time.tv_usec as f64 / 1e6
}

/// Each figure's own.
pub(super) fn medians(costs: &[Cost]) -> Cost {
    Cost {
        wall: median(costs, |cost| cost.wall),
        cpu: median(costs, |cost| cost.cpu),
        rss: median(costs, |cost| cost.rss as f64) as u64,
    }
}

fn median(costs: &[Cost], figure: impl Fn(&Cost) -> f64) -> f64 {
    let mut figures: Vec<f64> = costs.iter().map(figure).collect();
    figures.sort_unstable_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => f64::NAN,
        length if length.is_multiple_of(2) => (figures[middle - 1] + figures[middle]) / 2.0,
        _ => figures[middle],
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{Cost, measure, medians};

    #[test]
    fn measures_what_a_program_uses() {
        let cost = measure(Command::new("sh").args(["-c", "sleep 0.1"])).unwrap();
        assert!(cost.wall >= 0.1, "{cost:?}");
        assert!(cost.rss > 0, "{cost:?}");
        let error = measure(&mut Command::new("false")).unwrap_err();
        assert!(error.to_string().contains("exit status: 1"), "{error}");
    }

    #[test]
    fn medians_are_of_each_figure() {
        let cost = |wall, cpu, rss| Cost { wall, cpu, rss };
        let odd = medians(&[cost(3.0, 1.0, 5), cost(1.0, 2.0, 9), cost(2.0, 9.0, 7)]);
        assert_eq!((odd.wall, odd.cpu, odd.rss), (2.0, 2.0, 7));
        let even = medians(&[cost(1.0, 1.0, 2), cost(2.0, 3.0, 4)]);
        assert_eq!((even.wall, even.cpu, even.rss), (1.5, 2.0, 3));
    }
}
