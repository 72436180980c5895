//! Whatever bytes come out of the ring buffer, decoding returns, and what it returns can be written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer::{clock::Clock, event::Event, host::process::Processes, stream::Stream};

fuzz_target!(|bytes: &[u8]| {
    let Ok(event) = Event::decode(bytes) else {
        return;
    };
    let nowhere = Processes::at("/nonexistent".as_ref());
    let mut stream = Stream::with("host".into(), Clock::fixed(0, 0), nowhere);
    stream.event(&event);
    assert!(!stream.lines().is_empty());
});
