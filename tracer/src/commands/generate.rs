//! `tracer generate`: what comes with a program, made from the definition of its command line.

use anyhow::Result;
use clap_complete::{Shell, generate};

use super::{Outcome, print};
use crate::{cli::Page, options};

pub fn run(page: Page) -> Result<Outcome> {
    let mut text = Vec::new();
    let shell = match page {
        Page::Man => None,
        Page::Bash => Some(Shell::Bash),
        Page::Zsh => Some(Shell::Zsh),
        Page::Fish => Some(Shell::Fish),
    };
    match shell {
        Some(shell) => generate(shell, &mut options::command(), "tracer", &mut text),
        None => clap_mangen::Man::new(options::command()).render(&mut text)?,
    }
    print(&text)?;
    Ok(Outcome::Done)
}
