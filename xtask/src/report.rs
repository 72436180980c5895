//! What the live tests reported, kernel by kernel, and the verdict over all of it.

mod summary;

use std::{fs, path::Path};

use anyhow::Result;
use serde::Deserialize;

pub(crate) use self::summary::conclude;
use crate::process::say;

/// How many failures may be the machine's: more are no coincidence.
const COINCIDENCES: usize = 3;

/// One line of the file that TRACER_LIVE_REPORT names.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Trial {
    pub(crate) trial: String,
    pub(crate) backend: String,
    pub(crate) result: Outcome,
    pub(crate) reason: Option<String>,
    /// What the trial found out.
    #[serde(default)]
    pub(crate) note: Option<String>,
    /// Why it failed before it passed.
    #[serde(skip)]
    pub(crate) failed_first: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// A VM's init adds how the test program ended.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Trial(Trial),
    End { exit: i32 },
}

/// What happened on one kernel.
pub(crate) struct Report {
    pub(crate) name: String,
    pub(crate) trials: Vec<Trial>,
    /// How the test program ended, where a VM's init told us.
    exit: Option<i32>,
    /// What kept this kernel from reporting properly; counts as a failure.
    pub(crate) problem: Option<String>,
}

impl Report {
    /// Of a test program that ran on this machine and ended with this code (none: by a signal).
    pub(crate) fn native(name: &str, file: &Path, exit: Option<i32>) -> Self {
        let mut report = Self::read(name, file);
        report.judge(exit);
        report
    }

    /// Of a VM, whose init writes the exit code as the last line: without it, the VM died.
    pub(crate) fn of_vm(name: &str, file: &Path, outcome: Result<()>) -> Self {
        let mut report = Self::read(name, file);
        match (outcome, report.exit) {
            (Err(error), _) => report.problem = Some(format!("{error:#}")),
            (Ok(()), Some(exit)) => report.judge(Some(exit)),
            (Ok(()), None) => report.problem = Some("the VM ended before the tests did".into()),
        }
        report
    }

    /// Of something that is no live test: pure tests, or a step that could not be done.
    pub(crate) fn problem(name: &str, problem: String) -> Self {
        Self {
            name: name.into(),
            trials: Vec::new(),
            exit: None,
            problem: Some(problem),
        }
    }

    fn read(name: &str, file: &Path) -> Self {
        // Missing only when something failed before, which the caller knows.
        let text = fs::read(file).unwrap_or_default();
        Self::parse(name, &String::from_utf8_lossy(&text))
    }

    fn parse(name: &str, text: &str) -> Self {
        let mut report = Self {
            name: name.into(),
            trials: Vec::new(),
            exit: None,
            problem: None,
        };
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            match serde_json::from_str(line) {
                Ok(Line::Trial(trial)) => report.trials.push(trial),
                Ok(Line::End { exit }) => report.exit = Some(exit),
                Err(_) => report.problem = Some(format!("unreadable line in the report: {line}")),
            }
        }
        report
    }

    /// The exit code must agree with what was reported.
    fn judge(&mut self, exit: Option<i32>) {
        let ended = exit.map_or("by a signal".into(), |code| format!("with code {code}"));
        if self.trials.is_empty() {
            self.problem = Some(format!("no trial was reported (the tests ended {ended})"));
        } else if exit != Some(0) && self.count(Outcome::Failed) == 0 {
            self.problem = Some(format!("no trial failed, yet the tests ended {ended}"));
        }
    }

    /// What failed is tried once more, each trial by itself: these are races against a kernel, on machines that have
    /// other things to do. Whatever needed that is told in the summary.
    pub(crate) fn try_again(&mut self, run: impl Fn(&str) -> Self) {
        let failed = |trial: &&mut Trial| trial.result == Outcome::Failed;
        if self.problem.is_some() || self.count(Outcome::Failed) > COINCIDENCES {
            return;
        }
        for trial in self.trials.iter_mut().filter(failed) {
            say(&format!("{}: {} once more", self.name, trial.trial));
            let again = run(&trial.trial);
            if again.problem.is_none() && again.count(Outcome::Passed) == 1 {
                trial.failed_first = Some(trial.reason.take().unwrap_or_default());
                trial.result = Outcome::Passed;
            }
        }
    }

    pub(crate) fn count(&self, outcome: Outcome) -> usize {
        self.trials
            .iter()
            .filter(|trial| trial.result == outcome)
            .count()
    }

    /// For the progress line.
    pub(crate) fn in_short(&self) -> String {
        let [passed, failed, skipped] =
            [Outcome::Passed, Outcome::Failed, Outcome::Skipped].map(|each| self.count(each));
        let counts = format!("{passed} passed, {failed} failed, {skipped} skipped");
        match &self.problem {
            Some(problem) => format!("{counts}; {problem}"),
            None => counts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSED: &str =
        r#"{"trial":"auto::a","backend":"auto","scenario":"a","result":"passed","reason":null}"#;

    #[test]
    fn serial_lines_are_understood() {
        let report = Report::parse("vm", &format!("{PASSED}\r\n{{\"exit\":0}}\r\n"));
        assert_eq!((report.count(Outcome::Passed), report.exit), (1, Some(0)));
        assert!(report.problem.is_none());
    }

    #[test]
    fn a_torn_line_is_a_problem() {
        assert!(Report::parse("vm", &PASSED[..20]).problem.is_some());
    }

    #[test]
    fn a_failure_gets_a_second_chance_and_many_do_not() {
        let failed = PASSED.replace("passed", "failed");
        let again = |times: usize, second: &str| {
            let mut report = Report::parse("vm", &format!("{failed}\n").repeat(times));
            report.try_again(|trial| {
                assert_eq!(trial, "auto::a");
                Report::parse("vm", second)
            });
            report
        };
        let passed = again(1, PASSED);
        assert_eq!(passed.count(Outcome::Passed), 1);
        assert!(passed.trials[0].failed_first.is_some());
        assert_eq!(again(1, &failed).count(Outcome::Failed), 1);
        assert_eq!(again(1, "").count(Outcome::Failed), 1);
        assert_eq!(again(4, PASSED).count(Outcome::Failed), 4);
    }

    #[test]
    fn exit_code_and_trials_must_agree() {
        let problem = |text: &str, exit| {
            let mut report = Report::parse("vm", text);
            report.judge(exit);
            report.problem.is_some()
        };
        assert!(!problem(PASSED, Some(0)));
        assert!(problem(PASSED, Some(1)));
        assert!(problem(PASSED, None));
        assert!(problem("", Some(0)));
        assert!(!problem(&PASSED.replace("passed", "failed"), Some(101)));
    }
}
