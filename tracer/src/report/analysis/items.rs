//! What each kind of line means.

use super::{
    Analysis, Block, Place, Scene,
    events::Target,
    failures::Failure,
    holes::At,
    names::{HostId, ProcessId},
    pools::{BOUND, Change, Over, PoolId, When, Who},
    rounds::{Round, count, total},
};
use crate::{
    event::State,
    report::{
        digest::{self, NOBODY, Route, What},
        line::{Budget, Settings},
    },
};

impl Analysis {
    pub(super) fn what(&mut self, here: &Block, scene: Scene, what: What, line: u64) {
        match what {
            What::State {
                place,
                process,
                old,
                new,
                has_port,
                cookie,
            } => {
                let change = Change {
                    old,
                    new,
                    has_port,
                    cookie,
                };
                self.state(here, scene, (place, process), change);
            }
            What::Connection {
                place,
                process,
                opened,
                closed,
                established,
                waited,
            } => {
                let over = Over {
                    opened,
                    closed,
                    ended: scene.ts,
                    established,
                    waited,
                };
                self.connection(here, scene, (place, process), over);
            }
            What::Failed(failed) => self.failed(here, scene, *failed),
            What::Pressure(pressure) => self.pressure(here, scene, *pressure),
            What::Usage(usage) => self.usage(here, scene, &usage),
            What::Process(identity) => self.identity(here, scene, *identity),
            What::Start(start) => self.start(scene, *start),
            What::Settings(settings) => self.settings(scene, settings),
            What::Ledger { overflow } => self.ledger(scene, overflow),
            What::Loss {
                events,
                place,
                resynced,
            } => self.loss(here, scene, line, events, &place, resynced),
            What::Shed { lines } => self.shed(here, scene, line, lines),
            What::Stop {
                lines,
                failures,
                bind_failures,
            } => {
                self.runs.all[scene.run].stop(lines, failures, bind_failures);
                self.ends(scene);
            }
            What::Socket => self.rounds[scene.host].snapshot(scene.ts),
            What::Other => {}
        }
    }

    /// Who and where, if that is wanted.
    fn who(
        &mut self,
        here: &Block,
        host: HostId,
        place: u32,
        process: u32,
    ) -> Option<(Place, Who)> {
        let process = self.process(here, host, process)?;
        let place = here.places[place as usize].filter(|place| place.wanted)?;
        let who = Who {
            process,
            destination: place.destination,
        };
        Some((place, who))
    }

    fn process(&mut self, here: &Block, host: HostId, process: u32) -> Option<ProcessId> {
        if process == NOBODY {
            let all = self.narrow.process.is_none();
            return all.then(|| self.names.nobody(host));
        }
        let (process, wanted) = here.processes[process as usize];
        wanted.then_some(process)
    }

    fn state(&mut self, here: &Block, scene: Scene, (place, process): (u32, u32), change: Change) {
        let run = &mut self.runs.all[scene.run];
        run.states += 1;
        if run.is_sampled || scene.ts > self.bounds.1 {
            return;
        }
        let Some((place, who)) = self.who(here, scene.host, place, process) else {
            return;
        };
        self.has_port(who.process, scene);
        let when = self.when(&scene);
        self.pools.change(place.pool, who, change, when);
    }

    /// Remembers when a process had its first port.
    fn has_port(&mut self, process: ProcessId, scene: Scene) {
        let process = &mut self.names.processes[process];
        if scene.bin.is_some() {
            process.first_port.get_or_insert(scene.ts);
        }
    }

    fn connection(
        &mut self,
        here: &Block,
        scene: Scene,
        (place, process): (u32, u32),
        mut over: Over,
    ) {
        if scene.bin.is_none() {
            return;
        }
        let Some((place, who)) = self.who(here, scene.host, place, process) else {
            return;
        };
        let first = self.bounds.0;
        over.opened = over
            .opened
            .filter(|opened| *opened <= over.closed)
            .map(|opened| opened.max(first));
        over.closed = over.closed.clamp(first.min(scene.ts), scene.ts);
        self.has_port(who.process, scene);
        self.pools.finished(place.pool, who, over, &mut self.axis);
    }

    fn failed(&mut self, here: &Block, scene: Scene, failed: digest::Failed) {
        let run = &mut self.runs.all[scene.run];
        let total = if failed.bind {
            &mut run.bind_failures
        } else {
            &mut run.failures
        };
        if scene.is_numbered {
            *total = total.saturating_add(failed.repeats);
        }
        let Some((place, who)) = self.who(here, scene.host, failed.place, failed.process) else {
            return;
        };
        // Also before the time that counts, which a `usage` line may look back on.
        self.pools.pools[place.pool].told.failure = true;
        if scene.bin.is_none() {
            return;
        }
        let destination = place
            .route
            .map_or_else(String::new, |route| title(&route, failed.bind));
        let netns = self.pools.pools[place.pool].netns;
        self.failures
            .advise((scene.host, netns), &destination, failed.told.advice);
        let target = Target {
            host: scene.host,
            netns,
            to: destination.clone(),
            bind: failed.bind,
        };
        self.events.failure(
            target,
            who.process,
            &failed.reason,
            failed.repeats,
            scene.ts,
        );
        self.failures.add(Failure {
            host: scene.host,
            netns,
            process: who.process,
            destination,
            bind: failed.bind,
            reason: &failed.reason,
            repeats: failed.repeats,
            ts: scene.ts,
        });
        self.count_failure(place, failed.bind, failed.repeats, scene);
        self.budget(here, scene, place, failed.told.budget, &failed.told.holders);
    }

    fn count_failure(&mut self, place: Place, bind: bool, count: u64, scene: Scene) {
        let when = self.when(&scene);
        let Some(bin) = when.bin else { return };
        let pool = &mut self.pools.pools[place.pool];
        pool.failed.add(&when.axis, bin, count);
        if let (Some(to), false) = (place.destination, bind) {
            self.pools.destinations[to]
                .failed
                .add(&when.axis, bin, count);
        }
    }

    fn pressure(&mut self, here: &Block, scene: Scene, pressure: digest::Pressure) {
        if scene.bin.is_none() {
            return;
        }
        let Some(place) = here.places[pressure.place as usize].filter(|place| place.wanted) else {
            return;
        };
        if self.narrow.process.is_some() && !self.holds_any(here, &pressure.told.holders) {
            return;
        }
        let about = place
            .route
            .map_or_else(|| "bound ports".into(), |route| title(&route, false));
        let (id, rank) = match &*pressure.level {
            "critical" => ("pressure_critical", 2),
            "warning" => ("pressure_warning", 1),
            _ => ("pressure_over", 0),
        };
        let Some(budget) = pressure.told.budget else {
            return;
        };
        let netns = self.pools.pools[place.pool].netns;
        let at = self.names.place(scene.host, Some(netns));
        self.events
            .add(id, scene.ts, at, || pressed(&about, &pressure, &budget));
        if let Some(to) = place.destination {
            let to = &mut self.pools.destinations[to];
            to.pressure = to.pressure.max(rank);
            let pressed = &mut self.pools.pools[place.pool].pressed;
            if pressed.is_none_or(|(highest, _)| rank > highest) {
                *pressed = Some((rank, scene.ts));
            }
        }
        self.failures
            .advise((scene.host, netns), &about, pressure.told.advice);
        self.budget(here, scene, place, Some(budget), &pressure.told.holders);
    }

    fn holds_any(&self, here: &Block, holders: &[digest::Holder]) -> bool {
        let is_wanted = |holder: &digest::Holder| {
            here.processes
                .get(holder.process as usize)
                .is_some_and(|(_, wanted)| *wanted)
        };
        holders.iter().any(is_wanted)
    }

    /// A budget tells limits; and where there are neither `state` nor `usage` lines, levels.
    fn budget(
        &mut self,
        here: &Block,
        scene: Scene,
        place: Place,
        budget: Option<Budget>,
        holders: &[digest::Holder],
    ) {
        let Some(budget) = budget else { return };
        let when = self.when(&scene);
        let usable = budget.range.saturating_sub(budget.reserved);
        let pool = &mut self.pools.pools[place.pool];
        pool.limit.set(&when.axis, when.bin, count(usable));
        let Some(to) = place.destination else { return };
        let free_of_bound = count(usable.saturating_sub(budget.bound));
        let limit = self.pools.destinations[to].limit.get_or_insert_default();
        limit.set(&when.axis, when.bin, free_of_bound);
        if pool.told.state {
            return;
        }
        let others = self.names.others(scene.host);
        let rows: Vec<_> = holders
            .iter()
            .filter_map(|holder| {
                let process = match holder.others {
                    true => self.narrow.process.is_none().then_some(others),
                    false => self.process(here, scene.host, holder.process),
                };
                Some((process?, holder))
            })
            .collect();
        self.held(place.pool, to, &rows, when);
        self.pools.pools[place.pool].sum(when);
        self.pools.destinations[to].sum(Some(count(budget.time_wait)), when);
    }

    /// So many ports processes have at least. Those of the last row may have rows of their own already.
    fn held(&mut self, pool: PoolId, to: usize, rows: &[(ProcessId, &digest::Holder)], when: When) {
        let pool = &mut self.pools.pools[pool];
        let mut listed = Vec::new();
        for (process, holder) in rows {
            let stack = pool.stack(*process);
            listed.push(stack);
            for (state, ports) in ports_of(holder) {
                let elsewhere: i32 = match holder.others {
                    true => pool.elsewhere(&listed, state),
                    false => 0,
                };
                let ports = ports.saturating_sub(elsewhere);
                let ports = ports.max(pool.stacks[stack].now(state));
                pool.set(stack, state, ports, when);
            }
        }
        let to = &mut self.pools.destinations[to];
        let there =
            |holder: &digest::Holder| total(holder.states.iter().map(|(_, ports)| count(*ports)));
        // All who have ports there are among them.
        let gone: Vec<_> = to.owners.iter().map(|(process, _)| (*process, 0)).collect();
        let told = rows
            .iter()
            .map(|(process, holder)| (*process, there(holder)));
        to.set_all(gone.into_iter().chain(told), when);
    }

    fn usage(&mut self, here: &Block, scene: Scene, usage: &digest::Usage) {
        self.runs.all[scene.run].usages += 1;
        self.found.netns |= self.narrow.has_netns(usage.netns);
        if scene.ts > self.bounds.1 || !self.narrow.has_netns(usage.netns) {
            return;
        }
        let Some(process) = self.process(here, scene.host, usage.process) else {
            return;
        };
        let Some(pool) = self.pool(scene.host, usage.netns) else {
            return;
        };
        if usage.exited {
            self.names.processes[process].exited.get_or_insert(scene.ts);
        }
        if usage.states.iter().any(|(state, _)| *state != State::Close) {
            self.has_port(process, scene);
        }
        if let Some(bin) = scene.bin.filter(|_| self.narrow.peer.is_none()) {
            let (pool, axis) = (&mut self.pools.pools[pool], &self.axis);
            pool.opened[2].add(axis, bin, usage.opened.into());
            pool.closed[2].add(axis, bin, usage.closed.into());
            pool.failed_by_usage.add(axis, bin, usage.failed.into());
            let stack = pool.stack(process);
            pool.stacks[stack].failed_by_usage += u64::from(usage.failed);
        }
        let place =
            |top: &digest::Top| here.places[top.place as usize].and_then(|place| place.destination);
        let to: Vec<_> = usage.top.iter().map(place).collect();
        if self.narrow.peer.is_none() {
            self.rounds[scene.host].add(pool, process, usage, &to, scene.ts);
        } else if !self.pools.pools[pool].told.state {
            let (usage, to) = only(usage, &to);
            self.rounds[scene.host].add(pool, process, &usage, &to, scene.ts);
        }
    }

    /// `whole`: all who have ports were told.
    pub(super) fn end_round(&mut self, host: HostId, whole: bool, ts: i64) {
        let mut round = std::mem::take(&mut self.rounds[host]);
        let counts = self.bounds.0 <= ts && ts <= self.bounds.1;
        let when = When {
            bin: counts.then(|| self.axis.bin(ts)),
            axis: self.axis,
            ts,
        };
        round.apply(host, &mut self.pools, whole, when);
        self.rounds[host] = Round::after(ts);
    }

    fn identity(&mut self, here: &Block, scene: Scene, identity: digest::Identity) {
        let Some(process) = self.process(here, scene.host, identity.process) else {
            return;
        };
        let process = &mut self.names.processes[process];
        if process.id.is_none() {
            return;
        }
        process.exe = process.exe.take().or(identity.exe.map(Into::into));
        process.started = process.started.or(identity.started);
        process.first.get_or_insert(scene.ts);
    }

    fn start(&mut self, scene: Scene, start: digest::Start) {
        let run = &mut self.runs.all[scene.run];
        run.tracer = Some(start.tracer.into());
        run.kernel = Some(start.kernel.into());
        if start.is_sampled && !std::mem::replace(&mut run.is_sampled, true) {
            let at = At {
                host: Some(self.names.hosts[scene.host].name.clone()),
                ..At::default()
            };
            self.holes.add("levels", at, 1, || {
                "by --sample or --state there are state lines of some connections or transitions only: levels and rates follow the other lines".into()
            });
        }
        let at = self.names.place(scene.host, None);
        if scene.bin.is_some() {
            self.events
                .add("start", scene.ts, at, || "tracer starts".into());
        }
        for settings in start.netns {
            self.settings(scene, settings);
        }
    }

    /// Of a network namespace: new, changed, or as they are at the start.
    fn settings(&mut self, scene: Scene, settings: Settings) {
        let netns = settings.netns;
        self.found.netns |= self.narrow.has_netns(netns);
        if !self.narrow.has_netns(netns) || scene.ts > self.bounds.1 {
            return;
        }
        let Some(pool) = self.pool(scene.host, netns) else {
            return;
        };
        let when = self.when(&scene);
        if let Some(usable) = usable(&settings) {
            self.pools.pools[pool]
                .limit
                .set(&when.axis, when.bin, usable);
        }
        let of_run = self.runs.all[scene.run]
            .settings
            .insert(netns, settings.clone());
        let before = of_run.or_else(|| self.runs.settings_before(scene.run)?.get(&netns).cloned());
        let Some(before) = before.filter(|_| scene.bin.is_some()) else {
            return;
        };
        let changes = super::causes::changed(&before, &settings);
        if !changes.is_empty() {
            let at = self.names.place(scene.host, Some(netns));
            let text = || format!("network namespace {netns}: {}", changes.join(", "));
            let id = match changes.iter().any(|change| change.starts_with("ip_local")) {
                // More ports led to no trouble.
                true if usable(&settings) > usable(&before) => "range_widened",
                true => "range_changed",
                false => "sysctl_changed",
            };
            self.events.add(id, scene.ts, at, text);
        }
    }

    fn ledger(&mut self, scene: Scene, overflow: u64) {
        let round = &self.rounds[scene.host];
        // Also one without a line: then nobody has ports. Before the first `usage` line it tells what the run found.
        let is_empty = round.is_empty() && self.runs.all[scene.run].usages > 0;
        if !round.is_empty() || is_empty && !round.is_over(scene.ts) {
            self.end_round(scene.host, true, scene.ts);
        }
        let before = std::mem::replace(&mut self.runs.all[scene.run].overflow, overflow);
        // It is of the whole host: nobody knows of which namespace.
        let counts = scene.bin.is_some() && self.narrow.netns.is_none();
        if overflow > before && counts {
            let at = self.names.place(scene.host, None);
            let more = overflow - before;
            self.events.add("time_wait_overflow", scene.ts, at, || {
                format!("{more} connections got no TIME_WAIT, on the whole host: tcp_max_tw_buckets was reached")
            });
        }
    }

    fn loss(
        &mut self,
        here: &Block,
        scene: Scene,
        line: u64,
        events: u64,
        place: &str,
        resynced: bool,
    ) {
        let at = At {
            host: Some(self.names.hosts[scene.host].name.clone()),
            ts: Some(scene.ts),
            ..self.at(here.file, Some(here.before + line + 1))
        };
        let place: String = place.chars().take(40).collect();
        let healed = if resynced {
            "tracer compared with the kernel afterwards, so levels are right again from there on"
        } else {
            "nothing made up for it: levels and owners may be wrong until the next usage line"
        };
        self.holes.add("loss", at, events, || match place.as_str() {
            "output" => {
                format!("tracer lost {events} lines, because the output did not take them in time")
            }
            _ => format!("tracer lost {events} events ({place}); {healed}"),
        });
    }

    /// Above `--max-cpu` detail is left out: then levels follow usage lines.
    fn shed(&mut self, here: &Block, scene: Scene, line: u64, lines: u64) {
        if lines == 0 {
            return;
        }
        let at = At {
            host: Some(self.names.hosts[scene.host].name.clone()),
            ts: Some(scene.ts),
            ..self.at(here.file, Some(here.before + line + 1))
        };
        self.holes.add("shed", at, lines, || {
            format!(
                "tracer left out {lines} state and connection lines, because it took more CPU than --max-cpu allows: \
                 between usage lines levels do not show"
            )
        });
    }

    /// The run is over: what comes is not known.
    fn ends(&mut self, scene: Scene) {
        let when = self.when(&scene);
        self.pools.end(scene.host, when);
        if scene.bin.is_some() {
            let at = self.names.place(scene.host, None);
            self.events
                .add("stop", scene.ts, at, || "tracer stops".into());
        }
    }
}

/// Ports by the number of their state.
fn ports_of(holder: &digest::Holder) -> impl Iterator<Item = (usize, i32)> {
    let states = holder.states.iter();
    let states = states.map(|(state, ports)| (*state as usize, count(*ports)));
    states.chain([(BOUND, count(holder.bound))])
}

/// Only what leads to wanted destinations. Of their states, only TIME_WAIT is told.
fn only(usage: &digest::Usage, to: &[Option<usize>]) -> (digest::Usage, Vec<Option<usize>>) {
    let mut usage = usage.clone();
    let mut wanted = to.iter().map(Option::is_some);
    usage.top.retain(|_| wanted.next().unwrap_or(false));
    let waits: u32 = usage
        .top
        .iter()
        .map(|top| top.time_wait)
        .fold(0, u32::saturating_add);
    let ports: u32 = usage
        .top
        .iter()
        .map(|top| top.ports)
        .fold(0, u32::saturating_add);
    usage.states = vec![
        (State::TimeWait, waits),
        (State::Established, ports.saturating_sub(waits)),
    ];
    usage.bound = 0;
    (usage, to.iter().copied().filter(Option::is_some).collect())
}

fn usable(settings: &Settings) -> Option<i32> {
    let [first, last] = settings.range?;
    let ports = i32::from(last) - i32::from(first) + 1;
    let reserved = i32::try_from(settings.reserved.unwrap_or(0)).unwrap_or(i32::MAX);
    Some(ports.saturating_sub(reserved).max(0))
}

/// As it is shown: `10.0.0.9:5774`.
pub(super) fn title(route: &Route, bind: bool) -> String {
    use std::net::IpAddr;
    let to = match (route.peer, route.port) {
        (ip, None) if bind => format!("any port of {ip}"),
        (ip, None) => ip.to_string(),
        (IpAddr::V4(ip), Some(port)) => format!("{ip}:{port}"),
        (IpAddr::V6(ip), Some(port)) => format!("[{ip}]:{port}"),
    };
    if bind { format!("bind() of {to}") } else { to }
}

fn pressed(about: &str, pressure: &digest::Pressure, budget: &Budget) -> String {
    let usable = budget.range.saturating_sub(budget.reserved);
    let used = usable.saturating_sub(budget.free);
    let level = match &*pressure.level {
        "critical" => "critical",
        "warning" => "scarce",
        _ => "no longer scarce",
    };
    let mut text = format!("ports for {about} are {level}: {used} of {usable} not free");
    if let Some(rate) = pressure.open_rate {
        text += &format!("; {rate:.1} connections are opened per second");
    }
    if let Some(seconds) = pressure.exhausts_in_s {
        let when = match seconds {
            0.0..1.0 => "less than a second".to_owned(),
            _ => format!("{seconds:.0} s"),
        };
        text += &format!("; at this rate the last goes in {when}");
    }
    text
}
