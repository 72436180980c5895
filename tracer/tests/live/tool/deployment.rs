//! What is shipped for systemd and Kubernetes: whether their own tools accept it, and that it says what the program says.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{self, Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use rustix::process::Signal;
use tracer::{cli::Cli, privileges::NEEDS};

use super::{Test, test};
use crate::{
    lines::{Keep, PATIENCE},
    report::{note, skip},
    tracer::{Started, Tracer, binary},
};

pub(super) const ALL: &[Test] = &[
    test("systemd_unit", systemd_unit),
    test("systemd_exposure", systemd_exposure),
    test("systemd_notify", systemd_notify),
    test("kubernetes_daemonset", kubernetes_daemonset),
    test("deployment_capabilities", deployment_capabilities),
];

const UNIT: &str = include_str!("../../../../docs/deployment/tracer.service");
const DAEMONSET: &str = include_str!("../../../../docs/deployment/daemonset.yaml");

/// Of `systemd-analyze security`, times ten; see docs/deployment.md. Other releases count a little differently.
const EXPOSURE: u32 = 35;

/// A file of this name, for as long as this lives.
struct Shown(PathBuf);

impl Shown {
    fn new(name: &str, text: &str) -> Result<Self> {
        let dir = env::temp_dir().join(format!("tracer-live-{name}-{}", process::id()));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(name), text)?;
        Ok(Self(dir.join(name)))
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(dir) = self.0.parent() {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// What a program says; skips the trial where there is none.
fn ask(command: &mut Command) -> Result<Output> {
    match command.output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let program = command.get_program().display();
            skip(format!("{program} is not installed"))
        }
        done => Ok(done?),
    }
}

fn in_words(output: &Output) -> String {
    let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    said.concat()
}

/// systemd understands each line, and tracer its options.
fn systemd_unit() -> Result<()> {
    let start = UNIT
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="));
    let words = start.context("no ExecStart")?.split_ascii_whitespace();
    Cli::try_parse_from(words).context("the options of ExecStart")?;
    let path = binary();
    let path = path.to_str().context("a path that is not UTF-8")?;
    let unit = Shown::new(
        "tracer.service",
        &UNIT.replace("/usr/local/bin/tracer", path),
    )?;
    let output = ask(Command::new("systemd-analyze").arg("verify").arg(&unit.0))?;
    let said = in_words(&output);
    ensure!(
        output.status.success() && said.is_empty(),
        "{}: {said}",
        output.status
    );
    Ok(())
}

fn systemd_exposure() -> Result<()> {
    let unit = Shown::new("tracer.service", UNIT)?;
    let output = ask(Command::new("systemd-analyze")
        .args(["security", "--offline=yes", "--no-pager"])
        .arg(format!("--threshold={EXPOSURE}"))
        .arg(&unit.0))?;
    let said = in_words(&output);
    let line = said.lines().find(|line| line.contains("exposure level"));
    let line = line.with_context(|| format!("no figure: {said}"))?;
    note(line.trim().to_owned());
    ensure!(output.status.success(), "more than {EXPOSURE}: {line}");
    Ok(())
}

/// As systemd listens to it.
struct Listener {
    socket: UnixDatagram,
    place: Shown,
}

impl Listener {
    fn new() -> Result<Self> {
        let place = Shown::new("notify", "")?;
        fs::remove_file(&place.0)?;
        let socket = UnixDatagram::bind(&place.0)?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(Self { socket, place })
    }

    /// Waits for a message with a line that starts so.
    fn hear(&self, start: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        while Instant::now() < deadline {
            let mut bytes = [0; 1024];
            let Ok(length) = self.socket.recv(&mut bytes) else {
                continue;
            };
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if let Some(line) = text.lines().find(|line| line.starts_with(start)) {
                return Ok(line.to_owned());
            }
            heard.push(text);
        }
        anyhow::bail!("no {start}, but {heard:?}")
    }
}

/// Ready when all is attached, alive as long as the loop goes round, and what it does in words.
fn systemd_notify() -> Result<()> {
    let listener = Listener::new()?;
    let mut command = Command::new(binary());
    command
        .args(["--interval", "1"])
        .env("NOTIFY_SOCKET", &listener.place.0)
        .env("WATCHDOG_USEC", "5000000");
    let Started::Running(tracer) = Tracer::start_as(command, Keep::All)? else {
        anyhow::bail!("the tracer did not start");
    };
    listener.hear("READY=1")?;
    listener.hear("WATCHDOG=1")?;
    let status = listener.hear("STATUS=")?;
    ensure!(
        status.contains("events") && status.contains(" lost"),
        "{status}"
    );
    // One that stands still is not alive.
    tracer.signal(Signal::STOP)?;
    while listener.socket.recv(&mut [0; 1024]).is_ok() {}
    listener
        .socket
        .set_read_timeout(Some(Duration::from_secs(3)))?;
    let heard = listener.socket.recv(&mut [0; 1024]);
    ensure!(heard.is_err(), "alive while it is stopped");
    tracer.signal(Signal::CONT)?;
    listener.hear("WATCHDOG=1")?;
    let finished = tracer.stop(Signal::TERM)?;
    listener.hear("STOPPING=1")?;
    finished.check_totals()?;
    ensure!(finished.stderr.is_empty(), "stderr: {}", finished.stderr);
    Ok(())
}

/// Kubernetes' own schema knows each field. `cargo xtask test` installs the validator.
fn kubernetes_daemonset() -> Result<()> {
    let Some(tools) = env::var_os("TRACER_TOOLS") else {
        return skip("TRACER_TOOLS does not say where kubernetes-validate is");
    };
    let python = Path::new(&tools).join("kubernetes-validate/bin/python");
    let validate = |arguments: &[&OsStr]| {
        ask(Command::new(&python)
            .args(["-m", "kubernetes_validate"])
            .args(arguments))
    };
    if !validate(&["--version".as_ref()])?.status.success() {
        return skip("the Python module kubernetes_validate is not installed");
    }
    let file = Shown::new("daemonset.yaml", DAEMONSET)?;
    let output = validate(&["--strict".as_ref(), file.0.as_os_str()])?;
    ensure!(output.status.success(), "{}", in_words(&output));
    // It would find a misspelt one.
    let wrong = Shown::new("wrong.yaml", &DAEMONSET.replace("hostPID", "hostPid"))?;
    let output = validate(&["--strict".as_ref(), wrong.0.as_os_str()])?;
    ensure!(!output.status.success(), "it accepts anything");
    Ok(())
}

/// Both give what the program needs, and nothing else.
fn deployment_capabilities() -> Result<()> {
    let of_line = |text: &str, start: &str| -> Result<Vec<String>> {
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(start))
            .with_context(|| format!("no {start}"))?;
        let words = line.split(|letter: char| !letter.is_ascii_uppercase() && letter != '_');
        let names = words.filter(|word| !word.is_empty());
        let mut names: Vec<_> = names
            .map(|name| format!("CAP_{}", name.trim_start_matches("CAP_")))
            .collect();
        names.sort();
        Ok(names)
    };
    let mut needed: Vec<_> = NEEDS.iter().map(|need| need.name.to_owned()).collect();
    needed.sort();
    ensure!(of_line(DAEMONSET, "add:")? == needed, "not {needed:?}");
    // A unit can set the limit itself.
    needed.retain(|name| name != "CAP_SYS_RESOURCE");
    for setting in ["AmbientCapabilities=", "CapabilityBoundingSet="] {
        let given = of_line(UNIT, setting)?;
        ensure!(given == needed, "{given:?} is not {needed:?}");
    }
    ensure!(
        UNIT.contains("\nLimitMEMLOCK=infinity\n"),
        "no LimitMEMLOCK"
    );
    Ok(())
}
