//! `tracer check`: what this host allows, found out by trying it.

use std::{fmt::Write, path::Path};

use anyhow::{Result, anyhow};
use serde::Serialize;

use super::{Outcome, print, trace};
use crate::{
    cli,
    kernel::{
        facts::Facts,
        load::{self, Covered, Loaded, Needs, Sizes},
        tracefs,
    },
    options,
    record::{self, Coverage},
};

mod ports;
mod privileges;

use ports::Ports;
use privileges::Privileges;

/// Small: nothing is traced.
const SIZES: Sizes = Sizes {
    ring: 4096,
    sockets: 16,
};

/// So many network namespaces are shown in a text; a large container host has thousands.
const SHOWN: usize = 20;

/// The same for machines.
#[derive(Serialize)]
struct Report<'a> {
    v: u32,
    tracer: &'a str,
    kernel: &'a str,
    architecture: &'a str,
    /// As in `start`.
    coverage: Vec<Coverage>,
    privileges: Privileges,
    /// The network namespaces of the host, first the one that tracer runs in.
    netns: &'a [Ports],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    problems: &'a [String],
}

/// What is left of it where nothing can be loaded.
#[derive(Serialize)]
struct Lacking {
    v: u32,
    tracer: &'static str,
    privileges: Privileges,
}

pub fn run(args: &cli::Check) -> Result<Outcome> {
    if let Some(file) = &args.config {
        return configuration(file);
    }
    let mut problems = Vec::new();
    if let Err(error) = tracefs::ensure() {
        problems.push(format!("tracefs is not mounted and can't be: {error}"));
    }
    problems.extend(crate::privileges::hidden().map(Into::into));
    let (facts, loaded) = match load(args) {
        Ok(loaded) => loaded,
        Err(error) => {
            explain(args.json)?;
            return Err(error);
        }
    };
    let (ports, problem) = ports::all();
    problems.extend(problem);
    let mut page = if args.json {
        let report = report(&facts, &loaded, &ports, &problems);
        serde_json::to_string(&report)?
    } else {
        text(&facts, &loaded, &ports, &problems)?
    };
    page.truncate(page.trim_end().len());
    page.push('\n');
    print(page.as_bytes())?;
    Ok(Outcome::Done)
}

fn load(args: &cli::Check) -> Result<(Facts, Loaded)> {
    let facts = Facts::read()?;
    let loaded = load::load(&facts, SIZES, &Needs::default(), args.backend)?;
    Ok((facts, loaded))
}

/// Shows what may lack where nothing can be loaded.
fn explain(json: bool) -> Result<()> {
    let lacking = Lacking {
        v: record::VERSION,
        tracer: env!("CARGO_PKG_VERSION"),
        privileges: Privileges::of_this_process(),
    };
    let page = match json {
        true => serde_json::to_string(&lacking)? + "\n",
        false => lacking.privileges.text().trim_start().to_owned(),
    };
    print(page.as_bytes())
}

fn configuration(file: &Path) -> Result<Outcome> {
    let count = options::check(file).map_err(|wrong| anyhow!(wrong.join("\n")))?;
    let text = format!("{}: {count} options, nothing wrong\n", file.display());
    print(text.as_bytes())?;
    Ok(Outcome::Done)
}

fn report<'a>(
    facts: &'a Facts,
    loaded: &Loaded,
    ports: &'a [Ports],
    problems: &'a [String],
) -> Report<'a> {
    Report {
        v: record::VERSION,
        tracer: env!("CARGO_PKG_VERSION"),
        kernel: &facts.release,
        architecture: &facts.architecture,
        coverage: trace::coverage(loaded),
        privileges: Privileges::of_this_process(),
        netns: ports,
        problems,
    }
}

fn text(facts: &Facts, loaded: &Loaded, ports: &[Ports], problems: &[String]) -> Result<String> {
    let mut page = format!("kernel {} ({})\n", facts.release, facts.architecture);
    for problem in problems {
        writeln!(page, "{problem}")?;
    }
    for covered in &loaded.coverage {
        page.push_str(&describe(covered));
    }
    page.push_str(&Privileges::of_this_process().text());
    for each in ports.iter().take(SHOWN) {
        write!(page, "\n{each}")?;
    }
    if let Some(more @ 1..) = ports.len().checked_sub(SHOWN) {
        writeln!(
            page,
            "\nand {more} more network namespaces; `tracer check --json` shows all"
        )?;
    }
    Ok(page)
}

fn describe(covered: &Covered) -> String {
    let what = covered.capability.name();
    let mut text = match covered.by {
        Some((backend, hook)) => format!("{what}: {} {hook}\n", load::name(backend)),
        None => format!("{what}: NOT COVERED\n"),
    };
    for refusal in &covered.refused {
        text += &format!(
            "  not {} {}: {}\n",
            load::name(refusal.backend),
            refusal.hook,
            refusal.reason
        );
    }
    for limit in &covered.limits {
        text += &format!("  limit: {limit}\n");
    }
    text
}
