//! Reads what the kernel shows below `/proc`, of the network namespace that this thread is in.

use std::{fs::File, io, os::unix::fs::FileExt, str::FromStr};

/// Enough for most values, and for the longest list of ports: every other one of 65,536.
const SIZES: [usize; 2] = [4096, 1 << 18];

/// The value of a sysctl below `/proc/sys/net`, without the blanks around it.
pub(super) fn text(name: &str) -> io::Result<String> {
    let path = format!("/proc/sys/net/{name}");
    at_once(&path)
        .map(|text| text.trim().to_owned())
        .map_err(|error| unreadable(&path, &error))
}

/// As [`text`]; `None`: this kernel has no such sysctl.
pub(super) fn text_if_any(name: &str) -> io::Result<Option<String>> {
    match text(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

pub(super) fn number<T: FromStr>(name: &str) -> io::Result<T> {
    parse(name, &text(name)?)
}

/// `None`: this kernel has no such sysctl.
pub(super) fn number_if_any<T: FromStr>(name: &str) -> io::Result<Option<T>> {
    let text = text_if_any(name)?;
    text.map(|text| parse(name, &text)).transpose()
}

pub(super) fn parse<T: FromStr>(name: &str, text: &str) -> io::Result<T> {
    text.parse().map_err(|_| strange(name, text))
}

/// The kernel says something that is not understood.
pub(super) fn strange(name: &str, text: &str) -> io::Error {
    let text = format!("/proc/sys/net/{name} says {text:?}, which is not understood");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

pub(super) fn unreadable(path: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{path} can't be read: {error}"))
}

/// The kernel gives a list of ports to one read only, as much as fits, and nothing to the next read
/// (`proc_do_large_bitmap`); only a whole one ends with its line.
fn at_once(path: &str) -> io::Result<String> {
    let file = File::open(path)?;
    for size in SIZES {
        let mut bytes = vec![0; size];
        let length = file.read_at(&mut bytes, 0)?;
        bytes.truncate(length);
        if bytes.last().is_none_or(|last| *last == b'\n') {
            return String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into());
        }
    }
    Err(io::ErrorKind::FileTooLarge.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_file() {
        let error = text("ipv4/no_such").unwrap_err().to_string();
        assert!(error.starts_with("/proc/sys/net/ipv4/no_such can't be read: "));
        assert_eq!(number_if_any::<u32>("ipv4/no_such").unwrap(), None);
        assert_eq!(
            parse::<u8>("ipv4/x", "many").unwrap_err().to_string(),
            "/proc/sys/net/ipv4/x says \"many\", which is not understood"
        );
    }
}
