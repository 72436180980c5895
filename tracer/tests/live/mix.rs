//! Random mixes of holders of ports, each in a network namespace of its own, and their exhaustion.
//!
//! How many connects succeed, the kernel says; whose a port can be, the steps that took it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    actor::{Actor, End, Fill, Op, Source, Step},
    dump,
    lines::{Budget, ConnectFailed, Holder, PATIENCE},
    netns::Netns,
    random::Random,
    scene::{V4, V6},
};

const PORT: u16 = 5774;
const OTHER_PORT: u16 = 5775;
/// First of the ports of clients that are to take none of the range.
const OUTSIDE: u16 = 30_000;
/// An address of the loopback interface that is not a loopback address: `tcp_tw_reuse=2` is not about it.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 1);
/// More connects than any range has ports.
const MOST: usize = 64;
/// The processes of the steps. One ends at once.
const LIVING: &str = "living";
const GONE: &str = "gone";

/// A failure is looked at so soon after it happened.
const LATELY: Duration = Duration::from_millis(300);

/// Older than any age that a TIME_WAIT must have to be reused, and a bit older than the least.
const AGES: [Duration; 2] = [Duration::from_millis(1000), Duration::from_millis(1200)];
/// The clock of the kernel and ours are not read at once.
const CLOSE: Duration = Duration::from_millis(150);

/// What is to be done in a namespace.
#[derive(Clone, Debug)]
struct Plan {
    low: u16,
    high: u16,
    reserved: BTreeSet<u16>,
    tw_reuse: u8,
    /// Milliseconds, where the kernel has this setting.
    delay: u32,
    timestamps: bool,
    local: IpAddr,
    /// As the program says it: perhaps IPv4-mapped.
    to: SocketAddr,
    /// First some connects with IP_LOCAL_PORT_RANGE.
    narrow: Option<(u16, u16)>,
    /// By age, the oldest first: of the process that lives on, and of the one that ends.
    steps: [[Vec<Step>; 2]; 3],
}

impl Plan {
    fn new(random: &mut Random) -> Self {
        let low = 22_000 + small(random, 100);
        let high = low + 3 + small(random, 31);
        let mut plan = Self {
            low,
            high,
            reserved: BTreeSet::new(),
            tw_reuse: small(random, 3) as u8,
            delay: *random.pick(&[1000, 1000, 1, 2500, 60_000]),
            timestamps: !random.one_in(6),
            local: V4,
            to: SocketAddr::new(V4, PORT),
            narrow: None,
            steps: Default::default(),
        };
        plan.choose_destination(random);
        for _ in 0..random.below(5) {
            plan.reserved.insert(plan.any_port(random));
        }
        if random.one_in(4) {
            let (one, other) = (plan.any_port(random), plan.any_port(random));
            plan.narrow = Some((one.min(other), one.max(other)));
        }
        plan.choose_steps(random);
        plan
    }

    fn choose_destination(&mut self, random: &mut Random) {
        match random.below(8) {
            0 => (self.local, self.to) = (V6, SocketAddr::new(V6, PORT)),
            1 => self.to.set_ip(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into()),
            2 => {
                self.local = ELSEWHERE.into();
                self.to.set_ip(self.local);
            }
            _ => {}
        }
    }

    fn any_port(&self, random: &mut Random) -> u16 {
        self.low + small(random, usize::from(self.high - self.low) + 1)
    }

    fn choose_steps(&mut self, random: &mut Random) {
        let all = usize::from(self.high - self.low) + 3;
        for number in 0..random.below(all) {
            let at = random.below(3);
            let who = usize::from(random.one_in(3));
            let earlier = self.steps[at][who].len();
            let step = self.choose_step(random, number, earlier);
            self.steps[at][who].push(step);
        }
    }

    fn choose_step(&self, random: &mut Random, number: usize, earlier: usize) -> Step {
        match random.below(16) {
            0 | 1 => Step::Bind {
                at: SocketAddr::new(any_address(random), self.any_port(random)),
                reuse: random.one_in(2),
            },
            2 => Step::Listen {
                at: SocketAddr::new(any_address(random), self.any_port(random)),
                only_v6: random.one_in(2),
            },
            3 => Step::Accept {
                at: SocketAddr::new(any_listener(random), self.any_port(random)),
                from: OUTSIDE + small(random, 20_000) / 40 * 40 + number as u16,
                listener_stays: random.one_in(2),
                end: *random.pick(&[End::Open, End::TimeWait]),
            },
            4 if earlier > 0 => Step::BindOver {
                step: random.below(earlier),
                stays: random.one_in(2),
            },
            _ => self.choose_connect(random),
        }
    }

    /// Most to the same destination.
    fn choose_connect(&self, random: &mut Random) -> Step {
        let mut to = self.to;
        match random.below(8) {
            0 => to.set_port(OTHER_PORT),
            1 => to.set_ip(Ipv4Addr::new(127, 0, 0, 2).into()),
            2 => to.set_ip(V6),
            3 if to.is_ipv4() => to.set_ip(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into()),
            _ => {}
        }
        let local = if to.ip() == self.to.ip() {
            match (self.local, to.is_ipv6()) {
                (IpAddr::V4(ip), true) => ip.to_ipv6_mapped().into(),
                (ip, _) => ip,
            }
        } else {
            to.ip()
        };
        let from = match random.below(8) {
            0 => Source::Bound {
                at: SocketAddr::new(local, 0),
                reuse: random.one_in(2),
            },
            1 => Source::Bound {
                at: SocketAddr::new(local, self.any_port(random)),
                reuse: true,
            },
            2 => Source::Late { ip: local },
            3 if to.is_ipv4() && self.local == V4 => Source::Late {
                ip: Ipv4Addr::new(127, 0, 0, 5).into(),
            },
            _ => Source::Auto,
        };
        let ends = [
            End::Open,
            End::TimeWait,
            End::TimeWait,
            End::Orphan,
            End::CloseWait,
        ];
        let end = *random.pick(&ends);
        Step::Connect { from, to, end }
    }

    fn set_out(&self, netns: &Netns) -> Result<()> {
        netns.add_address(ELSEWHERE)?;
        let range = format!("{} {}", self.low, self.high);
        netns.sysctl("ipv4/ip_local_port_range", &range)?;
        let reserved: Vec<_> = self.reserved.iter().map(u16::to_string).collect();
        netns.sysctl("ipv4/ip_local_reserved_ports", &reserved.join(","))?;
        netns.sysctl("ipv4/tcp_tw_reuse", &self.tw_reuse.to_string())?;
        netns.sysctl(
            "ipv4/tcp_timestamps",
            &u8::from(self.timestamps).to_string(),
        )?;
        // Newer kernels only.
        let _ = netns.sysctl("ipv4/tcp_tw_reuse_delay", &self.delay.to_string());
        Ok(())
    }
}

fn small(random: &mut Random, end: usize) -> u16 {
    u16::try_from(random.below(end)).unwrap_or_default()
}

fn any_address(random: &mut Random) -> IpAddr {
    *random.pick(&[
        V4,
        Ipv4Addr::new(127, 0, 0, 77).into(),
        Ipv4Addr::UNSPECIFIED.into(),
        V6,
        Ipv6Addr::UNSPECIFIED.into(),
    ])
}

fn any_listener(random: &mut Random) -> IpAddr {
    *random.pick(&[V4, V6, Ipv6Addr::UNSPECIFIED.into()])
}

/// What the kernel was asked for: how many connects succeeded, and with what the next one failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filled {
    pub connected: usize,
    pub error: i64,
    pub pid: u32,
}

/// A mix that stands, with those who made it.
pub(crate) struct Mix {
    plan: Plan,
    pub netns: Netns,
    /// The processes that had a socket with the port.
    owners: BTreeMap<u16, BTreeSet<u32>>,
    gone: BTreeSet<u32>,
    /// When TIME_WAIT entries of each age were made.
    made: Vec<(Duration, Duration)>,
    /// How many steps with each outcome: name of the step, and whether it came about.
    pub kinds: BTreeMap<(&'static str, bool), usize>,
}

impl Mix {
    fn new(random: &mut Random) -> Result<Self> {
        let mix = Self {
            plan: Plan::new(random),
            netns: Netns::new()?,
            owners: BTreeMap::new(),
            gone: BTreeSet::new(),
            made: Vec::new(),
            kinds: BTreeMap::new(),
        };
        mix.plan.set_out(&mix.netns)?;
        Ok(mix)
    }

    /// In one word, for messages.
    pub(crate) fn in_words(&self) -> String {
        format!("{:?}", self.plan)
    }

    pub(crate) fn destination(&self) -> SocketAddr {
        SocketAddr::new(self.plan.to.ip().to_canonical(), self.plan.to.port())
    }

    pub(crate) fn local(&self) -> IpAddr {
        self.plan.local
    }

    pub(crate) fn ports(&self) -> [u16; 2] {
        [self.plan.low, self.plan.high]
    }

    fn hold(&mut self, actor: &mut Actor, age: usize) -> Result<()> {
        let began = now();
        let ages = self.plan.steps[age].iter().flatten().any(leaves_time_wait);
        for (who, steps) in self.plan.steps[age].clone().into_iter().enumerate() {
            if !steps.is_empty() {
                let dies = (who == 1).then(|| GONE.to_owned());
                let kinds: Vec<_> = steps.iter().map(kind).collect();
                let answer = actor.all(&Op::Hold { steps, dies })?;
                self.learn(&answer, &kinds, actor.pid)?;
            }
        }
        if ages {
            self.made.push((began, now()));
        }
        Ok(())
    }

    fn learn(&mut self, answer: &[i64], kinds: &[&'static str], living: u32) -> Result<()> {
        let (pid, ports) = answer.split_first().context("no answer")?;
        let pid = u32::try_from(*pid).with_context(|| format!("the steps failed: {answer:?}"))?;
        ensure!(ports.len() == kinds.len(), "{answer:?} for {kinds:?}");
        if pid != living {
            self.gone.insert(pid);
        }
        for (port, kind) in ports.iter().zip(kinds) {
            *self.kinds.entry((kind, *port >= 0)).or_default() += 1;
            if let Ok(port) = u16::try_from(*port) {
                self.owners.entry(port).or_default().insert(pid);
            }
        }
        Ok(())
    }

    fn fill(&mut self, actor: &mut Actor, range: Option<(u16, u16)>) -> Result<Filled> {
        enter(actor, &self.netns)?;
        let to = self.plan.to;
        let fill = Fill {
            v6: to.is_ipv6(),
            to,
            range,
            most: MOST,
        };
        let answer = actor.all(&Op::Fill(fill))?;
        let (error, ports) = answer.split_first().context("no answer")?;
        for port in ports {
            let owners = self.owners.entry(u16::try_from(*port)?).or_default();
            owners.insert(actor.pid);
        }
        Ok(Filled {
            connected: ports.len(),
            error: *error,
            pid: actor.pid,
        })
    }

    /// Waits until no connection is on its way to another state.
    fn settle(&self) -> Result<()> {
        let passing = ["FIN_WAIT1", "LAST_ACK", "CLOSING", "SYN_SENT", "SYN_RECV"];
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rows = dump::dump(&self.netns)?;
            let row = rows.iter().find(|row| passing.contains(&row.state));
            let Some(row) = row else { return Ok(()) };
            ensure!(Instant::now() < deadline, "still {row:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether a TIME_WAIT may have become reusable between these times, or about then.
    pub(crate) fn may_have_aged(&self, from: Duration, to: Duration) -> bool {
        let plan = &self.plan;
        if plan.tw_reuse == 0 || !plan.timestamps {
            return false;
        }
        let (from, to) = (from.saturating_sub(CLOSE), to + CLOSE);
        let delays = self.netns.has_sysctl("ipv4/tcp_tw_reuse_delay");
        self.made.iter().any(|(first, last)| {
            if delays {
                let delay = Duration::from_millis(plan.delay.into());
                *first + delay <= to && from <= *last + delay
            } else {
                // From the next whole second on.
                first.as_secs() < to.as_secs() && from.as_secs() <= last.as_secs()
            }
        })
    }

    /// Waits until nothing will come of age for so long, if that is soon.
    pub(crate) fn wait_for_calm(&self, calm: Duration) {
        for _ in 0..30 {
            let now = now();
            if !self.may_have_aged(now, now + calm) {
                return;
            }
            thread::sleep(CLOSE / 4);
        }
    }

    /// What is wrong with the explanation of a failure that found no free port, shortly before `at`.
    pub(crate) fn judge(
        &self,
        failed: &ConnectFailed,
        range: Option<(u16, u16)>,
        at: Duration,
    ) -> Result<()> {
        let (low, high) = range.unwrap_or((self.plan.low, self.plan.high));
        let why = &failed.why;
        let budget = why.budget.as_ref().context("no budget")?;
        ensure!(
            failed.reason == "ports_exhausted" && failed.local.ip == self.plan.local.to_string(),
            "not as it failed: {failed:?}"
        );
        ensure!(
            failed.socket_range == range.map(|(low, high)| [low, high]),
            "socket_range {:?}",
            failed.socket_range
        );
        ensure!(
            budget.adds_up() && budget.ports == [low, high],
            "does not add up: {budget:?}"
        );
        // The kernel reckons ages by clocks that lag by a tick.
        let aged = self.may_have_aged(at.saturating_sub(LATELY), at);
        let came_of_age = if aged { budget.reusable } else { 0 };
        ensure!(
            budget.free <= came_of_age + u32::from(budget.uncertain),
            "it failed with {budget:?}"
        );
        let reserved = self.plan.reserved.range(low..=high).count();
        ensure!(
            budget.reserved == u32::try_from(reserved)?,
            "{reserved} are reserved: {budget:?}"
        );
        let holders = why.holders.as_ref().context("no holders")?;
        add_up(holders, budget)?;
        self.judge_holders(holders, budget, low..=high)
    }

    /// Each process has as many ports as it alone had sockets on, and not more than it had any on. One port may be
    /// nobody's: the kernel skips a program while the same one is running on that CPU, and who was not seen to take a
    /// port, and has ended since, can't be named.
    fn judge_holders(
        &self,
        holders: &[Holder],
        budget: &Budget,
        range: RangeInclusive<u16>,
    ) -> Result<()> {
        let ports = self.owners.range(range);
        let ports = ports.filter(|(port, _)| !self.plan.reserved.contains(port));
        let mut bounds = BTreeMap::<u32, (u32, u32)>::new();
        for owners in ports.map(|(_, owners)| owners) {
            for pid in owners {
                let (least, most) = bounds.entry(*pid).or_default();
                *least += u32::from(owners.len() == 1);
                *most += 1;
            }
        }
        let of = |pid| {
            let process = move |holder: &&Holder| {
                let process = holder.process.as_ref();
                process.is_some_and(|process| process.pid == pid)
            };
            holders.iter().filter(process).map(|holder| holder.ports)
        };
        let nameless = holders.iter().filter(|holder| holder.process.is_none());
        let nameless: u32 = nameless.map(|holder| holder.ports).sum();
        ensure!(nameless <= 1, "{nameless} ports are nobody's: {holders:?}");
        for (pid, (least, most)) in &bounds {
            let has: u32 = of(*pid).sum();
            let least = least.saturating_sub(budget.free + nameless);
            ensure!(
                of(*pid).count() <= 1 && (least..=*most).contains(&has),
                "{pid} has {has} ports instead of {least} to {most}: {holders:?}, {:?}",
                self.owners
            );
        }
        let named = holders.iter();
        for (holder, process) in named.filter_map(|holder| Some((holder, holder.process.as_ref()?)))
        {
            let gone = self.gone.contains(&process.pid);
            ensure!(
                bounds.contains_key(&process.pid)
                    && holder.exited == Some(gone)
                    && gone == (process.comm == GONE),
                "wrong name: {holder:?}"
            );
        }
        Ok(())
    }
}

/// The rows are in order and have all ports.
pub(crate) fn add_up(holders: &[Holder], budget: &Budget) -> Result<()> {
    let ports: u32 = holders.iter().map(|holder| holder.ports).sum();
    let each = |holder: &Holder| {
        let states: u32 = holder.states.values().sum();
        holder.ports == states + holder.bound && holder.exited.is_some() == holder.process.is_some()
    };
    let named = holders.iter().filter(|holder| holder.others.is_none());
    ensure!(
        ports == budget.taken()
            && holders.iter().all(each)
            && named
                .clone()
                .is_sorted_by(|one, next| one.ports >= next.ports)
            && named.count() <= 11,
        "the holders do not add up: {budget:?} {holders:?}"
    );
    Ok(())
}

/// It may: a process that ends closes all it has.
fn leaves_time_wait(step: &Step) -> bool {
    matches!(step, Step::Connect { .. } | Step::Accept { .. })
}

fn kind(step: &Step) -> &'static str {
    match step {
        Step::Bind { .. } => "bound",
        Step::Listen { .. } => "listening",
        Step::Accept { end: End::Open, .. } => "accepted",
        Step::Accept { .. } => "accepted TIME_WAIT",
        Step::BindOver { stays: true, .. } => "bound over",
        Step::BindOver { .. } => "bound over before",
        Step::Connect { from, end, .. } => match (from, end) {
            (Source::Bound { .. }, End::TimeWait) => "bound TIME_WAIT",
            (Source::Bound { .. }, _) => "bound connection",
            (Source::Late { .. }, _) => "of a chosen address",
            (Source::Auto, End::Open) => "connected",
            (Source::Auto, End::TimeWait) => "TIME_WAIT",
            (Source::Auto, End::Orphan) => "orphaned FIN_WAIT2",
            (Source::Auto, End::CloseWait) => "CLOSE_WAIT",
        },
    }
}

/// The clock by which the kernel counts seconds.
pub(crate) fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(
        now.tv_sec.unsigned_abs(),
        u32::try_from(now.tv_nsec).unwrap_or_default(),
    )
}

fn enter(actor: &mut Actor, netns: &Netns) -> Result<()> {
    let netns = netns.path();
    actor.run(&Op::Enter { netns }).map(drop)
}

/// Mixes that age together, and the processes that they share.
pub(crate) struct Batch {
    living: Actor,
    /// Its death would end the connections.
    _server: Actor,
    prober: Actor,
    narrow: Actor,
    mixes: Vec<Mix>,
}

impl Batch {
    pub(crate) fn new(random: &mut Random, size: usize) -> Result<Self> {
        let home = Netns::new()?;
        let actor = |comm| Actor::spawn(&home.path(), comm);
        let mut server = actor("server")?;
        let mut living = actor(LIVING)?;
        let mut mixes = Vec::new();
        for _ in 0..size {
            let mix = Mix::new(random)?;
            serve(&mut server, &mix.netns)?;
            mixes.push(mix);
        }
        for (age, wait) in AGES.into_iter().enumerate() {
            for mix in &mut mixes {
                enter(&mut living, &mix.netns)?;
                mix.hold(&mut living, age)?;
            }
            thread::sleep(wait);
        }
        Ok(Self {
            living,
            _server: server,
            prober: actor("prober")?,
            narrow: actor("narrow")?,
            mixes,
        })
    }

    /// Completes each mix, and has `probe` exhaust it.
    pub(crate) fn each(
        mut self,
        mut probe: impl FnMut(&mut Mix, &mut Probe<'_>) -> Result<()>,
    ) -> Result<Vec<Netns>> {
        let mut used = Vec::new();
        for mut mix in self.mixes {
            enter(&mut self.living, &mix.netns)?;
            mix.hold(&mut self.living, AGES.len())?;
            mix.settle()?;
            let mut with = Probe {
                prober: &mut self.prober,
                narrow: &mut self.narrow,
            };
            enter(with.prober, &mix.netns)?;
            probe(&mut mix, &mut with).with_context(|| mix.in_words())?;
            self.prober.run(&Op::LetGo)?;
            self.narrow.run(&Op::LetGo)?;
            used.push(mix.netns);
        }
        Ok(used)
    }
}

/// Those who look how many connects succeed.
pub(crate) struct Probe<'a> {
    prober: &'a mut Actor,
    narrow: &'a mut Actor,
}

impl Probe<'_> {
    /// It is in the namespace.
    pub(crate) fn pid(&self) -> u32 {
        self.prober.pid
    }

    /// With IP_LOCAL_PORT_RANGE, if the mix wants that and the kernel has it: until no connect succeeds.
    pub(crate) fn fill_narrow(&mut self, mix: &mut Mix) -> Result<Option<(Filled, (u16, u16))>> {
        let Some(range) = mix.plan.narrow else {
            return Ok(None);
        };
        let filled = mix.fill(self.narrow, Some(range))?;
        let has = filled.error != -i64::from(libc::ENOPROTOOPT);
        Ok(has.then_some((filled, range)))
    }

    /// Until no connect succeeds.
    pub(crate) fn fill(&mut self, mix: &mut Mix) -> Result<Filled> {
        mix.fill(self.prober, None)
    }
}

/// All that a mix connects to. Its ports are outside of every range.
fn serve(server: &mut Actor, netns: &Netns) -> Result<()> {
    enter(server, netns)?;
    for port in [PORT, OTHER_PORT] {
        let fd = server.bound(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))?;
        server.run(&Op::Listen { fd, backlog: 1024 })?;
        server.run(&Op::ServeAndKeep { fd })?;
    }
    Ok(())
}
