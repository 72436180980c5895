//! What led to it: changes before the trouble began.

use super::{
    Analysis,
    events::{Where, moment},
    items::title,
    names::{Process, ProcessId},
    pools::{BOUND, Destination, Pool, PoolId, Stack},
};
use crate::{
    event::State,
    report::{digest::Route, line::Settings, model::Moment, series::known_at, time::timestamp},
};

/// What is less than this many percent of the limit did not lead to much.
const SHARE: i32 = 10;
/// So many bins at least on each side of a change.
const SIDE: usize = 3;
/// So long after a process starts, the one that it replaces has ended, and a `usage` line tells it (nanoseconds).
const OVERLAP: i64 = 30_000_000_000;
/// So many network namespaces and destinations in trouble are looked at.
const LOOKED_AT: usize = 50;

/// Differences between settings of a network namespace, in words; what is not known does not differ.
pub(super) fn changed(before: &Settings, now: &Settings) -> Vec<String> {
    let mut all = Vec::new();
    if let (Some([a, b]), Some([c, d])) = (before.range, now.range)
        && (a, b) != (c, d)
    {
        all.push(format!("ip_local_port_range was {a}-{b} and is {c}-{d}"));
    }
    let mut number = |name: &str, before: Option<u32>, now: Option<u32>| {
        if let (Some(before), Some(now)) = (before, now)
            && before != now
        {
            all.push(format!("{name} was {before} and is {now}"));
        }
    };
    number(
        "ip_local_reserved_ports: number of ports",
        before.reserved,
        now.reserved,
    );
    number(
        "tcp_tw_reuse",
        before.tw_reuse.map(u32::from),
        now.tw_reuse.map(u32::from),
    );
    number(
        "tcp_tw_reuse_delay",
        before.tw_reuse_delay_ms,
        now.tw_reuse_delay_ms,
    );
    number(
        "tcp_timestamps",
        before.timestamps.map(u32::from),
        now.timestamps.map(u32::from),
    );
    number(
        "tcp_max_tw_buckets",
        before.max_tw_buckets,
        now.max_tw_buckets,
    );
    all
}

/// Whether so many ports of a limit matter.
fn is_share(ports: i64, limit: i32) -> bool {
    ports * 100 >= i64::from(limit) * i64::from(SHARE)
}

/// What led to it, and to trouble of what.
#[derive(Clone, Debug)]
pub(super) struct Cause {
    pub moment: Moment,
    pub pool: PoolId,
    /// `None`: of every destination of the network namespace.
    pub to: Option<Route>,
    /// `None`: of whoever has ports.
    pub process: Option<ProcessId>,
}

impl Cause {
    fn of_pool(pool: PoolId, moment: Moment) -> Self {
        Self {
            moment,
            pool,
            to: None,
            process: None,
        }
    }
}

impl Analysis {
    pub(super) fn causes(&self) -> Vec<Cause> {
        let mut all = Vec::new();
        let troubled = self
            .pools
            .pools
            .iter()
            .enumerate()
            .filter(|(id, _)| self.is_troubled(*id));
        for (id, pool) in troubled.take(LOOKED_AT) {
            self.causes_in(id, pool, &mut all);
        }
        all.sort_by(|a, b| (a.moment.ts, &a.moment.id).cmp(&(b.moment.ts, &b.moment.id)));
        all.dedup_by(|a, b| {
            (a.moment.ts, &a.moment.text, a.pool) == (b.moment.ts, &b.moment.text, b.pool)
        });
        all
    }

    /// Whether it led to what failed in a network namespace: at that destination, or, `None`, for want of a port to bind.
    pub(super) fn led_to(&self, cause: &Cause, pool: PoolId, to: Option<&Destination>) -> bool {
        let peer = |route: &Route| (route.peer, route.port);
        let is_there = match (&cause.to, to) {
            (Some(of), Some(to)) => peer(of) == peer(&to.route),
            (Some(_), None) => false,
            (None, _) => true,
        };
        let has_share = |process| to.is_none_or(|to| self.has_share(process, to));
        cause.pool == pool && is_there && cause.process.is_none_or(has_share)
    }

    /// Whether a process had enough ports of a destination to matter there. Connection lines alone do not tell.
    fn has_share(&self, process: ProcessId, to: &Destination) -> bool {
        let row = to.row_of(process);
        let level = to.owners.iter().find(|(owner, _)| *owner == row);
        let highest =
            level.and_then(|(_, level)| level.values(&self.axis).into_iter().flatten().max());
        let limit = self.limit(to).unwrap_or(i32::MAX);
        to.owners.is_empty() || is_share(i64::from(highest.unwrap_or(0)), limit)
    }

    fn is_troubled(&self, id: usize) -> bool {
        let pool = &self.pools.pools[id];
        let pressed = self
            .pools
            .destinations
            .iter()
            .any(|to| to.pool == id && to.pressure > 0);
        pool.failed.total() > 0 || pool.failed_by_usage.total() > 0 || pressed
    }

    fn causes_in(&self, id: PoolId, pool: &Pool, all: &mut Vec<Cause>) {
        let of = self.names.place(pool.host, Some(pool.netns));
        let last = self.span.map_or(i64::MAX, |(_, last)| last);
        let until = self.last_begin(id).unwrap_or(last);
        let end = self.place(until);
        let limit = limit_at(&pool.limit.values(&self.axis), end).unwrap_or(i32::MAX);
        all.extend(
            self.settings_of(of, until)
                .map(|moment| Cause::of_pool(id, moment)),
        );
        for stack in &pool.stacks {
            let led = self
                .new_process((pool, stack), limit, until, of)
                .into_iter();
            let led = led.chain(self.idle(stack, end, limit, of));
            all.extend(led.map(|moment| Cause {
                // What is bound is closed to every destination, whoever connects.
                process: (moment.id != "bound_grew").then_some(stack.process),
                ..Cause::of_pool(id, moment)
            }));
        }
        let troubled = self
            .pools
            .destinations
            .iter()
            .filter(|to| to.pool == id && (to.failed.total() > 0 || to.pressure > 0));
        for to in troubled.take(LOOKED_AT) {
            let end = self.first_failure(&to.failed.values(&self.axis));
            let limit = to
                .limit
                .as_ref()
                .and_then(|own| limit_at(&own.values(&self.axis), end))
                .unwrap_or(limit);
            let led = [
                self.rate_rose(pool, to, end, of),
                self.closes_first(to, end, of),
                self.lasts_longer(to, end, of),
                self.closes_late(to, end, limit, of),
                self.time_wait_grew(to, end, limit, of),
            ];
            all.extend(led.into_iter().flatten().map(|moment| Cause {
                to: Some(to.route),
                ..Cause::of_pool(id, moment)
            }));
        }
    }

    /// When the trouble of a network namespace last began: a row of failures or, where nothing failed, the highest pressure.
    /// What came later did not lead to it, and may have ended it.
    fn last_begin(&self, id: PoolId) -> Option<i64> {
        let pool = &self.pools.pools[id];
        let all = self.events.episodes.iter();
        let there = all.filter(|(of, _)| (of.host, of.netns) == (pool.host, pool.netns));
        let begins = there.flat_map(|(_, episodes)| episodes.iter().map(|each| each.from));
        begins.max().or_else(|| pool.pressed.map(|(_, ts)| ts))
    }

    fn settings_of(&self, of: Where, until: i64) -> impl Iterator<Item = Moment> {
        let is_setting = move |moment: &&Moment| {
            let is_there = (&*moment.host, moment.netns) == (of.host, of.netns);
            is_there
                && moment.ts <= timestamp(until)
                && matches!(&*moment.id, "range_changed" | "sysctl_changed")
        };
        self.events.moments.iter().filter(is_setting).cloned()
    }

    /// The bin of the first failure, else the last.
    fn first_failure(&self, failed: &[u64]) -> usize {
        let first = failed.iter().position(|count| *count > 0);
        first.unwrap_or_else(|| failed.len().saturating_sub(1))
    }

    /// The place of a time's bin.
    pub(super) fn place(&self, ts: i64) -> usize {
        let mut axis = self.axis;
        usize::try_from(axis.bin(ts) - self.axis.first()).unwrap_or(0)
    }

    fn begin(&self, bin: usize) -> i64 {
        self.axis.begin(self.axis.first() + bin as i64)
    }

    fn per_second(&self, per_bin: f64) -> f64 {
        per_bin * 1000.0 / self.axis.step_ms() as f64
    }

    fn new_process(
        &self,
        (pool, stack): (&Pool, &Stack),
        limit: i32,
        until: i64,
        of: Where,
    ) -> Option<Moment> {
        let process = &self.names.processes[stack.process];
        let started = process.started.filter(|started| *started <= until)?;
        let begun = self
            .runs
            .all
            .iter()
            .filter(|run| run.host == process.host)
            .map(|run| run.from)
            .min()?;
        let waited = self.span.is_some_and(|(first, _)| first < started);
        let matters = is_share(stack.highest.into(), limit);
        if started <= begun || !waited || !matters {
            return None;
        }
        let exe = process
            .exe
            .as_deref()
            .map(|exe| format!(", {exe}"))
            .unwrap_or_default();
        let before = self.predecessor(pool, process, started);
        let before = before
            .map(|before| format!("; {} ran before it", before.title()))
            .unwrap_or_default();
        let text = format!(
            "a new process starts: {}{exe}{before}; it comes to {} ports",
            process.title(),
            stack.highest
        );
        Some(moment("new_process", started, of, text))
    }

    /// A process of the same name and program that gave way to it: it began before, and has ended by about then.
    fn predecessor(&self, pool: &Pool, process: &Process, started: i64) -> Option<&Process> {
        let differs = |other: &Process| match (&other.exe, &process.exe) {
            (Some(other), Some(own)) => other != own,
            _ => false,
        };
        let is_before = |other: &&Process| {
            other.id.is_some()
                && other.id != process.id
                && other.comm == process.comm
                && !differs(other)
                && other.started.is_some_and(|other| other < started)
                && other
                    .exited
                    .is_some_and(|ended| ended <= started.saturating_add(OVERLAP))
        };
        let there = pool
            .stacks
            .iter()
            .map(|stack| &self.names.processes[stack.process]);
        there.filter(is_before).max_by_key(|other| other.started)
    }

    /// Ports that a process has, and uses for no connection any more, or not yet.
    fn idle(&self, stack: &Stack, end: usize, limit: i32, of: Where) -> Vec<Moment> {
        let kinds = [
            (
                BOUND,
                "bound_grew",
                "bound by it: they are closed to every destination",
            ),
            (
                State::CloseWait as usize,
                "not_closed",
                "in CLOSE_WAIT: the peer has closed, and the process does not",
            ),
            (
                State::SynSent as usize,
                "no_answer",
                "in SYN_SENT: the peer does not answer",
            ),
        ];
        let found = kinds.into_iter().filter_map(|(state, id, text)| {
            let values = stack.states[state].as_ref()?.values(&self.axis);
            let (highest, half) = half_way(until(&values, end))?;
            let matters = is_share(highest.into(), limit) && highest > 1;
            let who = self.names.processes[stack.process].in_words();
            matters.then(|| {
                moment(
                    id,
                    self.begin(half),
                    of,
                    format!("{who}: up to {highest} ports {text}"),
                )
            })
        });
        found.collect()
    }

    fn rate_rose(&self, pool: &Pool, to: &Destination, end: usize, of: Where) -> Option<Moment> {
        // Those that succeed must be told, too.
        if !pool.told.state && !pool.told.connection {
            return None;
        }
        let which = usize::from(!pool.told.state);
        let opened = to.opened[which].values(&self.axis);
        // Attempts that fail are attempts: without them the rate seems to fall where the ports end.
        let until = (end + SIDE).min(opened.len());
        let failed = to.failed.values(&self.axis);
        let tried: Vec<_> = opened
            .iter()
            .zip(&failed)
            .map(|(a, b)| (a + b) as f64)
            .collect();
        let change = step(&tried[..until])?;
        let (before, after) = (
            self.per_second(change.before),
            self.per_second(change.after),
        );
        let matters = after >= 2.0 * before && change.after * (until - change.at) as f64 >= 5.0;
        let text = || {
            format!(
                "attempts to connect to {} rise from {before:.1} to {after:.1} per second",
                title(&to.route, false)
            )
        };
        matters.then(|| moment("rate_rose", self.begin(change.at), of, text()))
    }

    fn closes_first(&self, to: &Destination, end: usize, of: Where) -> Option<Moment> {
        let here = to.closed_here.values(&self.axis);
        let there = to.closed_there.values(&self.axis);
        let end = end.min(here.len());
        let at = turn(&there[..end], &here[..end])?;
        let sum = |values: &[u64]| values.iter().sum::<u64>();
        let (here_before, there_before) = (sum(&here[..at]), sum(&there[..at]));
        let (here_after, there_after) = (sum(&here[at..end]), sum(&there[at..end]));
        let (all_before, all_after) = (here_before + there_before, here_after + there_after);
        let matters = all_before >= 5
            && all_after >= 5
            && here_before * 10 <= all_before * 3
            && here_after * 10 >= all_after * 7;
        let text = || {
            format!(
                "this side begins to close first ({here_after} of {all_after} connections to {}; before, the peer did, {there_before} of {all_before}): each then keeps its port for another 60 s",
                title(&to.route, false)
            )
        };
        matters.then(|| moment("closes_first", self.begin(at), of, text()))
    }

    fn lasts_longer(&self, to: &Destination, end: usize, of: Where) -> Option<Moment> {
        let finished = to.finished.values(&self.axis);
        let lasted = to.lasted.values(&self.axis);
        let bins = finished.iter().zip(&lasted).enumerate().take(end);
        let with_any: Vec<_> = bins.filter(|(_, (count, _))| **count > 0).collect();
        let means: Vec<_> = with_any
            .iter()
            .map(|(_, (count, ms))| **ms as f64 / **count as f64)
            .collect();
        let change = step(&means)?;
        let (before, after) = (change.before, change.after);
        let matters = after >= 3.0 * before && after - before >= 100.0;
        let text = || {
            format!(
                "connections to {} last {} instead of {}",
                title(&to.route, false),
                milliseconds(after),
                milliseconds(before)
            )
        };
        matters.then(|| {
            moment(
                "lasts_longer",
                self.begin(with_any[change.at].0),
                of,
                text(),
            )
        })
    }

    fn closes_late(&self, to: &Destination, end: usize, limit: i32, of: Where) -> Option<Moment> {
        let values = to.half_closed.values(&self.axis);
        let (highest, half) = half_way(until(&values, end))?;
        let matters = is_share(highest.into(), limit) && highest > 1;
        let text = || {
            format!(
                "{} closes late: up to {highest} ports are in FIN_WAIT2, closed here and waiting for its end",
                title(&to.route, false)
            )
        };
        matters.then(|| moment("closes_late", self.begin(half), of, text()))
    }

    fn time_wait_grew(
        &self,
        to: &Destination,
        end: usize,
        limit: i32,
        of: Where,
    ) -> Option<Moment> {
        let waits = self.time_wait(to);
        let (highest, half) = half_way(until(&waits, end))?;
        if i64::from(highest) * 2 < i64::from(limit) {
            return None;
        }
        // What nobody saw before did not grow: the run may have begun in the midst of it.
        let before = waits[..half].iter().rev().flatten().min()?;
        let sustained = f64::from(limit) / 60.0;
        let text = format!(
            "TIME_WAIT at {} grows from {before} to {highest} of {limit} ports: each stays for 60 s, so that {limit} ports bear {sustained:.1} short connections per second",
            title(&to.route, false)
        );
        Some(moment("time_wait_grew", self.begin(half), of, text))
    }
}

/// The values up to a bin, with it.
fn until(values: &[Option<u32>], end: usize) -> &[Option<u32>] {
    &values[..(end + 1).min(values.len())]
}

/// The highest value, and the first bin with at least half of it.
fn half_way(values: &[Option<u32>]) -> Option<(i32, usize)> {
    let highest = values
        .iter()
        .flatten()
        .max()
        .copied()
        .filter(|highest| *highest > 0)?;
    let half = values
        .iter()
        .position(|value| value.is_some_and(|value| value * 2 >= highest))?;
    Some((i32::try_from(highest).unwrap_or(i32::MAX), half))
}

/// The level at a bin, as far as it is known.
pub(super) fn limit_at(values: &[Option<u32>], bin: usize) -> Option<i32> {
    i32::try_from(known_at(values, bin)?).ok()
}

fn milliseconds(ms: f64) -> String {
    if ms >= 10_000.0 {
        format!("{:.0} s", ms / 1000.0)
    } else if ms >= 1000.0 {
        format!("{:.1} s", ms / 1000.0)
    } else {
        format!("{ms:.0} ms")
    }
}

/// Where what is counted first gives way to what is counted then: most of the one lies before, most of the other after.
fn turn(first: &[u64], then: &[u64]) -> Option<usize> {
    let mut right: u64 = then.iter().sum();
    let mut best = None;
    for (at, (first, then)) in first.iter().zip(then).enumerate() {
        if best.is_none_or(|(most, _)| right > most) {
            best = Some((right, at));
        }
        right = right + first - then;
    }
    best.map(|(_, at)| at)
}

/// Where a series changes from one mean to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Step {
    /// The first value after it.
    pub at: usize,
    pub before: f64,
    pub after: f64,
}

/// The split that explains most of the variance.
pub(super) fn step(values: &[f64]) -> Option<Step> {
    let total: f64 = values.iter().sum();
    let mut sum = 0.0;
    let mut best: Option<(f64, Step)> = None;
    for (at, value) in values.iter().enumerate() {
        let rest = values.len() - at;
        if at >= SIDE && rest >= SIDE {
            let (before, after) = (sum / at as f64, (total - sum) / rest as f64);
            let explained = (after - before).powi(2) * at as f64 * rest as f64;
            if best.is_none_or(|(most, _)| explained > most) {
                best = Some((explained, Step { at, before, after }));
            }
        }
        sum += value;
    }
    best.map(|(_, step)| step)
}

#[cfg(test)]
mod tests {
    use super::{Step, changed, step};
    use crate::report::line::Settings;

    #[test]
    fn a_step_is_found_where_it_is() {
        let values: Vec<_> = (0..20).map(|at| if at < 13 { 1.0 } else { 7.0 }).collect();
        assert_eq!(
            step(&values),
            Some(Step {
                at: 13,
                before: 1.0,
                after: 7.0
            })
        );
        assert_eq!(step(&[1.0; 4]), None);
    }

    #[test]
    fn only_what_is_known_can_change() {
        let before = Settings {
            range: Some([32768, 60999]),
            tw_reuse: Some(2),
            ..Settings::default()
        };
        let now = Settings {
            range: Some([32768, 32783]),
            tw_reuse: Some(0),
            max_tw_buckets: Some(1),
            ..Settings::default()
        };
        assert_eq!(
            changed(&before, &now),
            [
                "ip_local_port_range was 32768-60999 and is 32768-32783",
                "tcp_tw_reuse was 2 and is 0",
            ]
        );
        assert!(changed(&now, &Settings::default()).is_empty());
    }
}
