//! The first process of a test VM: mounts, loads modules, runs the live tests, powers off.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use rustix::{
    io::Errno,
    mount::{MountFlags, mount},
    process::{Pid, Resource, Rlimit, WaitOptions, setrlimit, wait},
    system::{RebootCommand, finit_module, reboot, sethostname},
};

/// The second serial port: the host reads trial lines and the exit code from it.
const REPORT: &str = "/dev/ttyS1";

/// Mounts that a distribution would have made: type and place.
const MOUNTS: [(&str, &str); 9] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("tracefs", "/sys/kernel/tracing"),
    ("securityfs", "/sys/kernel/security"),
    ("bpf", "/sys/fs/bpf"),
    ("cgroup2", "/sys/fs/cgroup"),
];

/// MODULE_INIT_COMPRESSED_FILE of linux/module.h: the kernel decompresses.
const COMPRESSED_FILE: i32 = 4;

fn main() {
    let result = run();
    match &result {
        Ok(exit) => report(*exit),
        // No exit line: the host takes the VM for broken and shows this message.
        Err(error) => println!("vm-init: {error:#}"),
    }
    rustix::fs::sync();
    // A first process must not return: that is a kernel panic, which at least ends the VM.
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        println!("vm-init: cannot power off: {error}");
    }
}

fn run() -> Result<i32> {
    for (kind, place) in MOUNTS {
        mount(kind, place, kind, MountFlags::empty(), None)
            .with_context(|| format!("cannot mount {kind} on {place}"))?;
    }
    sethostname(b"vm").context("cannot set the host name")?;
    load_modules()?;
    bring_up_loopback().context("cannot bring up the loopback interface")?;
    // What a login as root has on Debian; the kernel's default for its first process is 4096.
    let files = Rlimit {
        current: Some(1024),
        maximum: Some(1 << 20),
    };
    setrlimit(Resource::Nofile, files).context("cannot raise the limit of open files")?;
    run_tests()
}

fn load_modules() -> Result<()> {
    let directory = fs::read_dir("/vm/modules").context("cannot read /vm/modules")?;
    let mut modules: Vec<PathBuf> = directory.flatten().map(|entry| entry.path()).collect();
    // Names start with their place in the order.
    modules.sort();
    for module in modules {
        let compressed = module
            .extension()
            .is_some_and(|extension| extension != "ko");
        let flags = if compressed { COMPRESSED_FILE } else { 0 };
        match finit_module(File::open(&module)?, c"", flags) {
            Ok(()) | Err(Errno::EXIST) => {}
            // Not fatal: a test that needs it says so itself.
            Err(error) => println!("vm-init: cannot load {}: {error}", module.display()),
        }
    }
    Ok(())
}

fn bring_up_loopback() -> std::io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: all bytes zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: the descriptor is open, and SIOCSIFFLAGS reads an ifreq.
    match unsafe { libc::ioctl(descriptor, libc::SIOCSIFFLAGS, &request) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn run_tests() -> Result<i32> {
    let arguments = fs::read_to_string("/vm/arguments").context("cannot read /vm/arguments")?;
    let environment =
        fs::read_to_string("/vm/environment").context("cannot read /vm/environment")?;
    let child = Command::new("/bin/live")
        .args(arguments.lines())
        .envs(environment.lines().filter_map(|line| line.split_once('=')))
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", "/root")
        .env("RUST_BACKTRACE", "1")
        .env("TRACER_BIN", "/bin/tracer")
        .env("TRACER_LIVE_REPORT", REPORT)
        .current_dir("/root")
        .spawn()
        .context("cannot start /bin/live")?;
    wait_for(Pid::from_child(&child)).context("cannot wait for /bin/live")
}

/// Waits for the tests, and meanwhile for every orphan, as is a first process's duty:
/// a zombie would look like a living process to the tests.
fn wait_for(child: Pid) -> rustix::io::Result<i32> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => {
                // As shells do for a death by signal.
                let signal = status.terminating_signal().map(|signal| 128 + signal);
                return Ok(status.exit_status().or(signal).unwrap_or(1));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

fn report(exit: i32) {
    let written = File::options()
        .append(true)
        .open(Path::new(REPORT))
        .and_then(|mut port| writeln!(port, "{{\"exit\":{exit}}}"));
    if let Err(error) = written {
        println!("vm-init: cannot write the exit code to {REPORT}: {error}");
    }
}
