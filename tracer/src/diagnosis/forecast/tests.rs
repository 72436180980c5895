use std::{cmp::Reverse, collections::BinaryHeap};

use super::{Counts, Forecast, Ports, Rates, TIME_WAIT_HOLD, Window, forecast};

const RANGE: u32 = 28_232;

fn short(rate: f64) -> Rates {
    Rates {
        opened: rate,
        to_time_wait: rate,
        window: 10.0,
        ..Rates::default()
    }
}

fn at(free: u32, active: u32, time_wait: &[u32], rates: &Rates) -> Forecast {
    let ports = Ports {
        free,
        active,
        time_wait,
        hold: TIME_WAIT_HOLD,
    };
    forecast(&ports, Some(rates))
}

fn in_s(forecast: Forecast) -> f64 {
    match forecast {
        Forecast::Exhausts { in_s } => in_s,
        other => panic!("{other:?}"),
    }
}

fn steady(forecast: Forecast) -> u32 {
    match forecast {
        Forecast::Never { steady_state } => steady_state,
        other => panic!("{other:?}"),
    }
}

#[test]
fn foretells_short_connections() {
    assert_eq!(at(0, 0, &[], &short(1.0)), Forecast::Exhausted);
    let from_empty = in_s(at(RANGE, 0, &[], &short(710.0)));
    assert!((from_empty - 39.8).abs() < 0.1, "{from_empty}");
    assert_eq!(steady(at(RANGE, 0, &[], &short(400.0))), 24_400);
    assert_eq!(steady(at(RANGE, 7, &[], &Rates::default())), 7);
}

/// 20,000 ports that come back soon make room; that come back late do not.
#[test]
fn counts_on_time_wait_that_ends() {
    let free = RANGE - 20_000;
    let mut soon = [0; 64];
    soon[3] = 20_000;
    let (there, late) = (in_s(at(free, 0, &soon, &short(500.0))), {
        let mut late = [0; 64];
        late[60] = 20_000;
        in_s(at(free, 0, &late, &short(500.0)))
    });
    assert!((there - 56.5).abs() < 0.1, "{there}");
    assert!((late - 16.5).abs() < 0.1, "{late}");
    assert_eq!(steady(at(free, 0, &soon, &short(400.0))), 24_400);
    // Of the steady state itself: as many come back as go.
    let even = [400; 61];
    assert_eq!(steady(at(RANGE - 24_400, 0, &even, &short(400.0))), 24_400);
}

#[test]
fn reusable_time_wait_holds_for_a_second() {
    let ports = Ports {
        free: RANGE,
        active: 0,
        time_wait: &[],
        hold: 1.0,
    };
    assert_eq!(steady(forecast(&ports, Some(&short(5_000.0)))), 5_000);
    assert!(in_s(forecast(&ports, Some(&short(40_000.0)))) < 1.0);
}

#[test]
fn tells_leaks_from_chance() {
    let rates = |opened, freed| Rates {
        opened,
        freed,
        window: 10.0,
        ..Rates::default()
    };
    let hours = in_s(at(RANGE, 0, &[], &rates(1.0, 0.0))) / 3600.0;
    assert!((hours - 7.84).abs() < 0.01, "{hours}");
    assert!(steady(at(RANGE, 50, &[], &rates(100.0, 99.0))) < 50 + 61);
    assert_eq!(steady(at(RANGE, 50, &[], &rates(0.0, 90.0))), 50);
    let years = Rates {
        window: 86_400.0,
        ..rates(0.001, 0.0)
    };
    steady(at(RANGE, 50, &[], &years));
}

#[test]
fn knows_nothing_before_a_second() {
    let ports = Ports {
        free: 1,
        active: 0,
        time_wait: &[],
        hold: TIME_WAIT_HOLD,
    };
    assert_eq!(forecast(&ports, None), Forecast::Unknown);
    let mut window = Window::default();
    assert_eq!(window.rates(), None);
    window.push(0, Counts::default());
    window.push(999_999_999, Counts::default());
    assert_eq!(window.rates(), None);
    window.push(1_000_000_000, Counts::default());
    assert_eq!(window.rates().unwrap().window, 1.0);
}

#[test]
fn keeps_few_samples_and_only_the_last_seconds() {
    let mut window = Window::default();
    for ms in 0..60_000 {
        let counts = Counts {
            opened: ms / 10,
            freed: ms / 20,
            ..Counts::default()
        };
        window.push(ms * 1_000_000, counts);
        assert!(window.samples.len() <= 64);
    }
    let rates = window.rates().unwrap();
    assert!((9.8..=10.0).contains(&rates.window), "{rates:?}");
    assert!((rates.opened - 100.0).abs() < 0.5 && (rates.net() - 50.0).abs() < 0.5);
}

/// Nothing for eight seconds, then 700 per second.
#[test]
fn sees_a_burst_that_has_begun() {
    let mut window = Window::default();
    for tenth in 0_u64..=100 {
        let opened = tenth.saturating_sub(80) * 70;
        let counts = Counts {
            opened,
            to_time_wait: opened,
            ..Counts::default()
        };
        window.push(tenth * 100_000_000, counts);
    }
    let rates = window.rates().unwrap();
    assert!(rates.opened > 500.0, "{rates:?}");
    in_s(at(RANGE - 1_400, 0, &[], &rates));
}

// Simulated clients: their forecasts against what then happens.

/// From Numerical Recipes.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        let next = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = next.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// How connections come and go.
#[derive(Clone, Copy)]
struct Life {
    name: &'static str,
    /// Per second, before and after `step`.
    rates: (f64, f64),
    step: f64,
    /// Poisson arrivals; else evenly spaced.
    random: bool,
    /// Seconds from opening to closing.
    lasts: f64,
    /// This share is never closed.
    leaks: f64,
    /// This share is closed by the peer: the port is free at once.
    freed: f64,
    /// TIME_WAIT is reusable after a second.
    reuses: bool,
}

const LIFE: Life = Life {
    name: "",
    rates: (0.0, 0.0),
    step: 0.0,
    random: true,
    lasts: 0.01,
    leaks: 0.0,
    freed: 0.0,
    reuses: false,
};

/// What a port does next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    ToTimeWait,
    Freed,
    TimeWaitEnds,
}

struct Simulation {
    life: Life,
    random: Random,
    window: Window,
    counts: Counts,
    active: u32,
    /// By nanosecond.
    next: BinaryHeap<Reverse<(u64, Next)>>,
    /// When each TIME_WAIT would end by what the tracer knows: its beginning, not the kernel's batches.
    expected: BinaryHeap<Reverse<u64>>,
    told: Vec<(f64, Forecast)>,
}

const SECOND: f64 = 1e9;

impl Simulation {
    fn new(life: Life, seed: u64) -> Self {
        Self {
            life,
            random: Random(seed),
            window: Window::default(),
            counts: Counts::default(),
            active: 0,
            next: BinaryHeap::new(),
            expected: BinaryHeap::new(),
            told: Vec::new(),
        }
    }

    fn hold(&self) -> f64 {
        if self.life.reuses {
            1.0
        } else {
            TIME_WAIT_HOLD
        }
    }

    fn time_wait(&self) -> u32 {
        self.expected.len() as u32
    }

    /// The end of TIME_WAIT by the kernel's timer wheel: batches, 60.1 to 62.1 s on.
    fn time_wait_ends(&self, now: u64) -> u64 {
        if self.life.reuses {
            return now + 1_000_000_000;
        }
        (now + 60_100_000_000).next_multiple_of(2_048_000_000)
    }

    fn settle(&mut self, until: u64) {
        while let Some(Reverse((at, what))) = self.next.peek().copied()
            && at <= until
        {
            self.next.pop();
            match what {
                Next::ToTimeWait => {
                    self.counts.to_time_wait += 1;
                    self.active -= 1;
                    let end = self.time_wait_ends(at);
                    let hold = self.hold();
                    self.expected.push(Reverse(at + (hold * SECOND) as u64));
                    self.next.push(Reverse((end, Next::TimeWaitEnds)));
                }
                Next::Freed => {
                    self.counts.freed += 1;
                    self.active -= 1;
                }
                Next::TimeWaitEnds => {
                    self.counts.time_wait_ended += 1;
                    self.expected.pop();
                }
            }
        }
    }

    fn open(&mut self, now: u64) {
        self.counts.opened += 1;
        self.active += 1;
        let kind = self.random.unit();
        let end = now + (self.life.lasts * SECOND) as u64;
        if kind < self.life.leaks {
            return;
        }
        let freed = kind < self.life.leaks + self.life.freed;
        let next = if freed { Next::Freed } else { Next::ToTimeWait };
        self.next.push(Reverse((end, next)));
    }

    fn histogram(&self, now: u64) -> [u32; 64] {
        let mut left = [0; 64];
        for Reverse(end) in &self.expected {
            let second = end.saturating_sub(now) / 1_000_000_000;
            left[(second as usize).min(63)] += 1;
        }
        left
    }

    fn tell(&mut self, now: u64) {
        self.window.push(now, self.counts);
        let time_wait = self.histogram(now);
        let ports = Ports {
            free: RANGE - self.active - self.time_wait(),
            active: self.active,
            time_wait: &time_wait,
            hold: self.hold(),
        };
        let forecast = forecast(&ports, self.window.rates().as_ref());
        self.told.push((now as f64 / SECOND, forecast));
    }

    fn gap(&mut self, now: f64) -> f64 {
        let rate = if now < self.life.step {
            self.life.rates.0
        } else {
            self.life.rates.1
        };
        if self.life.random {
            -(1.0 - self.random.unit()).ln() / rate
        } else {
            1.0 / rate
        }
    }

    /// When the first connect fails; `None`: not in time.
    fn run(&mut self, until: f64) -> Option<f64> {
        let (mut now, mut tick) = (0.0, 0_u64);
        loop {
            now += self.gap(now);
            let at = (now * SECOND) as u64;
            while tick <= at {
                self.settle(tick);
                self.tell(tick);
                tick += 500_000_000;
            }
            self.settle(at);
            if self.active + self.time_wait() >= RANGE {
                return Some(now);
            }
            if now > until {
                return None;
            }
            self.open(at);
        }
    }
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len() - 1;
    sorted[(share * last as f64) as usize]
}

/// After `since`, when what changed last has been seen for a while.
fn errors(told: &[(f64, Forecast)], since: f64, failed: f64, name: &str) -> Vec<f64> {
    let mut errors = Vec::new();
    for (at, forecast) in told.iter().filter(|(at, _)| *at >= since) {
        match forecast {
            Forecast::Exhausts { in_s } => {
                let truth = failed - at;
                errors.push((in_s - truth).abs() / truth.max(1.0));
            }
            Forecast::Exhausted => {}
            other => assert!(
                failed - at > 60.0,
                "{name}: {other:?} at {at}, full at {failed}"
            ),
        }
    }
    errors.sort_by(f64::total_cmp);
    errors
}

#[test]
fn foretells_when_simulated_clients_fail() {
    let steady = |name, rate| Life {
        name,
        rates: (rate, rate),
        ..LIFE
    };
    let lives = [
        Life {
            random: false,
            ..steady("710/s, even", 710.0)
        },
        steady("710/s", 710.0),
        steady("2000/s", 2_000.0),
        steady("530/s", 530.0),
        Life {
            lasts: 3.0,
            ..steady("600/s, 3 s each", 600.0)
        },
        Life {
            freed: 0.4,
            ..steady("1000/s, 40 % closed by the peer", 1_000.0)
        },
        Life {
            leaks: 1.0,
            ..steady("300/s, all kept", 300.0)
        },
        Life {
            leaks: 0.25,
            ..steady("400/s, 25 % kept", 400.0)
        },
        Life {
            rates: (300.0, 700.0),
            step: 120.0,
            ..steady("300/s, then 700/s", 0.0)
        },
        Life {
            reuses: true,
            leaks: 0.1,
            ..steady("2000/s, reusable, 10 % kept", 2_000.0)
        },
    ];
    let mut all = Vec::new();
    for (life, seed) in lives
        .iter()
        .flat_map(|life| (1..=3).map(move |seed| (life, seed)))
    {
        let mut simulation = Simulation::new(*life, seed);
        let failed = simulation.run(2_000.0).unwrap();
        let errors = errors(&simulation.told, life.step + 3.0, failed, life.name);
        println!(
            "{:32} full at {failed:6.1} s; {:4} forecasts; error median {:5.1} %, p90 {:5.1} %, worst {:5.1} %",
            life.name,
            errors.len(),
            100.0 * quantile(&errors, 0.5),
            100.0 * quantile(&errors, 0.9),
            100.0 * quantile(&errors, 1.0),
        );
        assert!(quantile(&errors, 0.5) < 0.1, "{}", life.name);
        all.extend(errors);
    }
    all.sort_by(f64::total_cmp);
    let [median, p90, p99] = [0.5, 0.9, 0.99].map(|share| 100.0 * quantile(&all, share));
    println!(
        "all: {} forecasts; error median {median:.1} %, p90 {p90:.1} %, p99 {p99:.1} %",
        all.len()
    );
}

#[test]
fn cries_no_wolf_at_simulated_clients_that_can_go_on() {
    let steady = |name, rate| Life {
        name,
        rates: (rate, rate),
        ..LIFE
    };
    let lives = [
        Life {
            random: false,
            ..steady("300/s, even", 300.0)
        },
        steady("40/s", 40.0),
        steady("300/s", 300.0),
        Life {
            lasts: 3.0,
            ..steady("250/s, 3 s each", 250.0)
        },
        Life {
            freed: 0.5,
            ..steady("600/s, half closed by the peer", 600.0)
        },
        Life {
            rates: (700.0, 200.0),
            step: 20.0,
            ..steady("700/s, then 200/s", 0.0)
        },
        Life {
            reuses: true,
            ..steady("5000/s, reusable", 5_000.0)
        },
    ];
    for (life, seed) in lives
        .iter()
        .flat_map(|life| (1..=3).map(move |seed| (life, seed)))
    {
        let mut simulation = Simulation::new(*life, seed);
        // Slow ones for long, as chance must not look like a slow leak either.
        let until = if life.rates.1 < 100.0 { 4_000.0 } else { 200.0 };
        assert_eq!(simulation.run(until), None, "{}", life.name);
        // What a client that has just begun will close can't be known before it closes.
        let since = life.step + life.lasts + 3.0;
        let told = simulation.told.iter().filter(|(at, _)| *at >= since);
        let wolves: Vec<_> = told
            .clone()
            .filter(|(_, forecast)| !matches!(forecast, Forecast::Never { .. }))
            .collect();
        println!(
            "{:32} {} of {} forecasts wrong",
            life.name,
            wolves.len(),
            told.count()
        );
        assert!(wolves.is_empty(), "{}: {wolves:?}", life.name);
    }
}

/// 3 of 100 connections per second are kept, which no ten seconds can tell from chance.
#[test]
fn tells_a_slow_leak_after_a_while() {
    let life = Life {
        name: "100/s, 3 % kept",
        rates: (100.0, 100.0),
        leaks: 0.03,
        freed: 0.5,
        ..LIFE
    };
    let mut simulation = Simulation::new(life, 1);
    let failed = simulation.run(20_000.0).unwrap();
    let later = simulation.told.iter().filter(|(at, _)| *at > 640.0);
    let missed = later
        .clone()
        .filter(|(_, forecast)| matches!(forecast, Forecast::Never { .. }))
        .count();
    let errors = errors(&simulation.told, 640.0, failed, life.name);
    println!(
        "{} full at {failed:.0} s; {missed} of {} forecasts missed it; error median {:.1} %, p90 {:.1} %",
        life.name,
        later.count(),
        100.0 * quantile(&errors, 0.5),
        100.0 * quantile(&errors, 0.9),
    );
    assert_eq!(missed, 0);
    assert!(quantile(&errors, 0.5) < 0.1);
}
