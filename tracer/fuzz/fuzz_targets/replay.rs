//! Whatever lines a recording has, replaying it returns.
#![no_main]

use std::sync::{Arc, atomic::AtomicBool};

use libfuzzer_sys::fuzz_target;
use tracer::{
    replay::{Pace, Replay, Troubles},
    stream::Batch,
};

fuzz_target!(|bytes: &[u8]| {
    let pace = Pace::new(None, Arc::new(AtomicBool::new(false)));
    let mut troubles = Troubles::new("fuzz".into(), Box::new(|_| ()));
    let mut write = |_: &mut Batch| Ok(());
    let mut replay = Replay::new(pace, &mut write);
    for line in bytes.split(|byte| *byte == b'\n') {
        replay.line(line, false, &mut troubles).unwrap();
    }
    replay.end(&mut troubles).unwrap();
});
