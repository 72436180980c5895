//! What happens in the network namespace: processes that serve, connect, bind and end.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::loopback;

/// Until what was begun has come to rest.
const REST: Duration = Duration::from_millis(300);

/// TIME_WAIT, and a little.
const MINUTE: Duration = Duration::from_secs(62);

pub(super) fn live(name: &str) -> Result<()> {
    // SAFETY: there is one thread, and `NEWNET` touches no descriptor table.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("no network namespace")?;
    loopback::up()?;
    let netns = fs::metadata("/proc/self/ns/net")?.ino();
    let mut life = Alive::default();
    match name {
        "exchange" => {
            turn(netns)?;
            life.exchange()?;
        }
        "exhaustion" => {
            turn(netns)?;
            life.exhaustion()?;
        }
        "listeners" => {
            life.elders()?;
            turn(netns)?;
            life.listeners()?;
        }
        _ => bail!("there is no life called {name}: exchange, exhaustion, listeners"),
    }
    sleep(REST);
    println!("done");
    wait()
}

/// The recorder's turn.
fn turn(netns: u64) -> Result<()> {
    println!("{netns}");
    wait()
}

fn wait() -> Result<()> {
    io::stdin().read_line(&mut String::new())?;
    Ok(())
}

/// Processes that end with this one.
#[derive(Default)]
struct Alive(Vec<Child>);

impl Drop for Alive {
    fn drop(&mut self) {
        for process in &mut self.0 {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Alive {
    /// Starts a process of this name and waits until it is ready.
    fn start(&mut self, arguments: &[&str]) -> Result<()> {
        let mut process = peer(arguments).stdout(Stdio::piped()).spawn()?;
        let mut output = process.stdout.take().context("no output")?;
        let ready = io::Read::read(&mut output, &mut [0])?;
        ensure!(ready == 1, "{arguments:?} did not begin");
        self.0.push(process);
        Ok(())
    }

    /// Half of what is in TIME_WAIT ends by its timer.
    fn exchange(&mut self) -> Result<()> {
        self.start(&["server", "127.0.0.1:5000"])?;
        self.start(&["server", "[::1]:5000"])?;
        run(&["client", "127.0.0.1:5000", "cfrRx", "30"])?;
        run(&["client", "[::1]:5000", "cfx", "10"])?;
        sleep(MINUTE);
        run(&["client", "127.0.0.1:5000", "cfrR", "20"])
    }

    /// 16 ports, 24 connects; then the ports can be used again before their time.
    fn exhaustion(&mut self) -> Result<()> {
        sysctl("ip_local_port_range", "40000 40015")?;
        sysctl("tcp_tw_reuse", "0")?;
        self.start(&["server", "127.0.0.1:5000"])?;
        run(&["client", "127.0.0.1:5000", "c", "24"])?;
        sysctl("tcp_tw_reuse", "1")?;
        sleep(4 * REST);
        run(&["client", "127.0.0.1:5000", "c", "12"])?;
        run(&["client", "127.0.0.1:5000", "f", "3"])
    }

    /// Sockets that are older than the recorder.
    fn elders(&mut self) -> Result<()> {
        self.start(&["master", "0.0.0.0:5000"])?;
        run(&["client", "127.0.0.1:5000", "cf", "6"])?;
        self.start(&["keeper", "127.0.0.1:5000", "5"])?;
        self.start(&["binder"])
    }

    fn listeners(&mut self) -> Result<()> {
        run(&["client", "127.0.0.1:5000", "cfrR", "16"])?;
        self.start(&["binder"])?;
        self.start(&["server", "127.0.0.1:5001"])?;
        self.start(&["server", "127.0.0.1:5001"])?;
        self.start(&["keeper", "127.0.0.1:5001", "6"])?;
        // The elder binder and the elder keeper end.
        for mut elder in self.0.drain(1..3) {
            elder.kill()?;
            elder.wait()?;
        }
        run(&["client", "127.0.0.1:5001", "cfrR", "8"])
    }
}

fn peer(arguments: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("peer").args(arguments);
    command
}

fn run(arguments: &[&str]) -> Result<()> {
    let status = peer(arguments).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "{arguments:?} failed");
    sleep(REST);
    Ok(())
}

fn sysctl(name: &str, value: &str) -> Result<()> {
    fs::write(format!("/proc/sys/net/ipv4/{name}"), value).with_context(|| name.to_owned())
}
