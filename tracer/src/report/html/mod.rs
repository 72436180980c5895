//! The report as one page for a browser, with all that it needs inside: it loads nothing, from nowhere.
//!
//! The report goes into the page as data, and its script places every string as text. The page's own policy lets
//! nothing run but that script, and forbids every request.

mod save;
mod series;

use std::io::{self, Write};

use data_encoding::BASE64;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

pub use self::save::save;
use super::Report;

const STYLE: &str = include_str!("page.css");

/// One after the other: each uses what stands before it.
const SCRIPT: &str = concat!(
    "(() => {\n\"use strict\";\n",
    include_str!("script/text.js"),
    include_str!("script/data.js"),
    include_str!("script/axes.js"),
    include_str!("script/stack.js"),
    include_str!("script/curves.js"),
    include_str!("script/choose.js"),
    include_str!("script/legend.js"),
    include_str!("script/moment.js"),
    include_str!("script/lists.js"),
    include_str!("script/start.js"),
    "})();\n"
);

/// Writes the page.
pub fn page(report: &Report, out: &mut (impl Write + ?Sized)) -> io::Result<()> {
    write!(
        out,
        include_str!("page.html"),
        policy = policy(),
        style = STYLE,
        data = data(report)?,
        script = SCRIPT,
    )
}

/// What the browser lets the page do: run this script, and look like this. Trusted types leave the script no way to
/// make elements from text.
fn policy() -> String {
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; base-uri 'none'; \
         form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        digest(SCRIPT),
        digest(STYLE),
    )
}

fn digest(text: &str) -> String {
    BASE64.encode(&Sha256::digest(text))
}

/// The report as JSON that can't end the element it stands in.
fn data(report: &Report) -> io::Result<String> {
    let mut value = serde_json::to_value(report)?;
    series::pack(&mut value);
    Ok(escape(&value))
}

/// In JSON these characters occur in strings only, where each may be written as its code.
fn escape(value: &Value) -> String {
    let mut text = String::new();
    for char in value.to_string().chars() {
        match char {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(char)));
            }
            _ => text.push(char),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn data_cannot_end_its_element() {
        let value = json!({ "</script><!--": "&amp;\u{2028}\u{2029}\u{0}'\"" });
        let text = escape(&value);
        assert!(!text.contains(['<', '>', '&', '\u{2028}', '\u{2029}', '\u{0}']));
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn assets_cannot_end_their_elements() {
        assert!(!SCRIPT.contains("</") && !SCRIPT.contains("<!--"));
        assert!(!STYLE.contains("</"));
    }

    #[test]
    fn assets_name_no_address() {
        let allowed = SCRIPT.replace("http://www.w3.org/2000/svg", "");
        for text in [STYLE, &allowed, include_str!("page.html")] {
            assert!(!text.contains("://"), "{text}");
        }
    }

    /// The known digest of the empty string.
    #[test]
    fn digests_are_those_of_a_policy() {
        assert_eq!(digest(""), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }
}
