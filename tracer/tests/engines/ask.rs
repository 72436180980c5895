//! Simulated lines in a file, and the engines that are asked about them.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    answers::Answers,
    fleet::{Plan, Scenario, Truth, simulate},
};

/// Lines of the second host that are taken out.
pub(crate) const MISSING: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    ClickHouse,
    DuckDb,
}

/// What is asked about.
pub(crate) struct Data {
    pub(crate) truth: Truth,
    /// Ids of all advice, each as often as it is in the lines.
    pub(crate) advice: Vec<String>,
    file: PathBuf,
    compressed: PathBuf,
}

/// A Python that has the engines; `Err`: why there is none.
pub(crate) fn python() -> &'static Result<PathBuf, String> {
    static PYTHON: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
        let installed = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("engines/bin/python");
        let python = env::var_os("TRACER_ENGINES_PYTHON").map_or(installed, PathBuf::from);
        let mut import = Command::new(&python);
        import
            .args(["-c", "import chdb, duckdb"])
            .stderr(Stdio::null());
        match import.status() {
            Ok(status) if status.success() => Ok(python),
            _ => Err(format!(
                "{} lacks the packages chdb-core and duckdb: `cargo xtask test` installs them",
                python.display()
            )),
        }
    });
    &PYTHON
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("engines")
}

impl Data {
    pub(crate) fn get() -> Result<&'static Self> {
        static DATA: LazyLock<Result<Data>> = LazyLock::new(Data::make);
        DATA.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))
    }

    fn make() -> Result<Self> {
        let plan = Plan {
            scenario: Scenario::Mixed,
            seed: 11,
            hosts: 4,
            seconds: 95,
            bytes: u64::MAX,
            rate: 40.0,
            ports: 400,
        };
        let mut lines = Vec::new();
        let truth = simulate(&plan, &mut |new| {
            lines.extend_from_slice(new);
            Ok(())
        })?;
        let text = String::from_utf8(lines)?;
        let advice = advice(&text)?;
        let directory = directory();
        fs::create_dir_all(&directory)?;
        let file = directory.join("lines.jsonl");
        fs::write(&file, with_a_hole(&text))?;
        let mut gzip = Command::new("gzip");
        gzip.args(["--fast", "--keep", "--force"]).arg(&file);
        ensure!(gzip.status().context("gzip can't be run")?.success());
        Ok(Self {
            truth,
            advice,
            compressed: directory.join("lines.jsonl.gz"),
            file,
        })
    }
}

fn with_a_hole(text: &str) -> String {
    let mut missing = MISSING;
    let is_kept = |line: &&str| {
        let goes = missing > 0
            && line.contains(r#""type":"connection""#)
            && line.contains(r#""host":"web-2""#);
        missing -= usize::from(goes);
        !goes
    };
    let lines = text.lines().filter(is_kept);
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn advice(text: &str) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for line in text.lines().filter(|line| line.contains(r#""advice":["#)) {
        let line: serde_json::Value = serde_json::from_str(line)?;
        let given = line["advice"].as_array().into_iter().flatten();
        ids.extend(given.filter_map(|one| one["id"].as_str().map(Into::into)));
    }
    Ok(ids)
}

impl Engine {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ClickHouse => "clickhouse",
            Self::DuckDb => "duckdb",
        }
    }

    /// To all questions, asked once.
    pub(crate) fn answers(self) -> Result<&'static Answers> {
        static CLICKHOUSE: LazyLock<Result<Answers>> = LazyLock::new(|| Engine::ClickHouse.ask());
        static DUCKDB: LazyLock<Result<Answers>> = LazyLock::new(|| Engine::DuckDb.ask());
        let answers = match self {
            Self::ClickHouse => &CLICKHOUSE,
            Self::DuckDb => &DUCKDB,
        };
        answers
            .as_ref()
            .map_err(|error| anyhow::anyhow!("{error:#}"))
    }

    fn ask(self) -> Result<Answers> {
        let data = Data::get()?;
        let python = python().as_ref().map_err(anyhow::Error::msg)?;
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let own = directory().join(self.name());
        // What an earlier test left.
        if own.exists() {
            fs::remove_dir_all(&own)?;
        }
        fs::create_dir_all(&own)?;
        let asked = Command::new(python)
            .arg(here.join("tests/engines/ask.py"))
            .arg(self.name())
            .arg(here.join("../docs/engines").join(self.name()))
            .arg(own.join("data"))
            .arg(match self {
                Self::ClickHouse => &data.file,
                Self::DuckDb => &data.compressed,
            })
            .output()?;
        let errors = String::from_utf8_lossy(&asked.stderr);
        ensure!(asked.status.success(), "{}: {errors}", self.name());
        let answers = Answers(serde_json::from_slice(&asked.stdout)?);
        let questions: BTreeSet<&str> = answers.questions().into_iter().collect();
        ensure!(!questions.is_empty(), "{}: no questions", self.name());
        Ok(answers)
    }
}
