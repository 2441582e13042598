//! Labelled months of who read what: actors of many kinds at their normal work, of whom some misbehave once. Also for the test with
//! a server.

#![allow(dead_code, reason = "each program that includes it uses a part")]

use std::ops::Range;
use tally_core::access::{Day, Peers};

/// What an actor does that isn't its work, and on which days.
#[derive(Clone, Debug)]
pub struct Attack {
    pub what: &'static str,
    pub from: i32,
    pub to: i32,
}

pub struct Actor {
    pub name: String,
    pub days: Vec<Day>,
    pub attack: Option<Attack>,
}

/// SplitMix64: the same numbers from the same seed everywhere.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, end: usize) -> usize {
        (self.unit() * end as f64) as usize
    }

    fn within(&mut self, range: Range<f64>) -> f64 {
        range.start + self.unit() * (range.end - range.start)
    }

    fn normal(&mut self) -> f64 {
        let (radius, turn) = (self.unit().max(1e-12), self.unit());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * turn).cos()
    }
}

/// How somebody works.
struct Habit {
    /// Median of the rows of a day, and the deviation of its logarithm.
    rows: f64,
    deviation: f64,
    /// Growth of the rows in a day.
    growth: f64,
    /// Times the rows on the last two days of a month.
    month_end: f64,
    /// Chance to be there on a working day and on a weekend.
    working: f64,
    weekend: f64,
    /// First hour and how many; how often somebody stays for some hours longer.
    begins: i32,
    lasts: i32,
    overtime: f64,
    /// Tenants: those that are looked at, how many a day, and how often there is one new customer.
    tenants: Vec<usize>,
    daily: usize,
    customers: f64,
    /// Entries and denials of a day.
    entries: usize,
    denials: f64,
}

fn habit(random: &mut Random) -> Habit {
    let some =
        |random: &mut Random, count: usize| -> Vec<usize> { (0..count).map(|_| random.below(400)).collect() };
    let office = Habit {
        rows: random.within(6.0..10.5).exp(),
        deviation: random.within(0.25..0.6),
        growth: 0.0,
        month_end: 1.0,
        working: 0.92,
        weekend: 0.06,
        begins: 7 + random.below(3) as i32,
        lasts: 8 + random.below(3) as i32,
        overtime: 0.08,
        tenants: {
            let count = 5 + random.below(25);
            some(random, count)
        },
        daily: 3 + random.below(5),
        customers: 0.05,
        entries: 10 + random.below(30),
        denials: 0.3,
    };
    match random.below(10) {
        // A tenant's dashboard, round the clock.
        0 | 1 => Habit {
            deviation: random.within(0.1..0.3),
            working: 1.0,
            weekend: 1.0,
            begins: 0,
            lasts: 24,
            overtime: 0.0,
            tenants: some(random, 1),
            daily: 1,
            customers: 0.0,
            entries: 60,
            denials: 0.05,
            ..office
        },
        // A job at night.
        2 => Habit {
            deviation: 0.05,
            working: 1.0,
            weekend: 1.0,
            begins: 2,
            lasts: 2,
            overtime: 0.0,
            tenants: (0..60).collect(),
            daily: 60,
            customers: 0.1,
            entries: 60,
            denials: 0.0,
            ..office
        },
        // Support: whoever calls.
        3 => Habit {
            tenants: (0..400).collect(),
            daily: 6 + random.below(10),
            weekend: 0.4,
            denials: 2.0,
            ..office
        },
        // Now and then.
        4 => Habit { working: 0.3, weekend: 0.02, deviation: random.within(0.4..0.8), ..office },
        // A team that grows.
        5 => Habit { growth: random.within(0.003..0.01), ..office },
        // Reports at the end of the month.
        6 => Habit { month_end: random.within(1.5..3.0), ..office },
        _ => office,
    }
}

fn ordinary(habit: &Habit, day: i32, random: &mut Random) -> Day {
    let mut rows = habit.rows * (habit.deviation * random.normal()).exp() * (1.0 + habit.growth).powi(day);
    if day % 30 >= 28 {
        rows *= habit.month_end;
    }
    let later = if random.unit() < habit.overtime { 1 + random.below(3) as i32 } else { 0 };
    let mut made = Day { day, rows: rows as u64, ..Day::default() };
    let entries = (habit.entries as f64 * random.within(0.6..1.4)) as usize;
    for _ in 0..entries.max(1) {
        let hour = habit.begins + (random.unit() * f64::from(habit.lasts + later)) as i32;
        made.hours[hour.rem_euclid(24) as usize] += 1;
    }
    for _ in 0..habit.daily {
        let tenant = habit.tenants[random.below(habit.tenants.len())];
        made.tenants.push(format!("t{tenant}"));
    }
    if random.unit() < habit.customers {
        made.tenants.push(format!("new{}", random.below(1_000_000)));
    }
    let mistakes = habit.denials * -random.unit().max(1e-9).ln();
    made.denials = mistakes as u64;
    made.tenants.sort();
    made.tenants.dedup();
    made
}

fn misbehave(habit: &Habit, attack: &Attack, made: &mut Day, random: &mut Random) {
    let hours = |made: &mut Day, at: i32, entries: u64| made.hours[at.rem_euclid(24) as usize] += entries;
    match attack.what {
        "tenants" => made.tenants.extend((0..15 + random.below(30)).map(|n| format!("far{n}"))),
        "rows" => made.rows += (habit.rows.max(2000.0) * 10.0 * random.within(1.0..2.0)) as u64,
        "night" => {
            let at = habit.begins + habit.lasts + 5 + random.below(3) as i32;
            hours(made, at, 8 + random.below(30) as u64);
        }
        "denials" => made.denials += 40 + random.below(300) as u64,
        // A little more each day, until it is many times what it was.
        "ramp" => {
            let daily = random.within(1.009..1.012);
            made.rows = (made.rows.max(800) as f64 * f64::powi(daily, made.day - attack.from)) as u64;
        }
        "everything" => {
            made.rows = (random.within(12.0..14.0).exp() * 5.0) as u64;
            made.tenants = (0..150 + random.below(100)).map(|n| format!("t{n}")).collect();
        }
        "seldom rows" => made.rows = (habit.rows.max(1000.0) * random.within(15.0..40.0)) as u64,
        "seldom tenants" => {
            let far = 40 + 2 * habit.daily + random.below(60);
            made.tenants.extend((0..far).map(|n| format!("far{n}")));
        }
        // Each day within what the actor has had before.
        "slow rows" => made.rows = (habit.rows.max(1000.0) * random.within(2.0..3.0)) as u64,
        _ => made.tenants.extend((0..1 + random.below(2)).map(|n| format!("slow{}x{n}", made.day))),
    }
}

/// So many actors, of whom half misbehave once, in so many days; a fifth of them without a long past, or raising what they read day by day.
pub fn actors(seed: u64, count: usize, days: i32) -> Vec<Actor> {
    let mut all = accustomed(seed, count - count / 5, days);
    all.extend(others(seed, count / 5, days));
    all
}

/// Ramps, new actors, and those that are there three days a month.
fn others(seed: u64, count: usize, days: i32) -> Vec<Actor> {
    let mut random = Random(seed.wrapping_mul(0x0FED_CBA9_8765_4321) ^ 7);
    (0..count)
        .map(|number| {
            let mut habit = habit(&mut random);
            habit.working = habit.working.max(0.8);
            habit.deviation = habit.deviation.min(0.6);
            let kinds = ["ramp", "everything", "seldom rows", "ramp", "everything", "seldom tenants"];
            // A ramp takes months, of which a short run has none.
            let what = match kinds[number / 2 % kinds.len()] {
                "ramp" if days < 120 => "everything",
                what => what,
            };
            let begins = match what {
                "ramp" => days - 260,
                "everything" => days - 25 + random.below(15) as i32,
                _ => 0,
            };
            let from = match what {
                "ramp" => days - 200,
                "everything" => begins + 1 + random.below(5) as i32,
                _ => 90,
            };
            let to = if what == "ramp" { days - 1 } else { from + 2 };
            // Who is not to be taken for it: a team that grows, a new colleague, a monthly report.
            let attack = (number % 2 == 1).then_some(Attack { what, from, to });
            habit.growth = if what == "ramp" && attack.is_none() { random.within(0.0..0.004) } else { 0.0 };
            let mut made = Vec::new();
            for day in begins..days {
                let is_attacked =
                    attack.as_ref().is_some_and(|attack| (attack.from..=attack.to).contains(&day));
                let is_weekend = day.rem_euclid(7) >= 5;
                let is_there = random.unit() < if is_weekend { habit.weekend } else { habit.working };
                let mut today = ordinary(&habit, day, &mut random);
                let is_due = if what.starts_with("seldom") { day % 30 < 3 } else { is_there };
                if !(is_due || is_attacked && what != "ramp") {
                    continue;
                }
                if let Some(attack) = attack.as_ref().filter(|_| is_attacked) {
                    misbehave(&habit, attack, &mut today, &mut random);
                }
                made.push(today);
            }
            Actor { name: format!("other_{seed}_{number}"), days: made, attack }
        })
        .collect()
}

/// What most colleagues with a past stay below on most days, as tally.find_access_alerts() reckons it.
pub fn peers(actors: &[Actor]) -> Option<Peers> {
    let at = |mut values: Vec<f64>, part: f64, most: usize| {
        values.sort_by(f64::total_cmp);
        values[((values.len() as f64 * part).ceil() as usize).clamp(1, most) - 1]
    };
    let known: Vec<&Actor> = actors.iter().filter(|actor| actor.days.len() >= 20).collect();
    let great_day = |actor: &Actor, number: fn(&Day) -> f64| {
        at(actor.days.iter().map(number).collect(), 0.95, actor.days.len())
    };
    let of = |number: fn(&Day) -> f64| {
        at(known.iter().map(|actor| great_day(actor, number)).collect(), 0.95, known.len().max(2) - 1)
    };
    (known.len() >= 5)
        .then(|| Peers { rows: of(|day| day.rows as f64), tenants: of(|day| day.tenants.len() as f64) })
}

/// So many with a past.
fn accustomed(seed: u64, count: usize, days: i32) -> Vec<Actor> {
    let mut random = Random(seed.wrapping_mul(0x0123_4567_89AB_CDEF));
    (0..count)
        .map(|number| {
            let habit = habit(&mut random);
            let holiday = random.below(days as usize) as i32;
            let from = days - 30 + random.below(12) as i32;
            let kinds = ["tenants", "rows", "night", "denials", "slow rows", "slow tenants"];
            let attack = (number % 2 == 1).then(|| {
                let what = kinds[number / 2 % kinds.len()];
                // Who is there day and night has no night; whose work it is to meet new tenants each day meets none too many.
                let what = match what {
                    "night" if habit.lasts > 12 => "rows",
                    "slow tenants" if habit.tenants.len() > 100 => "tenants",
                    "slow tenants" | "slow rows" if habit.working < 0.5 || habit.growth > 0.0 => "denials",
                    what => what,
                };
                let length = if what.starts_with("slow") { 16 } else { 0 };
                Attack { what, from, to: from + length }
            });
            let mut made = Vec::new();
            for day in 0..days {
                let is_attacked =
                    attack.as_ref().is_some_and(|attack| (attack.from..=attack.to).contains(&day));
                let is_weekend = day.rem_euclid(7) >= 5;
                let is_there = random.unit() < if is_weekend { habit.weekend } else { habit.working };
                let is_away = (holiday..holiday + 7).contains(&day) && habit.working < 1.0;
                let mut today = ordinary(&habit, day, &mut random);
                let starts = attack.as_ref().is_some_and(|attack| attack.from == day);
                if !(is_there && !is_away || starts || is_attacked && !is_weekend) {
                    continue;
                }
                if let Some(attack) = attack.as_ref().filter(|_| is_attacked) {
                    misbehave(&habit, attack, &mut today, &mut random);
                }
                made.push(today);
            }
            Actor { name: format!("actor_{seed}_{number}"), days: made, attack }
        })
        .collect()
}
