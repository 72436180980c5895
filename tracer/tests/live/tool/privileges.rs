//! What it may do: only what it needs, and with less it says what is missing.

use std::{
    collections::BTreeMap,
    env, fs, io,
    net::SocketAddr,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{self, Command},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    process::{Gid, Resource, Rlimit, Signal, Uid, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, UnshareFlags, capabilities,
        configure_capability_in_ambient_set, set_capabilities, set_keep_capabilities,
        set_thread_groups, set_thread_res_gid, set_thread_res_uid, unshare_unsafe,
    },
};

use super::{Test, test};
use crate::{
    actor::{Actor, Op, Server},
    lines::{Keep, Line, PATIENCE, Record, Usage},
    netns::Netns,
    report::note,
    scene::{Scene, V4, owned_by, role},
    tracer::{Finished, Started, Tracer, binary},
};

pub(super) const ALL: &[Test] = &[
    test("privileges_dropped", || drops(&[], 0)),
    test("privileges_of_another_user", || {
        drops(&["--user", "65534"], NOBODY)
    }),
    test("privileges_unknown_user", unknown_user),
    test("privileges_least", least_capabilities),
    test("privileges_least_after_a_loss", least_after_a_loss),
    test("privileges_least_for_a_budget", least_for_a_budget),
    test("privileges_of_a_service", as_a_service),
    test("privileges_in_a_pid_namespace", in_a_pid_namespace),
    test("privileges_in_a_cgroup_namespace", in_a_cgroup_namespace),
    test("privileges_too_few", too_few_capabilities),
    test("privileges_locked_memory", locked_memory),
];

const NOBODY: u32 = 65_534;

/// What a run keeps.
const OF_A_RUN: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH);

const OF_A_START: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::PERFMON);

/// Each thread of a process: the fields of its `status`.
fn threads(pid: u32) -> Result<Vec<BTreeMap<String, String>>> {
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // One that reads a dump may have ended meanwhile.
        let status = fs::read_to_string(task?.path().join("status")).unwrap_or_default();
        let fields = status.lines().filter_map(|line| line.split_once(':'));
        let fields: BTreeMap<_, _> = fields
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        if !fields.is_empty() {
            threads.push(fields);
        }
    }
    Ok(threads)
}

fn has_dropped(tracer: &Tracer, uid: u32, kept: CapabilitySet) -> Result<()> {
    let threads = threads(tracer.pid())?;
    ensure!(!threads.is_empty(), "the tracer has no thread");
    let all = format!("{:016x}", kept.bits());
    let uids = [uid; 4].map(|uid| uid.to_string()).join("\t");
    for thread in threads {
        for (field, expected) in [
            ("CapInh", "0000000000000000"),
            ("CapPrm", &all),
            ("CapEff", &all),
            ("CapAmb", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Groups", ""),
            ("Uid", &uids),
            ("Gid", &uids),
        ] {
            let found = thread.get(field).map(String::as_str);
            ensure!(
                found == Some(expected),
                "{field} is {found:?} instead of {expected:?}"
            );
        }
    }
    Ok(())
}

/// Everything works with what is left: transitions, owners, what processes are, snapshots.
fn works(scene: &Scene) -> Result<()> {
    let server = scene.server(V4, 5774)?;
    let mut client = scene.actor("client")?;
    let fd = client.open(server.addr)?;
    client.close(fd)?;
    let client_steps = scene.states(role("client"))?;
    ensure!(!client_steps.is_empty(), "no transitions of the client");
    owned_by(&client_steps, &client, "connect")?;
    let snapshot = scene.tracer.snapshot()?;
    let listens = |port| move |seen: &&crate::lines::SocketSeen| seen.local.port == Some(port);
    let here = snapshot.sockets.iter().filter(listens(server.addr.port()));
    ensure!(here.count() > 0, "the listener is not known");
    Ok(())
}

fn drops(args: &[&str], uid: u32) -> Result<()> {
    let scene = Scene::new(Arc::new(Tracer::started(args, Keep::All)?))?;
    works(&scene)?;
    // Before 5.19 `bpf()` is closed to those who have neither CAP_BPF nor CAP_SYS_ADMIN; the latter is kept.
    has_dropped(&scene.tracer, uid, OF_A_RUN)?;
    let finished = scene.into_tracer()?.stop(Signal::TERM)?;
    finished.check_totals()?;
    let has_exe =
        finished.lines.all().iter().any(|line| {
            matches!(line.record, Record::Process(_)) && line.raw.contains(r#""exe":"/"#)
        });
    ensure!(has_exe, "`exe` of no process is known");
    ensure!(finished.stderr.is_empty(), "stderr: {}", finished.stderr);
    Ok(())
}

fn unknown_user() -> Result<()> {
    for bad in ["no-such-user", "4294967295", "-1"] {
        let output = Command::new(binary())
            .arg(format!("--user={bad}"))
            .output()?;
        let said = super::refusals::refused(&output)?;
        ensure!(said.contains("--user") && said.contains(bad), "{said}");
    }
    Ok(())
}

/// Nobody, with these capabilities and no others, as systemd makes it of a unit.
fn nobody_with(capabilities: CapabilitySet) -> io::Result<()> {
    set_keep_capabilities(true)?;
    set_thread_groups(&[])?;
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    let sets = CapabilitySets {
        effective: capabilities,
        permitted: capabilities,
        inheritable: capabilities,
    };
    set_capabilities(None, sets)?;
    for capability in capabilities.iter() {
        configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// A copy that everybody may run: the build directory may be closed to others.
struct Copy(PathBuf);

impl Copy {
    fn new() -> Result<Self> {
        let dir = env::temp_dir().join(format!("tracer-live-privileges-{}", process::id()));
        let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755));
        fs::create_dir_all(&dir)?;
        let copy = Self(dir.join("tracer"));
        open(&dir)?;
        fs::copy(binary(), &copy.0).context("cannot copy the tracer")?;
        open(&copy.0)?;
        Ok(copy)
    }

    /// Of nobody with these capabilities, and with this limit on locked memory.
    fn command(&self, capabilities: CapabilitySet, locked: Option<u64>) -> Command {
        let mut command = Command::new(&self.0);
        let become_nobody = move || {
            let limit = Rlimit {
                current: locked,
                maximum: locked,
            };
            // To raise it takes CAP_SYS_RESOURCE, and is of use before 5.11 only.
            let limited = setrlimit(Resource::Memlock, limit);
            if locked.is_some() {
                limited?;
            }
            nobody_with(capabilities)
        };
        // SAFETY: system calls only, which allocate nothing and take no locks.
        unsafe { command.current_dir("/").pre_exec(become_nobody) };
        command
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Some(dir) = self.0.parent() {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

fn started(command: Command) -> Result<Tracer> {
    match Tracer::start_as(command, Keep::All)? {
        Started::Running(tracer) => Ok(tracer),
        Started::Refused(why) => bail!("the tracer did not start: {why}"),
    }
}

/// With the two that the kernel asks for, it sees what happens, and says what it does not see.
fn least_capabilities() -> Result<()> {
    let copy = Copy::new()?;
    let tracer = started(copy.command(OF_A_START, None))?;
    let scene = Scene::new(Arc::new(tracer))?;
    works(&scene)?;
    let kept = threads(scene.tracer.pid())?;
    let kept = kept[0].get("CapPrm").cloned().unwrap_or_default();
    note(format!("kept of CAP_BPF and CAP_PERFMON: {kept}"));
    let bpf = format!("{:016x}", CapabilitySet::BPF.bits());
    ensure!(
        [&bpf, "0000000000000000"].contains(&kept.as_str()),
        "kept {kept}"
    );
    let finished = scene.into_tracer()?.stop(Signal::TERM)?;
    finished.check_totals()?;
    says_what_is_missing(&finished)
}

/// What it may not look for is not taken for gone, and what it may not compare is not called made up for.
fn least_after_a_loss() -> Result<()> {
    const BURST: u64 = 5000;
    let copy = Copy::new()?;
    let mut command = copy.command(OF_A_START, None);
    command.args(["--ring-size", "4096"]);
    let scene = Scene::new(Arc::new(started(command)?))?;
    let mut server = scene.server(V4, 5774)?;
    let mut client = scene.actor("client")?;
    let fd = client.open(server.addr)?;
    let accepted = server.accept()?;
    client.close(fd)?;
    server.actor.close(accepted)?;
    // No process has a socket there then.
    drop((server, client));
    scene.settled()?;
    let mut other = scene.actor("other")?;
    let to = SocketAddr::new(V4, 5999);
    other.run(&Op::Refused { to, times: BURST })?;
    drop(other);
    let deadline = Instant::now() + PATIENCE;
    while scene.tracer.losses().is_empty() {
        ensure!(Instant::now() < deadline, "no loss is told");
        thread::sleep(Duration::from_millis(50));
    }
    let losses = scene.tracer.losses();
    ensure!(losses.iter().all(|loss| !loss.resynced), "{losses:?}");
    let snapshot = scene.tracer.snapshot()?;
    let waits = snapshot.sockets.iter().any(|seen| {
        seen.netns == scene.netns.inode && seen.timewait && seen.peer.port == Some(5774)
    });
    ensure!(waits, "TIME_WAIT is not there any more");
    scene.into_tracer()?.stop(Signal::TERM)?.check_totals()?;
    Ok(())
}

/// Where processes are hidden, sockets of theirs are not taken for gone, nor they for ended.
fn in_a_pid_namespace() -> Result<()> {
    const ROUNDS: usize = 3;
    let mut command = Command::new(env::current_exe()?);
    // Transitions alone do not show every end of TIME_WAIT: it is compared at each interval.
    command
        .arg("--alone")
        .arg(binary())
        .args(["--interval", "1", "--backend", "tracepoint"]);
    let scene = Scene::new(Arc::new(started(command)?))?;
    let mut server = scene.server(V4, 5774)?;
    let mut client = scene.actor("client")?;
    let stays = client.open(server.addr)?;
    let _accepted = server.accept()?;
    let ends = client.open(server.addr)?;
    client.close(ends)?;
    let other = server.accept()?;
    server.actor.close(other)?;
    let pid = client.pid;
    let told = scene.tracer.lines.wait(scene.netns.inode, |lines| {
        let told: Vec<_> = lines
            .iter()
            .filter_map(|line| usage_of(line, pid))
            .collect();
        (told.len() >= ROUNDS).then_some(told)
    });
    let lines = scene.settled()?;
    client.close(stays)?;
    let finished = scene.into_tracer()?.stop(Signal::TERM)?;
    let told = told.with_context(|| format!("no {ROUNDS} lines of usage: {}", finished.stderr))?;
    for usage in &told {
        ensure!(
            usage.ports.total == 2 && usage.exited.is_none(),
            "{usage:?}"
        );
    }
    let corrected = lines.iter().find(|line| line.is_corrected());
    ensure!(corrected.is_none(), "taken for gone: {corrected:?}");
    let said: Vec<&str> = finished.stderr.lines().collect();
    ensure!(
        said.len() == 1 && said[0].contains("pid namespace") && said[0].contains("hostPID"),
        "{said:?}"
    );
    Ok(())
}

/// It joins the host's, or says what it will miss.
fn in_a_cgroup_namespace() -> Result<()> {
    let mut command = Command::new(binary());
    // SAFETY: a system call only, and this kind of namespace touches no descriptor table.
    let unshare = || unsafe { Ok(unshare_unsafe(UnshareFlags::NEWCGROUP)?) };
    // SAFETY: as above.
    unsafe { command.pre_exec(unshare) };
    let tracer = started(command)?;
    let here = |pid| fs::read_link(format!("/proc/{pid}/ns/cgroup"));
    let has_joined = here(tracer.pid())? == here(process::id())?;
    note(format!("joined: {has_joined}"));
    let finished = tracer.stop(Signal::TERM)?;
    finished.check_totals()?;
    let said: Vec<&str> = finished.stderr.lines().collect();
    let is_right = match said[..] {
        [] => has_joined,
        [sentence] => !has_joined && sentence.contains("cgroup namespace"),
        _ => false,
    };
    ensure!(is_right, "joined: {has_joined}; {said:?}");
    Ok(())
}

fn usage_of(line: &Line, pid: u32) -> Option<Usage> {
    match &line.record {
        Record::Usage(usage) if usage.process.as_ref()?.pid == pid => Some(usage.clone()),
        _ => None,
    }
}

/// What a look leaves out is said, and shows in the exit status.
fn least_for_a_budget() -> Result<()> {
    let copy = Copy::new()?;
    let netns = Netns::new()?;
    let server = Server::listen(Actor::spawn(&netns.path(), "server")?, (V4, 5774).into(), 8)?;
    let mut client = Actor::spawn(&netns.path(), "client")?;
    client.open(server.addr)?;
    let mut command = copy.command(OF_A_START, None);
    let output = command.args(["budget", "--json"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(2), "{}: {said}", output.status);
    ensure!(
        said.contains("CAP_SYS_ADMIN is missing") && said.contains("left out"),
        "{said}"
    );
    let list: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let left_out = list["left_out"].as_array().context("no `left_out`")?;
    let inode = netns.inode.into();
    ensure!(left_out.contains(&inode), "{list}");
    Ok(())
}

fn says_what_is_missing(finished: &Finished) -> Result<()> {
    let said: Vec<&str> = finished.stderr.lines().collect();
    for name in ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"] {
        let start = format!("[WARN ] {name} is missing: ");
        let about = said.iter().filter(|line| line.starts_with(&start));
        ensure!(
            about.count() == 1,
            "not one sentence about {name}: {said:?}"
        );
    }
    // Nothing else, but for hooks that take tracefs.
    let others = said
        .iter()
        .filter(|line| !line.contains(" is missing: ") && !line.contains("not covered here"));
    ensure!(others.count() == 0, "{said:?}");
    Ok(())
}

/// With those of the systemd unit nothing is missing.
fn as_a_service() -> Result<()> {
    let copy = Copy::new()?;
    let tracer = started(copy.command(OF_A_START | OF_A_RUN, None))?;
    let scene = Scene::new(Arc::new(tracer))?;
    works(&scene)?;
    has_dropped(&scene.tracer, NOBODY, OF_A_RUN)?;
    for capability in ["connect_failure", "accept", "bind", "time_wait"] {
        scene.tracer.coverage(capability)?;
    }
    let finished = scene.into_tracer()?.stop(Signal::TERM)?;
    finished.check_totals()?;
    ensure!(finished.stderr.is_empty(), "stderr: {}", finished.stderr);
    Ok(())
}

fn too_few_capabilities() -> Result<()> {
    let copy = Copy::new()?;
    for (has, lacks) in [
        (CapabilitySet::BPF, "CAP_PERFMON is"),
        (CapabilitySet::PERFMON, "CAP_BPF is"),
        (
            OF_A_RUN - CapabilitySet::SYS_ADMIN,
            "CAP_BPF and CAP_PERFMON are",
        ),
    ] {
        let said = super::refusals::refused(&copy.command(has, None).output()?)?;
        ensure!(
            said.starts_with(&format!("tracer: {lacks} missing")) && said.lines().count() == 1,
            "{said}"
        );
    }
    shows_what_it_lacks(&copy)
}

/// `tracer check` has its table all the same.
fn shows_what_it_lacks(copy: &Copy) -> Result<()> {
    for (json, expected) in [
        (&[][..], "  NO  CAP_BPF: to load programs"),
        (&["--json"], r#"{"capability":"CAP_BPF","have":false"#),
    ] {
        let mut command = copy.command(CapabilitySet::empty(), None);
        let output = command.arg("check").args(json).output()?;
        let (table, said) = (
            String::from_utf8(output.stdout)?,
            String::from_utf8(output.stderr)?,
        );
        ensure!(
            output.status.code() == Some(1) && table.contains(expected),
            "{}: {table}{said}",
            output.status
        );
        ensure!(said.starts_with("tracer: CAP_BPF and"), "{said}");
    }
    Ok(())
}

/// Before 5.11 maps count as locked memory; it starts, or says which limit is in the way.
fn locked_memory() -> Result<()> {
    let copy = Copy::new()?;
    let little = Some(64 << 10);
    match Tracer::start_as(copy.command(OF_A_START, little), Keep::All)? {
        Started::Running(tracer) => {
            note("locked memory is not limited".into());
            tracer.stop(Signal::TERM)?.check_totals()?;
        }
        Started::Refused(said) => {
            note(format!("refused: {said}"));
            ensure!(said.contains("LimitMEMLOCK"), "{said}");
        }
    }
    // The capability makes up for the limit.
    let ours = capabilities(None)?.permitted;
    if !ours.contains(CapabilitySet::SYS_RESOURCE) {
        return Ok(());
    }
    let with = OF_A_START | CapabilitySet::SYS_RESOURCE;
    let tracer = started(copy.command(with, little))?;
    tracer.stop(Signal::TERM)?.check_totals()?;
    Ok(())
}
