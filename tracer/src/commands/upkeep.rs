//! What tracer tells of itself once a second: metrics, `stats` lines, and the CPU guard.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Result;
use aya::Ebpf;

use crate::{
    clock, config,
    cost::{self, Change, Fills, Guard, Now, Peak, Programs, Report},
    ledger::Crowd,
    metrics::{About, Fill, Listener, Output, Publisher, Snapshot, Tallies},
    record::{LeftOut, Shed, Table, tenths},
    stream::Stream,
};

/// The look at every socket takes at most one of so many parts of the time.
const SHARE: u64 = 200;

/// While something is left out, that is told so often.
const REMIND: u64 = Duration::from_secs(10).as_nanos() as u64;

pub(super) struct Upkeep {
    metrics: Option<Metrics>,
    stats: Option<Report>,
    programs: Programs,
    guard: Option<Guard>,
    /// When it was last told what is left out.
    told: u64,
    /// Number of the round of usage.
    round: u64,
}

/// What the stream does not know.
pub(super) struct Around<'a> {
    pub ebpf: Option<&'a Ebpf>,
    /// Most bytes of the ring buffer that were waiting since the last call, and how many fit.
    pub ring: Table,
    pub table: Table,
    /// Memory of lines that wait.
    pub output: Table,
}

struct Metrics {
    publisher: Publisher,
    about: Arc<About>,
    top: usize,
    crowd: Arc<Crowd>,
    /// When the sockets are looked at again.
    due: u64,
    ring: Peak,
}

impl Upkeep {
    pub(super) fn new(
        config: config::Upkeep,
        listener: Option<Listener>,
        about: About,
        stream: &mut Stream,
    ) -> Result<Self> {
        if listener.is_some() {
            stream.set_tallies(Tallies::new(config.top));
        }
        let metrics = listener.map(|listener| Metrics::new(listener, about, config.top));
        Ok(Self {
            metrics: metrics.transpose()?,
            stats: config
                .stats
                .map(|every| Report::new(every, now(stream, clock::now()))),
            programs: Programs::default(),
            guard: config.max_cpu.map(Guard::new),
            told: 0,
            round: 0,
        })
    }

    /// To be called about once a second.
    pub(super) fn tick(&mut self, stream: &mut Stream, around: Around, at: u64) {
        self.guard(stream, at);
        self.stats(stream, &around, at);
        if let Some(metrics) = &mut self.metrics {
            metrics.tick(stream, &around, at);
        }
    }

    /// Whether this round of usage is left out.
    pub(super) fn puts_off_usage(&mut self, stream: &mut Stream) -> bool {
        self.round += 1;
        stream.shed().leaves_out_usage(self.round)
    }

    /// The run ends: what was left out is told.
    pub(super) fn end(&mut self, stream: &mut Stream, at: u64) {
        if let Some(guard) = &self.guard {
            let left_out = stream.shed().take();
            if left_out != LeftOut::default() {
                stream.tell_shed(&shed(guard, left_out, None), at);
            }
        }
    }

    fn guard(&mut self, stream: &mut Stream, at: u64) {
        let Some(guard) = &mut self.guard else {
            return;
        };
        let change = guard.look(at, cost::cpu());
        let is_time = at.saturating_sub(self.told) >= REMIND;
        if change.is_none() && !(is_time && stream.shed().has_left_out()) {
            return;
        }
        stream.shed().set_level(guard.level());
        let left_out = stream.shed().take();
        stream.tell_shed(&shed(guard, left_out, change), at);
        self.told = at;
    }

    fn stats(&mut self, stream: &mut Stream, around: &Around, at: u64) {
        let Some(report) = &mut self.stats else {
            return;
        };
        report.ring(around.ring.used);
        if report.is_due(at) {
            let bpf = around.ebpf.and_then(|ebpf| self.programs.end(ebpf, at));
            let fills = Fills {
                rss: cost::rss(),
                ring: around.ring.size,
                table: around.table,
                output: around.output,
                bpf,
            };
            let stats = report.tell(now(stream, at), fills);
            stream.tell_stats(&stats, at);
        }
        if report.samples(at)
            && let Some(ebpf) = around.ebpf
        {
            self.programs.begin(ebpf, clock::now());
        }
    }
}

fn shed(guard: &Guard, left_out: LeftOut, change: Option<Change>) -> Shed {
    let level = guard.level();
    let percent = change.map(|change| change.percent);
    Shed {
        level,
        before: change.map_or(level, |change| change.before),
        cpu_percent: percent.or_else(|| guard.percent()).map(tenths),
        max_cpu_percent: guard.max(),
        left_out,
    }
}

fn now(stream: &Stream, at: u64) -> Now {
    Now {
        at,
        counts: stream.counts(),
        cpu: cost::cpu(),
    }
}

impl Metrics {
    fn new(listener: Listener, about: About, top: usize) -> Result<Self> {
        Ok(Self {
            publisher: listener.serve()?,
            about: Arc::new(about),
            top,
            crowd: Arc::default(),
            due: 0,
            ring: Peak::default(),
        })
    }

    fn tick(&mut self, stream: &mut Stream, around: &Around, at: u64) {
        if at >= self.due {
            self.crowd = Arc::new(stream.crowd(self.top, at));
            let took = clock::now().saturating_sub(at);
            self.due = at.saturating_add(took.saturating_mul(SHARE));
        }
        self.ring.add(around.ring.used, at);
        self.publisher.publish(self.snapshot(stream, around));
    }

    fn snapshot(&self, stream: &mut Stream, around: &Around) -> Snapshot {
        let counts = stream.counts();
        let shed = stream.shed();
        let (left_out, shed_level) = (shed.total(), shed.level() as u8);
        let (connects, binds, losses, dropped) = match stream.tallies() {
            Some(tallies) => (
                (&tallies.connects).into(),
                (&tallies.binds).into(),
                tallies.losses.clone(),
                tallies.dropped.clone(),
            ),
            None => Default::default(),
        };
        Snapshot {
            about: self.about.clone(),
            connects,
            binds,
            crowd: self.crowd.clone(),
            levels: stream.pressed(&self.crowd),
            events: counts.events,
            lines: counts.lines,
            losses,
            shed: by_type(left_out),
            shed_level,
            ring: Fill {
                used: self.ring.get(),
                size: around.ring.size,
            },
            table: fill(around.table),
            output: Output {
                buffer: fill(around.output),
                dropped,
            },
            resyncs: counts.resyncs,
            corrected: counts.corrected,
            cpu: cost::cpu() as f64 / 1e9,
            rss: cost::rss(),
        }
    }
}

fn fill(table: Table) -> Fill {
    Fill {
        used: table.used,
        size: table.size,
    }
}

fn by_type(left_out: LeftOut) -> BTreeMap<&'static str, u64> {
    BTreeMap::from([
        ("state", left_out.state),
        ("connection", left_out.connection),
        ("usage_round", left_out.usage_rounds),
    ])
}
