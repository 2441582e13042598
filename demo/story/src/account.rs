//! One account: its plan, its people, what they do day by day, and what it pays.

use crate::{DAY, MINUTE, event_id};
use tally_workload::{Event, Random, mix, write_time};

const FIRST: [&str; 16] = [
    "amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "harbor", "iris", "jade", "kelp", "lunar",
    "maple", "north", "ocean", "prairie",
];
const SECOND: [&str; 8] = ["analytics", "foods", "health", "labs", "media", "motors", "supply", "works"];

/// A plan: its name, how many people use it at most, what a seat costs in a month, the share of its accounts that pay in the end.
const PLANS: [(&str, usize, i64, f64); 3] =
    [("free", 4, 9, 0.15), ("team", 10, 12, 0.7), ("business", 24, 29, 0.85)];

/// Days after which a trial ends.
const TRIAL: i64 = 10;

pub struct Account {
    tenant: &'static str,
    name: String,
    plan: &'static str,
    seat_price: i64,
    signed_up: i64,
    /// When it first pays, if it ever does.
    pays_from: Option<i64>,
    /// The share of paying accounts that cancel in a month.
    churn: f64,
    left: Option<i64>,
    people: Vec<Person>,
}

struct Person {
    /// Place among the account's people.
    seat: usize,
    id: String,
    joined: i64,
    /// Whether its first day is that of a new user: not of one that another account brought.
    is_new: bool,
    /// Likeliness to come on a working day.
    habit: f64,
    /// Days after which it stops coming.
    stays: i64,
}

impl Account {
    /// The account that signs up as number `rank` of its tenant.
    pub fn new(random: &mut Random, tenant: &'static str, rank: usize, signed_up: i64, churn: f64) -> Self {
        let (plan, seats, seat_price, pays) = PLANS[[0, 1, 1, 2][random.below(4)]];
        let people = 2 + random.below(seats);
        let people = (0..people).map(|n| Person::new(random, tenant, rank, n, signed_up)).collect();
        let pays_from = (random.unit() < pays).then(|| signed_up + TRIAL * DAY);
        // Who never pays loses interest after the trial, unless the plan is for free.
        let left = (pays_from.is_none() && plan != "free")
            .then(|| signed_up + (TRIAL + random.below(10) as i64) * DAY);
        Self { tenant, name: name(tenant, rank), plan, seat_price, signed_up, pays_from, churn, left, people }
    }

    /// A large account that is there to the end and busy on every day, for what the story wants to show on one.
    pub fn steady(random: &mut Random, tenant: &'static str, rank: usize, signed_up: i64) -> Self {
        let mut account = Self::new(random, tenant, rank, signed_up, 0.0);
        (account.plan, _, account.seat_price, _) = PLANS[2];
        (account.pays_from, account.left) = (Some(signed_up + TRIAL * DAY), None);
        account.people = (0..16).map(|n| Person::new(random, tenant, rank, n, signed_up)).collect();
        account.people.iter_mut().for_each(|person| (person.habit, person.stays) = (0.9, crate::DAYS));
        account
    }

    /// All that happens in the account up to a time.
    pub fn live(&mut self, random: &mut Random, until: i64) -> Vec<Event> {
        let mut events = Vec::new();
        self.pay(random, until, &mut events);
        for person in &self.people {
            self.work(random, person, &mut events);
        }
        events.retain(|event| event.occurred_at <= until);
        events
    }

    /// Calls of a script that doesn't stop, slow ones, in the last two days.
    pub fn run_wild(&self, random: &mut Random, until: i64) -> Vec<Event> {
        let calls = (0..1_800).map(|_| {
            let at = until - random.below((2 * DAY) as usize) as i64;
            let value = Some(900.0 * (0.5 * random.normal()).exp());
            self.event(random, at, "api.call", None, None, value)
        });
        calls.collect()
    }

    /// Payments: when the trial ends, then on the first of each month, for the seats there are; until the account cancels.
    fn pay(&mut self, random: &mut Random, until: i64, events: &mut Vec<Event>) {
        let Some(from) = self.pays_from else { return };
        let mut day = from.div_euclid(DAY) * DAY;
        let mut price = self.seat_price;
        while day <= until {
            let is_first = day <= from;
            if is_first || is_first_of_month(day) {
                if !is_first && random.unit() < self.churn {
                    let at = day - DAY + 15 * 60 * MINUTE;
                    events.push(self.event(random, at, "subscription.cancelled", Some(0), None, None));
                    self.left = Some(day);
                    return;
                }
                // Now and then somebody finds the cheaper plan, or the better one.
                match random.below(16) {
                    0 if !is_first => price = price * 2 / 3,
                    1 if !is_first => price = price * 3 / 2,
                    _ => (),
                }
                let seats = self.people.iter().filter(|person| person.joined <= day + DAY).count() as i64;
                let at = if is_first { from } else { day + 30 * MINUTE + random.below(60) as i64 * MINUTE };
                let mut payment = self.event(random, at, "paid", Some(0), None, None);
                payment.properties =
                    format!(r#"{{"plan":"{}","amount":{},"currency":"EUR"}}"#, self.plan, price * seats);
                events.push(payment);
            }
            day += DAY;
        }
    }

    /// What one person does.
    fn work(&self, random: &mut Random, person: &Person, events: &mut Vec<Event>) {
        if person.is_new {
            self.begin(random, person, events);
        }
        let first = person.joined.div_euclid(DAY) + 1;
        for day in first..first + crate::DAYS {
            let start = day * DAY;
            if self.left.is_some_and(|left| start >= left) || day - first >= person.stays {
                return;
            }
            let novelty = 0.5 + 0.5 * (-((day - first) as f64) / 20.0).exp();
            let weekend = if (day + 3).rem_euclid(7) > 4 { 0.12 } else { 1.0 };
            if random.unit() >= person.habit * novelty * weekend {
                continue;
            }
            for _ in 0..1 + random.below(2) {
                // Office hours in Europe, and some of America's.
                let hour = (13.0 + 3.0 * random.normal()).clamp(5.0, 22.9);
                self.session(random, person, start + (hour * 60.0 * MINUTE as f64) as i64, events);
            }
        }
    }

    /// The first hour of a new user: three in four get as far as a project, and so on.
    fn begin(&self, random: &mut Random, person: &Person, events: &mut Vec<Event>) {
        let session = session_id(person, person.joined);
        let mut at = person.joined;
        let steps = [
            ("signed_up", 1.0),
            ("page.view", 0.95),
            ("project.created", 0.8),
            ("report.run", 0.75),
            ("report.shared", 0.6),
        ];
        for (step, share) in steps {
            if random.unit() >= share {
                return;
            }
            let value = duration(random, step);
            events.push(self.event(random, at, step, Some(person.seat), Some(&session), value));
            at += (1 + random.below(12) as i64) * MINUTE;
        }
    }

    /// A sitting of one person: three in ten look and leave.
    fn session(&self, random: &mut Random, person: &Person, start: i64, events: &mut Vec<Event>) {
        let session = session_id(person, start);
        let mut at = start;
        let mut name = "page.view";
        loop {
            let value = duration(random, name);
            events.push(self.event(random, at, name, Some(person.seat), Some(&session), value));
            if random.below(10) < if at == start { 3 } else { 2 } {
                return;
            }
            at += (10 + random.below(400) as i64) * MINUTE / 60;
            name = [
                "page.view",
                "page.view",
                "page.view",
                "report.run",
                "report.run",
                "report.shared",
                "api.call",
                "project.created",
            ][random.below(8)];
            // A feature that came in the middle of the story.
            if random.below(6) == 0 && at > self.signed_up + 20 * DAY {
                name = "report.exported";
            }
        }
    }

    fn event(
        &self,
        random: &mut Random,
        occurred_at: i64,
        name: &'static str,
        person: Option<usize>,
        session: Option<&str>,
        value: Option<f64>,
    ) -> Event {
        let browser = ["chrome", "chrome", "safari", "firefox", "edge"][random.below(5)];
        let value = value.map_or(String::new(), |value| format!(r#","value":{value:.1}"#));
        Event {
            tenant_id: self.tenant.to_owned(),
            account_id: self.name.clone(),
            name,
            occurred_at: occurred_at + random.below(1_000_000) as i64,
            event_id: event_id(random),
            user_id: person.map(|seat| self.people[seat].id.clone()),
            session_id: session.map(str::to_owned),
            properties: format!(r#"{{"plan":"{}","browser":"{browser}"{value}}}"#, self.plan),
        }
    }
}

impl Person {
    fn new(random: &mut Random, tenant: &str, rank: usize, seat: usize, signed_up: i64) -> Self {
        // The first is there at once, colleagues come over some weeks; one in twenty is known from an earlier account.
        let joined = if seat == 0 { 0 } else { (-25.0 * (1.0 - random.unit()).ln()) as i64 * DAY };
        let known = seat > 0 && rank > 0 && random.below(20) == 0;
        let (of_rank, of_seat) = if known { (random.below(rank), 0) } else { (rank, seat) };
        Self {
            seat,
            id: user_id(tenant, of_rank, of_seat),
            joined: signed_up + joined + seat as i64 * 7 * MINUTE,
            is_new: !known,
            habit: 0.2 + 0.7 * random.unit(),
            // A third are gone within a fortnight.
            stays: if random.below(3) == 0 {
                1 + random.below(14) as i64
            } else {
                40 + random.below(200) as i64
            },
        }
    }
}

fn name(tenant: &str, rank: usize) -> String {
    let shift = mix(tenant.len() as u64) as usize;
    let (first, second) =
        (FIRST[(rank + shift) % FIRST.len()], SECOND[(rank / FIRST.len() + rank + shift) % SECOND.len()]);
    format!("{first}-{second}")
}

fn user_id(tenant: &str, rank: usize, seat: usize) -> String {
    let tenant = tenant.bytes().fold(0, |hash, byte| mix(hash ^ u64::from(byte)));
    format!("u-{:08x}", mix(tenant ^ mix((rank as u64) << 16 | seat as u64)) as u32)
}

fn session_id(person: &Person, start: i64) -> String {
    let user = person.id.bytes().fold(0, |hash, byte| mix(hash ^ u64::from(byte)));
    format!("s-{:012x}", mix(user ^ start as u64) >> 16)
}

/// How long the server took, in milliseconds, where something is measured: a median of 80 with a long tail.
fn duration(random: &mut Random, name: &str) -> Option<f64> {
    let measured = matches!(name, "report.run" | "report.exported" | "api.call");
    measured.then(|| 80.0 * (0.7 * random.normal()).exp())
}

fn is_first_of_month(at: i64) -> bool {
    let mut text = String::new();
    write_time(&mut text, at);
    text[8..10] == *"01"
}
