//! What was lost is found again: after too much for the ring, the table or a sleeping tracer, the ledger
//! is what the kernel has.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::{Test, test};
use crate::{
    lines::{Keep, PATIENCE},
    report::note,
    scenarios::{
        replays::same_again,
        stream::validate,
        truth::{rounds, seed},
    },
    scene::Scene,
    tracer::{Finished, Tracer},
    truth::{Field, Numbers, agree_after_loss},
    world::World,
};

pub(super) const ALL: &[Test] = &[
    test("ring_overflow_heals", ring_overflow),
    test("table_overflow_heals", table_overflow),
    test("sleep_heals", sleep),
    test("loss_replays", loss_replays),
];

const STEPS: u32 = 60;

fn ring_overflow() -> Result<()> {
    let args = ["--ring-size", "4096", "--interval", "1"];
    heals(&args, Keep::All, "ring", churn).map(drop)
}

/// A recording with a hole, and its healing, is the same again.
fn loss_replays() -> Result<()> {
    let args = ["--replayable", "--ring-size", "4096", "--interval", "1"];
    same_again(&heals(&args, Keep::Recorded, "ring", churn)?)
}

/// Only owners are lost, as long as the table is full.
fn table_overflow() -> Result<()> {
    let args = ["--max-sockets", "16", "--interval", "1"];
    heals(&args, Keep::All, "table", churn).map(drop)
}

/// It is stopped while much happens, and goes on later.
fn sleep() -> Result<()> {
    let args = ["--ring-size", "16384", "--interval", "1"];
    let asleep = |scene: &Scene, world: &mut World| {
        scene.tracer.signal(Signal::STOP)?;
        let done = churn(scene, world);
        scene.tracer.signal(Signal::CONT)?;
        done
    };
    heals(&args, Keep::All, "ring", asleep).map(drop)
}

fn churn(scene: &Scene, world: &mut World) -> Result<()> {
    for _ in 0..rounds().clamp(2, 6) {
        world.churn(STEPS)?;
        world.tend_idle()?;
    }
    world.replace_client(&scene.netns)
}

fn heals(
    args: &[&str],
    keep: Keep,
    place: &'static str,
    load: impl Fn(&Scene, &mut World) -> Result<()>,
) -> Result<Finished> {
    let scene = Scene::new(Arc::new(Tracer::started(args, keep)?))?;
    let seed = seed();
    let again = || format!("TRACER_LIVE_SEED={seed} gives the same again");
    let mut world = World::new(&scene.netns, seed)?;
    let mut numbers = Numbers::default();
    // The second time, to see that once was not all.
    for _ in 0..2 {
        load(&scene, &mut world).with_context(again)?;
        let field = Field {
            netns: &scene.netns,
            held: world.held()?,
            judge: &|seen, rows| world.judge_after_loss(seen, rows),
        };
        numbers.add(agree_after_loss(&scene, &[field]).with_context(again)?);
    }
    wait_for_resync(&scene, place)?;
    note(numbers.in_words());
    let finished = scene.into_tracer()?.stop(Signal::TERM)?;
    finished.check_totals()?;
    ensure!(finished.lost_at(place) > 0, "nothing was lost at {place}");
    validate(&finished.lines.all())?;
    Ok(finished)
}

/// The tracer says that it lost something there, and that it has made up for it.
fn wait_for_resync(scene: &Scene, place: &str) -> Result<()> {
    let losses = || scene.tracer.losses();
    let deadline = Instant::now() + PATIENCE;
    while !losses()
        .iter()
        .any(|loss| loss.place == place && loss.resynced)
    {
        ensure!(
            Instant::now() < deadline,
            "no loss at {place} with a resync: {:?}",
            losses()
        );
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
