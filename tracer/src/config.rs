//! Validated settings: after this, nothing about arguments can fail.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};

use crate::{
    cli::{self, Select, Trace},
    diagnosis::pressure::Levels,
    kernel::plan::Rung,
    metrics::Address,
    privileges::User,
    sink::{Keep, Rotation, Settings, Target},
};

/// The ring buffer's limits: one page, and what an `u32` power of two holds.
const RING_MIN: u64 = 4096;
const RING_MAX: u64 = 1 << 30;

/// Less would not hold the lines of one look into the ring buffer.
const BUFFER_MIN: u64 = 1 << 20;

/// What `tracer` without a command is to do.
#[derive(Clone, Debug)]
pub struct Config {
    pub forced: Option<Rung>,
    pub sizes: Sizes,
    /// How often the usage of ports is shown.
    pub interval: Duration,
    pub levels: Levels,
    pub coalesces: bool,
    /// Whom to become once everything is attached.
    pub user: Option<User>,
    pub labels: BTreeMap<String, String>,
    pub output: Settings,
    pub upkeep: Upkeep,
    pub select: Select,
    /// All that the lines are made of is written too.
    pub replayable: bool,
}

/// What the kernel side has to tell; the default is everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Sockets of these network namespaces only, at most [`tracer_ebpf::MAX_NAMESPACES`]; `None`: of all.
    pub netns: Option<Vec<u32>>,
    /// Not who closed a socket, if that is not its owner.
    pub no_closers: bool,
    /// Not how connections come from ESTABLISHED to their end: where they are is asked for.
    pub no_steps: bool,
}

/// What the user may set about the maps.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Bytes; a power of two and a multiple of the page size.
    pub ring: u32,
    /// Sockets that the kernel side remembers.
    pub sockets: u32,
}

/// What tracer tells of itself, and what it may cost.
#[derive(Clone, Copy, Debug)]
pub struct Upkeep {
    pub metrics: Option<Address>,
    /// Series of each kind of metrics.
    pub top: usize,
    pub stats: Option<Duration>,
    /// Percent of one core.
    pub max_cpu: Option<f64>,
}

impl From<cli::Upkeep> for Upkeep {
    fn from(upkeep: cli::Upkeep) -> Self {
        let seconds = Some(upkeep.stats).filter(|seconds| *seconds > 0);
        Self {
            metrics: upkeep.metrics,
            top: upkeep.metrics_top.into(),
            stats: seconds.map(|seconds| Duration::from_secs(seconds.into())),
            max_cpu: upkeep.max_cpu.map(f64::from),
        }
    }
}

impl TryFrom<Trace> for Config {
    type Error = anyhow::Error;

    fn try_from(trace: Trace) -> Result<Self> {
        Ok(Self {
            labels: labels(&trace.output.label)?,
            output: output(trace.output)?,
            forced: trace.backend,
            sizes: Sizes {
                ring: trace.ring_size,
                sockets: trace.max_sockets,
            },
            interval: Duration::from_secs(trace.interval.into()),
            levels: Levels {
                warning: trace.warn.into(),
                critical: trace.critical.into(),
            },
            coalesces: trace.coalesce_failures,
            replayable: trace.replayable,
            select: trace.select,
            upkeep: trace.upkeep.into(),
            user: trace.user,
        })
    }
}

fn labels(given: &[(String, String)]) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for (key, value) in given {
        let before = labels.insert(key.clone(), value.clone());
        ensure!(
            before.is_none(),
            "--label {key} is given twice; give each key once"
        );
    }
    Ok(labels)
}

fn output(given: cli::Output) -> Result<Settings> {
    let targets = given.output;
    for (at, target) in targets.iter().enumerate() {
        ensure!(
            !targets[..at].contains(target),
            "--output {target} is given twice; give each output once"
        );
    }
    let rotates = given.rotate_size.is_some() || given.rotate_age.is_some();
    ensure!(
        !rotates || targets.iter().any(|to| matches!(to, Target::File(_))),
        "only a file can be rotated: give --output FILE as well"
    );
    ensure!(
        given.rotate_size != Some(0) && given.rotate_age != Some(Duration::ZERO),
        "--rotate-size and --rotate-age can't be 0"
    );
    Ok(Settings {
        targets,
        buffer: given.buffer,
        grace: given.drain_timeout,
        rotation: Rotation {
            size: given.rotate_size,
            age: given.rotate_age,
            keep: given.rotate_keep,
            compress: given.compress,
            fsync: given.fsync,
        },
        recorder: given.flight_recorder.map(|dir| (dir, given.keep)),
    })
}

/// Parses a label.
pub fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| is_key(key));
    let (key, value) = pair.ok_or(
        "give KEY=VALUE, such as site=fra1; a key has letters, digits and `_`, and begins with no digit",
    )?;
    Ok((key.into(), value.into()))
}

fn is_key(key: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !key.is_empty() && key.bytes().all(fits) && !key.as_bytes()[0].is_ascii_digit()
}

/// Parses a number of bytes.
pub fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|end: char| end.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => Some(1_u64),
        "k" | "kib" => Some(1 << 10),
        "m" | "mib" => Some(1 << 20),
        "g" | "gib" => Some(1 << 30),
        _ => None,
    };
    let number = digits.parse::<u64>().ok();
    let bytes = number
        .zip(unit)
        .and_then(|(number, unit)| number.checked_mul(unit));
    bytes.ok_or_else(|| "give a number of bytes, such as 65536, 64K, 8M or 1G".into())
}

/// Parses the memory for lines that wait.
pub fn buffer_size(text: &str) -> Result<usize, String> {
    let bytes = bytes(text)?;
    if bytes < BUFFER_MIN {
        return Err("give at least 1M".into());
    }
    usize::try_from(bytes).map_err(|error| error.to_string())
}

/// Parses how much the flight recorder holds.
pub fn keep(text: &str) -> Result<Keep, String> {
    let mut keep = Keep::default();
    for part in text.split(',') {
        // A number alone may be either; `10m` are minutes.
        let unit = part.ends_with(|end: char| end.is_ascii_alphabetic());
        match (duration(part), bytes(part)) {
            (Ok(age), _) if unit => keep.age = age,
            (_, Ok(size)) if unit => keep.size = size,
            _ => return Err("give a time and a number of bytes, such as 10m,1GiB".into()),
        }
    }
    if keep.age < Keep::MIN_AGE || keep.size < Keep::MIN_SIZE {
        return Err("give at least 10s and 1MiB".into());
    }
    Ok(keep)
}

/// Parses a time that something may last.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|end: char| end.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => Some(1),
        "" | "s" => Some(1000),
        "m" | "min" => Some(60 * 1000),
        "h" => Some(3600 * 1000),
        "d" => Some(24 * 3600 * 1000),
        _ => None,
    };
    let number = digits.parse::<u32>().ok();
    let millis = number
        .zip(unit)
        .map(|(number, unit)| u64::from(number) * unit);
    millis
        .map(Duration::from_millis)
        .ok_or_else(|| "give a time such as 500ms, 90s, 15m, 24h or 7d".into())
}

/// Parses a size of the ring buffer and rounds it up to what the kernel accepts.
pub fn ring_size(text: &str) -> Result<u32, String> {
    let (digits, unit) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1 << 10),
        None => match text.strip_suffix(['M', 'm']) {
            Some(digits) => (digits, 1 << 20),
            None => (text, 1),
        },
    };
    let bytes = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .filter(|bytes| (1..=RING_MAX).contains(bytes))
        .ok_or("give a number of bytes up to 1024M, such as 65536, 64K or 8M")?;
    u32::try_from(bytes.max(RING_MIN).next_power_of_two()).map_err(|error| error.to_string())
}

/// Where to look, as an argument: an address, perhaps with a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct To {
    pub ip: IpAddr,
    pub port: Option<u16>,
}

/// From `IP`, `IP:PORT` or `[IP]:PORT`.
pub fn parse_to(text: &str) -> Result<To, String> {
    // An IPv4-mapped address is the same destination.
    if let Ok(ip) = address(text) {
        return Ok(To { ip, port: None });
    }
    match text.parse::<SocketAddr>() {
        Ok(addr) if addr.port() != 0 => Ok(To {
            ip: addr.ip().to_canonical(),
            port: Some(addr.port()),
        }),
        _ => Err(
            "give an address, with a port or without, such as 10.0.0.9:5432, 10.0.0.9 or [::1]:80"
                .into(),
        ),
    }
}

/// An address, an IPv4-mapped one as that of IPv4.
pub fn address(text: &str) -> Result<IpAddr, String> {
    let address = text.parse::<IpAddr>().map(|ip| ip.to_canonical());
    address.map_err(|_| "give an address, such as 10.0.0.7 or ::1".into())
}

/// How many times as fast as it was.
pub fn speed(text: &str) -> Result<f64, String> {
    let speed = text.parse::<f64>().ok();
    speed
        .filter(|speed| speed.is_finite() && *speed > 0.0)
        .ok_or("give a number above 0, such as 1 or 0.5 or 60".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_sizes_are_rounded_up_and_bounded() {
        assert_eq!(ring_size("8M"), Ok(8 << 20));
        assert_eq!(ring_size("1"), Ok(4096));
        assert_eq!(ring_size("5k"), Ok(8192));
        assert_eq!(ring_size("1024M"), Ok(1 << 30));
        for bad in ["", "0", "-1", "8G", "1025M", "99999999999999999999"] {
            assert!(ring_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(bytes("65536"), Ok(65536));
        assert_eq!(bytes("1GiB"), Ok(1 << 30));
        assert_eq!(buffer_size("8M"), Ok(8 << 20));
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for bad in ["", "M", "-1", "1T", "1.5G", "99999999999G", "1 G"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        for bad in ["", "s", "-1s", "1y", "1.5h", "99999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(buffer_size("64K").is_err());
    }

    #[test]
    fn a_recorder_keeps_a_time_and_a_size() {
        let minutes = |minutes: u64, size| {
            let age = Duration::from_secs(60 * minutes);
            Ok(Keep { age, size })
        };
        assert_eq!(keep("10m,1GiB"), minutes(10, 1 << 30));
        assert_eq!(keep("64MiB,5m"), minutes(5, 64 << 20));
        assert_eq!(keep("2h"), minutes(120, 1 << 30));
        for bad in ["", "10", "10m,", "5", "1s", "64K", "10x,1GiB"] {
            assert!(keep(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_have_a_key_and_any_value() {
        let parsed = |key: &str, value: &str| Ok((key.into(), value.into()));
        assert_eq!(label("site=fra1"), parsed("site", "fra1"));
        assert_eq!(label("a_1=b=\"c\n"), parsed("a_1", "b=\"c\n"));
        assert_eq!(label("a="), parsed("a", ""));
        for bad in ["", "a", "=b", "1a=b", "a-b=c", "ä=b"] {
            assert!(label(bad).is_err(), "{bad}");
        }
        let twice = [("a".into(), "1".into()), ("a".into(), "2".into())];
        assert!(labels(&twice).is_err());
    }

    #[test]
    fn destinations_have_a_port_or_not() {
        let with = parse_to("[::1]:80").unwrap();
        assert_eq!((with.ip.to_string(), with.port), ("::1".into(), Some(80)));
        assert_eq!(parse_to("10.0.0.9").unwrap().port, None);
        for mapped in ["::ffff:10.0.0.9", "[::ffff:10.0.0.9]:80"] {
            assert_eq!(
                parse_to(mapped).unwrap().ip,
                parse_to("10.0.0.9").unwrap().ip
            );
        }
        assert_eq!(address("::ffff:10.0.0.9"), address("10.0.0.9"));
        for bad in ["", "10.0.0.9:0", "10.0.0.9:x", "::1:", "example.org:80"] {
            assert!(parse_to(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_speed_is_a_number_above_zero() {
        assert_eq!(speed("0.5"), Ok(0.5));
        for bad in ["", "0", "-1", "inf", "NaN", "fast"] {
            assert!(speed(bad).is_err(), "{bad}");
        }
    }
}
