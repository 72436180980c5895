//! A report on a terminal.

mod chart;
mod ports;
mod terminal;

use std::fmt::Write;

use jiff::Timestamp;

use super::{
    analysis::number,
    model::{Advice, Count, Failures, Hole, Input, Moment, Report},
};

pub use terminal::{Terminal, escape};

/// So many moments are shown; `--json` has all.
const MOMENTS: usize = 40;
const ROWS: usize = 10;

pub fn page(report: &Report, terminal: &Terminal) -> String {
    let clock = Clock::of(report);
    let mut page = Page {
        text: String::new(),
        terminal,
        clock,
        namespaces: report.has_namespaces(),
    };
    page.head(report);
    page.moments("What happened", &report.timeline);
    page.failures(&report.failures);
    page.ports(report);
    page.moments("What led to it", &report.causes);
    page.advice(&report.advice);
    page.holes(&report.holes);
    page.text
}

/// How times are shown: with the day only where there are several.
#[derive(Clone, Copy)]
struct Clock {
    format: &'static str,
}

impl Clock {
    fn of(report: &Report) -> Self {
        let day = |ts: Timestamp| ts.strftime("%Y-%m-%d").to_string();
        let one_day = report
            .span
            .as_ref()
            .is_none_or(|span| day(span.from) == day(span.to));
        let format = if one_day {
            "%H:%M:%S%.3f"
        } else {
            "%Y-%m-%d %H:%M:%S"
        };
        Self { format }
    }

    fn show(self, ts: Timestamp) -> String {
        ts.strftime(self.format).to_string()
    }
}

struct Page<'a> {
    text: String,
    terminal: &'a Terminal,
    clock: Clock,
    /// Namespaces are named: see [`Report::has_namespaces`].
    namespaces: bool,
}

impl Page<'_> {
    fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn heading(&mut self, heading: &str) {
        let heading = self.terminal.bold(heading);
        self.text.push('\n');
        self.line(&heading);
    }

    /// Wrapped, later lines under the end of `first`.
    fn paragraph(&mut self, first: &str, text: &str) {
        let wrapped = self.terminal.wrap(first, &escape(text));
        self.text.push_str(&wrapped);
    }

    fn head(&mut self, report: &Report) {
        for sentence in &report.verdict {
            let sentence = self.terminal.wrap("", &escape(sentence));
            let sentence = self.terminal.bold(sentence.trim_end());
            self.line(&sentence);
        }
        self.text.push('\n');
        let read = read(report);
        self.paragraph("", &read);
        if !report.narrowed.is_empty() {
            let narrowed = format!("narrowed to: {}", report.narrowed.join("; "));
            self.paragraph("", &narrowed);
        }
    }

    fn moments(&mut self, heading: &str, moments: &[Moment]) {
        if moments.is_empty() {
            return;
        }
        self.heading(heading);
        let hosts = moments.iter().any(|moment| moment.host != moments[0].host);
        let left_out = moments.len().saturating_sub(MOMENTS);
        for (number, moment) in moments.iter().enumerate() {
            if left_out > 0 && number == MOMENTS / 2 {
                self.line(&format!("  ... {left_out} more; --json has all"));
            }
            if left_out > 0 && (MOMENTS / 2..MOMENTS / 2 + left_out).contains(&number) {
                continue;
            }
            let mut first = format!("  {}  ", self.clock.show(moment.ts));
            if hosts {
                let _ = write!(first, "{}  ", escape(&moment.host));
            }
            self.paragraph(&first, &moment.text);
        }
    }

    fn failures(&mut self, failures: &Failures) {
        if failures.connect == 0 && failures.bind == 0 {
            return;
        }
        self.heading("Failures");
        self.counts("by reason", &failures.by_reason);
        self.counts("by process", &failures.by_process);
        self.counts("by destination", &failures.by_destination);
    }

    fn counts(&mut self, by: &str, counts: &[Count]) {
        self.line(&format!("  {by}"));
        let hosts = counts.iter().any(|count| count.host != counts[0].host);
        let differ = counts.iter().any(|count| count.netns != counts[0].netns);
        let several = differ && self.namespaces;
        let name = |count: &Count| {
            let host = count.host.as_ref().filter(|_| hosts);
            let host = host.map(|host| format!(" on {}", escape(host)));
            let netns = count.netns.filter(|_| several);
            let netns = netns.map(|netns| format!(", netns {netns}"));
            let name = escape(&count.name);
            format!(
                "{name}{}{}",
                host.unwrap_or_default(),
                netns.unwrap_or_default()
            )
        };
        let shown = &counts[..counts.len().min(ROWS)];
        let width = shown
            .iter()
            .map(|count| name(count).chars().count())
            .max()
            .unwrap_or(0);
        for count in shown {
            let (from, to) = (self.clock.show(count.first), self.clock.show(count.last));
            let line = format!(
                "  {:>9}  {:width$}  {from} to {to}",
                number(count.failures),
                name(count)
            );
            self.line(&line);
        }
        if counts.len() > ROWS {
            let more = counts[ROWS..].iter().map(|count| count.failures);
            let more = more.fold(0, u64::saturating_add);
            let more = number(more);
            self.line(&format!("  {more:>9}  {} more", counts.len() - ROWS));
        }
    }

    fn advice(&mut self, advice: &[Advice]) {
        if advice.is_empty() {
            return;
        }
        self.heading("What to change, best first");
        let (dont, change): (Vec<_>, Vec<_>) = advice
            .iter()
            .partition(|advice| advice.id.starts_with("not_"));
        for (number, advice) in change.iter().enumerate() {
            self.one(&format!("{:>3}. ", number + 1), advice);
        }
        if !dont.is_empty() {
            self.heading("What not to do");
        }
        for advice in dont {
            self.one("  -  ", advice);
        }
    }

    fn one(&mut self, first: &str, advice: &Advice) {
        // The heading says already that it is not to be done.
        let what = advice.id.trim_start_matches("not_").replace('_', " ");
        let netns = match self.namespaces {
            true => format!(", network namespace {}", advice.netns),
            false => String::new(),
        };
        let Advice {
            why, about, host, ..
        } = advice;
        let about = format!("{what}: {why} ({about}{netns}, {host})");
        self.paragraph(first, &about);
        self.paragraph("     ", &advice.how);
    }

    fn holes(&mut self, holes: &[Hole]) {
        if holes.is_empty() {
            return;
        }
        self.heading("What is missing or in doubt");
        for hole in holes {
            let mut place = Vec::new();
            place.extend(hole.file.clone());
            place.extend(hole.line.map(|line| line.to_string()));
            let mut place = place.join(":");
            if let (true, Some(host)) = (place.is_empty(), &hole.host) {
                place.clone_from(host);
            }
            if let (Some(ts), None) = (hole.ts, hole.line) {
                let _ = write!(place, " {}", self.clock.show(ts));
            }
            let colon = if place.is_empty() { "" } else { ": " };
            let text = format!("{}{colon}{}", place.trim_start(), hole.text);
            self.paragraph("  - ", &text);
        }
    }
}

/// What the report is about.
fn read(report: &Report) -> String {
    let Input {
        files,
        bytes,
        lines,
        skipped,
        ..
    } = &report.input;
    let mut hosts: Vec<_> = report.runs.iter().map(|run| &*run.host).collect();
    hosts.sort_unstable();
    hosts.dedup();
    let hosts = match &hosts[..] {
        [host] => (*host).to_owned(),
        hosts => format!("{} hosts", hosts.len()),
    };
    let mut kernels: Vec<_> = report
        .runs
        .iter()
        .filter_map(|run| run.kernel.as_deref())
        .collect();
    kernels.sort_unstable();
    kernels.dedup();
    let kernel = match kernels[..] {
        [kernel] => format!(" (Linux {kernel})"),
        _ => String::new(),
    };
    let span = report.span.as_ref().map(|span| {
        let shown = |ts: Timestamp| ts.strftime("%Y-%m-%d %H:%M:%S").to_string();
        format!(", {} to {} UTC", shown(span.from), shown(span.to))
    });
    let skipped = match skipped {
        0 => String::new(),
        skipped => format!(", {skipped} of them skipped"),
    };
    let files = match &files[..] {
        [file] => file.name.clone(),
        files => format!("{} files", files.len()),
    };
    format!(
        "{hosts}{kernel}{}: {lines} lines{skipped}, {} of {files}",
        span.unwrap_or_default(),
        size(*bytes)
    )
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{} kB", bytes / 1000),
        10_000_000..10_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{} GB", bytes / 1_000_000_000),
    }
}
