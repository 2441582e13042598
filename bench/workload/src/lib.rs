//! Product-analytics events as they look in life: few tenants and accounts make most of the traffic, users come
//! back, days have a noon and a night, and clients report a little late.

mod event;
mod random;

pub use event::{Event, copy_lines, json_array, write_time};
pub use random::{Random, Zipf, mix};

const MINUTE: i64 = 60_000_000;
const DAY: i64 = 1_440 * MINUTE;

/// How event ids are made: what a primary key costs depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// UUID version 4: the next key can be anywhere in an index.
    Random,
    /// UUID version 7: keys made later sort later.
    TimeOrdered,
}

/// Describes a workload. Two workloads with equal fields generate equal events.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Where every random number starts.
    pub seed: u64,
    /// How many events to generate; they spread evenly over `days`.
    pub events: usize,
    /// Number of tenants; tenant `t01` has about a third of the events when there are ten.
    pub tenants: usize,
    /// Accounts of each tenant.
    pub accounts: usize,
    /// Users of each account.
    pub users: usize,
    /// Events that a user sends in one session, on average; with 1, who sends an event says nothing of the next.
    pub per_session: usize,
    /// Start of the first day, in microseconds since 1970-01-01 UTC.
    pub start: i64,
    /// Length in days.
    pub days: u32,
    /// Form of the event ids.
    pub ids: Ids,
}

impl Default for Workload {
    /// 50,000 events of 10 tenants with 40 accounts of 300 users each, in 14 days from 2026-01-05.
    fn default() -> Self {
        Workload {
            seed: 1,
            events: 50_000,
            tenants: 10,
            accounts: 40,
            users: 300,
            per_session: 1,
            start: 1_767_571_200_000_000,
            days: 14,
            ids: Ids::Random,
        }
    }
}

/// Names with their weight in percent, and whether a `value` in milliseconds, an amount or nothing comes with them.
const NAMES: [(&str, u8, Value); 8] = [
    ("page.view", 48, Value::None),
    ("feature.search", 16, Value::Milliseconds),
    ("feature.export", 9, Value::Milliseconds),
    ("feature.report", 7, Value::Milliseconds),
    ("api.call", 14, Value::Milliseconds),
    ("session.start", 4, Value::None),
    ("invoice.paid", 1, Value::Amount),
    ("user.invited", 1, Value::None),
];

#[derive(Clone, Copy)]
enum Value {
    None,
    Milliseconds,
    Amount,
}

impl Workload {
    /// Generates the events in the order in which they arrive.
    pub fn generate(&self) -> impl Iterator<Item = Event> + use<> {
        let workload = self.clone();
        let mut random = Random::new(self.seed);
        let tenants = Zipf::new(self.tenants, 1.0);
        let accounts = Zipf::new(self.accounts, 1.1);
        let users = Zipf::new(self.users, 0.9);
        // Those who sit down stay for a quarter of an hour, so that so many sit there at a time.
        let per_session = self.per_session.max(1);
        let seats = (self.events / (self.days as usize * 96) / per_session).max(1);
        let mut seated: Vec<(usize, usize, usize)> = Vec::new();
        (0..self.events).map(move |position| {
            if per_session > 1 && seated.len() == seats && random.below(per_session) > 0 {
                let (tenant, account, user) = seated[random.below(seats)];
                return workload.event(&mut random, position, tenant, account, user);
            }
            let tenant = tenants.draw(&mut random);
            let account = accounts.draw(&mut random);
            let user = users.draw(&mut random);
            if per_session > 1 {
                if seated.len() < seats {
                    seated.push((tenant, account, user));
                } else {
                    seated[random.below(seats)] = (tenant, account, user);
                }
            }
            workload.event(&mut random, position, tenant, account, user)
        })
    }

    /// Generates the events and cuts them into batches of `size`; the last may be shorter.
    pub fn batches(&self, size: usize) -> impl Iterator<Item = Vec<Event>> + use<> {
        let mut events = self.generate();
        std::iter::from_fn(move || {
            let batch: Vec<Event> = events.by_ref().take(size).collect();
            (!batch.is_empty()).then_some(batch)
        })
    }

    fn event(
        &self,
        random: &mut Random,
        position: usize,
        tenant: usize,
        account: usize,
        user: usize,
    ) -> Event {
        let arrived = self.arrival(position);
        // A phone in a tunnel: one event in fifty is reported up to two hours late.
        let late = if random.below(50) == 0 {
            random.below(120) as i64 * MINUTE
        } else {
            random.below(3_000_000) as i64
        };
        let occurred_at = arrived - late;
        let (name, value) = pick_name(random);
        // Ids follow from their rank, so that the same account returns in every run with this many tenants.
        let account_hash = mix(mix(tenant as u64 + 1) ^ account as u64);
        let user_hash = mix(account_hash ^ mix(user as u64));
        let acted = random.below(20) > 0;
        let session = mix(user_hash ^ (occurred_at / (30 * MINUTE)) as u64);
        Event {
            tenant_id: format!("t{:02}", tenant + 1),
            account_id: format!("acct_{:08x}", account_hash as u32),
            name,
            occurred_at,
            event_id: self.event_id(random, arrived),
            user_id: acted.then(|| format!("u_{user_hash:016x}")),
            session_id: acted.then(|| format!("s_{session:016x}")),
            properties: properties(random, account_hash, value),
        }
    }

    /// Spreads positions over the days, dense at noon and thin at midnight (UTC).
    fn arrival(&self, position: usize) -> i64 {
        let days = position as f64 / self.events as f64 * f64::from(self.days);
        let (day, within) = (days.floor(), days.fract());
        // The slope of this curve is 1 + 0.8 cos: density is its inverse, nine times higher at noon.
        let warped = within + 0.8 * (std::f64::consts::TAU * within).sin() / std::f64::consts::TAU;
        self.start + ((day + warped) * DAY as f64) as i64
    }

    fn event_id(&self, random: &mut Random, arrived: i64) -> [u8; 16] {
        let mut id = (u128::from(random.bits()) << 64 | u128::from(random.bits())).to_be_bytes();
        let version = match self.ids {
            Ids::Random => 4,
            Ids::TimeOrdered => {
                id[..6].copy_from_slice(&(arrived / 1_000).to_be_bytes()[2..]);
                7
            }
        };
        id[6] = id[6] & 0x0f | version << 4;
        id[8] = id[8] & 0x3f | 0x80;
        id
    }
}

fn pick_name(random: &mut Random) -> (&'static str, Value) {
    let mut point = random.below(100) as u8;
    for (name, weight, value) in NAMES {
        if point < weight {
            return (name, value);
        }
        point -= weight;
    }
    unreachable!("the weights sum to 100")
}

fn properties(random: &mut Random, account_hash: u64, value: Value) -> String {
    let plan = ["free", "free", "team", "team", "business", "enterprise"][(account_hash >> 40) as usize % 6];
    let browser = ["chrome", "safari", "firefox", "edge"][random.below(4)];
    match value {
        Value::None => format!(r#"{{"plan":"{plan}","browser":"{browser}"}}"#),
        // Log-normal, median 80 ms: a long right tail, as latencies have.
        Value::Milliseconds => {
            let value = (80f64.ln() + 0.9 * random.normal()).exp();
            format!(r#"{{"plan":"{plan}","browser":"{browser}","value":{value:.3}}}"#)
        }
        Value::Amount => {
            let value = [19, 49, 99, 499][random.below(4)];
            format!(r#"{{"plan":"{plan}","currency":"EUR","value":{value}}}"#)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    #[test]
    fn equal_seeds_give_equal_events_and_others_do_not() {
        let workload = Workload { events: 500, ..Workload::default() };
        let events: Vec<Event> = workload.generate().collect();
        assert_eq!(events, workload.batches(70).flatten().collect::<Vec<_>>());
        let other = Workload { seed: 2, ..workload };
        assert_ne!(events, other.generate().collect::<Vec<_>>());
    }

    #[test]
    fn ids_are_unique_well_formed_and_ordered_if_asked() {
        for ids in [Ids::Random, Ids::TimeOrdered] {
            let workload = Workload { events: 20_000, ids, ..Workload::default() };
            let events: Vec<Event> = workload.generate().collect();
            let distinct: HashSet<_> = events.iter().map(|event| event.event_id).collect();
            assert_eq!(distinct.len(), events.len());
            let version = if ids == Ids::Random { 4 } else { 7 };
            assert!(
                events.iter().all(|event| event.event_id[6] >> 4 == version && event.event_id[8] >> 6 == 2)
            );
            let ordered = events.windows(2).all(|pair| pair[0].event_id[..6] <= pair[1].event_id[..6]);
            assert_eq!(ordered, ids == Ids::TimeOrdered);
        }
    }

    #[test]
    fn a_session_has_about_so_many_events() {
        for (per_session, least, most) in [(1, 1.0, 1.5), (10, 5.0, 15.0)] {
            let workload = Workload { per_session, events: 100_000, ..Workload::default() };
            let sessions: HashSet<_> = workload.generate().filter_map(|event| event.session_id).collect();
            let mean = 0.95 * workload.events as f64 / sessions.len() as f64;
            assert!((least..most).contains(&mean), "{mean} events a session");
        }
    }

    #[test]
    fn traffic_is_skewed_and_stays_in_its_days() {
        let workload = Workload::default();
        let mut tenants: HashMap<String, usize> = HashMap::new();
        let mut noon = 0;
        for event in workload.generate() {
            *tenants.entry(event.tenant_id).or_default() += 1;
            noon += usize::from((10..14).contains(&((event.occurred_at / MINUTE / 60).rem_euclid(24))));
            // Two hours late at most.
            assert!(event.occurred_at >= workload.start - 120 * MINUTE);
            assert!(event.occurred_at < workload.start + i64::from(workload.days) * DAY);
        }
        assert_eq!(tenants.len(), workload.tenants);
        assert!(tenants["t01"] > 3 * tenants["t05"], "{tenants:?}");
        // A flat day has a sixth of its events in four hours.
        assert!(noon > workload.events / 3, "{noon}");
    }
}
