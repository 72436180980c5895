//! The figures, for people.

use super::Measurement;

/// One line for each load and observer, in the order of their first measurement.
pub(super) fn print(measurements: &[Measurement]) {
    let mut loads: Vec<_> = measurements.iter().map(|each| each.load).collect();
    loads.dedup();
    for load in loads {
        let of_load = || measurements.iter().filter(move |each| each.load == load);
        println!(
            "\n{}: per connection, medians of {} runs",
            load.name(),
            runs(of_load())
        );
        println!(
            "{:<18} {:>9} {:>9} {:>9} {:>10} {:>8} {:>9} {:>16}",
            "observer",
            "load us",
            "own us",
            "sum us",
            "throughput",
            "BPF ns",
            "RSS MiB",
            "lines/expected"
        );
        let mut names: Vec<_> = of_load().map(|each| each.observer).collect();
        names.sort_unstable();
        names.dedup();
        let bare = Figures::of(of_load().filter(|each| each.observer == "none"));
        let mut rows: Vec<_> = names
            .into_iter()
            .map(|name| {
                (
                    name,
                    Figures::of(of_load().filter(move |each| each.observer == name)),
                )
            })
            .collect();
        rows.sort_by(|(_, one), (_, other)| one.sum(&bare).total_cmp(&other.sum(&bare)));
        for (name, figures) in rows {
            println!(
                "{name:<18} {:>9.2} {:>9.2} {:>9.2} {:>10.2} {:>8.0} {:>9.1} {:>16}",
                figures.load_us - bare.load_us,
                figures.own_us,
                figures.sum(&bare),
                bare.seconds / figures.seconds,
                figures.bpf_ns,
                figures.resident,
                figures.lines,
            );
        }
    }
}

fn runs<'a>(measurements: impl Iterator<Item = &'a Measurement>) -> usize {
    let bare = measurements.filter(|each| each.observer == "none");
    bare.count()
}

struct Figures {
    load_us: f64,
    own_us: f64,
    seconds: f64,
    bpf_ns: f64,
    resident: f64,
    lines: String,
}

impl Figures {
    fn of<'a>(measurements: impl Iterator<Item = &'a Measurement>) -> Self {
        let (counted, plain): (Vec<_>, Vec<_>) = measurements.partition(|each| each.with_bpf_stats);
        let median_of = |value: fn(&Measurement) -> f64| median(plain.iter().map(value).collect());
        let share = |each: &Measurement| Some(each.lines as f64 / each.expected_lines? as f64);
        let shares: Vec<f64> = plain.iter().filter_map(share).collect();
        Self {
            load_us: median_of(|each| each.load_cpu_us),
            own_us: median_of(|each| each.observer_cpu_us),
            seconds: median_of(|each| each.seconds),
            bpf_ns: median(counted.iter().map(|each| each.bpf_ns).collect()),
            resident: median_of(|each| each.resident_mib),
            lines: match shares.is_empty() {
                true => "-".into(),
                false => format!(
                    "{:.4} (min {:.4})",
                    median(shares.clone()),
                    shares.iter().copied().fold(f64::INFINITY, f64::min)
                ),
            },
        }
    }

    /// CPU added to the load, and the observer's own.
    fn sum(&self, bare: &Self) -> f64 {
        self.load_us - bare.load_us + self.own_us
    }
}

/// 0 of nothing.
fn median(mut values: Vec<f64>) -> f64 {
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
    use super::median;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
