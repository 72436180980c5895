//! Tables in a page that people write: each between two comments, which name it.

use std::{fs, io::ErrorKind, path::Path};

use anyhow::{Context as _, Result};

/// Puts the section of that name into the page, in place of the one that is there, else at its end. A page that is not there is made.
pub(super) fn put(page: &Path, name: &str, section: &str) -> Result<()> {
    let text = match fs::read_to_string(page) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        other => other,
    };
    let text = text.with_context(|| format!("{} can't be read", page.display()))?;
    fs::write(page, with(&text, name, section))
        .with_context(|| format!("{} can't be written", page.display()))
}

fn with(page: &str, name: &str, section: &str) -> String {
    let (begin, end) = (
        format!("<!-- bench: {name} -->\n"),
        format!("<!-- end of {name} -->\n"),
    );
    let section = format!("{begin}{section}{end}");
    let found = page.split_once(&begin);
    let found = found.and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    match found {
        Some((before, after)) => format!("{before}{section}{after}"),
        None if page.is_empty() => section,
        None => format!("{page}\n{section}"),
    }
}

#[cfg(test)]
mod tests {
    use super::with;

    #[test]
    fn a_section_is_added_once_and_replaced_then() {
        let page = with("# Page\n", "one", "1\n");
        assert_eq!(
            page,
            "# Page\n\n<!-- bench: one -->\n1\n<!-- end of one -->\n"
        );
        let both = with(&page, "two", "2\n") + "after\n";
        let anew = with(&both, "one", "3\n");
        assert_eq!(anew, both.replace("1\n", "3\n"));
    }
}
