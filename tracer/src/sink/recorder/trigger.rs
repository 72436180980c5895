//! When the last minutes are worth keeping.

use std::time::{Duration, Instant};

use memchr::memmem::find;

use crate::record::Cause;

/// A failure keeps them, and a destination that becomes critical; but in a row of them only the first: the row goes
/// on until there was none for so long as the ring holds.
pub(super) struct Trigger {
    quiet: Duration,
    last: Option<Instant>,
}

impl Trigger {
    pub(super) fn new(quiet: Duration) -> Self {
        Self { quiet, last: None }
    }

    pub(super) fn see(&mut self, line: &[u8], now: Instant) -> Option<Cause> {
        let cause = cause(line)?;
        let last = self.last.replace(now);
        let first = last.is_none_or(|last| now.duration_since(last) >= self.quiet);
        first.then_some(cause)
    }
}

fn cause(line: &[u8]) -> Option<Cause> {
    let rest = line.strip_prefix(br#"{"v":1,"type":""#)?;
    let has = |text: &[u8]| find(rest, text).is_some();
    let failed = rest.starts_with(b"connect_failed\"") || rest.starts_with(b"bind_failed\"");
    // A host without IPv6 has this all day, and no port is short.
    if failed && !has(br#""reason":"no_source_address""#) {
        return Some(Cause::Failure);
    }
    let critical = rest.starts_with(b"pressure\"") && has(br#""level":"critical""#);
    critical.then_some(Cause::Pressure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_row_counts() {
        let mut trigger = Trigger::new(Duration::from_secs(60));
        let at = |second| Instant::now() + Duration::from_secs(second);
        let failed = br#"{"v":1,"type":"connect_failed","seq":1,"reason":"ports_exhausted"}"#;
        let critical = br#"{"v":1,"type":"pressure","seq":1,"level":"critical"}"#;
        for other in [
            &br#"{"v":1,"type":"connect_failed","seq":1,"reason":"no_source_address"}"#[..],
            br#"{"v":1,"type":"pressure","seq":1,"level":"warning","before":"critical"}"#,
            br#"{"v":1,"type":"state","seq":1}"#,
        ] {
            assert_eq!(trigger.see(other, at(0)), None);
        }
        assert_eq!(trigger.see(failed, at(0)), Some(Cause::Failure));
        for second in [1, 30, 80, 130] {
            assert_eq!(trigger.see(failed, at(second)), None);
            assert_eq!(trigger.see(critical, at(second)), None);
        }
        assert_eq!(trigger.see(critical, at(200)), Some(Cause::Pressure));
    }
}
