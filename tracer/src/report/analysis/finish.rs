//! The report, once all lines are read.

use std::collections::BTreeMap;

use super::{
    Analysis,
    failures::Failure,
    holes::At,
    items::title,
    pools::{self, Destination, Pool, Stack, Told},
    rounds,
};
use crate::report::{
    model::{self, Report, Span, VERSION},
    time::timestamp,
};

/// So many rows each are shown; the others are one more, or left out where the whole is told elsewhere.
const STACKS: usize = 12;
const DESTINATIONS: usize = 24;
const POOLS: usize = 50;

impl Analysis {
    /// What happened, and whether anything was skipped, lost or cut off.
    pub(crate) fn finish(mut self) -> (Report, bool) {
        for host in 0..self.rounds.len() {
            if !self.rounds[host].is_empty() {
                let ts = self.rounds[host].ts();
                self.end_round(host, false, ts);
            }
        }
        self.hold_to_the_end();
        self.pools.settle();
        self.failures_by_usage();
        self.notes();
        let names = |host: usize| self.names.hosts[host].name.clone();
        let whole = self.input.complete && self.input.skipped == 0;
        self.runs.finish(names, !whole, &mut self.holes);
        let lossy = self.holes.any_loss() || self.input.skipped > 0 || self.why_nothing().is_some();
        (self.report(), lossy)
    }

    fn report(mut self) -> Report {
        let holes = std::mem::take(&mut self.holes).finish();
        let causes = self.causes();
        let pools = self.pool_rows();
        let destinations = self.destination_rows();
        let failures = self.failures.told(&self.names);
        let verdict = self.verdict(&failures, &causes, !holes.is_empty());
        let causes = causes.into_iter().map(|cause| cause.moment).collect();
        Report {
            v: VERSION,
            tracer: env!("CARGO_PKG_VERSION").into(),
            verdict,
            span: self.span.map(|(from, to)| Span {
                from: timestamp(from),
                to: timestamp(to),
            }),
            narrowed: self.narrow.words(),
            runs: self.run_rows(),
            timeline: self.named(self.timeline()),
            causes: self.named(causes),
            advice: self.failures.advice(&self.names),
            holes,
            axis: model::Axis {
                start_ms: self.axis.begin(self.axis.first()) / 1_000_000,
                step_ms: self.axis.step_ms(),
                bins: self.axis.len(),
            },
            pools,
            destinations,
            failures,
            input: self.input,
        }
    }

    /// Levels of a host's last run hold until its last line, if that is no `stop`.
    fn hold_to_the_end(&mut self) {
        for host in 0..self.names.hosts.len() {
            let last = self.runs.last_of(host);
            if let Some(run) = last.filter(|run| !self.runs.all[*run].stopped) {
                self.end_run(run);
            }
        }
    }

    /// Where `connect_failed` lines were left out, `usage` lines still count them.
    fn failures_by_usage(&mut self) {
        let Some((first, last)) = self.span else {
            return;
        };
        let silent = self.pools.pools.iter().filter(|pool| !pool.told.failure);
        let rows: Vec<_> = silent
            .flat_map(|pool| {
                pool.stacks.iter().map(move |stack| {
                    (
                        (pool.host, pool.netns),
                        stack.process,
                        stack.failed_by_usage,
                    )
                })
            })
            .filter(|(.., failed)| *failed > 0)
            .collect();
        let total: u64 = rows.iter().map(|(.., failed)| failed).sum();
        for ((host, netns), process, repeats) in rows {
            for (ts, repeats) in [(first, repeats), (last, 0)] {
                self.failures.add(Failure {
                    host,
                    netns,
                    process,
                    destination: "not told".into(),
                    bind: false,
                    reason: "not told",
                    repeats,
                    ts,
                });
            }
        }
        if total > 0 {
            self.holes.add("levels", At::default(), total, || {
                format!("{total} failed connects are counted by usage lines only: their own lines are not in the input, and so neither reason nor destination")
            });
        }
    }

    /// What limits what can be told.
    fn notes(&mut self) {
        let told = |is: fn(&Told) -> bool| self.pools.pools.iter().any(|pool| is(&pool.told));
        let (states, usages, connections) = (
            told(|told| told.state),
            told(|told| told.usage),
            told(|told| told.connection),
        );
        let note = match (states, usages, connections) {
            (true, true, _) => None,
            (true, false, _) => Some(
                "there are no usage lines: what was open before the first line, and what is only bound, is not in the levels",
            ),
            (false, true, _) => Some(
                "there are no state lines of connections: levels hold from one usage line to the next, and what lies between does not show",
            ),
            (false, false, true) => Some(
                "levels are made of connection lines: what was still open at the end is not in them",
            ),
            (false, false, false) => Some(
                "there are neither state nor usage nor connection lines: how many ports were taken is known only where a failure or pressure line tells it",
            ),
        };
        if let Some(note) = note.filter(|_| self.span.is_some()) {
            self.holes.add("levels", At::default(), 1, || note.into());
        }
        let (refused, dropped) = (self.pools.refused, self.pools.dropped);
        if refused > 0 {
            self.holes.add("too_many", At::default(), refused, || {
                "there are more than 1024 network namespaces: lines of the others are not in the report; take --netns or fewer files".into()
            });
        }
        if dropped > 0 {
            self.holes.add("grouped", At::default(), dropped, || {
                format!("{dropped} destinations with few connections are not told one by one: they are in the sums of their network namespace")
            });
        }
    }

    fn run_rows(&self) -> Vec<model::Run> {
        let rows = self.runs.all.iter().map(|run| model::Run {
            host: self.names.hosts[run.host].name.clone(),
            from: timestamp(run.from),
            to: timestamp(run.to),
            tracer: run.tracer.clone(),
            kernel: run.kernel.clone(),
            lines: run.lines,
            stopped: run.stopped,
        });
        rows.collect()
    }

    /// With the network namespace in words, where there are several.
    fn named(&self, mut moments: Vec<model::Moment>) -> Vec<model::Moment> {
        let several = self.has_namespaces();
        for moment in moments.iter_mut().filter(|_| several) {
            if let Some(netns) = moment.netns
                && !moment.text.contains("network namespace")
            {
                moment.text = format!("network namespace {netns}: {}", moment.text);
            }
        }
        moments
    }

    /// Whether a host has several network namespaces with ports in use: then sentences name them.
    pub(super) fn has_namespaces(&self) -> bool {
        let used = self.pools.pools.iter().filter(|pool| pool.is_used());
        model::has_twice(used.map(|pool| pool.host))
    }

    fn timeline(&self) -> Vec<model::Moment> {
        let mut all = self.events.finish(&self.names);
        for pool in &self.pools.pools {
            if let Some(peak) = pool.peak.filter(|peak| peak.ports > 0) {
                let at = self.names.place(pool.host, Some(pool.netns));
                let owner = peak.owner.map(|(process, ports)| {
                    format!(
                        ", {ports} of them by {}",
                        self.names.processes[process].in_words()
                    )
                });
                let text = format!(
                    "most ports of network namespace {} are taken: {}{}",
                    pool.netns,
                    peak.ports,
                    owner.unwrap_or_default()
                );
                all.push(super::events::moment("peak", peak.ts, at, text));
            }
        }
        all.sort_by_key(|moment| moment.ts);
        all
    }

    fn pool_rows(&self) -> Vec<model::Pool> {
        let used = self.pools.pools.iter().filter(|pool| pool.is_used());
        let mut rows: Vec<_> = used.map(|pool| self.pool_row(pool)).collect();
        rows.sort_by(|a, b| fullness(b).total_cmp(&fullness(a)));
        rows.truncate(POOLS);
        rows
    }

    fn pool_row(&self, pool: &Pool) -> model::Pool {
        let axis = &self.axis;
        let alone = pool.is_of_connections();
        let mut stacks: Vec<_> = pool
            .stacks
            .iter()
            .map(|stack| (self.weight(stack, alone), stack))
            .collect();
        stacks.retain(|(weight, _)| *weight > 0);
        stacks.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
        let shown = if stacks.len() > STACKS {
            STACKS - 1
        } else {
            stacks.len()
        };
        let mut rows: Vec<_> = stacks[..shown]
            .iter()
            .map(|(_, stack)| self.stack_row(stack, alone))
            .collect();
        let others: Vec<_> = stacks[shown..]
            .iter()
            .map(|(_, stack)| self.stack_row(stack, alone))
            .collect();
        rows.extend(merge(others));
        let (ports, time_wait) = if alone {
            (
                sum_of(&rows, |_| true, axis.len()),
                sum_of(&rows, |state| state == "TIME_WAIT", axis.len()),
            )
        } else {
            (pool.ports.values(axis), pool.time_wait.values(axis))
        };
        let which = pool.source();
        let failed = if pool.told.failure {
            &pool.failed
        } else {
            &pool.failed_by_usage
        };
        model::Pool {
            host: self.names.hosts[pool.host].name.clone(),
            netns: pool.netns,
            limit: pool.limit.values(axis),
            peak: self.peak(pool.peak).or_else(|| self.peak_of(&ports, &rows)),
            ports,
            time_wait,
            opened: pool.opened[which].values(axis),
            closed: pool.closed[which].values(axis),
            failed: failed.values(axis),
            stacks: rows,
        }
    }

    /// Ports over all bins.
    fn weight(&self, stack: &Stack, alone: bool) -> u64 {
        let sum =
            |values: Vec<Option<u32>>| values.into_iter().flatten().map(u64::from).sum::<u64>();
        if alone {
            return sum(stack.established.values(&self.axis))
                + sum(stack.waited.values(&self.axis));
        }
        let levels = stack.states.iter().flatten();
        levels.map(|level| sum(level.values(&self.axis))).sum()
    }

    fn stack_row(&self, stack: &Stack, alone: bool) -> model::Stack {
        let process = &self.names.processes[stack.process];
        let known = |values: Vec<Option<u32>>| {
            values
                .into_iter()
                .map(Option::unwrap_or_default)
                .collect::<Vec<_>>()
        };
        let mut states = BTreeMap::new();
        if alone {
            states.insert(
                "ESTABLISHED".to_owned(),
                known(stack.established.values(&self.axis)),
            );
            states.insert(
                "TIME_WAIT".to_owned(),
                known(stack.waited.values(&self.axis)),
            );
        }
        for (state, level) in stack.states.iter().enumerate() {
            if let Some(level) = level.as_ref().filter(|_| !alone) {
                states.insert(
                    rounds::name(state).to_owned(),
                    known(level.values(&self.axis)),
                );
            }
        }
        states.retain(|_, values| values.iter().any(|value| *value > 0));
        model::Stack {
            process: process.title(),
            id: process.id.clone(),
            exited: process.exited.map(timestamp),
            states,
        }
    }

    fn destination_rows(&self) -> Vec<model::Destination> {
        let mut all: Vec<_> = self
            .pools
            .destinations
            .iter()
            .filter(|to| to.is_used())
            .collect();
        all.sort_by_key(|to| std::cmp::Reverse((to.failed.total(), to.highest(), to.opened())));
        all.truncate(DESTINATIONS);
        all.into_iter().map(|to| self.destination_row(to)).collect()
    }

    fn destination_row(&self, to: &Destination) -> model::Destination {
        let axis = &self.axis;
        let pool = &self.pools.pools[to.pool];
        let known = |values: Vec<Option<u32>>| {
            values
                .into_iter()
                .map(Option::unwrap_or_default)
                .collect::<Vec<_>>()
        };
        let mut owners = BTreeMap::<String, Vec<u32>>::new();
        for (process, level) in &to.owners {
            let values = known(level.values(axis));
            if values.iter().any(|value| *value > 0) {
                add(
                    owners
                        .entry(self.names.processes[*process].title())
                        .or_default(),
                    &values,
                );
            }
        }
        let ports = self.ports(to);
        model::Destination {
            host: self.names.hosts[pool.host].name.clone(),
            netns: pool.netns,
            local_ip: Some(to.route.local.to_string()),
            peer: title(&to.route, false),
            limit: to.limit.as_ref().unwrap_or(&pool.limit).values(axis),
            peak: self.peak(to.peak).or_else(|| self.peak_of(&ports, &[])),
            ports,
            time_wait: self.time_wait(to),
            opened: to.opened[usize::from(!pool.told.state)].values(axis),
            failed: to.failed.values(axis),
            owners,
        }
    }

    fn ports(&self, to: &Destination) -> Vec<Option<u32>> {
        if !self.pools.pools[to.pool].is_of_connections() {
            return to.ports.values(&self.axis);
        }
        let both = to
            .established
            .values(&self.axis)
            .into_iter()
            .zip(to.waited.values(&self.axis));
        both.map(|(a, b)| Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))))
            .collect()
    }

    pub(super) fn time_wait(&self, to: &Destination) -> Vec<Option<u32>> {
        if self.pools.pools[to.pool].is_of_connections() {
            to.waited.values(&self.axis)
        } else {
            to.time_wait.values(&self.axis)
        }
    }

    fn peak(&self, peak: Option<pools::Peak>) -> Option<model::Peak> {
        let peak = peak.filter(|peak| peak.ports > 0)?;
        let (process, ports) = peak.owner?;
        Some(model::Peak {
            ts: timestamp(peak.ts),
            ports: u32::try_from(peak.ports).ok()?,
            owner: self.names.processes[process].title(),
            owner_ports: u32::try_from(ports).unwrap_or(0),
        })
    }

    /// The highest bin, where no line told a higher level.
    fn peak_of(&self, ports: &[Option<u32>], stacks: &[model::Stack]) -> Option<model::Peak> {
        let bins = ports
            .iter()
            .enumerate()
            .filter_map(|(bin, ports)| Some((bin, (*ports)?)));
        let (bin, ports) = bins.max_by_key(|(bin, ports)| (*ports, std::cmp::Reverse(*bin)))?;
        let held =
            |stack: &model::Stack| stack.states.values().map(|values| values[bin]).sum::<u32>();
        let owner = stacks
            .iter()
            .map(|stack| (held(stack), stack))
            .max_by_key(|(ports, _)| *ports);
        (ports > 0).then(|| model::Peak {
            ts: timestamp(self.axis.begin(self.axis.first() + bin as i64)),
            ports,
            owner: owner.map_or_else(|| "not known".into(), |(_, stack)| stack.process.clone()),
            owner_ports: owner.map_or(0, |(ports, _)| ports),
        })
    }
}

impl Pool {
    /// Only connection lines told of it.
    fn is_of_connections(&self) -> bool {
        self.told.connection && !self.told.state && !self.told.usage
    }

    /// Which of `opened` and `closed` says most.
    fn source(&self) -> usize {
        match self.told {
            Told { state: true, .. } => 0,
            Told {
                connection: true, ..
            } => 1,
            _ => 2,
        }
    }

    fn is_used(&self) -> bool {
        self.told.connection
            || self.failed.total() > 0
            || self.peak.is_some()
            || self.opened.iter().any(|opened| opened.total() > 0)
    }
}

impl Destination {
    fn is_used(&self) -> bool {
        self.highest() > 0 || self.failed.total() > 0 || self.opened() > 0 || self.pressure > 0
    }
}

/// How full a pool became: its highest level by its limit.
fn fullness(pool: &model::Pool) -> f64 {
    let highest = pool.peak.as_ref().map_or(0, |peak| peak.ports);
    let limit = pool
        .limit
        .iter()
        .flatten()
        .min()
        .copied()
        .unwrap_or(28_232)
        .max(1);
    let failed = pool.failed.iter().sum::<u64>().min(1);
    failed as f64 * 1e6 + f64::from(highest) / f64::from(limit)
}

/// Many rows as one.
fn merge(rows: Vec<model::Stack>) -> Option<model::Stack> {
    let count = rows.len();
    let mut states = BTreeMap::<String, Vec<u32>>::new();
    for (state, values) in rows.into_iter().flat_map(|row| row.states) {
        add(states.entry(state).or_default(), &values);
    }
    (count > 0).then(|| model::Stack {
        process: format!("{count} others"),
        id: None,
        exited: None,
        states,
    })
}

fn add(sums: &mut Vec<u32>, values: &[u32]) {
    sums.resize(values.len(), 0);
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum = sum.saturating_add(*value);
    }
}

fn sum_of(rows: &[model::Stack], wanted: fn(&str) -> bool, bins: usize) -> Vec<Option<u32>> {
    let mut sums = vec![0; bins];
    for (state, values) in rows.iter().flat_map(|row| &row.states) {
        if wanted(state) {
            add(&mut sums, values);
        }
    }
    sums.into_iter().map(Some).collect()
}
