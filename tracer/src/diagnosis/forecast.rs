//! When a destination runs out of ports.
//!
//! An open connection holds one port. Closed by this side first, it goes on to hold it in TIME_WAIT for about a
//! minute; so a steady rate of short connections comes to rest at rate x 61 s, or fills the range before.

use std::collections::VecDeque;

/// How long TIME_WAIT holds a port, seconds: 60.1 to 62.1, as the kernel's timer wheel ends it in batches.
pub const TIME_WAIT_HOLD: f64 = 61.0;

/// Farther ahead nothing is foretold, seconds.
const HORIZON: f64 = 7.0 * 24.0 * 3600.0;
/// Over how long rates are measured, nanoseconds.
const SPAN: u64 = 10_000_000_000;
/// Rates over less say nothing, nanoseconds.
const LEAST: u64 = 1_000_000_000;
const SAMPLES: u64 = 64;
/// Less history than this tells no slow leak, nanoseconds.
const LEAST_HISTORY: u64 = 60_000_000_000;

/// What has happened to the ports of one destination until now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ports that were taken.
    pub opened: u64,
    /// Connections that went to TIME_WAIT, and so kept their port.
    pub to_time_wait: u64,
    /// Connections that gave their port back at once: closed by the peer first, aborted, refused.
    pub freed: u64,
    /// Ports that came back from TIME_WAIT.
    pub time_wait_ended: u64,
}

/// The same per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    pub opened: f64,
    pub to_time_wait: f64,
    pub freed: f64,
    pub time_wait_ended: f64,
    /// Seconds that they were measured over.
    pub window: f64,
    /// By how much open connections grew per second in the last ten minutes, if they did so all the time and
    /// beyond chance; else 0. It tells leaks that are too slow for `window`.
    pub slow_leak: f64,
}

impl Rates {
    /// Ports that came back.
    pub fn closed(&self) -> f64 {
        self.freed + self.time_wait_ended
    }

    /// By how much the ports in use grow.
    pub fn net(&self) -> f64 {
        self.opened - self.closed()
    }

    /// Connections that ended, whether or not their port came back.
    fn ended(&self) -> f64 {
        self.freed + self.to_time_wait
    }

    /// By how much the open connections grow, as far as chance alone does not explain it.
    fn leak(&self) -> f64 {
        let leak = self.growth();
        if leak.abs() > 3.0 * self.deviation() {
            leak
        } else {
            self.slow_leak
        }
    }

    fn growth(&self) -> f64 {
        self.opened - self.ended()
    }

    /// The standard deviation of `growth`, if counts are Poisson's. That of short connections is less.
    fn deviation(&self) -> f64 {
        ((self.opened + self.ended()) * self.window).sqrt() / self.window
    }

    /// Whether something changed from here to there, chance aside: three standard deviations.
    fn differs(&self, other: &Self) -> bool {
        let differ = |here: f64, there: f64| {
            let variance = here / self.window + there / other.window;
            (here - there).abs() > 3.0 * variance.sqrt()
        };
        differ(self.opened, other.opened) || differ(self.ended(), other.ended())
    }
}

/// Counts by time, nanoseconds.
type Samples = VecDeque<(u64, Counts)>;

/// Makes rates of the last ten seconds.
#[derive(Clone, Debug, Default)]
pub struct Window {
    samples: Samples,
    /// One for each span of that: the last ten minutes.
    history: Samples,
}

impl Window {
    /// `now`: `CLOCK_MONOTONIC`, nanoseconds. To be called at least every few seconds; oftener than some
    /// times a second is no use, but does no harm.
    pub fn push(&mut self, now: u64, counts: Counts) {
        forget(&mut self.samples, now, SPAN);
        // The latest is always kept; those before it keep their distance, or they would become too many.
        if let [.., before, last] = self.samples.make_contiguous()
            && last.0.saturating_sub(before.0) < SPAN / (SAMPLES - 2)
        {
            *last = (now, counts);
        } else {
            self.samples.push_back((now, counts));
        }
        let latest = self.history.back();
        if latest.is_none_or(|(ts, _)| now.saturating_sub(*ts) >= SPAN) {
            forget(&mut self.history, now, SPAN * (SAMPLES - 1));
            self.history.push_back((now, counts));
        }
    }

    /// Over as many of the last ten seconds as went on evenly, so that a burst that has just begun is not
    /// taken for a tenth of itself; `None`: less than one second is known.
    pub fn rates(&self) -> Option<Rates> {
        let now = self.samples.back()?.0;
        let mut since = self.samples.front()?.0;
        let mut rates = between(&self.samples, since, now)?;
        while let Some((earlier, later)) = halves(&self.samples, since, now)
            && earlier.differs(&later)
        {
            rates = later;
            since = middle(since, now);
        }
        rates.slow_leak = self.slow_leak().unwrap_or(0.0);
        Some(rates)
    }

    /// What grew only once, as a pool that was filled, is none.
    fn slow_leak(&self) -> Option<f64> {
        let (since, now) = (self.history.front()?.0, self.history.back()?.0);
        if now.saturating_sub(since) < LEAST_HISTORY {
            return None;
        }
        let (earlier, later) = halves(&self.history, since, now)?;
        let leaks = |half: &Rates| half.growth() > 2.0 * half.deviation();
        (leaks(&earlier) && leaks(&later)).then(|| later.growth())
    }
}

fn forget(samples: &mut Samples, now: u64, span: u64) {
    let too_old = |(ts, _): &(u64, Counts)| now.saturating_sub(*ts) > span;
    while samples.front().is_some_and(too_old) {
        samples.pop_front();
    }
}

fn middle(since: u64, until: u64) -> u64 {
    since + until.saturating_sub(since) / 2
}

fn halves(samples: &Samples, since: u64, until: u64) -> Option<(Rates, Rates)> {
    let middle = middle(since, until);
    let earlier = between(samples, since, middle)?;
    Some((earlier, between(samples, middle, until)?))
}

/// `None`: they are less than a second apart.
fn between(samples: &Samples, since: u64, until: u64) -> Option<Rates> {
    let at = |moment: u64| samples.iter().rev().find(|(ts, _)| *ts <= moment);
    let (since, first) = at(since)?;
    let (until, last) = at(until)?;
    let elapsed = until.saturating_sub(*since);
    if elapsed < LEAST {
        return None;
    }
    let window = elapsed as f64 / 1e9;
    let rate = |first: u64, last: u64| last.saturating_sub(first) as f64 / window;
    Some(Rates {
        opened: rate(first.opened, last.opened),
        to_time_wait: rate(first.to_time_wait, last.to_time_wait),
        freed: rate(first.freed, last.freed),
        time_wait_ended: rate(first.time_wait_ended, last.time_wait_ended),
        window,
        slow_leak: 0.0,
    })
}

/// The ports of one destination now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ports<'a> {
    pub free: u32,
    /// Held by connections that are not in TIME_WAIT.
    pub active: u32,
    /// Held by TIME_WAIT: how many by whole seconds until each comes free.
    pub time_wait: &'a [u32],
    /// How long TIME_WAIT holds a port: [`TIME_WAIT_HOLD`], or the time until it can be reused.
    pub hold: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Forecast {
    /// There is no port left.
    Exhausted,
    /// If connections go on as they do.
    Exhausts {
        /// Seconds from now.
        in_s: f64,
    },
    /// If connections go on as they do, this never happens, or not in the next seven days.
    Never {
        /// Ports in use once as many come back from TIME_WAIT as go there.
        steady_state: u32,
    },
    /// Rates are not known yet.
    Unknown,
}

/// What comes if connections are opened and closed as `rates` say.
pub fn forecast(ports: &Ports<'_>, rates: Option<&Rates>) -> Forecast {
    if ports.free == 0 {
        return Forecast::Exhausted;
    }
    let Some(rates) = rates else {
        return Forecast::Unknown;
    };
    let course = Course::new(ports, rates);
    match course.first_full() {
        Some(in_s) if in_s <= HORIZON => Forecast::Exhausts { in_s },
        _ => Forecast::Never {
            steady_state: course.steady_state(),
        },
    }
}

/// How the ports in use will change.
struct Course<'a> {
    ports: &'a Ports<'a>,
    /// Growth per second before anything comes back from TIME_WAIT.
    taken: f64,
    /// New TIME_WAIT per second.
    made: f64,
    /// Growth per second for good.
    leak: f64,
}

impl<'a> Course<'a> {
    fn new(ports: &'a Ports<'a>, rates: &Rates) -> Self {
        let leak = rates.leak();
        // But for the leak the two are one rate that was measured twice.
        let mean = f64::midpoint(rates.opened - rates.freed, rates.to_time_wait);
        let made = (mean - leak / 2.0).max(0.0);
        Self {
            ports,
            taken: made + leak,
            made,
            leak,
        }
    }

    /// By how much the ports in use will have grown.
    fn growth(&self, after: f64) -> f64 {
        let back = self.made * (after - self.ports.hold).max(0.0);
        self.taken * after - self.came_free(after) - back
    }

    /// How much of today's TIME_WAIT will have ended.
    fn came_free(&self, after: f64) -> f64 {
        let ended = |(second, count): (usize, &u32)| {
            f64::from(*count) * (after - second as f64).clamp(0.0, 1.0)
        };
        self.ports.time_wait.iter().enumerate().map(ended).sum()
    }

    /// When all ports are in use for the first time: growth is linear between whole seconds, the moment when
    /// new TIME_WAIT begins to come back, and the end of today's.
    fn first_full(&self) -> Option<f64> {
        let free = f64::from(self.ports.free);
        let hold = self.ports.hold;
        let last = (self.ports.time_wait.len() as f64).max(hold.ceil());
        let mut moments: Vec<f64> = (1..=last as u32).map(f64::from).collect();
        moments.push(hold);
        moments.sort_by(f64::total_cmp);
        let mut before = (0.0, 0.0);
        for moment in moments {
            let after = (moment, self.growth(moment));
            if after.1 >= free {
                return Some(crossing(before, after, free));
            }
            before = after;
        }
        (self.leak > 0.0).then(|| before.0 + (free - before.1) / self.leak)
    }

    /// Connections that are closed faster than opened will not be for long: `taken` bounds what TIME_WAIT
    /// gets.
    fn steady_state(&self) -> u32 {
        let time_wait = self.made.min(self.taken).max(0.0) * self.ports.hold;
        self.ports.active.saturating_add(time_wait.round() as u32)
    }
}

/// Where the line between two points reaches a height.
fn crossing(from: (f64, f64), to: (f64, f64), height: f64) -> f64 {
    let rise = to.1 - from.1;
    if rise <= 0.0 {
        return to.0;
    }
    from.0 + (to.0 - from.0) * ((height - from.1) / rise).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests;
