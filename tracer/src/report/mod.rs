//! What happened, from recorded lines. Needs neither Linux nor root.
//!
//! The straight line: `source` (files as blocks of lines) -> `digest` (a block as small items; on every core) ->
//! `analysis` (follows the items in order) -> `model` (what a report says) -> `text`, JSON or a page.

mod analysis;
pub mod digest;
mod feed;
pub mod html;
pub mod line;
pub mod model;
pub mod narrow;
mod series;
pub mod source;
mod tail;
pub mod text;
pub mod time;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

pub use feed::Control;
pub use model::Report;

use analysis::Analysis;
use feed::Part;
use narrow::Narrow;

/// What was made of the input.
#[derive(Debug)]
pub struct Made {
    pub report: Report,
    /// Something was skipped, lost or cut off; the report's holes say what.
    pub lossy: bool,
    /// At least one file could be opened.
    pub opened: bool,
}

/// Reads all files in order, `-` is standard input, and says what they tell. `tick` is called now and then.
pub fn make(
    paths: Vec<PathBuf>,
    mut narrow: Narrow,
    control: &Arc<Control>,
    tick: impl FnMut(),
) -> Result<Made, String> {
    if narrow.needs_end() {
        narrow.resolve(tail::last_time(&paths)?);
    }
    let names = paths.iter().map(|path| name(path)).collect();
    let mut analysis = Analysis::new(names, narrow);
    if !feed::read(paths, control, |part| analysis.part(part), tick) {
        analysis.interrupt();
    }
    let opened = analysis.opened_any();
    let (report, lossy) = analysis.finish();
    Ok(Made {
        report,
        lossy,
        opened,
    })
}

/// What the lines in memory tell: as of one file.
pub fn of_lines(lines: &[u8]) -> Report {
    let mut analysis = Analysis::new(vec!["lines".into()], Narrow::default());
    analysis.part(Part {
        block: source::Block {
            ends: true,
            ..source::Block::default()
        },
        bytes: lines.len() as u64,
        digest: digest::digest(lines, true),
    });
    analysis.finish().0
}

fn name(path: &Path) -> String {
    if path == Path::new("-") {
        "standard input".into()
    } else {
        path.display().to_string()
    }
}
