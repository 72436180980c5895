//! Follows the lines in order, and knows at their end what happened. Pure: bytes and clocks are elsewhere.

mod causes;
mod events;
mod failures;
mod finish;
pub(super) mod holes;
mod items;
mod names;
mod narrowing;
mod pools;
mod rounds;
mod runs;
mod verdict;

pub(super) use verdict::{duration, number};

use self::{
    events::Events,
    failures::Failures,
    holes::{At, Holes},
    names::{HostId, Names, ProcessId},
    narrowing::Found,
    pools::{DestinationId, PoolId, Pools, When},
    rounds::Round,
    runs::{Mark, Runs},
};
use super::{
    digest::{self, Digest, Fault, Item, What},
    feed::Part,
    model::{File, Input},
    narrow::Narrow,
    series::Axis,
    source::Trouble,
};

pub(super) struct Analysis {
    narrow: Narrow,
    /// First and last nanosecond that count.
    bounds: (i64, i64),
    input: Input,
    axis: Axis,
    span: Option<(i64, i64)>,
    names: Names,
    pools: Pools,
    runs: Runs,
    /// By host.
    rounds: Vec<Round>,
    failures: Failures,
    events: Events,
    holes: Holes,
    found: Found,
    /// Files that could not be opened.
    unopened: usize,
}

/// The numbers of a block, and ours.
struct Block {
    file: usize,
    /// Lines of the file before this block.
    before: u64,
    hosts: Vec<Option<HostId>>,
    /// And whether they are wanted.
    processes: Vec<(ProcessId, bool)>,
    places: Vec<Option<Place>>,
}

#[derive(Clone, Copy)]
struct Place {
    pool: PoolId,
    destination: Option<DestinationId>,
    route: Option<digest::Route>,
    wanted: bool,
}

/// Where an item belongs.
#[derive(Clone, Copy)]
struct Scene {
    host: HostId,
    run: usize,
    ts: i64,
    /// Counts: the time is in the bounds.
    bin: Option<i64>,
    /// `stop` counts it.
    is_numbered: bool,
}

impl Analysis {
    pub(super) fn new(files: Vec<String>, narrow: Narrow) -> Self {
        let file = |name| File {
            name,
            ..File::default()
        };
        Self {
            bounds: narrow.bounds(),
            narrow,
            input: Input {
                files: files.into_iter().map(file).collect(),
                complete: true,
                ..Input::default()
            },
            axis: Axis::default(),
            span: None,
            names: Names::default(),
            pools: Pools::default(),
            runs: Runs::default(),
            rounds: Vec::new(),
            failures: Failures::default(),
            events: Events::default(),
            holes: Holes::default(),
            found: Found::default(),
            unopened: 0,
        }
    }

    /// The next part of the input.
    pub(super) fn part(&mut self, part: Part) {
        let Part {
            block,
            bytes,
            digest,
        } = part;
        if let Some(numbers) = self.pools.make_room(&self.axis) {
            for round in &mut self.rounds {
                round.renumber(&numbers);
            }
        }
        let before = self.input.files[block.file].lines;
        let here = self.resolve(block.file, before, &digest);
        let Digest {
            lines,
            items,
            faults,
            unknown,
            ..
        } = digest;
        for item in items {
            self.item(&here, item);
        }
        if let Some((count, name)) = unknown {
            let at = self.at(block.file, None);
            self.holes.add("unknown_type", at, count, || {
                format!("{count} lines of types that this version does not know, `{name}` first: they are not in the report")
            });
        }
        for (line, fault) in faults {
            self.fault(block.file, before + line + 1, &fault);
        }
        let mut lines = lines;
        if let Some(bytes) = block.too_long {
            lines += 1;
            self.fault(block.file, before + lines, &Fault::TooLong(bytes));
        }
        let file = &mut self.input.files[block.file];
        file.lines += lines;
        file.bytes += bytes;
        self.input.lines += lines;
        self.input.bytes += bytes;
        self.trouble(block.file, block.error.as_ref());
        if block.ends && self.input.files[block.file].bytes == 0 {
            let at = self.at(block.file, None);
            self.holes.add("empty", at, 1, || {
                "it is empty: nothing was recorded there, or it went elsewhere".into()
            });
        }
    }

    /// Whether any file could be opened.
    pub(super) fn opened_any(&self) -> bool {
        self.unopened < self.input.files.len()
    }

    pub(super) fn interrupt(&mut self) {
        self.input.complete = false;
        let lines = self.input.lines;
        self.holes.add("interrupted", At::default(), 1, || {
            format!("it was interrupted after {lines} lines: this report is about those")
        });
    }

    fn trouble(&mut self, file: usize, trouble: Option<&Trouble>) {
        let lines = self.input.files[file].lines;
        let (id, line, text) = match trouble {
            None => return,
            Some(Trouble::Open(error)) => {
                self.unopened += 1;
                ("unreadable", None, format!("it can't be read: {error}"))
            }
            Some(Trouble::Read(error)) => {
                let text =
                    format!("reading stops here: {error}; what comes after is not in this report");
                ("broken", Some(lines.max(1)), text)
            }
        };
        let at = self.at(file, line);
        self.holes.add(id, at, 1, || text);
    }

    fn fault(&mut self, file: usize, line: u64, fault: &Fault) {
        self.input.skipped += 1;
        self.input.files[file].skipped += 1;
        let at = self.at(file, Some(line));
        let (id, text) = match fault {
            Fault::Garbage(error) => ("garbage", format!("not a line of tracer, skipped: {error}")),
            Fault::Version(v) => ("version", format!("of version {v} of the records, skipped: this tracer reads version 1, take the one that wrote it")),
            Fault::Unusable(error) => ("unusable", format!("lacks what a line of its type has, skipped: {error}")),
            Fault::Cut => ("truncated", "the last line is cut off, skipped: what came after it was never written, or is not in this file".into()),
            Fault::TooLong(bytes) => ("too_long", format!("{bytes} bytes without an end of line, skipped: no line of tracer is so long")),
        };
        self.holes.add(id, at, 1, || text);
    }

    fn at(&self, file: usize, line: Option<u64>) -> At {
        At {
            file: Some(self.input.files[file].name.clone()),
            line,
            ..At::default()
        }
    }

    fn resolve(&mut self, file: usize, before: u64, digest: &Digest) -> Block {
        let hosts: Vec<_> = digest
            .hosts
            .iter()
            .map(|name| self.names.host(name))
            .collect();
        while self.rounds.len() < self.names.hosts.len() {
            self.rounds.push(Round::default());
        }
        let processes = digest.processes.iter().map(|process| {
            let host = hosts[process.host as usize].unwrap_or(0);
            let wanted = self
                .narrow
                .has_process(&process.comm, process.pid, &process.id);
            self.found.process |= wanted;
            (self.names.process(host, process), wanted)
        });
        let processes = processes.collect();
        let places = digest.places.iter().map(|place| {
            let host = hosts[place.host as usize]?;
            let pool = self.pool(host, place.netns)?;
            let (in_netns, to) = (self.narrow.has_netns(place.netns), place.to.as_ref());
            self.found.netns |= in_netns;
            self.found.peer |= to.is_some_and(|to| self.narrow.has_route(to));
            let wanted = in_netns && to.is_none_or(|to| self.narrow.has_route(to));
            let destination = place
                .to
                .filter(|_| wanted)
                .map(|to| self.pools.destination(pool, to));
            Some(Place {
                pool,
                destination,
                route: place.to,
                wanted,
            })
        });
        let places = places.collect();
        Block {
            file,
            before,
            hosts,
            processes,
            places,
        }
    }

    /// `None`: there are too many.
    fn pool(&mut self, host: HostId, netns: u32) -> Option<PoolId> {
        let others = self.names.others(host);
        self.pools.pool(host, netns, others)
    }

    fn item(&mut self, here: &Block, item: Item) {
        let Some(host) = here.hosts[item.host as usize] else {
            self.too_many_hosts(here, item.line);
            return;
        };
        let scene = self.scene(here, host, &item);
        // A process is introduced before it is told of.
        let is_usage = matches!(
            item.what,
            What::Usage(_) | What::Ledger { .. } | What::Process(_)
        );
        if !self.rounds[host].is_empty() && (!is_usage || self.rounds[host].ts() != scene.ts) {
            // The next line is of something else: all who have ports were told.
            let ts = self.rounds[host].ts();
            self.end_round(host, true, ts);
        }
        self.what(here, scene, item.what, item.line);
    }

    fn scene(&mut self, here: &Block, host: HostId, item: &Item) -> Scene {
        let ts = item.ts;
        let starts = matches!(&item.what, What::Start(_)) && !item.repeated;
        let name = &self.names.hosts[host].name;
        let at = || At {
            file: Some(self.input.files[here.file].name.clone()),
            line: Some(here.before + item.line + 1),
            host: Some(name.clone()),
            ts: Some(ts),
        };
        let mark = Mark {
            ts,
            is_copy: item.repeated,
            seq: item.seq,
            starts,
        };
        let before = self.runs.last_of(host);
        let (run, is_new) = self.runs.follow(host, mark, at, &mut self.holes);
        let counts = !item.repeated && self.bounds.0 <= ts && ts <= self.bounds.1;
        if counts {
            let (first, last) = self.span.unwrap_or((ts, ts));
            self.span = Some((first.min(ts), last.max(ts)));
        }
        let scene = Scene {
            host,
            run,
            ts,
            bin: counts.then(|| self.axis.bin(ts)),
            is_numbered: item.seq.is_some(),
        };
        let begins = counts && !std::mem::replace(&mut self.runs.all[run].counts, counts);
        if let (true, Some(bin)) = (begins && !is_new, scene.bin) {
            self.pools.begin(host, &self.axis, bin);
        }
        if let Some(before) = before.filter(|_| is_new) {
            // What there was between two runs is not known.
            self.end_run(before);
        }
        scene
    }

    /// The levels of a run hold until its last line.
    fn end_run(&mut self, run: usize) {
        let run = &self.runs.all[run];
        let ts = run.to.min(self.bounds.1);
        let counts = run.counts && ts >= self.bounds.0;
        let when = When {
            bin: counts.then(|| self.axis.bin(ts)),
            axis: self.axis,
            ts,
        };
        self.pools.end(run.host, when);
    }

    fn when(&self, scene: &Scene) -> When {
        When {
            axis: self.axis,
            bin: scene.bin,
            ts: scene.ts,
        }
    }

    fn too_many_hosts(&mut self, here: &Block, line: u64) {
        self.input.skipped += 1;
        self.input.files[here.file].skipped += 1;
        let at = self.at(here.file, Some(here.before + line + 1));
        self.holes.add("hosts", at, 1, || {
            "of one host too many, skipped: a report takes 1024; make one of fewer files".into()
        });
    }
}
