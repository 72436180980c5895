//! What is missing or in doubt: the first of each kind by file and line, the rest counted.

use std::collections::BTreeMap;

use crate::report::{model::Hole, time::timestamp};

/// So many of a kind are named one by one.
const NAMED: usize = 3;
/// So many kinds are told apart, by host or file; the rest of a kind goes together.
const KINDS: usize = 500;

/// Where in the input.
#[derive(Clone, Debug, Default)]
pub(crate) struct At {
    pub file: Option<String>,
    pub line: Option<u64>,
    pub host: Option<String>,
    pub ts: Option<i64>,
}

#[derive(Debug, Default)]
pub(crate) struct Holes {
    named: Vec<Hole>,
    /// By kind, and host or file.
    kinds: BTreeMap<(&'static str, Option<String>), Kind>,
}

#[derive(Debug, Default)]
struct Kind {
    named: usize,
    more: u64,
    host: Option<String>,
    file: Option<String>,
}

impl Holes {
    pub(crate) fn add(
        &mut self,
        id: &'static str,
        at: At,
        count: u64,
        text: impl FnOnce() -> String,
    ) {
        let mut key = (id, at.host.clone().or_else(|| at.file.clone()));
        if self.kinds.len() >= KINDS && !self.kinds.contains_key(&key) {
            key.1 = None;
        }
        let kind = self.kinds.entry(key).or_default();
        if kind.named == NAMED {
            kind.more = kind.more.saturating_add(count);
            (kind.host, kind.file) = (at.host, at.file);
            return;
        }
        kind.named += 1;
        self.named.push(Hole {
            id: id.into(),
            host: at.host,
            ts: at.ts.map(timestamp),
            file: at.file,
            line: at.line,
            count,
            text: text(),
        });
    }

    /// What was lost, skipped or cut off; and not what only limits what can be told.
    pub(crate) fn any_loss(&self) -> bool {
        self.named.iter().any(|hole| is_loss(&hole.id))
    }

    pub(crate) fn finish(self) -> Vec<Hole> {
        let mut all = self.named;
        let counted = self.kinds.into_iter().filter(|(_, kind)| kind.more > 0);
        all.extend(counted.map(|((id, _), kind)| Hole {
            id: id.into(),
            host: kind.host,
            ts: None,
            file: kind.file,
            line: None,
            count: kind.more,
            text: format!("{} more of this kind: {}", kind.more, id.replace('_', " ")),
        }));
        // Kinds together, the order of the input within.
        all.sort_by(|a, b| {
            a.id.cmp(&b.id)
                .then(a.line.is_none().cmp(&b.line.is_none()))
        });
        all
    }
}

/// Whether a kind of hole means that the report may lack something that was in the input or happened.
pub(crate) fn is_loss(id: &str) -> bool {
    !matches!(
        id,
        "no_start" | "no_stop" | "unknown_type" | "levels" | "late_start" | "grouped"
    )
}

#[cfg(test)]
mod tests {
    use super::{At, Holes};

    #[test]
    fn the_first_are_named_and_the_others_counted() {
        let mut holes = Holes::default();
        for line in 1..=10 {
            let at = At {
                file: Some("a".into()),
                line: Some(line),
                ..At::default()
            };
            holes.add("garbage", at, 1, || format!("line {line}"));
        }
        assert!(holes.any_loss());
        let all = holes.finish();
        let counts: Vec<_> = all.iter().map(|hole| (hole.line, hole.count)).collect();
        assert_eq!(
            counts,
            [(Some(1), 1), (Some(2), 1), (Some(3), 1), (None, 7)]
        );
    }
}
