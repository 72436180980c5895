//! What a terminal can show, and what must not reach it.

use std::{
    env,
    fmt::Write,
    io::{IsTerminal, stdout},
};

/// Without a terminal, and the least that text is wrapped to.
const WIDTH: usize = 100;
const NARROWEST: usize = 40;

/// What the output can show.
#[derive(Clone, Debug)]
pub struct Terminal {
    /// Columns.
    pub width: usize,
    /// More than ASCII.
    pub unicode: bool,
    pub bold: bool,
}

impl Terminal {
    pub fn of_stdout() -> Self {
        let is_terminal = stdout().is_terminal();
        let size = terminal_size::terminal_size().filter(|_| is_terminal);
        Self {
            width: size.map_or(WIDTH, |(width, _)| usize::from(width.0).max(NARROWEST)),
            unicode: speaks_utf8(),
            bold: is_terminal && env::var_os("NO_COLOR").is_none(),
        }
    }

    pub fn bold(&self, text: &str) -> String {
        if self.bold {
            format!("\x1b[1m{text}\x1b[0m")
        } else {
            text.into()
        }
    }

    /// Lines of at most the terminal's width; the first begins with `first`, the others are as far in.
    pub fn wrap(&self, first: &str, text: &str) -> String {
        let indent = first.chars().count();
        let room = self.width.saturating_sub(indent).max(NARROWEST / 2);
        let mut lines = first.to_owned();
        let mut column = 0;
        for word in text.split_whitespace() {
            let length = word.chars().count();
            if column > 0 && column + 1 + length > room {
                let _ = write!(lines, "\n{:indent$}", "");
                column = 0;
            }
            if column > 0 {
                lines.push(' ');
                column += 1;
            }
            lines.push_str(word);
            column += length;
        }
        lines.push('\n');
        lines
    }
}

/// As setlocale() decides: the first of these that is not empty.
fn speaks_utf8() -> bool {
    let names = ["LC_ALL", "LC_CTYPE", "LANG"];
    let set = names
        .iter()
        .filter_map(|name| env::var(name).ok())
        .find(|value| !value.is_empty());
    set.is_some_and(|value| {
        let value = value.to_ascii_lowercase();
        value.contains("utf-8") || value.contains("utf8")
    })
}

/// Text that others control, without what a terminal would obey: control characters, and those that reorder text.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() || reorders(char) {
            let _ = write!(escaped, "{}", char.escape_unicode());
        } else {
            escaped.push(char);
        }
    }
    escaped
}

/// Bidirectional controls, and what is not seen (Unicode TR 9 and TR 36).
fn reorders(char: char) -> bool {
    matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{61c}')
}

#[cfg(test)]
mod tests {
    use super::{Terminal, escape};

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        let hostile = "a\x1b[31m\n\r\x07\u{9b}2J\u{202e}b";
        let escaped = escape(hostile);
        assert!(
            escaped
                .chars()
                .all(|char| !char.is_control() && char != '\u{202e}')
        );
        assert!(escaped.starts_with("a\\u{1b}[31m"), "{escaped}");
        assert_eq!(escape("nginx: worker ä"), "nginx: worker ä");
    }

    #[test]
    fn text_is_wrapped_under_its_beginning() {
        let terminal = Terminal {
            width: 40,
            unicode: false,
            bold: false,
        };
        let text = terminal.wrap("  - ", "one two three four five six seven eight nine ten");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "  - one two three four five six seven",
                "    eight nine ten"
            ]
        );
    }
}
