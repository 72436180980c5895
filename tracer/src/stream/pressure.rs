//! Destinations that run out of ports, and what to do about it before they have.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Stream,
    case::{NOBODY, NOWHERE},
};
use crate::{
    diagnosis::{
        advice::advice,
        case::Trouble,
        forecast::{Forecast, Ports, forecast},
        pressure::{hold, used_percent},
    },
    event::Task,
    filter::Subject,
    input::Input,
    ledger::{Explained, Query, Way},
    pool::Settings,
    record::{self, Level, Outlook, tenths},
};

/// Settings may be so old for a look at a destination.
const RECENT: Duration = Duration::from_secs(1);

/// So many network namespaces are looked at again at each interval, in turn: each takes most of a millisecond, and a
/// host may have thousands. Those with a busy destination are looked at once a second anyway.
const REFRESHED: usize = 64;

impl Stream {
    /// To be called some times a second.
    pub fn watch(&mut self, now: u64) {
        self.tell_gathered(now);
        for way in self.pressure.tick(&self.ledger, now) {
            self.look_at(&way, now);
        }
        self.record(&Input::Watch(now));
    }

    fn look_at(&mut self, way: &Way, now: u64) {
        let Some(settings) = self.settings(way.netns, None, now, RECENT) else {
            return;
        };
        let query = Query {
            netns: way.netns,
            local_ip: way.local_ip,
            peer: Some(way.peer),
            settings: &settings,
            socket_range: None,
            now,
        };
        let budget = self.ledger.budget(&query);
        if let Some(levels) = self.pressure.looked(way, &budget, now) {
            self.tell_pressure(Some(way), &query, levels);
        }
    }

    /// Looks again at the settings of some of the network namespaces that have sockets, and forgets those without.
    pub(super) fn refresh(&mut self, namespaces: &BTreeSet<u32>, now: u64) {
        let after = namespaces.range(self.refreshed.saturating_add(1)..);
        for netns in after.chain(namespaces).take(REFRESHED) {
            self.known.entry(*netns).or_default();
            self.settings(*netns, None, now, RECENT);
            self.refreshed = *netns;
        }
        // Those without sockets, too, which may have had many.
        self.look_at_pools(now);
        let gone = self
            .known
            .extract_if(|netns, _| !namespaces.contains(netns));
        for (netns, _) in gone {
            self.ledger.forget_settings(netns);
        }
    }

    /// The ports that are closed to every destination, in each network namespace.
    fn look_at_pools(&mut self, now: u64) {
        let pools: BTreeSet<u32> = self.known.keys().copied().collect();
        for netns in pools {
            let Some(settings) = self.known.get(&netns).cloned().flatten() else {
                continue;
            };
            let bound = self.ledger.bound_ports(netns);
            let usable = self.ledger.usable_ports(netns).unwrap_or(0);
            if let Some(levels) = self.pressure.look_at_pool(netns, bound, usable) {
                let query = Query {
                    netns,
                    local_ip: NOBODY,
                    peer: Some(NOWHERE),
                    settings: &settings,
                    socket_range: None,
                    now,
                };
                self.tell_pressure(None, &query, levels);
            }
        }
    }

    fn tell_pressure(&mut self, way: Option<&Way>, query: &Query, levels: (Level, Level)) {
        let subject = || Subject::of_way(query.netns, way);
        if !self.lines.wants(record::Kind::Pressure, subject) {
            return;
        }
        self.follow_steps();
        let explained = self.ledger.explain(query);
        let rates = way.and_then(|way| self.pressure.rates(way));
        let outlook = way.map(|way| {
            let ports = ports(&explained, hold(way, query.settings));
            forecast(&ports, rates.as_ref())
        });
        let outlook = outlook.unwrap_or(Forecast::Unknown);
        let host = self.surroundings.host(query.netns, None, query.now);
        let trouble = match way {
            Some(_) => Trouble::NoPort,
            None => Trouble::NoPortToBind,
        };
        let case = self.case(trouble, query, &explained, host);
        let (before, level) = levels;
        let advice = match level {
            Level::Ok => Vec::new(),
            Level::Warning | Level::Critical => advice(&case),
        };
        let known = self.lines.know_holders(&explained.holders);
        let body = record::Pressure {
            netns: query.netns,
            local_ip: way.map(|way| way.local_ip),
            peer: way.map(|way| way.peer),
            level,
            before,
            used_percent: tenths(used_percent(&explained.budget)),
            budget: explained.budget.into(),
            open_rate: rates.as_ref().map(|rates| tenths(rates.opened)),
            close_rate: rates.as_ref().map(|rates| tenths(rates.closed())),
            net_rate: rates.as_ref().map(|rates| tenths(rates.net())),
            window_s: rates.as_ref().map(|rates| tenths(rates.window)),
            forecast: outlook_of(&outlook),
            exhausts_in_s: match outlook {
                Forecast::Exhausts { in_s } => Some(tenths(in_s)),
                _ => None,
            },
            steady_state: match outlook {
                Forecast::Never { steady_state } => Some(u64::from(steady_state)),
                _ => None,
            },
            holders: self.lines.holders(&explained.holders, &known),
            advice,
        };
        self.lines.pressure(&body, query.now);
    }

    /// The settings of a network namespace, not older than that. A change is told.
    pub(super) fn settings(
        &mut self,
        netns: u32,
        task: Option<&Task>,
        now: u64,
        max_age: Duration,
    ) -> Option<Settings> {
        let settings = self.surroundings.settings(netns, task, now, max_age)?;
        let before = self.known.get(&netns);
        if before.is_none_or(|known| known.as_ref() != Some(&settings)) {
            let before = before.cloned().flatten();
            self.ledger.set_settings(netns, &settings);
            self.lines.settings(netns, &settings, before.as_ref(), now);
            self.known.insert(netns, Some(settings.clone()));
        }
        Some(settings)
    }
}

fn ports<'a>(explained: &'a Explained, hold: f64) -> Ports<'a> {
    let budget = &explained.budget;
    Ports {
        free: budget.free,
        active: budget.in_use - budget.time_wait,
        time_wait: &explained.releases,
        hold,
    }
}

fn outlook_of(forecast: &Forecast) -> Outlook {
    match forecast {
        Forecast::Exhausted => Outlook::Exhausted,
        Forecast::Exhausts { .. } => Outlook::Exhausts,
        Forecast::Never { .. } => Outlook::Never,
        Forecast::Unknown => Outlook::Unknown,
    }
}
