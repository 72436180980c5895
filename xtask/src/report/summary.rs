//! The summary over all kernels, for people, and whether it all counts as success.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use super::{Outcome, Report};

/// How much of a note, or of a reason to skip, the summary shows.
const REASON_LENGTH: usize = 300;

/// Prints the summary; an error when anything failed.
///
/// With a `complete` matrix a trial that every kernel skipped is a failure too: a capability that
/// no kernel exercised is one we know nothing about.
pub(crate) fn conclude(reports: &[Report], complete: bool) -> Result<()> {
    if trials(reports).next().is_some() {
        print_table(reports);
    }
    print_skips(reports);
    print_notes(reports);
    print_second_chances(reports);
    let mut failures = failures(reports);
    let unexercised = unexercised(reports);
    if complete {
        let failure = |trial: &&str| format!("{trial}: a capability that no kernel exercised");
        failures.extend(unexercised.iter().map(failure));
    } else if !unexercised.is_empty() {
        println!(
            "\nskipped on every kernel of this partial run: {}",
            join(unexercised)
        );
    }
    if !failures.is_empty() {
        println!("\nfailures:");
        failures.iter().for_each(|failure| println!("  {failure}"));
    }
    let total = |outcome| {
        reports
            .iter()
            .map(|report| report.count(outcome))
            .sum::<usize>()
    };
    let (passed, skipped) = (total(Outcome::Passed), total(Outcome::Skipped));
    println!(
        "\n{passed} passed, {} failed, {skipped} skipped",
        failures.len()
    );
    match failures.len() {
        0 => Ok(()),
        // The list above says which; only the exit code is left to tell.
        _ => bail!("the tests failed"),
    }
}

fn print_table(reports: &[Report]) {
    let backends: BTreeSet<&str> = trials(reports)
        .map(|(_, trial)| trial.backend.as_str())
        .collect();
    let width = reports
        .iter()
        .map(|report| report.name.len())
        .max()
        .unwrap_or_default();
    println!("\npassed/failed/skipped");
    print!("{:width$}", "");
    backends
        .iter()
        .for_each(|backend| print!("  {backend:>10}"));
    println!();
    for report in reports {
        print!("{:width$}", report.name);
        backends
            .iter()
            .for_each(|backend| print!("  {:>10}", cell(report, backend)));
        println!();
    }
}

fn cell(report: &Report, backend: &str) -> String {
    let count = |outcome| {
        let counts = |trial: &&super::Trial| trial.backend == backend && trial.result == outcome;
        report.trials.iter().filter(counts).count()
    };
    match [Outcome::Passed, Outcome::Failed, Outcome::Skipped].map(count) {
        [0, 0, 0] => "-".into(),
        [passed, failed, skipped] => format!("{passed}/{failed}/{skipped}"),
    }
}

/// One line per backend and reason, naming the trials skipped for it.
fn print_skips(reports: &[Report]) {
    let mut skips: BTreeMap<(&str, &str, &str), Vec<&str>> = BTreeMap::new();
    for (report, trial) in trials(reports).filter(|(_, trial)| trial.result == Outcome::Skipped) {
        let reason = trial.reason.as_deref().unwrap_or("no reason given");
        let trials = skips
            .entry((&report.name, &trial.backend, reason))
            .or_default();
        trials.push(&trial.trial);
    }
    if !skips.is_empty() {
        println!("\nskipped:");
    }
    for ((kernel, backend, reason), skipped) in skips {
        let of_backend = trials(reports)
            .filter(|(report, trial)| report.name == kernel && trial.backend == backend)
            .count();
        // A kernel without a backend skips dozens, whose names tell nothing.
        let which = match skipped.len() {
            1 => skipped.concat(),
            all if all == of_backend => format!("all {all} of {backend}"),
            _ => join(skipped),
        };
        println!("  {kernel}: {which}: {}", in_short(reason));
    }
}

/// What trials have measured.
fn print_notes(reports: &[Report]) {
    let notes: Vec<_> = trials(reports)
        .filter_map(|(report, trial)| Some((report, trial, trial.note.as_ref()?)))
        .collect();
    if !notes.is_empty() {
        println!("\nnotes:");
    }
    for (report, trial, note) in notes {
        println!("  {}: {}: {}", report.name, trial.trial, in_short(note));
    }
}

/// What did not pass at first.
fn print_second_chances(reports: &[Report]) {
    let mut found = trials(reports)
        .filter_map(|(report, trial)| Some((report, trial, trial.failed_first.as_ref()?)))
        .peekable();
    if found.peek().is_some() {
        println!("\npassed when tried again, alone:");
    }
    for (report, trial, reason) in found {
        println!("  {}: {}: {reason}", report.name, trial.trial);
    }
}

/// Of a text that runs over pages, the start; all of it is in the logs.
fn in_short(reason: &str) -> String {
    let line = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(REASON_LENGTH) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn failures(reports: &[Report]) -> Vec<String> {
    let failed = trials(reports)
        .filter(|(_, trial)| trial.result == Outcome::Failed)
        .map(|(report, trial)| {
            let reason = trial.reason.as_deref().unwrap_or("see its log");
            // Whole: the log may be on a machine that is gone.
            format!("{}: {}: {reason}", report.name, trial.trial)
        });
    let problems = reports.iter().filter_map(|report| {
        let problem = report.problem.as_ref()?;
        Some(format!("{}: {problem}", report.name))
    });
    failed.chain(problems).collect()
}

/// Trials that ran nowhere.
fn unexercised(reports: &[Report]) -> BTreeSet<&str> {
    let (skipped, run): (Vec<_>, Vec<_>) = trials(reports)
        .map(|(_, trial)| trial)
        .partition(|trial| trial.result == Outcome::Skipped);
    let run: BTreeSet<&str> = run.iter().map(|trial| trial.trial.as_str()).collect();
    skipped
        .iter()
        .map(|trial| trial.trial.as_str())
        .filter(|trial| !run.contains(trial))
        .collect()
}

fn trials(reports: &[Report]) -> impl Iterator<Item = (&Report, &super::Trial)> {
    reports
        .iter()
        .flat_map(|report| report.trials.iter().map(move |trial| (report, trial)))
}

fn join<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Report, Trial},
        *,
    };

    fn report(name: &str, trials: &[(&str, Outcome)]) -> Report {
        let trials = trials.iter().map(|&(trial, result)| Trial {
            trial: trial.into(),
            backend: trial.split("::").next().unwrap_or_default().into(),
            result,
            reason: None,
            note: None,
            failed_first: None,
        });
        Report {
            name: name.into(),
            trials: trials.collect(),
            exit: None,
            problem: None,
        }
    }

    #[test]
    fn a_reason_is_one_line_of_bounded_length() {
        assert_eq!(in_short("a\n  b"), "a b");
        assert_eq!(
            in_short(&"ä".repeat(1000)).chars().count(),
            REASON_LENGTH + 1
        );
    }

    #[test]
    fn what_one_kernel_exercises_may_be_skipped_on_others() {
        let old = report("5.10", &[("fexit::a", Outcome::Skipped)]);
        let new = report("6.12", &[("fexit::a", Outcome::Passed)]);
        assert!(conclude(&[old, new], true).is_ok());
    }

    #[test]
    fn what_no_kernel_exercises_fails_a_complete_run_only() {
        let reports = [
            report(
                "5.10",
                &[("fexit::a", Outcome::Skipped), ("auto::a", Outcome::Passed)],
            ),
            report(
                "6.12",
                &[("fexit::a", Outcome::Skipped), ("auto::a", Outcome::Passed)],
            ),
        ];
        assert!(conclude(&reports, true).is_err());
        assert!(conclude(&reports, false).is_ok());
    }

    #[test]
    fn a_failed_trial_and_a_problem_fail_the_run() {
        assert!(conclude(&[report("6.12", &[("auto::a", Outcome::Failed)])], false).is_err());
        assert!(conclude(&[Report::problem("6.12", "panicked".into())], false).is_err());
    }
}
