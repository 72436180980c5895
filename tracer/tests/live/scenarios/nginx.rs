//! A real program that everybody runs out of ports with: a proxy without keepalive to its upstream.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{self, Child, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Scenario, scenario};
use crate::{
    actor::{Actor, Op},
    lines::PATIENCE,
    report::skip,
    scene::{Scene, V4},
};

pub(super) const ALL: &[Scenario] = &[scenario("nginx", nginx)];

const REQUESTS: u8 = 40;
const PORTS: usize = 16;
/// What nginx writes, once per failing connect.
const COMPLAINT: &str = "connect() to 127.0.0.1:9000 failed (99: Cannot assign requested address)";

const CONFIG: &str = "
daemon off;
worker_processes 2;
pid nginx.pid;
error_log error.log;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {
        listen 8080;
        location / { proxy_pass http://127.0.0.1:9000; }
    }
}
";

struct Proxy {
    child: Child,
    dir: PathBuf,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The workers notice that their master is gone only by the signal it sends them.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn nginx(scene: &Scene) -> Result<()> {
    let Some(program) = find_program() else {
        return skip("nginx is not installed");
    };
    scene
        .netns
        .sysctl("ipv4/ip_local_port_range", "40000 40015")?;
    scene.netns.sysctl("ipv4/tcp_tw_reuse", "0")?;
    let mut upstream = scene.server(V4, 9000)?;
    upstream.actor.run(&Op::ServeHttp { fd: upstream.fd })?;
    let proxy = start(scene, &program)?;
    let mut client = scene.actor("browser")?;
    let failed = request_all(&mut client)?;
    let complaints = fs::read_to_string(proxy.dir.join("error.log"))?
        .matches(COMPLAINT)
        .count();
    ensure!(
        complaints == failed && failed == usize::from(REQUESTS) - PORTS,
        "{failed} requests failed, nginx complained {complaints} times"
    );
    explained(scene, &proxy, complaints, upstream.addr)
}

/// Each request to another address of the proxy, so that the client has ports enough.
fn request_all(client: &mut Actor) -> Result<usize> {
    let mut failed = 0;
    for number in 0..REQUESTS {
        let to = SocketAddr::new(Ipv4Addr::new(127, 0, 1, number + 1).into(), 8080);
        match client.run(&Op::Get { to })? {
            200 => {}
            502 => failed += 1,
            other => bail!("request {number} was answered with {other}"),
        }
    }
    Ok(failed)
}

fn explained(scene: &Scene, proxy: &Proxy, complaints: usize, to: SocketAddr) -> Result<()> {
    let workers = children_of(proxy.child.id())?;
    let failures = scene.failures()?;
    ensure!(
        failures.len() == complaints,
        "{} lines for {complaints}",
        failures.len()
    );
    for failed in failures {
        ensure!(
            workers.contains(&failed.process.pid)
                && failed.process.comm == "nginx"
                && failed.reason == "ports_exhausted"
                && failed.peer.ip == to.ip().to_string()
                && failed.peer.port == Some(to.port()),
            "not a worker of {workers:?} towards {to}: {failed:?}"
        );
    }
    Ok(())
}

fn find_program() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    dirs.map(|dir| dir.join("nginx"))
        .find(|program| program.is_file())
}

fn start(scene: &Scene, program: &Path) -> Result<Proxy> {
    let dir = env::temp_dir().join(format!("tracer-live-nginx-{}", process::id()));
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("nginx.conf"), CONFIG)?;
    let child = Command::new(env::current_exe()?)
        .args([
            "--enter".as_ref(),
            scene.netns.path().as_ref(),
            program.as_os_str(),
        ])
        .args([
            "-p".as_ref(),
            dir.as_os_str(),
            "-c".as_ref(),
            "nginx.conf".as_ref(),
        ])
        .spawn()
        .context("cannot start nginx")?;
    let proxy = Proxy { child, dir };
    let deadline = Instant::now() + PATIENCE;
    while children_of(proxy.child.id())?.len() < 2 {
        ensure!(
            Instant::now() < deadline,
            "nginx does not start its workers"
        );
        thread::sleep(Duration::from_millis(10));
    }
    Ok(proxy)
}

fn children_of(parent: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        if line.is_some_and(|ppid| ppid.trim() == parent.to_string()) {
            children.push(pid);
        }
    }
    Ok(children)
}
