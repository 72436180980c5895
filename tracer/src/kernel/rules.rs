//! How the running kernel gives out ports, as far as kernels differ in it.

use super::{btf::Btf, facts::Facts};
use crate::pool::Rules;

/// Those of the running kernel.
pub fn rules(facts: &Facts) -> Rules {
    facts.rules
}

/// Three rules show in the kernel's types. The fourth one does not: it is known by the version, see [`Version`].
pub(super) fn read(btf: &Btf, version: Version) -> Rules {
    let has = |member| btf.bit("inet_timewait_sock", member).is_ok();
    Rules {
        reopens: has("tw_connect_bind"),
        delays: has("tw_entry_stamp"),
        // It tells since 6.8 whether the socket has a range of its own, which made `__inet_hash_connect` look at
        // each port of that.
        steps_by_one: btf.returns("inet_sk_get_local_port_range").unwrap_or(false),
        reuses_fin_wait2: version.reuses_fin_wait2(),
    }
}

/// Releases with "tcp: avoid reusing FIN_WAIT2 when trying to find port in connect() process" (0d9e5df4a257, of
/// 6.12), by branch. Branches that are not here had ended before; who builds on one of those may have it all the same
/// (Ubuntu's 6.8.0-53, which calls itself 6.8.12).
const FIXED: [(u32, u32, u32); 6] = [
    (5, 10, 227),
    (5, 15, 168),
    (6, 1, 113),
    (6, 6, 55),
    (6, 10, 14),
    (6, 11, 3),
];

/// A release of kernel.org. The third number is 0 if it is not known: distributions add fixes of their own to a
/// release, and most do not name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32, u32);

impl Version {
    /// From `uname -r`, and from texts that may have it as well: `uname -v` (Debian: `#1 SMP Debian 5.10.223-1 (…)`
    /// for `5.10.0-32-amd64`), and `/proc/version_signature` (Ubuntu: `Ubuntu 5.15.0-119.129-generic 5.15.160`).
    pub(super) fn find(release: &str, texts: &[&str]) -> Self {
        let named = number(release).unwrap_or(Self(0, 0, 0));
        let words = texts.iter().flat_map(|text| text.split_whitespace());
        words
            .filter_map(number)
            .filter(|found| (found.0, found.1) == (named.0, named.1))
            .fold(named, Self::max)
    }

    /// In doubt not: a port too many that is said to be free is worse than one too few.
    fn reuses_fin_wait2(self) -> bool {
        let Self(major, minor, patch) = self;
        let fixed = FIXED
            .iter()
            .find(|fixed| (fixed.0, fixed.1) == (major, minor));
        patch != 0 && fixed.is_some_and(|fixed| patch < fixed.2)
    }
}

/// The numbers that a word begins with: `6.12.107+deb13-amd64`.
fn number(word: &str) -> Option<Version> {
    let mut parts = word.splitn(3, '.');
    let mut next = || {
        let part = parts.next()?;
        let end = part.find(|c: char| !c.is_ascii_digit());
        part[..end.unwrap_or(part.len())].parse().ok()
    };
    Some(Version(next()?, next()?, next().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::btf::tests::sample;

    #[test]
    fn reads_the_kernels_types() {
        let blob = sample();
        let btf = Btf::parse(&blob).unwrap();
        let rules = Rules {
            reopens: true,
            delays: false,
            reuses_fin_wait2: true,
            steps_by_one: false,
        };
        assert_eq!(read(&btf, Version(5, 10, 223)), rules);
    }

    #[test]
    fn finds_the_release_that_a_distribution_builds_on() {
        let debian = "#1 SMP Debian 5.10.223-1 (2024-08-10)";
        let found = Version::find("5.10.0-32-cloud-amd64", &[debian, ""]);
        assert_eq!(found, Version(5, 10, 223));
        let ubuntu = "Ubuntu 5.15.0-119.129-generic 5.15.160\n";
        let date = "#129-Ubuntu SMP Fri Aug 2 19:25:20 UTC 2024";
        let found = Version::find("5.15.0-119-generic", &[date, ubuntu]);
        assert_eq!(found, Version(5, 15, 160));
        let found = Version::find("6.12.107+deb13-cloud-amd64", &["#1 SMP 1.2.3"]);
        assert_eq!(found, Version(6, 12, 107));
        assert_eq!(Version::find("7.2-rc1", &[]), Version(7, 2, 0));
        assert_eq!(Version::find("kernel", &["6.1.3"]), Version(0, 0, 0));
    }

    #[test]
    fn the_fix_came_to_each_branch_on_its_own() {
        for (version, reuses) in [
            (Version(5, 10, 223), true),
            (Version(5, 10, 227), false),
            (Version(5, 19, 17), false),
            (Version(6, 1, 112), true),
            (Version(6, 1, 192), false),
            (Version(6, 8, 12), false),
            (Version(6, 11, 3), false),
            (Version(6, 12, 1), false),
            (Version(7, 2, 13), false),
            // A distribution's.
            (Version(5, 14, 0), false),
            (Version(0, 0, 0), false),
        ] {
            assert_eq!(version.reuses_fin_wait2(), reuses, "{version:?}");
        }
    }
}
