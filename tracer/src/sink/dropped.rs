//! Which lines are dropped first, and how many were.

use std::collections::BTreeMap;

use crate::record::Kind;

/// How many ranks there are.
pub(super) const RANKS: usize = 7;

/// Where not all lines have room, those of a lower rank go first. A `process` line goes after every line that may
/// refer to it.
pub(super) const fn rank(kind: Kind) -> usize {
    match kind {
        Kind::Input | Kind::State => 0,
        Kind::Socket | Kind::Connection => 1,
        Kind::Usage => 2,
        Kind::Ledger | Kind::Netns | Kind::Stats => 3,
        Kind::BindFailed | Kind::ConnectFailed | Kind::Pressure => 4,
        Kind::Process => 5,
        Kind::Start | Kind::Recording | Kind::Loss | Kind::Shed | Kind::Stop => 6,
    }
}

/// Lines that were dropped, counted by type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped([u64; Kind::ALL.len()]);

impl Dropped {
    pub(super) fn add(&mut self, kind: Kind) {
        self.0[kind as usize] += 1;
    }

    pub fn of(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }

    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Those that were dropped at all.
    pub fn by_type(&self) -> BTreeMap<&'static str, u64> {
        let all = Kind::ALL.iter().map(|kind| kind.name()).zip(self.0);
        all.filter(|(_, count)| *count > 0).collect()
    }
}
