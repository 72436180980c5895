//! Lines that options choose: those of an unfiltered tracer beside it that fit, and no others; what is counted is the
//! same.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{fs::statfs, io::Errno, process::Signal};
use serde_json::Value;

use super::stream::validate;
use crate::{
    actor::{Actor, Op},
    lines::{Keep, PATIENCE, Record},
    netns::Netns,
    report::note,
    scene::{Scene, V4},
    shared::{self, Backend},
    tracer::{Finished, Tracer},
};

const PORT: u16 = 5774;
const OTHER_PORT: u16 = 5775;
const BROOD_PORT: u16 = 5780;
const OTHER_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// Of the range: more than most destinations take.
const PORTS: u32 = 64;
/// Small: there are many tracers.
const COMMON: [&str; 4] = ["--max-sockets", "65536", "--interval", "3600"];
const ATTEMPTS: u32 = 4;
const CONTAINER: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904b825dc642cb6eb9a060e54bf";

/// Differ from tracer to tracer, or from moment to moment.
const INCIDENTAL: [&str; 10] = [
    "incomplete",
    "owner",
    "seq",
    "ts",
    "duration_ms",
    "time_wait_s",
    "interval_s",
    "explained_by",
    "since",
    "advice",
];

/// Who does what is traced.
struct Cast {
    server: Actor,
    client: Actor,
    other: Actor,
    /// Descriptors of the server.
    listeners: BTreeMap<SocketAddr, i64>,
    cgroup: Cgroup,
}

/// What a tracer is started with, and whether it is to write a line.
struct Case {
    args: Vec<String>,
    fits: Box<dyn Fn(&Value) -> bool>,
}

impl Case {
    fn new(args: &[&str], fits: impl Fn(&Value) -> bool + 'static) -> Self {
        Self {
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            fits: Box::new(fits),
        }
    }
}

/// A cgroup that is named like a container's, with `other` in it.
struct Cgroup {
    path: String,
    directory: PathBuf,
}

impl Cgroup {
    fn new() -> Result<Self> {
        let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let is_v2 =
            |path: &&Path| statfs(*path).is_ok_and(|is| is.f_type == libc::CGROUP2_SUPER_MAGIC);
        let mount = mounts
            .into_iter()
            .find(is_v2)
            .context("no cgroup v2 hierarchy")?;
        let parent = format!("tracer-live-{}", process::id());
        let path = format!("/{parent}/docker-{CONTAINER}.scope");
        let directory = mount.join(&path[1..]);
        fs::create_dir_all(&directory)?;
        Ok(Self { path, directory })
    }

    fn take(&self, actor: &Actor) -> Result<()> {
        let file = self.directory.join("cgroup.procs");
        fs::write(&file, actor.pid.to_string())
            .with_context(|| format!("{} can't be written", file.display()))
    }

    fn parent(&self) -> &str {
        self.path.rsplit_once('/').map_or("/", |(parent, _)| parent)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel empties it when the last process in it is reaped.
        let deadline = Instant::now() + PATIENCE;
        while fs::remove_dir(&self.directory).is_err() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        if let Some(parent) = self.directory.parent() {
            let _ = fs::remove_dir(parent);
        }
    }
}

impl Cast {
    fn new(scene: &Scene) -> Result<Self> {
        let range = format!("40000 {}", 40_000 + PORTS - 1);
        scene.netns.sysctl("ipv4/ip_local_port_range", &range)?;
        let cast = Self {
            cgroup: Cgroup::new()?,
            server: scene.actor("server")?,
            client: scene.actor("client")?,
            other: scene.actor("other")?,
            listeners: BTreeMap::new(),
        };
        cast.cgroup.take(&cast.other)?;
        Ok(cast)
    }

    /// Connections of two clients to three destinations, refused ones, a port that is taken, and ports that run out.
    fn play(mut self) -> Result<Self> {
        // Processes that are gone when the tracer looks for them.
        let to = self.listen(V4, BROOD_PORT)?;
        let fd = self.listeners[&to];
        self.server.run(&Op::ServeOrders { fd })?;
        self.other.all(&Op::Brood { to, times: 6 })?;
        let to = [(V4, PORT), (V4, OTHER_PORT), (OTHER_IP, PORT)];
        let to = to.map(|(ip, port)| self.listen(ip, port));
        let to = to.into_iter().collect::<Result<Vec<_>>>()?;
        for addr in &to {
            let fd = self.listeners[addr];
            self.server.run(&Op::ServeExchange {
                fd,
                times: u32::MAX,
            })?;
            for actor in [&mut self.client, &mut self.other] {
                actor.run(&Op::Exchange {
                    to: *addr,
                    times: 8,
                })?;
            }
        }
        for addr in to {
            for actor in [&mut self.client, &mut self.other] {
                actor.open(addr)?;
                let fd = actor.socket(addr)?;
                actor.fails(&Op::Bind { fd, addr }, Errno::ADDRINUSE)?;
                actor.close(fd)?;
            }
        }
        let refused = Op::Refused {
            to: SocketAddr::new(V4, 5999),
            times: 3,
        };
        self.client.run(&refused)?;
        let to = self.listen(Ipv4Addr::new(127, 0, 0, 3).into(), PORT)?;
        let times = PORTS + 3;
        self.client.all(&Op::ConnectMany {
            v6: false,
            to,
            times,
        })?;
        Ok(self)
    }

    fn listen(&mut self, ip: IpAddr, port: u16) -> Result<SocketAddr> {
        let addr = SocketAddr::new(ip, port);
        let fd = self.server.bound(addr)?;
        self.server.run(&Op::Listen { fd, backlog: 256 })?;
        self.listeners.insert(addr, fd);
        Ok(addr)
    }
}

/// On every backend: what is left out in the kernel, and samples.
pub(crate) fn filters(backend: Backend) -> Result<()> {
    compare(backend, |scene, _| {
        vec![in_kernel(scene), quiet(), without_states()]
    })
}

fn in_kernel(scene: &Scene) -> Case {
    let inode = scene.netns.inode.to_string();
    let kinds = "state,connection,usage,connect_failed";
    Case::new(&["--netns", &inode, "--emit", kinds], is_of(kinds))
}

fn quiet() -> Case {
    let kinds = "connect_failed,bind_failed,pressure,usage";
    Case::new(&["--emit", kinds], is_of(kinds))
}

fn without_states() -> Case {
    let kinds = "connection,usage,connect_failed";
    Case::new(&["--emit", kinds], is_of(kinds))
}

/// Whether a line is of one of these types, as they are given to `--emit`.
fn is_of(kinds: &'static str) -> impl Fn(&Value) -> bool {
    move |line| kinds.split(',').any(|one| kind(line) == one)
}

fn of_clients() -> Case {
    let args = ["--comm", "cli*", "--role", "client", "--port", "5775"];
    Case::new(&args, |line| {
        (name(line) == "client" || !has(line, "process"))
            && (line["role"] == "client" || !has(line, "role"))
            && (ports(line).contains(&u64::from(OTHER_PORT)) || !has(line, "local"))
    })
}

/// Each option by itself.
pub(crate) fn every_option() -> Result<()> {
    compare(Backend::Auto, |scene, cast| {
        let (pid, inode) = (cast.client.pid, scene.netns.inode);
        let others = |line: &Value| name(line) == "other" || !has(line, "process");
        let of_pid = move |line: &Value| line["process"]["pid"] == pid || !has(line, "process");
        vec![
            of_clients(),
            Case::new(&["--pid", &format!("1,{pid}")], of_pid),
            Case::new(&["--comm", "?ther"], others),
            Case::new(&["--cgroup", cast.cgroup.parent()], others),
            Case::new(&["--container", &CONTAINER[..12]], others),
            Case::new(&["--uid", "0"], |line| {
                !line["process"].is_null() || !has(line, "process")
            }),
            Case::new(&["--uid", "4242"], |line| !has(line, "process")),
            Case::new(&["--netns", &inode.to_string()], |_| true),
            Case::new(
                &[
                    "--netns",
                    &process::id().to_string(),
                    "--emit",
                    "state,usage,connection",
                ],
                |_| false,
            ),
            Case::new(&["--port", "1-5774"], |line| {
                ports(line).iter().any(|port| (1..=5774).contains(port)) || !has(line, "local")
            }),
            Case::new(&["--peer", "127.0.0.2/31"], |line| {
                let peer = line["peer"]["ip"].as_str();
                peer.is_none_or(|ip| ["127.0.0.2", "127.0.0.3"].contains(&ip))
            }),
            Case::new(&["--role", "server,listener"], |line| {
                !has(line, "role") || line["role"] == "server" || line["role"] == "listener"
            }),
            Case::new(&["--state", "TIME_WAIT"], |line| {
                kind(line) != "state" || line["old"] == "TIME_WAIT" || line["new"] == "TIME_WAIT"
            }),
            Case::new(&["--emit", "connection,bind_failed"], |line| {
                ["connection", "bind_failed"].contains(&kind(line))
            }),
        ]
    })
}

/// Again if the machine was too busy: what is lost, and healed, shows in other lines. Sixteen tracers in one kernel get in each
/// other's way, and a run of one of them that the kernel skips is not always counted.
fn compare(backend: Backend, cases: impl Fn(&Scene, &Cast) -> Vec<Case>) -> Result<()> {
    for _ in 1..ATTEMPTS {
        let (result, lost) = compare_once(backend, &cases)?;
        let Err(error) = result else {
            return Ok(());
        };
        note(format!(
            "{lost} events were lost: once more after: {error:#}"
        ));
    }
    let (result, lost) = compare_once(backend, &cases)?;
    result.with_context(|| format!("{lost} events were lost"))
}

/// The result, and how much was lost, which explains a bad one.
fn compare_once(
    backend: Backend,
    cases: impl Fn(&Scene, &Cast) -> Vec<Case>,
) -> Result<(Result<()>, u64)> {
    // Before the tracers: an earlier namespace with this inode number is gone when they start.
    let netns = Netns::new()?;
    let mut scene = Scene::new(Arc::new(shared::start(backend, &COMMON, Keep::All)?))?;
    scene.netns = netns;
    let cast = Cast::new(&scene)?;
    let cases = cases(&scene, &cast);
    let mut tracers = Vec::new();
    for case in &cases {
        let args = case.args.iter().map(String::as_str);
        let args: Vec<&str> = COMMON.into_iter().chain(args).collect();
        tracers.push(shared::start(backend, &args, Keep::All)?);
    }
    let sample = [&COMMON[..], &["--sample", "3"]].concat();
    tracers.push(shared::start(backend, &sample, Keep::All)?);
    let cast = cast.play()?;
    scene.settled()?;
    let netns = scene.netns.inode;
    tracers.push(Arc::into_inner(scene.tracer).context("the tracer is still in use")?);
    // All at once: what is in TIME_WAIT then is the same for all.
    for tracer in &tracers {
        tracer.signal(Signal::TERM)?;
    }
    let finished = tracers.iter_mut().map(Tracer::finish);
    let finished = finished.collect::<Result<Vec<_>>>()?;
    drop(cast);
    for one in &finished {
        one.check_totals()?;
        validate(&one.lines.all())?;
    }
    let losses = finished.iter().flat_map(Finished::losses);
    let lost = losses.map(|loss| loss.events).sum();
    Ok((are_filtered(&cases, &finished, netns), lost))
}

/// Those of the cases come first, then the one with a sample, and the one with everything.
fn are_filtered(cases: &[Case], finished: &[Finished], netns: u64) -> Result<()> {
    let [filtered @ .., sampled, whole] = finished else {
        anyhow::bail!("no tracers");
    };
    let all = of(whole, netns)?;
    contains_everything(&all)?;
    let everybody = named(whole, netns)?;
    for one in finished {
        introduces(one, netns, &everybody)?;
    }
    for (case, found) in cases.iter().zip(filtered) {
        let expected = all.iter().filter(|line| (case.fits)(line));
        same(expected, &of(found, netns)?).with_context(|| format!("{:?}", case.args))?;
    }
    is_sample(&all, &of(sampled, netns)?)?;
    note(format!("{} lines of {} tracers", all.len(), finished.len()));
    Ok(())
}

/// The lines about a namespace. What depends on the moment in which a tracer looks is left out, with `pressure` and
/// `netns` lines altogether.
fn of(finished: &Finished, netns: u64) -> Result<Vec<Value>> {
    let lines = finished.lines.of(netns);
    let lines = lines.iter().map(|line| serde_json::from_str(&line.raw));
    let mut lines = lines.collect::<Result<Vec<Value>, _>>()?;
    lines.retain(|line| !["pressure", "netns"].contains(&kind(line)));
    for line in &mut lines {
        let fields = line.as_object_mut().context("not an object")?;
        // In `usage` lines these are counts.
        let counts = fields["type"] == "usage";
        // Later ones are explained if a second has passed.
        let first = fields
            .get("failures_so_far")
            .is_none_or(|count| *count == 1);
        fields.retain(|name, _| match name.as_str() {
            "opened" | "closed" => counts,
            "budget" | "holders" | "held_by" => first,
            name => !INCIDENTAL.contains(&name),
        });
        // A transition at the moment of accept() is the listener's for one tracer, and for the next the other's.
        if let Some(process) = fields.get_mut("process").and_then(Value::as_object_mut) {
            process.remove("tid");
        }
    }
    Ok(lines)
}

fn kind(line: &Value) -> &str {
    line["type"].as_str().unwrap_or_default()
}

fn name(line: &Value) -> &str {
    line["process"]["comm"].as_str().unwrap_or_default()
}

fn has(line: &Value, field: &str) -> bool {
    line.get(field).is_some()
}

fn ports(line: &Value) -> Vec<u64> {
    let ports = [&line["local"]["port"], &line["peer"]["port"]];
    ports.into_iter().filter_map(Value::as_u64).collect()
}

/// Each kind that is compared came, and usage has every count.
fn contains_everything(all: &[Value]) -> Result<()> {
    let kinds: BTreeSet<&str> = all.iter().map(kind).collect();
    let expected = [
        "bind_failed",
        "connect_failed",
        "connection",
        "state",
        "usage",
    ];
    ensure!(kinds.iter().eq(&expected), "only {kinds:?}");
    for count in ["opened", "closed", "failed"] {
        let any = all.iter().any(|line| line[count].as_u64() > Some(0));
        ensure!(any, "no usage with {count}");
    }
    Ok(())
}

/// In any order: transitions on two CPUs have none.
fn same<'a>(expected: impl Iterator<Item = &'a Value>, found: &[Value]) -> Result<()> {
    let mut counts = BTreeMap::<String, i64>::new();
    for line in expected {
        *counts.entry(line.to_string()).or_default() += 1;
    }
    for line in found {
        *counts.entry(line.to_string()).or_default() -= 1;
    }
    counts.retain(|_, count| *count != 0);
    let wrong: Vec<_> = counts.iter().take(4).collect();
    ensure!(
        wrong.is_empty(),
        "{} lines differ (1: missing, -1: too much), first {wrong:#?}",
        counts.len()
    );
    Ok(())
}

/// The transitions of one side of a connection, and how many there are like it.
type Lives = BTreeMap<(String, Vec<String>), usize>;

/// Of those lines that tell the port: a client's first does not. A 4-tuple may be used again.
fn lives(lines: &[Value]) -> Lives {
    let mut lives = Lives::new();
    let mut current = BTreeMap::<String, Vec<String>>::new();
    let is_state = |line: &&Value| kind(line) == "state" && line["local"]["port"].is_u64();
    for line in lines.iter().filter(is_state) {
        let side = format!("{} {} {}", line["role"], line["local"], line["peer"]);
        let steps = current.entry(side.clone()).or_default();
        if begins(line, steps) && !steps.is_empty() {
            *lives.entry((side, std::mem::take(steps))).or_default() += 1;
        }
        steps.push(format!(
            "{}>{} {}",
            line["old"], line["new"], line["process"]
        ));
    }
    for life in current {
        *lives.entry(life).or_default() += 1;
    }
    lives
}

/// Whether a transition is the first one of a life, or, where the kernel does not say the peer in the first one of a
/// server (before 6.18), the second.
fn begins(line: &Value, before: &[String]) -> bool {
    match line["old"].as_str() {
        Some("CLOSE" | "LISTEN" | "SYN_SENT") => true,
        Some("SYN_RECV") => !before
            .last()
            .is_some_and(|last| last.contains(">\"SYN_RECV\"")),
        _ => false,
    }
}

/// Some of the connections with all their transitions, and everything else.
fn is_sample(all: &[Value], sampled: &[Value]) -> Result<()> {
    let rest = |lines: &[Value]| -> Vec<Value> {
        let others = lines.iter().filter(|line| kind(line) != "state");
        others.cloned().collect()
    };
    same(rest(all).iter(), &rest(sampled)).context("other lines than state")?;
    let first = sampled
        .iter()
        .filter(|line| line["new"] == "SYN_SENT")
        .count();
    let (all, sampled) = (lives(all), lives(sampled));
    for (life, count) in &sampled {
        ensure!(
            all.get(life) >= Some(count),
            "not whole: {life:?} of {all:#?}"
        );
    }
    let count = |lives: &Lives| lives.values().sum::<usize>();
    ensure!(
        (1..count(&all)).contains(&count(&sampled)),
        "{} of {} connections are in the sample",
        count(&sampled),
        count(&all)
    );
    let is_client = |(life, _): &(&(String, Vec<String>), &usize)| life.0.starts_with("\"client\"");
    let clients: usize = sampled
        .iter()
        .filter(is_client)
        .map(|(_, count)| count)
        .sum();
    ensure!(
        first >= clients,
        "{clients} clients with {first} first transitions"
    );
    Ok(())
}

/// Of all who are named by anybody, those are introduced who are named here.
fn introduces(finished: &Finished, netns: u64, everybody: &BTreeSet<String>) -> Result<()> {
    let lines = finished.lines.all();
    let introduced = lines.iter().filter_map(|line| match &line.record {
        Record::Process(process) => Some(process.id.clone()),
        _ => None,
    });
    let introduced: BTreeSet<String> = introduced.filter(|id| everybody.contains(id)).collect();
    let named = named(finished, netns)?;
    ensure!(
        named == introduced,
        "named {named:?}, introduced {introduced:?}"
    );
    Ok(())
}

/// Who is named in lines about the namespace.
fn named(finished: &Finished, netns: u64) -> Result<BTreeSet<String>> {
    let mut named = BTreeSet::new();
    for line in finished.lines.of(netns) {
        names(&serde_json::from_str(&line.raw)?, &mut named);
    }
    Ok(named)
}

/// Ids of processes, wherever they are.
fn names(value: &Value, named: &mut BTreeSet<String>) {
    match value {
        Value::Array(all) => all.iter().for_each(|one| names(one, named)),
        Value::Object(fields) => {
            for (name, value) in fields {
                if let ("process" | "closed_by", Some(id)) = (name.as_str(), value["id"].as_str()) {
                    named.insert(id.to_owned());
                } else {
                    names(value, named);
                }
            }
        }
        _ => {}
    }
}
