//! The ledger equals the kernel, at every quiet moment of a random life.

use std::{
    env,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::stream::validate;
use crate::{
    lines::{Keep, PATIENCE},
    netns::Netns,
    random::Random,
    report::note,
    scene::Scene,
    shared::{self, Backend},
    truth::{Field, Numbers, agree, has_lost},
    world::World,
};

/// So many steps of each client between two quiet moments.
const STEPS: u32 = 200;

/// How many quiet moments there are; fewer on slow machines.
pub(crate) fn rounds() -> usize {
    let set = env::var("TRACER_LIVE_ROUNDS").ok();
    set.and_then(|number| number.parse().ok()).unwrap_or(20)
}

/// The same again with `TRACER_LIVE_SEED`.
pub(crate) fn seed() -> u64 {
    let set = env::var("TRACER_LIVE_SEED").ok();
    set.and_then(|number| number.parse().ok())
        .unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            now.map_or(0, |now| now.as_secs())
        })
}

pub(crate) fn truth(backend: Backend) -> Result<()> {
    of_tracer(backend, &["--interval", "1"], rounds())
}

/// Without `state` lines the kernel does not tell of each step of a connection.
pub(crate) fn quiet(backend: Backend) -> Result<()> {
    let kinds = "connection,connect_failed,bind_failed,usage,ledger,socket";
    let args = ["--interval", "1", "--emit", kinds];
    of_tracer(backend, &args, rounds().div_ceil(2))
}

fn of_tracer(backend: Backend, args: &[&str], rounds: usize) -> Result<()> {
    let tracer = shared::start(backend, args, Keep::All)?;
    let scene = Scene::new(Arc::new(tracer))?;
    let seed = seed();
    let numbers = live(&scene, seed, rounds)
        .with_context(|| format!("TRACER_LIVE_SEED={seed} gives the same again"))?;
    note(numbers.in_words());
    let finished = scene.into_tracer()?.stop(Signal::TERM)?;
    finished.check_totals()?;
    validate(&finished.lines.all())
}

fn live(scene: &Scene, seed: u64, rounds: usize) -> Result<Numbers> {
    let mut random = Random::new(seed);
    let mut world = World::new(&scene.netns, random.next())?;
    let mut doomed = Some(Doomed::new()?);
    let mut numbers = Numbers::default();
    scene.netns.sysctl("ipv4/tcp_fin_timeout", "1")?;
    for round in 0..rounds {
        set_out(&scene.netns, &mut random, round)?;
        world.churn(STEPS)?;
        world.tend_idle()?;
        if round % 2 == 1 {
            world.destroy_some(&scene.netns)?;
        }
        if round % 6 == 3 {
            world.replace_client(&scene.netns)?;
        }
        if round == rounds / 2
            && let Some(doomed) = doomed.take()
        {
            doomed.perish(scene)?;
        }
        let lost = has_lost(scene)?;
        let field = Field {
            netns: &scene.netns,
            held: world.held()?,
            judge: &|seen, rows| match lost {
                true => world.judge_after_loss(seen, rows),
                false => world.judge(seen, rows),
            },
        };
        let found = agree(scene, &[field]);
        numbers.add(found.with_context(|| format!("in round {round}"))?);
    }
    // The share of those that the tracer cannot attribute is told, and small where it sees all.
    ensure!(
        numbers.sockets > 0 && numbers.timewait > 0,
        "nothing was compared: {numbers:?}"
    );
    Ok(numbers)
}

/// Other rules each time; at first there is room for timewait sockets.
fn set_out(netns: &Netns, random: &mut Random, round: usize) -> Result<()> {
    let reuse = *random.pick(&["0", "1", "2"]);
    netns.sysctl("ipv4/tcp_tw_reuse", reuse)?;
    let range = *random.pick(&["32768 60999", "40000 40063", "41000 41007"]);
    netns.sysctl("ipv4/ip_local_port_range", range)?;
    let buckets = *random.pick(&["4096", "4096", "60", "0"]);
    let buckets = if round == 0 { "4096" } else { buckets };
    netns.sysctl("ipv4/tcp_max_tw_buckets", buckets)
}

/// A namespace that ends with its sockets, timewait ones among them.
struct Doomed {
    netns: Netns,
    /// Its processes end with it.
    _world: World,
}

impl Doomed {
    fn new() -> Result<Self> {
        let netns = Netns::new()?;
        let mut world = World::new(&netns, 1)?;
        world.churn(20)?;
        Ok(Self {
            netns,
            _world: world,
        })
    }

    fn perish(self, scene: &Scene) -> Result<()> {
        let inode = self.netns.inode;
        let of_it = |scene: &Scene| -> Result<usize> {
            scene.settled()?;
            let snapshot = scene.tracer.snapshot()?;
            let sockets = snapshot.sockets.iter();
            Ok(sockets.filter(|seen| seen.netns == inode).count())
        };
        ensure!(
            of_it(scene)? > 0,
            "nothing is known of the namespace that is to end"
        );
        drop(self);
        // The kernel takes its time, in a worker thread of its own.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = of_it(scene)?;
            if left == 0 {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{left} sockets of a namespace that is gone"
            );
            thread::sleep(Duration::from_millis(100));
        }
    }
}
