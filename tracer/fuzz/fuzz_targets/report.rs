//! Whatever bytes are in a file, a report of it is made, and can be shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer::report::{self, text};

fuzz_target!(|bytes: &[u8]| {
    let report = report::of_lines(bytes);
    let terminal = text::Terminal {
        width: 80,
        unicode: true,
        bold: false,
    };
    let page = text::page(&report, &terminal);
    assert!(page.chars().all(|char| char == '\n' || !char.is_control()));
    assert!(serde_json::to_vec(&report).is_ok());
    let faults = report.input.skipped;
    assert!(faults == 0 || !report.holes.is_empty());
});
