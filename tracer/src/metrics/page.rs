//! The page: every metric with its name, its meaning and its labels.

use std::{borrow::Cow, fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet, prometheus_text, text,
    },
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::{
    Fill, OTHER, Pressed, Snapshot,
    snapshot::{Failures, Output},
};
use crate::{
    event::Endpoint,
    ledger::{Closed, Crowded},
    record::Level,
};

/// How a page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    Prometheus,
    OpenMetrics,
}

impl Format {
    /// What a client that accepts this gets.
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The page as text.
pub fn text(snapshot: &Arc<Snapshot>, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page(snapshot.clone())));
    let mut text = String::new();
    match format {
        Format::Prometheus => prometheus_text::encode(&mut text, &registry)?,
        Format::OpenMetrics => text::encode(&mut text, &registry)?,
    }
    Ok(text)
}

#[derive(Debug)]
struct Page(Arc<Snapshot>);

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut writer = Writer(encoder);
        let now = &self.0;
        writer.about(now)?;
        writer.failures("connect", "peer", &now.connects)?;
        writer.failures("bind", "local", &now.binds)?;
        writer.destinations(now)?;
        writer.pools(now)?;
        writer.stream(now)?;
        writer.shed(now)?;
        writer.own(now)
    }
}

type Labels<'a> = Vec<(&'static str, Cow<'a, str>)>;

struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn counters<'s, V: EncodeCounterValue>(
        &mut self,
        (name, help): (&str, &str),
        unit: Option<&Unit>,
        samples: impl IntoIterator<Item = (Labels<'s>, V)>,
    ) -> fmt::Result {
        let counter = MetricType::Counter;
        let mut family = self.0.encode_descriptor(name, help, unit, counter)?;
        for (labels, value) in samples {
            let mut sample = family.encode_family(&labels)?;
            sample.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn gauges<'s, V: EncodeGaugeValue>(
        &mut self,
        (name, help): (&str, &str),
        unit: Option<&Unit>,
        samples: impl IntoIterator<Item = (Labels<'s>, V)>,
    ) -> fmt::Result {
        let gauge = MetricType::Gauge;
        let mut family = self.0.encode_descriptor(name, help, unit, gauge)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counter(&mut self, metric: (&str, &str), value: u64) -> fmt::Result {
        self.counters(metric, None, [(Labels::new(), value)])
    }

    fn gauge(&mut self, metric: (&str, &str), value: u64) -> fmt::Result {
        self.gauges(metric, None, [(Labels::new(), value)])
    }

    fn bytes(&mut self, metric: (&str, &str), value: u64) -> fmt::Result {
        self.gauges(metric, Some(&Unit::Bytes), [(Labels::new(), value)])
    }

    fn about(&mut self, now: &Snapshot) -> fmt::Result {
        let about = &now.about;
        let labels: Labels = vec![
            ("version", about.version.into()),
            ("kernel", about.kernel.as_str().into()),
        ];
        let help = "What runs here.";
        let mut build = self
            .0
            .encode_descriptor("tracer_build", help, None, MetricType::Info)?;
        build.encode_info(&labels)?;
        let started = [(Labels::new(), about.started)];
        let metric = ("tracer_start_time", "When the run began, Unix time.");
        self.gauges(metric, Some(&Unit::Seconds), started)?;
        let coverage = about.coverage.iter().map(|covered| {
            let labels: Labels = vec![
                ("capability", covered.capability.as_str().into()),
                ("backend", covered.backend.into()),
                ("hook", covered.hook.into()),
            ];
            (labels, u64::from(!covered.hook.is_empty()))
        });
        let help = "Whether the capability is covered, and by which hook.";
        self.gauges(("tracer_coverage", help), None, coverage)
    }

    /// `call` failed at what the label `at` says.
    fn failures(&mut self, call: &str, at: &'static str, failures: &Failures) -> fmt::Result {
        let all = failures.all.iter();
        let all = all.map(|(reason, count)| (vec![("reason", (*reason).into())], *count));
        let name = format!("tracer_{call}_failures");
        let help = format!("Calls of {call}() that failed, by reason.");
        self.counters((&name, &help), None, all)?;
        let rows = failures.series.iter().map(|(failed, count)| {
            let comm = String::from_utf8_lossy(failed.comm.bytes());
            (
                row(failed.reason, comm, at, place(failed.at).into()),
                *count,
            )
        });
        let others = failures.others.iter();
        let others =
            others.map(|(reason, count)| (row(reason, OTHER.into(), at, OTHER.into()), *count));
        let name = format!("tracer_process_{call}_failures");
        let help = format!(
            "Calls of {call}() that failed, by reason, process name and {at}; those without a series of their own: {OTHER}."
        );
        self.counters((&name, &help), None, rows.chain(others))
    }

    fn destinations(&mut self, now: &Snapshot) -> fmt::Result {
        let crowd = &now.crowd;
        let all = || crowd.ways.iter().chain([&crowd.others]);
        let help = "Ports in use towards the destination, TIME_WAIT included.";
        let in_use = all().map(|row| (way(row), row.in_use));
        self.gauges(("tracer_destination_ports_in_use", help), None, in_use)?;
        let help = "Ports in TIME_WAIT towards the destination.";
        let waiting = all().map(|row| (way(row), row.time_wait));
        self.gauges(("tracer_destination_ports_time_wait", help), None, waiting)?;
        let help = "Further connects to the destination that would succeed.";
        let free = crowd.ways.iter().map(|row| (way(row), row.free));
        self.gauges(("tracer_destination_ports_free", help), None, free)?;
        let help = "Pressure on the ports of the destination: 0 ok, 1 warning, 2 critical.";
        let levels = crowd.ways.iter().zip(&now.levels.ways);
        let levels = levels.map(|(row, level)| (way(row), number(*level)));
        self.gauges(("tracer_destination_pressure", help), None, levels)?;
        let help = "Destinations under pressure, by level.";
        let Pressed {
            warning, critical, ..
        } = now.levels;
        let under = [("warning", warning), ("critical", critical)];
        let under = under.map(|(level, count)| (vec![("level", level.into())], count));
        self.gauges(("tracer_destinations_under_pressure", help), None, under)
    }

    fn pools(&mut self, now: &Snapshot) -> fmt::Result {
        let pools = &now.crowd.pools;
        let help = "Ephemeral ports of the network namespace that are not reserved.";
        let usable = pools.iter().map(|pool| (netns(pool), pool.usable));
        self.gauges(("tracer_pool_ports_usable", help), None, usable)?;
        let help = "Of the usable ports, those that are bound, and so closed to every destination.";
        let bound = pools.iter().map(|pool| (netns(pool), pool.bound));
        self.gauges(("tracer_pool_ports_bound", help), None, bound)?;
        let help = "Pressure of bound ports: 0 ok, 1 warning, 2 critical.";
        let levels = pools.iter().zip(&now.levels.pools);
        let levels = levels.map(|(pool, level)| (netns(pool), number(*level)));
        self.gauges(("tracer_pool_pressure", help), None, levels)?;
        self.gauge(
            ("tracer_sockets", "TCP sockets that are known."),
            now.crowd.sockets,
        )?;
        let help = "Of them, those in TIME_WAIT.";
        self.gauge(("tracer_sockets_time_wait", help), now.crowd.time_wait)
    }

    fn stream(&mut self, now: &Snapshot) -> fmt::Result {
        self.counter(
            ("tracer_events", "Events that the kernel side reported."),
            now.events,
        )?;
        self.counter(("tracer_lines", "Lines of the stream."), now.lines)?;
        let lost = now.losses.iter();
        let lost = lost.map(|(place, count)| (vec![("where", place.into())], count));
        self.counters(
            ("tracer_lost", "What the loss lines tell, by place."),
            None,
            lost,
        )?;
        let help = "Comparisons with the kernel's sockets.";
        self.counter(("tracer_resyncs", help), now.resyncs)?;
        let help = "Differences that they found.";
        self.counter(("tracer_corrections", help), now.corrected)?;
        let (Fill { used, size }, most) = (
            now.ring,
            "Most bytes that waited in the ring buffer in the last minute.",
        );
        self.bytes(("tracer_ring_used", most), used)?;
        self.bytes(("tracer_ring_size", "Size of the ring buffer."), size)?;
        let help = "Sockets in the kernel-side table.";
        self.gauge(("tracer_table_used", help), now.table.used)?;
        let help = "Sockets that the kernel-side table has room for.";
        self.gauge(("tracer_table_size", help), now.table.size)?;
        self.output(&now.output)
    }

    fn output(&mut self, output: &Output) -> fmt::Result {
        let help = "Memory of lines that wait for their reader.";
        self.bytes(("tracer_output_buffer_used", help), output.buffer.used)?;
        let help = "Memory that such lines may take.";
        self.bytes(("tracer_output_buffer_size", help), output.buffer.size)?;
        let dropped = output.dropped.iter();
        let dropped = dropped.map(|(kind, count)| (vec![("type", (*kind).into())], *count));
        let help = "Lines dropped because their reader was too slow, by type.";
        self.counters(("tracer_output_dropped_lines", help), None, dropped)
    }

    fn shed(&mut self, now: &Snapshot) -> fmt::Result {
        let shed = now.shed.iter();
        let shed = shed.map(|(kind, count)| (vec![("type", (*kind).into())], *count));
        let help = "What the CPU guard left out, by type; of usage, rounds.";
        self.counters(("tracer_shed", help), None, shed)?;
        let help = "What the CPU guard leaves out: 0 nothing, 1 state lines, 2 connection lines too, 3 usage too.";
        self.gauge(("tracer_shed_level", help), now.shed_level.into())
    }

    fn own(&mut self, now: &Snapshot) -> fmt::Result {
        let help = "CPU time of tracer itself, user and system.";
        let cpu = [(Labels::new(), now.cpu)];
        self.counters(("tracer_cpu", help), Some(&Unit::Seconds), cpu)?;
        match now.rss {
            Some(rss) => self.bytes(("tracer_resident_memory", "Memory of tracer itself."), rss),
            None => Ok(()),
        }
    }
}

fn row<'a>(reason: &'a str, comm: Cow<'a, str>, key: &'static str, at: Cow<'a, str>) -> Labels<'a> {
    vec![("reason", reason.into()), ("comm", comm), (key, at)]
}

/// As `ss` shows it; without a port, the address alone.
fn place(endpoint: Endpoint) -> String {
    match endpoint.port {
        Some(port) => std::net::SocketAddr::new(endpoint.ip, port).to_string(),
        None => endpoint.ip.to_string(),
    }
}

fn way(row: &Crowded) -> Labels<'static> {
    let (netns, local, peer) = match row.way {
        Some(way) => (
            way.netns.to_string(),
            way.local_ip.to_string(),
            place(way.peer),
        ),
        None => (OTHER.into(), OTHER.into(), OTHER.into()),
    };
    vec![
        ("netns", netns.into()),
        ("local", local.into()),
        ("peer", peer.into()),
    ]
}

fn netns(pool: &Closed) -> Labels<'static> {
    vec![("netns", pool.netns.to_string().into())]
}

fn number(level: Level) -> u64 {
    match level {
        Level::Ok => 0,
        Level::Warning => 1,
        Level::Critical => 2,
    }
}
