//! What `--output` names.

use std::{fmt, path::PathBuf, str::FromStr};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Stdout,
    File(PathBuf),
    Socket(Address),
}

/// Where a reader listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    /// `HOST:PORT`: a name is looked up at each attempt.
    Tcp(String),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err("give the path of a socket, such as unix:/run/collector.sock".into());
            }
            return Ok(Self::Socket(Address::Unix(path.into())));
        }
        if let Some(address) = text.strip_prefix("tcp:") {
            let port = address
                .rsplit_once(':')
                .filter(|(host, _)| !host.is_empty());
            let port = port.and_then(|(_, port)| port.parse::<u16>().ok());
            return match port {
                Some(1..) => Ok(Self::Socket(Address::Tcp(address.into()))),
                _ => Err(
                    "give a host and a port, such as tcp:192.0.2.1:5170 or tcp:[::1]:5170".into(),
                ),
            };
        }
        match text {
            "" => Err("give a file, `-` for standard output, unix:PATH or tcp:HOST:PORT".into()),
            "-" => Ok(Self::Stdout),
            path => Ok(Self::File(path.into())),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::File(path) => path.display().fmt(f),
            Self::Socket(Address::Unix(path)) => write!(f, "unix:{}", path.display()),
            Self::Socket(Address::Tcp(address)) => write!(f, "tcp:{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_told_apart() {
        let socket = |address| Ok(Target::Socket(address));
        let tcp = |address: &str| socket(Address::Tcp(address.into()));
        for (text, target) in [
            ("-", Ok(Target::Stdout)),
            ("a.jsonl", Ok(Target::File("a.jsonl".into()))),
            ("./tcp:1", Ok(Target::File("./tcp:1".into()))),
            ("unix:/run/a", socket(Address::Unix("/run/a".into()))),
            ("tcp:localhost:5170", tcp("localhost:5170")),
            ("tcp:[::1]:5170", tcp("[::1]:5170")),
        ] {
            assert_eq!(text.parse(), target);
        }
        for bad in [
            "",
            "unix:",
            "tcp:",
            "tcp:5170",
            "tcp::5170",
            "tcp:a:0",
            "tcp:a:x",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
