//! What a report was narrowed to, and whether the lines have any of it: a name that was mistyped is no all-clear.

use super::{Analysis, verdict::between};

/// What was asked for and found in any line, of any time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    pub process: bool,
    pub peer: bool,
    pub netns: bool,
}

impl Analysis {
    /// Why nothing can be said, if so.
    pub(super) fn why_nothing(&self) -> Option<String> {
        if self.runs.all.is_empty() {
            return Some("Nothing is known: no line could be used.".into());
        }
        if let Some(missing) = self.missing() {
            return Some(missing);
        }
        if self.span.is_some() {
            return None;
        }
        let (from, to) = self.runs.span()?;
        let is_bounded = self.narrow.since.is_some() || self.narrow.until.is_some();
        Some(match is_bounded {
            true => format!(
                "No line is from that time: they are from {}.",
                between(from, to)
            ),
            false => "Nothing is known: there are only copies of lines that came before.".into(),
        })
    }

    /// What was asked for, if no line has it.
    fn missing(&self) -> Option<String> {
        let Found {
            process,
            peer,
            netns,
        } = self.found;
        let [of_process, of_peer, of_netns] = self.narrow.places();
        let all = [(of_process, process), (of_peer, peer), (of_netns, netns)];
        let mut missing = all.into_iter().filter(|(_, found)| !found);
        let (words, _) = missing.find(|(words, _)| words.is_some())?;
        let words = words?;
        let (first, rest) = words.split_at(1);
        Some(format!(
            "{}{rest} is in none of the lines: nothing can be said about it.",
            first.to_uppercase()
        ))
    }

    /// For the end of a sentence: what else would be needed for an all-clear.
    pub(super) fn narrowed(&self) -> String {
        let all: Vec<_> = self.narrow.places().into_iter().flatten().collect();
        match all.is_empty() {
            true => String::new(),
            false => format!(", narrowed to: {}", all.join("; ")),
        }
    }
}
