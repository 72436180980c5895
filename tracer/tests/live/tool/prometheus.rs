//! The real Prometheus: its tools find nothing wrong with the page, and the server has what the stream has.

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::{
    Test,
    metrics::{PORTS, free_port, full, get, sum, wait},
    test,
};
use crate::{
    lines::PATIENCE,
    report::{note, skip},
};

pub(super) const ALL: &[Test] = &[test("prometheus", prometheus)];

/// A program of Prometheus: `TRACER_PROMETHEUS` names where they are if not in the PATH.
fn find(program: &str) -> Option<PathBuf> {
    let dirs = env::var_os("TRACER_PROMETHEUS").unwrap_or_default();
    let path = env::var_os("PATH").unwrap_or_default();
    let mut dirs = env::split_paths(&dirs)
        .chain(env::split_paths(&path))
        .collect::<Vec<_>>()
        .into_iter();
    dirs.find_map(|dir| Some(dir.join(program)).filter(|file| file.is_file()))
}

/// A Prometheus of our own.
struct Prometheus {
    child: Child,
    dir: PathBuf,
    port: u16,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Prometheus {
    fn start(program: &Path, target: u16) -> Result<Self> {
        let dir = env::temp_dir().join(format!("tracer-live-prometheus-{}", process::id()));
        fs::create_dir_all(&dir)?;
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\n\
             scrape_configs: [ {{ job_name: tracer, static_configs: [ {{ targets: ['127.0.0.1:{target}'] }} ] }} ]\n"
        );
        fs::write(dir.join("prometheus.yml"), config)?;
        let port = free_port()?;
        let log = fs::File::create(dir.join("log"))?;
        let child = Command::new(program)
            .arg(format!(
                "--config.file={}",
                dir.join("prometheus.yml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start prometheus")?;
        Ok(Self { child, dir, port })
    }

    /// The value of an expression, once it has one that is right.
    fn wait(&self, query: &str, is: impl Fn(f64) -> bool) -> Result<f64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.value(query).ok().flatten();
            if let Some(value) = value.filter(|value| is(*value)) {
                return Ok(value);
            }
            ensure!(
                Instant::now() < deadline,
                "{query} is {value:?}; it says {}",
                fs::read_to_string(self.dir.join("log")).unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn value(&self, query: &str) -> Result<Option<f64>> {
        let (_, body) = get(self.port, &format!("/api/v1/query?query={query}"))?;
        let answer: Value = serde_json::from_str(&body)?;
        let value = &answer["data"]["result"][0]["value"][1];
        Ok(value.as_str().map(str::parse).transpose()?)
    }
}

fn check(promtool: &Path, text: &str) -> Result<()> {
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start promtool")?;
    child
        .stdin
        .take()
        .context("no stdin")?
        .write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(
        output.status.success() && said.is_empty(),
        "promtool: {}, {}",
        output.status,
        String::from_utf8_lossy(&said)
    );
    Ok(())
}

fn prometheus() -> Result<()> {
    let (Some(server), Some(promtool)) = (find("prometheus"), find("promtool")) else {
        return skip("prometheus is not installed");
    };
    let full = full(&["--stats", "1", "--max-cpu", "1000"])?;
    let series = "tracer_process_connect_failures_total";
    wait(full.port, |page| {
        sum(page, series, "metrics-client") >= full.failed as f64
    })?;
    check(&promtool, &get(full.port, "/metrics")?.1)?;
    let prometheus = Prometheus::start(&server, full.port)?;
    prometheus.wait("up", |up| up == 1.0)?;
    let query = format!("sum({series}%7Bcomm%3D%22metrics-client%22%7D)");
    let scraped = prometheus.wait(&query, |count| count >= full.failed as f64)?;
    ensure!(
        scraped == full.failed as f64,
        "{scraped} of {}",
        full.failed
    );
    let query = format!(
        "tracer_destination_ports_in_use%7Bpeer%3D%22{}%22%2Cnetns%3D%22{}%22%7D",
        full.to, full.scene.netns.inode
    );
    prometheus.wait(&query, |ports| ports == f64::from(PORTS))?;
    // It asks for OpenMetrics, where an error in the page would be no sample at all.
    let samples = prometheus.wait("scrape_samples_scraped", |count| count > 40.0)?;
    note(format!("{samples} samples at each scrape"));
    full.scene
        .into_tracer()?
        .stop(Signal::TERM)?
        .check_totals()?;
    Ok(())
}
