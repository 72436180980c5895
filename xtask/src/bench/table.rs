//! The figures, for people: in a terminal and as Markdown.

use super::{rounds::Measurement, speed::Speeds};

/// Whom tracer is compared with.
const PEERS: [&str; 3] = ["tcpstates", "tcplife", "bpftrace"];

pub(super) struct Table {
    pub(super) name: String,
    /// What it shows.
    pub(super) note: String,
    pub(super) head: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    /// In columns: words to the left, figures to the right.
    pub(super) fn text(&self) -> String {
        let rows = || std::iter::once(&self.head).chain(&self.rows);
        let width = |column: usize| {
            let cells = rows().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).enumerate();
            let cells = cells.map(|(column, (cell, width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            cells.collect::<Vec<_>>().join("  ")
        };
        let lines: Vec<_> = rows().map(line).collect();
        format!("{} ({})\n{}", self.name, self.note, lines.join("\n"))
    }

    pub(super) fn markdown(&self) -> String {
        let line = |row: &Vec<String>| format!("| {} |\n", row.join(" | "));
        let rule = format!("|---|{}\n", "---:|".repeat(self.head.len() - 1));
        let rows: String = self.rows.iter().map(line).collect();
        format!(
            "**{}**: {}\n\n{}{rule}{rows}",
            self.name,
            self.note,
            line(&self.head)
        )
    }
}

/// One for each load, with one row for each observer, the cheapest first.
pub(super) fn of(measurements: &[Measurement], circumstances: &str) -> Vec<Table> {
    let mut loads: Vec<_> = measurements.iter().map(|each| each.load).collect();
    loads.dedup();
    let table = |load: super::load::Kind| {
        let of_load = measurements.iter().filter(|each| each.load == load);
        of_one(
            format!("{}{circumstances}", load.name()),
            &of_load.collect::<Vec<_>>(),
        )
    };
    loads.into_iter().map(table).collect()
}

fn of_one(name: String, measurements: &[&Measurement]) -> Table {
    let mut names: Vec<_> = measurements.iter().map(|each| each.observer).collect();
    names.sort_unstable();
    names.dedup();
    let speeds = Speeds::of(measurements);
    let figures = |name: &str| Figures::of(measurements, name, &speeds);
    let bare = figures("none");
    let peers = PEERS.map(|peer| names.contains(&peer).then(|| figures(peer).sum(&bare)));
    let mut rows: Vec<_> = names.iter().map(|name| (*name, figures(name))).collect();
    rows.sort_by(|(_, one), (_, other)| one.sum(&bare).total_cmp(&other.sum(&bare)));
    let runs = measurements.iter().filter(|each| each.observer == "none");
    let connections = measurements.first().map_or(0, |each| each.connections);
    let rows = rows.iter().map(|(name, figures)| {
        let mut row = figures.cells(name, &bare);
        let sum = figures.sum(&bare);
        let times = peers.map(|peer| peer.filter(|_| *name != "none" && sum > 0.0));
        row.extend(times.map(|peer| peer.map_or("-".into(), |peer| format!("{:.1}", peer / sum))));
        row
    });
    Table {
        name,
        note: format!(
            "for a connection; medians of {} runs of {connections} connections",
            runs.count()
        ),
        rows: rows.collect(),
        head: head(),
    }
}

fn head() -> Vec<String> {
    let own = [
        "observer",
        "added to the load, us",
        "own, us",
        "sum, us",
        "throughput",
        "BPF, us",
        "RSS, MiB",
        "lost",
        "lines/expected",
    ];
    let peers = PEERS.map(|peer| format!("{peer} / it"));
    own.map(String::from).into_iter().chain(peers).collect()
}

struct Figures {
    load_us: f64,
    own_us: f64,
    rate: f64,
    bpf_us: f64,
    resident: f64,
    lost: String,
    lines: String,
}

impl Figures {
    fn of(measurements: &[&Measurement], name: &str, speeds: &Speeds) -> Self {
        let of_name = measurements.iter().filter(|each| each.observer == name);
        let (counted, plain): (Vec<&Measurement>, Vec<_>) =
            of_name.copied().partition(|each| each.with_bpf_stats);
        let median_of =
            |value: fn(&Measurement) -> f64| median(plain.iter().map(|each| value(each)).collect());
        let of_load = |value: fn(&Measurement) -> f64| {
            let values = plain.iter().map(|each| value(each) * speeds.of_load(each));
            median(values.collect())
        };
        let own_us = plain
            .iter()
            .map(|each| each.observer_cpu_us * speeds.of_observer(each));
        let bpf_ns = counted
            .iter()
            .map(|each| each.bpf_ns.values().sum::<f64>() * speeds.of_load(each));
        Self {
            load_us: of_load(|each| each.load_cpu_us),
            own_us: median(own_us.collect()),
            rate: 1.0 / of_load(|each| each.seconds / each.connections as f64),
            bpf_us: median(bpf_ns.collect()) / 1000.0,
            resident: median_of(|each| each.resident_mib),
            lost: lost(&plain),
            lines: lines(&plain),
        }
    }

    /// CPU added to the load, and the observer's own.
    fn sum(&self, bare: &Self) -> f64 {
        self.load_us - bare.load_us + self.own_us
    }

    fn cells(&self, name: &str, bare: &Self) -> Vec<String> {
        vec![
            name.to_owned(),
            format!("{:.2}", self.load_us - bare.load_us),
            format!("{:.2}", self.own_us),
            format!("{:.2}", self.sum(bare)),
            format!("{:.2}", self.rate / bare.rate),
            format!("{:.2}", self.bpf_us),
            format!("{:.1}", self.resident),
            self.lost.clone(),
            self.lines.clone(),
        ]
    }
}

/// In all runs together.
fn lost(runs: &[&Measurement]) -> String {
    let lost: Option<Vec<u64>> = runs.iter().map(|each| each.lost).collect();
    lost.map_or("-".into(), |lost| lost.iter().sum::<u64>().to_string())
}

/// The median and the worst.
fn lines(runs: &[&Measurement]) -> String {
    let wanted = runs.first().and_then(|each| each.expected_lines);
    let share = |each: &&Measurement| Some(each.lines as f64 / each.expected_lines? as f64);
    let shares: Vec<f64> = runs.iter().filter_map(share).collect();
    match wanted {
        None => "-".into(),
        Some(0) => {
            let most = runs.iter().map(|each| each.lines).max();
            format!("{} of 0", most.unwrap_or(0))
        }
        Some(_) => format!(
            "{:.4} (min {:.4})",
            median(shares.clone()),
            shares.iter().copied().fold(f64::INFINITY, f64::min)
        ),
    }
}

/// 0 of nothing.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::{Table, median};

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn a_table_is_for_terminals_and_for_pages() {
        let row = |cells: [&str; 2]| cells.map(String::from).to_vec();
        let table = Table {
            name: "load".into(),
            note: "twice".into(),
            head: row(["observer", "us"]),
            rows: vec![row(["none", "0.00"])],
        };
        assert_eq!(table.text(), "load (twice)\nobserver    us\nnone      0.00");
        let markdown = "**load**: twice\n\n| observer | us |\n|---|---:|\n| none | 0.00 |\n";
        assert_eq!(table.markdown(), markdown);
    }
}
