//! `tracer check`: what this host allows, found out by trying it.

use std::fmt::Write;

use anyhow::Result;

use super::Outcome;
use crate::{
    kernel::{
        facts::Facts,
        load::{self, Covered, Sizes},
        plan::Rung,
        tracefs,
    },
    sink::{Sink, Stdout},
};

/// Small: nothing is traced.
const SIZES: Sizes = Sizes {
    ring: 4096,
    sockets: 16,
};

pub fn run(forced: Option<Rung>) -> Result<Outcome> {
    let mounted = tracefs::ensure();
    let facts = Facts::read()?;
    let loaded = load::load(&facts, SIZES, forced)?;
    let mut page = format!("kernel {} ({})\n", facts.release, facts.architecture);
    if let Err(error) = mounted {
        writeln!(page, "tracefs is not mounted and can't be: {error}")?;
    }
    for covered in &loaded.coverage {
        page.push_str(&describe(covered));
    }
    Stdout.write(page.as_bytes())?;
    Ok(Outcome::Done)
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
