//! What in a recording can't be used: named where it is, and counted.

/// Of one recording so many troubles are named, and the rest is counted.
const NAMED: u64 = 20;

/// Takes complete sentences.
type Say<'a> = Box<dyn FnMut(&str) + 'a>;

/// Troubles with one file.
pub struct Troubles<'a> {
    file: String,
    say: Say<'a>,
    count: u64,
    /// The line that is being read, from 1.
    pub line: u64,
}

impl<'a> Troubles<'a> {
    pub fn new(file: String, say: Say<'a>) -> Self {
        Self {
            file,
            say,
            count: 0,
            line: 0,
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The line can't be used.
    pub fn skip(&mut self, what: impl AsRef<str>) {
        let text = format!("{}; skipped", what.as_ref());
        self.hole(text);
    }

    /// What follows from the line is in doubt.
    pub fn hole(&mut self, what: impl AsRef<str>) {
        let line = self.line;
        self.add(|file| format!("{file}, line {line}: {}", what.as_ref()));
    }

    /// The file as a whole.
    pub fn file(&mut self, what: impl AsRef<str>) {
        self.add(|file| format!("{file}: {}", what.as_ref()));
    }

    /// Not a trouble, but good to know.
    pub fn note(&mut self, what: impl AsRef<str>) {
        (self.say)(&format!(
            "{}, line {}: {}",
            self.file,
            self.line,
            what.as_ref()
        ));
    }

    /// To be called at the end.
    pub fn sum_up(&mut self) {
        if self.count > NAMED {
            let more = self.count - NAMED;
            (self.say)(&format!("{}: and {more} more like these", self.file));
        }
    }

    fn add(&mut self, text: impl FnOnce(&str) -> String) {
        self.count += 1;
        if self.count <= NAMED {
            (self.say)(&text(&self.file));
        }
    }
}
