//! `cargo xtask bench-report`: `tracer report` beside DuckDB, asked the same about the same lines on the same cores.
//!
//! The question is that of `docs/engines/duckdb/seconds.sql`: ports and failures by process and destination, per
//! second. The two take turns in an order that is drawn anew for each round, because a machine's speed drifts.

mod measure;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use self::measure::{Cost, measure, medians};
use crate::{
    cargo, prerequisites,
    process::{run as run_command, say, target_directory, workspace},
};

/// Answers the question as a user would, and writes JSON lines.
const DUCKDB: &str = r#"
import duckdb, pathlib, sys
view, question, lines, answer = sys.argv[1:]
connection = duckdb.connect()
connection.execute("SET VARIABLE files = ?", [[lines]])
connection.execute(pathlib.Path(view).read_text())
question = pathlib.Path(question).read_text().strip().removesuffix(";")
connection.execute(f"COPY ({question}) TO '{answer}' (FORMAT json)")
"#;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Size of the trace: bytes, or with a suffix K, M or G
    #[arg(long, value_name = "BYTES", default_value = "1G")]
    size: String,
    /// How often each is run and counted; once more at first, which is not
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    repetitions: u16,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Somebody who answers the question.
struct Candidate {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<PathBuf>,
    /// Where the answer lies afterwards.
    answer: PathBuf,
    /// Whether it is on standard output.
    is_printed: bool,
    /// How many connects failed, according to the answer.
    failures: fn(&str) -> Result<u64>,
}

/// What is compared with the simulation's own knowledge.
#[derive(Deserialize)]
struct Truth {
    hosts: Vec<HostTruth>,
}

#[derive(Deserialize)]
struct HostTruth {
    connect_failures: u64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let python = prerequisites::python()?;
    let tracer = cargo::tracer()?;
    let directory = target_directory().join("bench-report");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let (lines, truth) = trace(&directory, &options.size)?;
    let candidates = [
        tracer_report(tracer, &lines, &directory),
        duckdb(python, &lines, &directory),
    ];
    let costs = rounds(&candidates, options.repetitions, &truth)?;
    let bytes = fs::metadata(&lines)?.len();
    show(&candidates, &costs, bytes, options);
    Ok(())
}

/// The trace, made if it is not there, and what is true of it.
fn trace(directory: &Path, size: &str) -> Result<(PathBuf, Truth)> {
    let simulate = cargo::simulate()?;
    let (lines, truth) = (
        directory.join(format!("{size}.jsonl")),
        directory.join(format!("{size}.json")),
    );
    // The truth is written last. It is of no use for lines that an older program wrote.
    let is_old = |path: &Path| {
        let written = path.metadata().and_then(|data| data.modified());
        let built = simulate.metadata().and_then(|data| data.modified());
        !matches!((written, built), (Ok(written), Ok(built)) if written >= built)
    };
    if is_old(&truth) {
        say(&format!("simulating {size} bytes of lines"));
        let file =
            File::create(&lines).with_context(|| format!("cannot write {}", lines.display()))?;
        let mut command = Command::new(simulate);
        command.args(["--size", size, "--truth"]).arg(&truth);
        run_command(command.stdout(file))?;
    }
    let text = fs::read(&truth).with_context(|| format!("cannot read {}", truth.display()))?;
    Ok((lines, serde_json::from_slice(&text)?))
}

fn tracer_report(program: PathBuf, lines: &Path, directory: &Path) -> Candidate {
    Candidate {
        name: "tracer report",
        program,
        arguments: vec!["report".into(), "--json".into(), lines.into()],
        answer: directory.join("tracer.json"),
        is_printed: true,
        failures: |answer| {
            let report: Value = serde_json::from_str(answer)?;
            let failures = &report["failures"]["connect"];
            failures.as_u64().context("the report has no failures")
        },
    }
}

fn duckdb(program: PathBuf, lines: &Path, directory: &Path) -> Candidate {
    let engines = workspace().join("docs/engines/duckdb");
    let answer = directory.join("duckdb.jsonl");
    Candidate {
        name: "DuckDB",
        program,
        arguments: vec![
            "-c".into(),
            DUCKDB.into(),
            engines.join("view.sql"),
            engines.join("seconds.sql"),
            lines.into(),
            answer.clone(),
        ],
        answer,
        is_printed: false,
        failures: |answer| {
            let mut sum = 0;
            for row in answer.lines() {
                let row: Value = serde_json::from_str(row)?;
                sum += row["failed"].as_f64().context("a row has no failures")? as u64;
            }
            Ok(sum)
        },
    }
}

impl Candidate {
    fn measure(&self) -> Result<Cost> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        if self.is_printed {
            let file = File::create(&self.answer);
            command
                .stdout(file.with_context(|| format!("cannot write {}", self.answer.display()))?);
        }
        measure(&mut command).with_context(|| format!("{} failed", self.name))
    }

    fn check(&self, truth: &Truth) -> Result<()> {
        let answer = fs::read_to_string(&self.answer)?;
        let failures = (self.failures)(&answer)?;
        let expected: u64 = truth.hosts.iter().map(|host| host.connect_failures).sum();
        ensure!(
            failures == expected,
            "{} found {failures} failed connects, but there are {expected}",
            self.name
        );
        Ok(())
    }
}

/// What each costs, by round. The first round fills the page cache, and checks the answers.
fn rounds(candidates: &[Candidate], repetitions: u16, truth: &Truth) -> Result<Vec<Vec<Cost>>> {
    for candidate in candidates {
        say(&format!("warming up: {}", candidate.name));
        candidate.measure()?;
        candidate.check(truth)?;
    }
    let mut costs = vec![Vec::new(); candidates.len()];
    for round in 1..=repetitions {
        say(&format!("round {round} of {repetitions}"));
        for place in shuffled(candidates.len()) {
            costs[place].push(candidates[place].measure()?);
        }
    }
    Ok(costs)
}

/// The numbers below `count` in an order of chance, for which the clock is good enough.
fn shuffled(count: usize) -> Vec<usize> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let mut chance = now.map_or(0, |now| now.subsec_nanos() as usize / 64);
    let mut rest: Vec<usize> = (0..count).collect();
    let mut order = Vec::new();
    while !rest.is_empty() {
        order.push(rest.swap_remove(chance % rest.len()));
        chance /= count;
    }
    order
}

fn show(candidates: &[Candidate], costs: &[Vec<Cost>], bytes: u64, options: &Options) {
    let medians: Vec<Cost> = costs.iter().map(|costs| medians(costs)).collect();
    if options.json {
        println!("{}", as_json(candidates, costs, &medians, bytes));
        return;
    }
    println!(
        "{bytes} bytes, medians of {} runs each; ports and failures by process and destination, per second",
        options.repetitions
    );
    println!(
        "{:<16}{:>10}{:>10}{:>14}",
        "", "wall s", "CPU s", "max RSS MiB"
    );
    for (candidate, cost) in candidates.iter().zip(&medians) {
        println!(
            "{:<16}{:>10.2}{:>10.2}{:>14.0}",
            candidate.name,
            cost.wall,
            cost.cpu,
            cost.rss as f64 / f64::from(1 << 20),
        );
    }
    if let [ours, theirs, ..] = medians.as_slice() {
        println!(
            "{:<16}{:>10.2}{:>10.2}{:>14.2}",
            "ratio",
            ours.wall / theirs.wall,
            ours.cpu / theirs.cpu,
            ours.rss as f64 / theirs.rss as f64,
        );
    }
}

fn as_json(candidates: &[Candidate], costs: &[Vec<Cost>], medians: &[Cost], bytes: u64) -> Value {
    let all = candidates.iter().zip(costs).zip(medians);
    let results: Vec<Value> = all
        .map(|((candidate, runs), median)| {
            json!({ "name": candidate.name, "median": median, "runs": runs })
        })
        .collect();
    json!({ "bytes": bytes, "question": "seconds", "results": results })
}

#[cfg(test)]
mod tests {
    use super::shuffled;

    #[test]
    fn everybody_has_a_turn() {
        for _ in 0..100 {
            let mut order = shuffled(3);
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2]);
        }
    }
}
