//! Destinations that run out of ports.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Serialize;

use super::{Budget, Holder};
use crate::{diagnosis::advice::Advice, event::Endpoint};

/// The ports of a destination came above a level, or fell below it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Pressure<'a> {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Null, as `peer`: the ports that are bound, and so closed to every destination.
    pub local_ip: Option<IpAddr>,
    pub peer: Option<Endpoint>,
    /// The level now.
    pub level: Level,
    /// The level before.
    pub before: Level,
    /// Of the ports that may be chosen, so many percent are not free.
    pub used_percent: f64,
    pub budget: Budget,
    /// New connections per second; null: it was not watched for long enough, as the next two.
    pub open_rate: Option<f64>,
    /// Connections that were closed per second, with or without TIME_WAIT.
    pub close_rate: Option<f64>,
    /// Ports taken less ports given back, per second.
    pub net_rate: Option<f64>,
    /// Seconds that the rates are taken over.
    pub window_s: Option<f64>,
    pub forecast: Outlook,
    /// Seconds until no port is free, if it goes on like this; null unless `forecast` is `exhausts`.
    pub exhausts_in_s: Option<f64>,
    /// Ports in use once as many come back from TIME_WAIT as are taken; null unless `forecast` is `never`.
    pub steady_state: Option<u64>,
    /// Who has the ports, most first: ten processes, and the others in one more.
    pub holders: Vec<Holder<'a>>,
    /// What to change, best first, and last what not to. None at level `ok`.
    pub advice: Vec<Advice>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    #[default]
    Ok,
    Warning,
    Critical,
}

/// What comes if connections come and go as they do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outlook {
    /// No port is free.
    Exhausted,
    Exhausts,
    /// Ports come back as fast as they are taken before the last is.
    Never,
    /// It was not watched for long enough.
    Unknown,
}
