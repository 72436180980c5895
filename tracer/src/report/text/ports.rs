//! Ports over time.

use super::{
    Page,
    chart::{bins_per_column, curve},
    escape,
};
use crate::report::{
    analysis::number,
    model::{Axis, Destination, Peak, Pool, Report, Stack, who},
    series::known_at,
};

/// So many network namespaces, processes and destinations are shown.
const POOLS: usize = 4;
const STACKS: usize = 6;
const DESTINATIONS: usize = 6;
/// Columns of names at most, and of curves.
const NAME: usize = 26;
const CURVE: usize = 80;

impl Page<'_> {
    pub(super) fn ports(&mut self, report: &Report) {
        if report.pools.is_empty() || report.axis.bins == 0 {
            return;
        }
        let columns = self
            .terminal
            .width
            .saturating_sub(NAME + 24)
            .clamp(10, CURVE);
        self.heading("Ports held over time");
        let each = bins_per_column(report.axis.bins, columns);
        self.paragraph("  ", &legend(&report.axis, each));
        for pool in report.pools.iter().take(POOLS) {
            self.pool(pool, &report.axis, columns);
            let of_pool = |to: &&Destination| to.host == pool.host && to.netns == pool.netns;
            for to in report
                .destinations
                .iter()
                .filter(of_pool)
                .take(DESTINATIONS)
            {
                self.destination(to, &report.axis, columns);
            }
        }
        if let Some(more @ 1..) = report.pools.len().checked_sub(POOLS) {
            self.line(&format!(
                "\n  and {more} more network namespaces; --json has all, --netns picks one"
            ));
        }
    }

    fn pool(&mut self, pool: &Pool, axis: &Axis, columns: usize) {
        let limit = limit_at(&pool.limit, pool.peak.as_ref(), axis)
            .map(|limit| format!(", {limit} ports for each destination"))
            .unwrap_or_default();
        let peak = pool.peak.as_ref().map(|peak| {
            format!(
                "; at most {} taken, at {}, {} of them by {}",
                peak.ports,
                self.clock.show(peak.ts),
                peak.owner_ports,
                who(&peak.owner)
            )
        });
        let title = format!(
            "{}, network namespace {}{limit}{}",
            pool.host,
            pool.netns,
            peak.unwrap_or_default()
        );
        self.text.push('\n');
        self.paragraph("  ", &title);
        let full = highest(&pool.ports).max(1);
        self.curve("all processes", &pool.ports, full, columns, "");
        for stack in pool.stacks.iter().take(STACKS) {
            let sums = sums(stack, pool.ports.len());
            let mut note = main_state(stack);
            if stack.exited.is_some() {
                note += ", exited";
            }
            self.curve(&stack.process, &sums, full, columns, &note);
        }
        if let Some(more @ 1..) = pool.stacks.len().checked_sub(STACKS) {
            self.line(&format!("    and {more} more processes"));
        }
        self.count("opened", &pool.opened, columns);
        self.count("failed", &pool.failed, columns);
    }

    fn destination(&mut self, to: &Destination, axis: &Axis, columns: usize) {
        let limit = limit_at(&to.limit, to.peak.as_ref(), axis);
        let full = limit.unwrap_or_else(|| highest(&to.ports)).max(1);
        let waits = highest(&to.time_wait);
        let of = limit.map(|limit| format!("of {limit}")).unwrap_or_default();
        let note = match waits {
            0 => of,
            waits => format!("{of}, {waits} TIME_WAIT"),
        };
        self.curve(
            &format!("to {}", to.peer),
            &to.ports,
            full,
            columns,
            note.trim_start_matches(", "),
        );
    }

    fn count(&mut self, name: &str, counts: &[u64], columns: usize) {
        let total: u64 = counts.iter().sum();
        if total > 0 {
            let values: Vec<_> = counts
                .iter()
                .map(|count| Some(u32::try_from(*count).unwrap_or(u32::MAX)))
                .collect();
            let full = highest(&values);
            self.curve_of(
                name,
                &values,
                full,
                columns,
                &format!("{} in all", number(total)),
            );
        }
    }

    /// With the highest level before the note.
    fn curve(&mut self, name: &str, values: &[Option<u32>], full: u32, columns: usize, note: &str) {
        let most = highest(values);
        self.curve_of(name, values, full, columns, &format!("{most} {note}"));
    }

    fn curve_of(
        &mut self,
        name: &str,
        values: &[Option<u32>],
        full: u32,
        columns: usize,
        note: &str,
    ) {
        let name: String = escape(name).chars().take(NAME).collect();
        let curve = curve(values, full, columns, self.terminal);
        self.line(&format!("    {name:NAME$} {curve} {}", escape(note)));
    }
}

/// When most ports were taken: it may have been changed since. Without a peak, the last one.
fn limit_at(limit: &[Option<u32>], peak: Option<&Peak>, axis: &Axis) -> Option<u32> {
    let bin = |peak: &Peak| (peak.ts.as_millisecond() - axis.start_ms) / axis.step_ms;
    let at = peak.map_or(limit.len(), |peak| usize::try_from(bin(peak)).unwrap_or(0));
    known_at(limit, at)
}

fn legend(axis: &Axis, each: usize) -> String {
    let ms = axis.step_ms * each as i64;
    let column = match ms {
        0..1000 => format!("{ms} ms"),
        ms => super::super::analysis::duration(ms * 1_000_000),
    };
    format!("a column is {column}, and shows the highest of it; on the right the highest of all")
}

fn highest(values: &[Option<u32>]) -> u32 {
    values.iter().copied().flatten().max().unwrap_or(0)
}

fn sums(stack: &Stack, bins: usize) -> Vec<Option<u32>> {
    let sum = |bin: usize| {
        let of_bin = stack.states.values().map(|values| values[bin]);
        of_bin.fold(0, u32::saturating_add)
    };
    (0..bins).map(|bin| Some(sum(bin))).collect()
}

/// The states that it had most ports in.
fn main_state(stack: &Stack) -> String {
    let most = |values: &Vec<u32>| values.iter().copied().max().unwrap_or(0);
    let mut states: Vec<_> = stack
        .states
        .iter()
        .map(|(state, values)| (most(values), state))
        .collect();
    states.sort_by_key(|(ports, state)| (std::cmp::Reverse(*ports), *state));
    let shown = states
        .iter()
        .take(2)
        .map(|(ports, state)| format!("{ports} {state}"));
    format!("({})", shown.collect::<Vec<_>>().join(", "))
}
