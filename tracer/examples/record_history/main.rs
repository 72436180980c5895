//! Records a history for `tests/histories.rs`: what a real kernel tells of a small life in a network namespace.
//! A developer's tool, for root:
//!
//!     TRACER_LIVE_HISTORY=exchange target/debug/examples/record_history > tests/histories/exchange.jsonl

#[path = "../../tests/history/mod.rs"]
mod history;
mod life;
#[path = "../../tests/loopback/mod.rs"]
mod loopback;
mod peers;
mod recorder;

use std::env;

use anyhow::{Context as _, Result, ensure};

use self::{history::History, recorder::record};

/// The name of the life to record. A variable, because those are handed to a VM.
const NAME: &str = "TRACER_LIVE_HISTORY";

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["life", name] => life::live(name),
        ["peer", name, arguments @ ..] => peers::run(name, arguments),
        // A VM gives the options of its tests.
        _ => {
            let name = env::var(NAME).with_context(|| format!("{NAME} is not set"))?;
            let history = record(&name)?;
            let text = history.to_text();
            let read = History::parse(&text)?;
            ensure!(read.to_text() == text, "the history does not read back");
            print!("{text}");
            Ok(())
        }
    }
}
