//! What happened, and why, in two sentences.

use std::cmp::Reverse;

use super::{
    Analysis,
    causes::{Cause, limit_at},
    pools::{Destination, Pool, PoolId},
};
use crate::report::{
    model::{Count, Failures, Moment, who},
    time::timestamp,
};

/// What explains most, first.
const CAUSES: [&str; 10] = [
    "range_changed",
    "closes_first",
    "new_process",
    "rate_rose",
    "closes_late",
    "lasts_longer",
    "not_closed",
    "no_answer",
    "bound_grew",
    "sysctl_changed",
];

impl Analysis {
    /// `any_fault`: something was wrong with the input.
    pub(super) fn verdict(
        &self,
        failures: &Failures,
        causes: &[Cause],
        any_fault: bool,
    ) -> Vec<String> {
        if let Some(why) = self.why_nothing() {
            let below = "What was wrong with the input is told below.".to_owned();
            let below = Some(below).filter(|_| any_fault && self.runs.all.is_empty());
            return [why].into_iter().chain(below).collect();
        }
        if failures.connect == 0 && failures.bind == 0 {
            return vec![self.nothing_failed(), self.how_full(causes)];
        }
        vec![self.what_failed(failures), self.why(failures, causes)]
    }

    fn nothing_failed(&self) -> String {
        let Some((first, last)) = self.span else {
            return String::new();
        };
        let hosts = match &self.runs_hosts()[..] {
            [host] => format!("on {host}"),
            hosts => format!("on {} hosts", hosts.len()),
        };
        format!(
            "No connect() or bind() failed for want of a port or address {hosts} in the {} from {}{}.",
            duration(last.saturating_sub(first)),
            clock(first),
            self.narrowed()
        )
    }

    fn runs_hosts(&self) -> Vec<&str> {
        let mut hosts: Vec<_> = self
            .runs
            .all
            .iter()
            .map(|run| &*self.names.hosts[run.host].name)
            .collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    }

    /// Of the fullest destination or, where none is known, network namespace.
    fn how_full(&self, causes: &[Cause]) -> String {
        let share = |ports: i32, limit: i32| f64::from(ports) / f64::from(limit.max(1));
        let rows = self.pools.destinations.iter().filter_map(|to| {
            let peak = to.peak.filter(|peak| peak.ports > 0)?;
            let limit = self.limit(to)?;
            Some((share(peak.ports, limit), to, peak, limit))
        });
        let Some((_, to, peak, limit)) = rows.max_by(|a, b| a.0.total_cmp(&b.0)) else {
            return self.most_ports();
        };
        let causes = self.causes_of(to.pool, Some(to), causes);
        let place = format!(" on {}", self.place_of(&self.pools.pools[to.pool]));
        let (taken, _) = self.taken(to, peak.ports, limit, &place);
        let owner = peak.owner.map(|(process, _)| {
            format!(
                ", most of them by {}",
                self.names.processes[process].in_words()
            )
        });
        let cause = cause(&causes)
            .map(|cause| format!("; {cause}"))
            .unwrap_or_default();
        format!(
            "At most {taken}, at {}{}{cause}.",
            clock(peak.ts),
            owner.unwrap_or_default(),
        )
    }

    fn most_ports(&self) -> String {
        let peaks = self
            .pools
            .pools
            .iter()
            .filter_map(|pool| Some((pool.peak?, pool)));
        match peaks.max_by_key(|(peak, _)| peak.ports) {
            Some((peak, pool)) => format!(
                "At most {} ports were taken in a network namespace, {} on {}.",
                peak.ports, pool.netns, self.names.hosts[pool.host].name
            ),
            None => "How many ports were taken, these lines do not tell.".into(),
        }
    }

    /// When most ports were taken: it may have been raised since.
    pub(super) fn limit(&self, to: &Destination) -> Option<i32> {
        let limit = to.limit.as_ref();
        let limit = limit.unwrap_or(&self.pools.pools[to.pool].limit);
        limit_at(&limit.values(&self.axis), self.place(to.peak?.ts))
    }

    fn what_failed(&self, failures: &Failures) -> String {
        let mut what = Vec::new();
        for (count, call) in [
            (failures.connect, "connect()"),
            (failures.bind, "bind() or listen()"),
        ] {
            if count > 0 {
                let calls = if count == 1 { "call" } else { "calls" };
                what.push(format!("{} {calls} of {call}", number(count)));
            }
        }
        let whole = self.failures.whole.as_ref();
        let when = whole.map(|whole| match whole.last.saturating_sub(whole.first) {
            0..1_000_000_000 => format!(" at {}", clock(whole.first)),
            _ => format!(" from {}", between(whole.first, whole.last)),
        });
        let total = failures.connect.saturating_add(failures.bind);
        let to = failures.by_destination.first().and_then(|row| row.netns);
        format!(
            "{} failed on {}{}: {}, {}.",
            what.join(" and "),
            self.where_failed(),
            when.unwrap_or_default(),
            share_of(&failures.by_process, total, "by", ""),
            share_of(&failures.by_destination, total, "for", &self.in_netns(to)),
        )
    }

    /// All failures: the host, and the network namespace if there is only one of several.
    fn where_failed(&self) -> String {
        let whole = self.failures.whole.as_ref();
        let Some(host) = whole.and_then(|whole| whole.host) else {
            return "several hosts".into();
        };
        let host = &self.names.hosts[host].name;
        let netns = whole.and_then(|whole| whole.netns);
        match netns.filter(|_| self.has_namespaces()) {
            Some(netns) => format!("{host} in network namespace {netns}"),
            None => host.clone(),
        }
    }

    /// Where one of several places is, unless all failures are there.
    fn in_netns(&self, netns: Option<u32>) -> String {
        let is_told = self
            .failures
            .whole
            .as_ref()
            .is_none_or(|whole| whole.netns.is_some());
        let netns = netns.filter(|_| !is_told && self.has_namespaces());
        netns
            .map(|netns| format!(" in network namespace {netns}"))
            .unwrap_or_default()
    }

    fn place_of(&self, pool: &Pool) -> String {
        let host = &self.names.hosts[pool.host].name;
        match self.has_namespaces() {
            true => format!("{host} in network namespace {}", pool.netns),
            false => host.clone(),
        }
    }

    fn why(&self, failures: &Failures, causes: &[Cause]) -> String {
        let reason = failures.by_reason.first().map_or("", |row| &row.name);
        let why = match reason {
            "ports_exhausted" => self.exhausted(),
            "tuple_in_use" => "The sockets were bound to a source port from which a connection to the same destination, or its TIME_WAIT, still exists: it is not the range that was exhausted".into(),
            "no_source_address" => "The host has no source address for the destination, usually no IPv6: it is not ports that were exhausted".into(),
            "bind: ports_exhausted" => self.bound(),
            "bind: address_in_use" => "Another socket has the port that was asked for: it is not the range that was exhausted".into(),
            _ => "The lines do not tell why".into(),
        };
        let before = self.before(reason.starts_with("bind"), causes);
        let cause = cause(&before).filter(|_| reason.contains("exhausted"));
        match cause {
            Some(cause) => format!("{why}; {cause}."),
            None => format!("{why}."),
        }
    }

    /// What led to that which failed most.
    fn before(&self, bind: bool, causes: &[Cause]) -> Vec<Moment> {
        let to = self.most_failed().filter(|_| !bind);
        let Some(id) = to.map(|to| to.pool).or_else(|| self.most_failing()) else {
            return Vec::new();
        };
        let pool = &self.pools.pools[id];
        let name = to.map(|to| super::items::title(&to.route, false));
        let first = self
            .failures
            .first_in(pool.host, pool.netns, name.as_deref());
        let whole = self.failures.whole.as_ref().map(|whole| whole.first);
        let first = first.or(whole).map(timestamp);
        let mut before = self.causes_of(id, to, causes);
        before.retain(|cause| Some(cause.ts) <= first);
        before
    }

    /// What happened in another network namespace, or to another destination, did not lead to it.
    fn causes_of(&self, pool: PoolId, to: Option<&Destination>, causes: &[Cause]) -> Vec<Moment> {
        let there = causes.iter().filter(|cause| self.led_to(cause, pool, to));
        there.map(|cause| cause.moment.clone()).collect()
    }

    /// The network namespace with most failures.
    fn most_failing(&self) -> Option<PoolId> {
        let all = self.pools.pools.iter().enumerate();
        let most = all.max_by_key(|(_, pool)| pool.failed.total());
        most.map(|(id, _)| id)
    }

    /// The destination with most failures, which is the first of the list; of several local addresses the first one.
    fn most_failed(&self) -> Option<&Destination> {
        let place = |to: &Destination| {
            let pool = &self.pools.pools[to.pool];
            (pool.host, pool.netns, super::items::title(&to.route, false))
        };
        let failed = self.pools.destinations.iter().enumerate();
        let failed = failed.filter(|(_, to)| to.failed.total() > 0);
        let rank =
            |(at, to): &(usize, &Destination)| (to.failed.total(), Reverse((place(to), *at)));
        failed.max_by_key(rank).map(|(_, to)| to)
    }

    fn exhausted(&self) -> String {
        let most = self.most_failed();
        let known = most.and_then(|to| Some((to, to.peak?, self.limit(to)?)));
        let Some((to, peak, limit)) = known else {
            return "Every port that could be chosen was taken".into();
        };
        let place = self.in_netns(Some(self.pools.pools[to.pool].netns));
        let (taken, ports) = self.taken(to, peak.ports, limit, &place);
        let waits = self.time_wait(to).into_iter().flatten().max().unwrap_or(0);
        let waits = waits.min(ports.max(0).cast_unsigned());
        let name = |process: usize| self.names.processes[process].in_words();
        let owner = peak.owner.map(|(process, own)| {
            format!(", and {} were those of {}", own.min(ports), name(process))
        });
        format!(
            "{taken}, up to {waits} of them in TIME_WAIT{}",
            owner.unwrap_or_default(),
        )
    }

    /// So many ports of a destination, in words; and their number, which no part of them exceeds.
    fn taken(&self, to: &Destination, ports: i32, limit: i32, place: &str) -> (String, i32) {
        let name = super::items::title(&to.route, false);
        let range = self.pools.pools[to.pool].limit.values(&self.axis);
        let highest = range.into_iter().flatten().max().unwrap_or(0);
        let once = i32::try_from(highest).unwrap_or(i32::MAX);
        if (limit + 1..=once).contains(&ports) {
            // The range was narrowed, and they stay.
            let text = format!(
                "{ports} ports for {name} were taken{place}, more than the {limit} that there were then"
            );
            return (text, ports);
        }
        // Where events were lost, it may seem more for a while.
        let ports = ports.min(limit);
        let text = format!("{ports} of the {limit} ports for {name} were taken{place}");
        (text, ports)
    }

    /// Of the network namespace with most failures.
    fn bound(&self) -> String {
        let most = self.most_failing().map(|id| &self.pools.pools[id]);
        let stacks = most.into_iter().flat_map(|pool| &pool.stacks);
        let bound = stacks.filter_map(|stack| {
            let level = stack.states[super::pools::BOUND].as_ref()?;
            let highest = level.values(&self.axis).into_iter().flatten().max()?;
            Some((highest, stack.process))
        });
        match bound.max() {
            Some((ports, process)) if ports > 0 => format!(
                "Every port of the range was taken at that address, and {} had up to {ports} ports bound",
                self.names.processes[process].in_words()
            ),
            _ => "Every port of the range was taken at that address".into(),
        }
    }
}

/// The most telling one, as the end of a sentence.
fn cause(causes: &[Moment]) -> Option<String> {
    // The last before it: what came earlier was borne for a while.
    let last = |id: &&str| causes.iter().rfind(|cause| cause.id == **id);
    let ranked = CAUSES.iter().find_map(last)?;
    let at = i64::try_from(ranked.ts.as_nanosecond()).ok()?;
    Some(format!("at {}, {}", time_of_day(at), ranked.text))
}

/// `place`: of the first row.
fn share_of(rows: &[Count], total: u64, word: &str, place: &str) -> String {
    let name = |row: &Count| who(&row.name).trim_start_matches("bind() of ").to_owned() + place;
    match rows.first() {
        Some(row) if total == 1 => format!("{word} {}", name(row)),
        Some(row) if row.failures == total => format!("all {word} {}", name(row)),
        Some(row) => format!("{} of them {word} {}", number(row.failures), name(row)),
        None => format!("not told {word} whom"),
    }
}

/// With commas: 1,234,567.
pub(crate) fn number(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `2026-01-02 03:04:05 UTC`.
fn clock(ns: i64) -> String {
    timestamp(ns).strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// `2026-01-02 03:04:05 to 03:04:09 UTC`, with both days where there are two.
pub(super) fn between(first: i64, last: i64) -> String {
    let day = |ns| timestamp(ns).strftime("%Y-%m-%d").to_string();
    if day(first) != day(last) {
        return format!("{} to {}", clock(first), clock(last));
    }
    format!(
        "{} {} to {} UTC",
        day(first),
        time_of_day(first),
        time_of_day(last)
    )
}

fn time_of_day(ns: i64) -> String {
    timestamp(ns).strftime("%H:%M:%S").to_string()
}

/// To the two largest units: `1 h 12 min`, `36 s`.
pub(crate) fn duration(ns: i64) -> String {
    let seconds = ns / 1_000_000_000;
    let two = |big: i64, unit: &str, small: i64, smaller: &str| match small {
        0 => format!("{big} {unit}"),
        _ => format!("{big} {unit} {small} {smaller}"),
    };
    match seconds {
        0 => format!("{} ms", ns / 1_000_000),
        1..60 => format!("{seconds} s"),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds / 60 % 60, "min"),
        _ => two(seconds / 86_400, "d", seconds / 3600 % 24, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::{duration, number};

    #[test]
    fn numbers_have_commas_and_durations_two_units() {
        assert_eq!(
            [number(0), number(999), number(1000), number(1_234_567)],
            ["0", "999", "1,000", "1,234,567"]
        );
        let second = 1_000_000_000;
        let all = [
            second / 2,
            36 * second,
            72 * 60 * second,
            25 * 3600 * second,
            60 * second,
        ]
        .map(duration);
        assert_eq!(all, ["500 ms", "36 s", "1 h 12 min", "1 d 1 h", "1 min"]);
    }
}
