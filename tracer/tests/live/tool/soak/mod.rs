//! Minutes of life in many network namespaces that come and go: it grows no larger, loses nothing in silence, and knows
//! in the end what the kernel has.
//!
//! `TRACER_SOAK_MINUTES` says how long; with `TRACER_SOAK_JSON` figures are printed while it runs, and written to that
//! file in the end. `cargo xtask soak` sets both.

use std::{
    collections::BTreeMap,
    env, fs,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde::Serialize;

use super::{Test, test};
use crate::{
    lines::{self, Keep, Ledger, Loss, NO_NETNS, PATIENCE, Record, Stop},
    random::Random,
    report::note,
    scenarios::truth::seed,
    scene::Scene,
    tracer::Tracer,
    truth::{Field, Numbers, agree},
};

mod figures;
mod patch;

use figures::{Growth, Sample};
use patch::Patch;

pub(super) const ALL: &[Test] = &[test("soak", soak)];

/// Network namespaces at a time.
const PATCHES: usize = 50;

/// Of each client, in each round.
const STEPS: u32 = 6;

/// So long a round takes at least; in each, one namespace ends and another begins.
const ROUND: Duration = Duration::from_secs(1);

const SAMPLE: Duration = Duration::from_secs(5);

fn length() -> Duration {
    let set = env::var("TRACER_SOAK_MINUTES").ok();
    let minutes = set.and_then(|number| number.parse().ok()).unwrap_or(2);
    Duration::from_secs(60 * minutes)
}

#[derive(Serialize)]
struct Outcome<'a> {
    seconds: u64,
    seed: u64,
    namespaces_at_a_time: usize,
    namespaces: usize,
    steps: u64,
    events: u64,
    lines: u64,
    failures: u64,
    /// By where it was lost; each of them told, and made up for.
    lost: BTreeMap<String, u64>,
    growth: &'a Growth,
    sockets_compared: usize,
    samples: &'a [Sample],
}

fn soak() -> Result<()> {
    // As it comes.
    let scene = Scene::new(Arc::new(Tracer::started(&[], Keep::All)?))?;
    let seed = seed();
    let mut soak = Soak::new(&scene, seed)?;
    soak.live(length())?;
    let numbers = soak
        .compare()
        .with_context(|| format!("TRACER_LIVE_SEED={seed}"))?;
    let Soak {
        samples,
        steps,
        made,
        ..
    } = soak;
    let finished = scene.into_tracer()?.stop(Signal::TERM)?;
    let stop = finished.check_totals()?;
    let losses = finished.losses();
    // What others do on this machine may be more than the ring holds; then it is counted, and made up for.
    let unexplained: Vec<_> = losses.iter().filter(|loss| !loss.resynced).collect();
    let growth = Growth::of(&samples).context("too few samples")?;
    let outcome = Outcome {
        seconds: length().as_secs(),
        seed,
        namespaces_at_a_time: PATCHES,
        namespaces: made,
        steps,
        events: stop.events,
        lines: stop.lines,
        failures: stop.failures,
        lost: by_place(&losses),
        growth: &growth,
        sockets_compared: numbers.sockets,
        samples: &samples,
    };
    tell(&outcome, &stop, numbers)?;
    ensure!(unexplained.is_empty(), "lost: {unexplained:?}");
    ensure!(stop.failures > 0, "no port range was exhausted");
    ensure!(growth.is_flat(), "it grows: {growth:?}");
    Ok(())
}

fn by_place(losses: &[Loss]) -> BTreeMap<String, u64> {
    let mut places = BTreeMap::new();
    for loss in losses {
        *places.entry(loss.place.clone()).or_default() += loss.events;
    }
    places
}

fn tell(outcome: &Outcome<'_>, stop: &Stop, numbers: Numbers) -> Result<()> {
    let text = format!(
        "{} s, {} namespaces, {} events, {} failures, lost {:?}; {}; {}",
        outcome.seconds,
        outcome.namespaces,
        stop.events,
        stop.failures,
        outcome.lost,
        outcome.growth.in_words(),
        numbers.in_words()
    );
    if let Some(path) = env::var_os("TRACER_SOAK_JSON") {
        eprintln!("{text}");
        fs::write(&path, serde_json::to_vec_pretty(outcome)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    note(text);
    Ok(())
}

struct Soak<'a> {
    scene: &'a Scene,
    random: Random,
    patches: Vec<Patch>,
    /// Namespaces until now.
    made: usize,
    steps: u64,
    samples: Vec<Sample>,
    prints: bool,
}

impl<'a> Soak<'a> {
    fn new(scene: &'a Scene, seed: u64) -> Result<Self> {
        let mut soak = Self {
            scene,
            random: Random::new(seed),
            patches: Vec::new(),
            made: 0,
            steps: 0,
            samples: Vec::new(),
            prints: env::var_os("TRACER_SOAK_JSON").is_some(),
        };
        for _ in 0..PATCHES {
            let patch = soak.patch()?;
            soak.patches.push(patch);
        }
        Ok(soak)
    }

    fn patch(&mut self) -> Result<Patch> {
        self.made += 1;
        Patch::new(&mut self.random)
    }

    fn live(&mut self, length: Duration) -> Result<()> {
        let began = Instant::now();
        if self.prints {
            eprintln!("{}", Sample::HEAD);
        }
        while began.elapsed() < length {
            let round = Instant::now();
            self.round()?;
            let due = SAMPLE * u32::try_from(self.samples.len())?;
            if began.elapsed() >= due {
                self.sample(began.elapsed())?;
            }
            thread::sleep(ROUND.saturating_sub(round.elapsed()));
        }
        Ok(())
    }

    fn round(&mut self) -> Result<()> {
        let seed = self.random.next();
        for (patch, number) in self.patches.iter_mut().zip(0..) {
            patch.begin(seed.wrapping_add(number), STEPS)?;
        }
        for patch in &mut self.patches {
            self.steps += patch.end()?;
        }
        let index = self.random.below(PATCHES);
        let fresh = self.patch()?;
        drop(std::mem::replace(&mut self.patches[index], fresh));
        Ok(())
    }

    fn sample(&mut self, at: Duration) -> Result<()> {
        let tracer = &self.scene.tracer;
        let ledger = last_ledger(tracer).map_or(0, |ledger| ledger.sockets);
        let sample = Sample::take(tracer, at, self.made, ledger)?;
        if self.prints {
            eprintln!("{}", sample.row());
        }
        self.samples.push(sample);
        Ok(())
    }

    /// With the kernel, once nothing happens any more.
    fn compare(&mut self) -> Result<Numbers> {
        for patch in &self.patches {
            lines::watch(patch.netns.inode);
        }
        self.wait_for_rounds(2)?;
        let judges: Vec<_> = self
            .patches
            .iter_mut()
            .map(Patch::judge)
            .collect::<Result<_>>()?;
        let fields = self.patches.iter_mut().zip(&judges).map(|(patch, judge)| {
            Ok(Field {
                held: patch.held()?,
                netns: &patch.netns,
                judge,
            })
        });
        let fields: Vec<_> = fields.collect::<Result<_>>()?;
        agree(self.scene, &fields)
    }

    /// In which the tracer compares with the kernel, where its hooks do not show everything.
    fn wait_for_rounds(&self, count: usize) -> Result<()> {
        let ledgers = || ledgers(&self.scene.tracer).len();
        let (before, deadline) = (ledgers(), Instant::now() + PATIENCE);
        while ledgers() < before + count {
            ensure!(Instant::now() < deadline, "no `ledger` line comes");
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }
}

fn ledgers(tracer: &Tracer) -> Vec<Ledger> {
    let lines = tracer.lines.of(NO_NETNS);
    let ledgers = lines.iter().filter_map(|line| match &line.record {
        Record::Ledger(ledger) => Some(ledger.clone()),
        _ => None,
    });
    ledgers.collect()
}

fn last_ledger(tracer: &Tracer) -> Option<Ledger> {
    ledgers(tracer).pop()
}
