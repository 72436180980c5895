//! What the answers are to be, as the simulation knows it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::{
    answers::Row,
    ask::{Data, MISSING},
    fleet::HostTruth,
};

type Check = fn(&[Row], &Data) -> Result<()>;

/// By question.
pub(crate) const TRUTHS: &[(&str, Check)] = &[
    ("exhausted", exhausted),
    ("failures", failures),
    ("ports", ports),
    ("time_wait", time_wait),
    ("first_sign", first_sign),
    ("advice", advice),
    ("holes", holes),
    ("seconds", seconds),
];

/// The first difference, if the two are not equal.
fn same<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    answer: &BTreeMap<K, V>,
    truth: &BTreeMap<K, V>,
) -> Result<()> {
    for (key, expected) in truth {
        let found = answer.get(key);
        ensure!(
            found == Some(expected),
            "{key:?}: {found:?}, not {expected:?}"
        );
    }
    let strange = answer.keys().find(|key| !truth.contains_key(key));
    ensure!(strange.is_none(), "{strange:?} is no truth");
    ensure!(!truth.is_empty(), "nothing was compared");
    Ok(())
}

fn hosts(data: &Data) -> impl Iterator<Item = (&str, &HostTruth)> {
    data.truth
        .hosts
        .iter()
        .map(|host| (host.host.as_str(), host))
}

fn exhausted(rows: &[Row], data: &Data) -> Result<()> {
    let mut answer = BTreeMap::new();
    for row in rows {
        let key = (
            row.text("host")?,
            row.number("netns")?,
            row.text("id")?,
            row.peer()?,
        );
        let times = (row.number("first")?, row.number("last")?);
        answer.insert(key, (row.number("failures")?, times));
        ensure!(row.number("holder_ports")? > 100, "{row:?}");
    }
    let mut truth = BTreeMap::new();
    for (name, host) in hosts(data) {
        let exhausted = host
            .failures
            .iter()
            .filter(|each| each.reason == "ports_exhausted");
        for failure in exhausted {
            let peer = failure.peer.clone().unwrap_or_default();
            let key = (
                name.into(),
                failure.netns.into(),
                failure.process.clone(),
                peer,
            );
            truth.insert(key, (failure.count as i64, (failure.first, failure.last)));
        }
    }
    same(&answer, &truth)
}

fn failures(rows: &[Row], data: &Data) -> Result<()> {
    let mut answer: BTreeMap<_, i64> = BTreeMap::new();
    for row in rows {
        ensure!(row.number("minute")? % 60_000_000_000 == 0, "{row:?}");
        let key = (
            row.text("type")?,
            row.text("reason")?,
            row.text("host")?,
            row.text("id")?,
            row.peer()?,
        );
        *answer.entry(key).or_default() += row.number("failures")?;
    }
    let mut truth: BTreeMap<_, i64> = BTreeMap::new();
    for (name, host) in hosts(data) {
        for failure in &host.failures {
            let peer = failure.peer.clone().unwrap_or_default();
            let kind = format!("{}_failed", failure.call);
            let key = (
                kind,
                failure.reason.into(),
                name.into(),
                failure.process.clone(),
                peer,
            );
            *truth.entry(key).or_default() += failure.count as i64;
        }
    }
    same(&answer, &truth)
}

fn ports(rows: &[Row], data: &Data) -> Result<()> {
    let mut answer = BTreeMap::new();
    for row in rows.iter() {
        let key = (
            row.number("ts")?,
            row.text("host")?,
            row.number("netns")?,
            row.text("id")?,
        );
        let total = row.number("total")?;
        // Such lines tell what was closed or accepted.
        if total > 0 {
            answer.insert(key, (total, row.number("time_wait")?));
        }
    }
    let mut truth = BTreeMap::new();
    for (name, host) in hosts(data) {
        for round in &host.rounds {
            let process = round.process.clone().unwrap_or_default();
            let key = (round.ts, name.into(), round.netns.into(), process);
            truth.insert(key, (round.ports as i64, round.time_wait as i64));
        }
    }
    same(&answer, &truth)
}

fn time_wait(rows: &[Row], data: &Data) -> Result<()> {
    let mut answer = BTreeMap::new();
    for row in rows {
        let key = (row.text("host")?, row.number("netns")?, row.text("id")?);
        answer.insert(key, (row.number("most")?, -row.number("at")?));
    }
    let mut truth = BTreeMap::new();
    for (name, host) in hosts(data) {
        for round in host.rounds.iter().filter(|round| round.time_wait > 0) {
            let process = round.process.clone().unwrap_or_default();
            let key = (name.into(), round.netns.into(), process);
            let most = truth.entry(key).or_insert((0, 0));
            *most = (round.time_wait as i64, -round.ts).max(*most);
        }
    }
    same(&answer, &truth)?;
    let ended = rows
        .iter()
        .filter(|row| row.number("has_ended").is_ok_and(|ended| ended == 1));
    ensure!(ended.count() > 0, "some have ended");
    Ok(())
}

fn first_sign(rows: &[Row], data: &Data) -> Result<()> {
    let mut answer = BTreeMap::new();
    for row in rows {
        let (ts, failure) = (row.number("ts")?, row.number("failure")?);
        ensure!(
            row.number("ms_before")? == (failure - ts) / 1_000_000,
            "{row:?}"
        );
        let sign = (row.text("sign")?, ts, failure);
        answer.entry(row.text("host")?).or_insert(sign);
    }
    let mut truth = BTreeMap::new();
    for (name, host) in hosts(data) {
        let exhausted = host
            .failures
            .iter()
            .filter(|each| each.reason == "ports_exhausted");
        if let (Some(deploy), Some(first)) = (host.deploy, exhausted.map(|each| each.first).min()) {
            truth.insert(name.into(), ("new_process".into(), deploy, first));
        }
    }
    same(&answer, &truth)
}

fn advice(rows: &[Row], data: &Data) -> Result<()> {
    let mut answer = BTreeMap::new();
    for row in rows {
        ensure!(!row.text("latest_why")?.is_empty(), "{row:?}");
        ensure!((1..=4).contains(&row.number("hosts")?), "{row:?}");
        answer.insert(row.text("advice")?, row.number("given")?);
    }
    let mut truth: BTreeMap<_, i64> = BTreeMap::new();
    for id in &data.advice {
        *truth.entry(id.clone()).or_default() += 1;
    }
    same(&answer, &truth)
}

fn holes(rows: &[Row], data: &Data) -> Result<()> {
    let mut answer = BTreeMap::new();
    for row in rows {
        let found = (
            row.number("missing")?,
            row.number("lost")?,
            row.number("has_stopped")?,
        );
        answer.insert(row.text("host")?, found);
        ensure!(row.number("not_resynced")? == 0, "{row:?}");
    }
    let truth = hosts(data).map(|(name, host)| {
        let missing = if name == "web-2" { MISSING } else { 0 };
        (name.into(), (missing as i64, host.lost as i64, 1))
    });
    same(&answer, &truth.collect())
}

fn seconds(rows: &[Row], data: &Data) -> Result<()> {
    let mut answer = BTreeMap::new();
    for row in rows {
        let second = row.number("second")? / 1_000_000_000;
        let key = (
            second,
            row.text("host")?,
            row.number("netns")?,
            row.text("id")?,
            row.peer()?,
        );
        let counts = (
            row.number("opened")?,
            row.number("failed")?,
            row.number("ports")?,
        );
        answer.insert(key, counts);
    }
    let mut truth = BTreeMap::new();
    for (name, host) in hosts(data) {
        for second in &host.seconds {
            let process = second.process.clone();
            let key = (
                second.second,
                name.into(),
                second.netns.into(),
                process,
                second.peer.clone(),
            );
            truth.insert(
                key,
                (second.opened as i64, second.failed as i64, second.ports),
            );
        }
    }
    let processes: BTreeSet<_> = truth.keys().map(|key| &key.3).collect();
    ensure!(processes.len() > 10, "{processes:?}");
    same(&answer, &truth)
}
