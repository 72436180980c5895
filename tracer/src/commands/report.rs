//! `tracer report`: after the incident.

use std::{
    io::{IsTerminal, stderr},
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::SIGINT;

use super::Outcome;
use crate::{
    cli,
    report::{self, Control, Made, Report, html, narrow::Narrow, text},
};

pub fn run(args: &cli::Report) -> Result<Outcome> {
    let control = Arc::new(Control::default());
    watch_for_interrupts(&control)?;
    let bar = progress(args);
    let tick = || bar.set_position(control.consumed.load(Relaxed));
    let made = report::make(args.files.clone(), narrow(args), &control, tick);
    bar.finish_and_clear();
    let made = made.map_err(anyhow::Error::msg)?;
    if !made.opened {
        bail!("nothing could be read: {}", complaints(&made.report));
    }
    print(args, &made)?;
    Ok(if made.lossy {
        Outcome::Lossy
    } else {
        Outcome::Done
    })
}

fn narrow(args: &cli::Report) -> Narrow {
    Narrow {
        since: args.since,
        until: args.until,
        process: args.process.clone(),
        peer: args.peer,
        netns: args.netns,
    }
}

/// The first Ctrl-C has the report made of what was read; the second ends the program.
fn watch_for_interrupts(control: &Arc<Control>) -> Result<()> {
    let why = "can't watch for Ctrl-C";
    let again = control.interrupted.clone();
    signal_hook::flag::register_conditional_default(SIGINT, again).context(why)?;
    signal_hook::flag::register(SIGINT, control.interrupted.clone()).context(why)?;
    Ok(())
}

/// Only on a terminal, and only where the length is known.
fn progress(args: &cli::Report) -> ProgressBar {
    let sizes = args
        .files
        .iter()
        .map(|path| size(path))
        .collect::<Option<Vec<_>>>();
    let Some(sizes) = sizes.filter(|_| stderr().is_terminal()) else {
        return ProgressBar::hidden();
    };
    let bar = ProgressBar::new(sizes.iter().sum());
    let style = "{percent:>3} % {wide_bar} {binary_bytes_per_sec}, {eta} left";
    bar.with_style(
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    )
}

fn size(path: &Path) -> Option<u64> {
    let metadata = path.metadata().ok()?;
    metadata.is_file().then_some(metadata.len())
}

fn complaints(report: &Report) -> String {
    let each = report.holes.iter().map(|hole| match &hole.file {
        Some(file) => format!("{}: {}", text::escape(file), hole.text),
        None => hole.text.clone(),
    });
    each.collect::<Vec<_>>().join("; ")
}

fn print(args: &cli::Report, made: &Made) -> Result<()> {
    if let Some(path) = &args.html {
        return html::save(&made.report, path);
    }
    let mut page = if args.json {
        serde_json::to_string(&made.report)?
    } else {
        text::page(&made.report, &text::Terminal::of_stdout())
    };
    page.truncate(page.trim_end().len());
    page.push('\n');
    super::print(page.as_bytes())
}
