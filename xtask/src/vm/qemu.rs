//! One boot of one kernel in QEMU, from power on to power off or to our patience's end.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// Everything that software emulation can do, but cmpxchg16b: with QEMU 7.2, 8 of 30 boots of Linux
/// 6.12 died of random oopses, several with operand bits in EFLAGS just behind that instruction, which
/// the slab allocator uses there; without it, none of 50. `la57=off` does not help.
const CPU: &str = "max,cx16=off";

/// A panic or an oops ends the VM at once (`-no-reboot` makes of the reboot an exit).
const KERNEL_ARGUMENTS: &str = "console=ttyS0 loglevel=5 panic=-1 oops=panic rdinit=/init";

pub(super) struct Boot<'a> {
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    /// Where the two serial ports write: the console, and the tests' report.
    pub(super) console: PathBuf,
    pub(super) report: PathBuf,
    pub(super) accel: &'a str,
    pub(super) timeout: Duration,
}

impl Boot<'_> {
    /// Boots and waits; an error when QEMU fails or the time is over.
    pub(super) fn run(&self) -> Result<()> {
        for file in [&self.console, &self.report] {
            // QEMU appends to nothing: a stale report must not pass for a new one.
            fs::write(file, "").with_context(|| format!("cannot write {}", file.display()))?;
        }
        let mut child = self
            .command()
            .spawn()
            .context("cannot start qemu-system-x86_64")?;
        let deadline = Instant::now() + self.timeout;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait()? {
                return match status.success() {
                    true => Ok(()),
                    false => bail!("qemu-system-x86_64 failed ({status}), see its message above"),
                };
            }
            sleep(Duration::from_millis(100));
        }
        stop(&mut child)?;
        bail!(
            "still running after {} s (--timeout), stopped",
            self.timeout.as_secs()
        )
    }

    fn command(&self) -> Command {
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-accel", self.accel, "-cpu", CPU, "-smp", "2", "-m", "1024"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-monitor", "none", "-nic", "none"])
            .arg("-serial")
            .arg(file_device(&self.console))
            .arg("-serial")
            .arg(file_device(&self.report))
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", KERNEL_ARGUMENTS])
            .stdin(Stdio::null());
        command
    }
}

fn file_device(path: &Path) -> std::ffi::OsString {
    let mut device = std::ffi::OsString::from("file:");
    device.push(path);
    device
}

fn stop(child: &mut Child) -> Result<()> {
    child.kill().context("cannot stop qemu-system-x86_64")?;
    child.wait()?;
    Ok(())
}
