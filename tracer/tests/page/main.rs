//! The page of a report, in a real browser.
//!
//! `TRACER_PAGE_KEEP` names a directory that gets the pages, and pictures of them, to look at.

mod browser;
mod checks;
mod given;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex},
};

use anyhow::{Context as _, Result};
use data_encoding::BASE64;
use libtest_mimic::{Arguments, Completion, Trial};
use tempfile::TempDir;
use tracer::report::{Report, html};

use browser::{Browser, Tab};

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    // They share a browser.
    args.test_threads = Some(1);
    let desk = Arc::new(Mutex::new(None));
    let trials = checks::ALL
        .iter()
        .map(|(name, check)| trial(name, *check, &desk))
        .collect();
    let conclusion = libtest_mimic::run(&args, trials);
    drop(desk);
    conclusion.exit_code()
}

type Check = fn(&mut Desk) -> Result<()>;

fn trial(name: &str, check: Check, desk: &Arc<Mutex<Option<Desk>>>) -> Trial {
    let desk = Arc::clone(desk);
    Trial::ignorable_test(name, move || {
        let Some(program) = browser::find() else {
            return Ok(Completion::ignored_with(
                "no Chromium is installed (`cargo xtask test` installs it)",
            ));
        };
        let mut desk = desk.lock().map_err(|_| "another trial has panicked")?;
        let run = |desk: &mut Option<Desk>| {
            if desk.is_none() {
                *desk = Some(Desk::new(&program)?);
            }
            check(desk.as_mut().context("no browser")?)
        };
        run(&mut desk).map_err(|error| format!("{error:#}"))?;
        Ok(Completion::Completed)
    })
}

/// A browser, and room for pages.
struct Desk {
    browser: Browser,
    pages: TempDir,
}

impl Desk {
    fn new(program: &Path) -> Result<Self> {
        Ok(Self {
            browser: Browser::start(program)?,
            pages: TempDir::new()?,
        })
    }

    /// Writes the page of a report as a user gets it, and opens it.
    fn open(&mut self, name: &str, report: &Report, width: u32) -> Result<(Tab<'_>, String)> {
        let path = self.pages.path().join(format!("{name}.html"));
        html::save(report, &path)?;
        if let Some(directory) = keep() {
            fs::copy(&path, directory.join(format!("{name}.html")))?;
        }
        let url = format!("file://{}", path.display());
        Ok((self.browser.open(&url, width)?, url))
    }
}

fn keep() -> Option<PathBuf> {
    env::var_os("TRACER_PAGE_KEEP").map(PathBuf::from)
}

/// Keeps a picture of the page, if pictures are asked for.
fn picture(tab: &mut Tab<'_>, name: &str) -> Result<()> {
    let Some(directory) = keep() else {
        return Ok(());
    };
    let png = BASE64.decode(tab.screenshot()?.as_bytes())?;
    fs::write(directory.join(name), png).with_context(|| format!("cannot keep {name}"))
}
