//! Who reads otherwise than they used to: an actor's days against that actor's own past.
//!
//! Each rule compares a day with days before it, by medians, greatest values and sums that a single odd day doesn't move, and asks
//! for enough of a past first. docs/decisions/catalog.md has the reasons for the numbers.

use std::collections::{BTreeMap, HashMap, HashSet};

/// Days with activity that an actor must have had before it is judged.
const PAST_DAYS: usize = 10;
/// Calendar days that are looked back.
const LOOK_BACK: i32 = 90;
/// Days of the week that are compared with one another need so many of them, else all days are.
const ALIKE_DAYS: usize = 6;
/// Standard deviations, of the logarithm of rows, above the median; and what a deviation is taken to be at least.
const VOLUME_DEVIATIONS: f64 = 4.0;
const LEAST_DEVIATION: f64 = 0.3;
/// Times the greatest day of the past.
const VOLUME_TIMES: f64 = 2.5;
/// Rows that nobody is alarmed about.
const FEW_ROWS: f64 = 1000.0;
/// Entries in hours in which, or near which, the actor was never seen.
const STRANGE_ENTRIES: u64 = 6;
const STRANGE_PART: f64 = 0.15;
const NEAR_HOURS: i32 = 2;
/// Tenants that the actor had never touched, in a day; and their part of all that it touched.
const NEW_TENANTS: usize = 4;
const NEW_PART: f64 = 0.15;
/// Days of the past that tell how many new tenants are usual.
const KNOWN_DAYS: usize = 30;
/// Denials of a day.
const DENIALS: u64 = 15;
/// Slow changes: the days that are summed, those before them that they are compared with, the part of a deviation that a day may
/// exceed the median without counting, and the sum of what exceeds it.
const SLOW_DAYS: i32 = 14;
const SLOW_PAST: usize = 20;
const SLOW_ALLOWANCE: f64 = 0.75;
const SLOW_SUM: f64 = 8.0;
const SLOW_TIMES: f64 = 1.7;
/// A day counts so many deviations at most: one wild day is no slow change.
const SLOW_DAY: f64 = 2.5;
/// New tenants in `SLOW_DAYS`.
const SLOW_TENANTS: usize = 8;
/// A ramp: the last working days against those of so many days ago and more, by their medians, and what must lie between. Teams that grow by half in a
/// quarter stay below.
const RAMP_RECENT: usize = 14;
const RAMP_APART: i32 = 120;
const RAMP_BEFORE: usize = 30;
const RAMP_TIMES: f64 = 4.0;
const RAMP_BETWEEN: f64 = 1.5;
const RAMP_DEVIATIONS: f64 = 2.0;
/// An actor without a past of its own: times what colleagues do on a great day, in rows and tenants.
const STRANGER_TIMES: f64 = 3.0;
const STRANGER_TENANTS: f64 = 10.0;
/// One that has been there on a few days only, in whatever time: so many of them, and times its greatest.
const SELDOM_DAYS: usize = 2;
const SELDOM_TIMES: f64 = 5.0;
const SELDOM_TENANTS: usize = 8;

/// What an actor did in a day, in UTC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Day {
    /// Days since any fixed Monday.
    pub day: i32,
    /// Rows that its statements returned.
    pub rows: u64,
    pub denials: u64,
    /// Entries in each hour.
    pub hours: [u64; 24],
    pub tenants: Vec<String>,
}

/// In what a day differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Far more rows than ever.
    Volume,
    /// At hours at which it never works.
    Hours,
    /// Many tenants that it had never touched.
    Tenants,
    /// Many attempts that were denied.
    Denials,
    /// Somewhat more, day after day: rows, or tenants one by one.
    Slow,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Volume => "volume",
            Kind::Hours => "hours",
            Kind::Tenants => "tenants",
            Kind::Denials => "denials",
            Kind::Slow => "slow",
        }
    }
}

/// A day that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub day: i32,
    pub kind: Kind,
    /// What was seen, and what was usual: rows, entries, tenants or denials.
    pub value: f64,
    pub usual: f64,
}

/// What colleagues with a past do on a great day, each day of most of them being below.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peers {
    pub rows: f64,
    pub tenants: f64,
}

/// Judges an actor's days from a day on. The days are in order, one a day, and have those before it.
pub fn judge(days: &[Day], from: i32, peers: Option<Peers>) -> Vec<Finding> {
    let mut found = Vec::new();
    let seen = first_seen(days);
    for (place, day) in days.iter().enumerate().filter(|(_, day)| day.day >= from) {
        let start = days.partition_point(|past| past.day < day.day - LOOK_BACK);
        let past = &days[start..place];
        let mut tell =
            |kind, (value, usual): (f64, f64)| found.push(Finding { day: day.day, kind, value, usual });
        if let Some(told) = denials(day, past) {
            tell(Kind::Denials, told);
        }
        if past.len() < PAST_DAYS {
            let all = &days[..place];
            if let Some(told) = strange_volume(day, all, peers) {
                tell(Kind::Volume, told);
            }
            if let Some(told) = strange_tenants(day, all, &seen, peers) {
                tell(Kind::Tenants, told);
            }
            continue;
        }
        if let Some(told) = volume(day, past) {
            tell(Kind::Volume, told);
        }
        if let Some(told) = hours(day, past) {
            tell(Kind::Hours, told);
        }
        if let Some(told) = tenants(day, past, &seen) {
            tell(Kind::Tenants, told);
        }
        let slow = slow_rows(day, past).or_else(|| slow_tenants(day, past, &seen));
        if let Some(told) = slow.or_else(|| ramp(day, &days[..place])) {
            tell(Kind::Slow, told);
        }
    }
    found
}

/// The day on which each tenant was first touched.
fn first_seen(days: &[Day]) -> HashMap<&str, i32> {
    let mut seen = HashMap::new();
    for day in days {
        for tenant in &day.tenants {
            seen.entry(tenant.as_str()).or_insert(day.day);
        }
    }
    seen
}

fn is_weekend(day: i32) -> bool {
    day.rem_euclid(7) >= 5
}

fn logarithm(rows: u64) -> f64 {
    (rows as f64).ln_1p()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// Median and deviation of the logarithm of rows, on days of which some are read on.
fn spread(past: &[&Day]) -> (f64, f64) {
    let mut values: Vec<f64> = past.iter().map(|day| logarithm(day.rows)).collect();
    let middle = median(&mut values);
    let mut distances: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
    // 1.4826 makes the median distance of a normal distribution its standard deviation.
    (middle, (1.4826 * median(&mut distances)).max(LEAST_DEVIATION))
}

/// Working days are compared with working days, where there are enough.
fn alike<'a>(past: &'a [Day], day: &Day) -> Vec<&'a Day> {
    let same: Vec<&Day> = past.iter().filter(|other| is_weekend(other.day) == is_weekend(day.day)).collect();
    if same.len() >= ALIKE_DAYS { same } else { past.iter().collect() }
}

fn volume(day: &Day, past: &[Day]) -> Option<(f64, f64)> {
    let (middle, deviation) = spread(&alike(past, day));
    let greatest = past.iter().map(|past| past.rows).max()? as f64;
    let rows = day.rows as f64;
    (rows >= FEW_ROWS
        && rows > VOLUME_TIMES * greatest
        && logarithm(day.rows) > middle + VOLUME_DEVIATIONS * deviation)
        .then(|| (rows, middle.exp_m1()))
}

fn hours(day: &Day, past: &[Day]) -> Option<(f64, f64)> {
    let mut usual = [false; 24];
    for (hour, _) in past.iter().flat_map(|day| day.hours.iter().enumerate().filter(|(_, count)| **count > 0))
    {
        for near in -NEAR_HOURS..=NEAR_HOURS {
            usual[(hour as i32 + near).rem_euclid(24) as usize] = true;
        }
    }
    let strange: u64 = day.hours.iter().zip(usual).filter(|(_, usual)| !usual).map(|(count, _)| count).sum();
    let part = strange as f64 / day.hours.iter().sum::<u64>().max(1) as f64;
    (strange >= STRANGE_ENTRIES && part >= STRANGE_PART).then_some((strange as f64, 0.0))
}

/// How many of a day's tenants had never been touched before it.
fn new_tenants(day: &Day, seen: &HashMap<&str, i32>) -> usize {
    let tenants: HashSet<&str> = day.tenants.iter().map(String::as_str).collect();
    tenants.into_iter().filter(|tenant| seen.get(tenant) == Some(&day.day)).count()
}

fn tenants(day: &Day, past: &[Day], seen: &HashMap<&str, i32>) -> Option<(f64, f64)> {
    let new = new_tenants(day, seen);
    // At the start everything is new; who has come to know everybody is judged by the last weeks.
    let known = (PAST_DAYS / 2).max(past.len().saturating_sub(KNOWN_DAYS));
    let usual = past.iter().skip(known).map(|past| new_tenants(past, seen)).max().unwrap_or(0);
    let part = new as f64 / day.tenants.len().max(1) as f64;
    (new >= NEW_TENANTS && new > 2 * usual && part >= NEW_PART).then_some((new as f64, usual as f64))
}

fn denials(day: &Day, past: &[Day]) -> Option<(f64, f64)> {
    let greatest = past.iter().map(|past| past.denials).max().unwrap_or(0);
    (day.denials >= DENIALS && day.denials > 3 * greatest).then_some((day.denials as f64, greatest as f64))
}

/// What the last days exceed the median by, summed up (Page's CUSUM), against the days before them.
fn slow_rows(day: &Day, past: &[Day]) -> Option<(f64, f64)> {
    let begin = past.partition_point(|past| past.day <= day.day - SLOW_DAYS);
    let (before, recent) = past.split_at(begin);
    if before.len() < SLOW_PAST {
        return None;
    }
    let mut sum: f64 = 0.0;
    let (mut rows, mut usual) = (0.0, 0.0);
    for day in recent.iter().chain([day]) {
        let (middle, deviation) = spread(&alike(before, day));
        let exceeds = ((logarithm(day.rows) - middle) / deviation).min(SLOW_DAY);
        sum = (sum + exceeds - SLOW_ALLOWANCE).max(0.0);
        rows += day.rows as f64;
        usual += middle.exp_m1();
    }
    (sum > SLOW_SUM && rows >= FEW_ROWS && rows > SLOW_TIMES * usual).then_some((rows, usual))
}

/// Tenants touched one by one: new ones of the last days, against as many days before.
fn slow_tenants(day: &Day, past: &[Day], seen: &HashMap<&str, i32>) -> Option<(f64, f64)> {
    let first = past.first()?.day;
    let mut new: BTreeMap<i32, usize> = BTreeMap::new();
    for past in past.iter().skip(1).chain([day]) {
        new.insert(past.day, new_tenants(past, seen));
    }
    let within = |end: i32| -> usize { new.range(end - SLOW_DAYS + 1..=end).map(|(_, count)| count).sum() };
    let recent = within(day.day);
    // Windows that end before the recent days, without those in which everything was new.
    let usual =
        ((first + 2 * SLOW_DAYS).max(day.day - 3 * SLOW_DAYS)..=day.day - SLOW_DAYS).map(within).max()?;
    (recent >= SLOW_TENANTS && 2 * recent > 3 * usual + 6).then_some((recent as f64, usual as f64))
}

/// Rows that rise so slowly that the last weeks are like those before: against the level of months ago.
fn ramp(day: &Day, all: &[Day]) -> Option<(f64, f64)> {
    if is_weekend(day.day) {
        return None;
    }
    let working = |from: i32, to: i32| -> Vec<&Day> {
        let (start, end) =
            (all.partition_point(|past| past.day < from), all.partition_point(|past| past.day <= to));
        all[start..end.max(start)].iter().filter(|past| !is_weekend(past.day)).collect()
    };
    let before = working(i32::MIN, day.day - RAMP_APART);
    let between = working(day.day - RAMP_APART + 1, day.day - RAMP_APART / 3);
    let mut recent = working(day.day - RAMP_APART / 3 + 1, day.day);
    recent.push(day);
    if before.len() < RAMP_BEFORE || between.len() < RAMP_RECENT || recent.len() < RAMP_RECENT {
        return None;
    }
    let (usual, deviation) = spread(&before);
    let (middle, _) = spread(&between);
    let (now, _) = spread(&recent[recent.len() - RAMP_RECENT..]);
    let (rows, usual_rows) = (now.exp_m1(), usual.exp_m1());
    (rows >= FEW_ROWS
        && rows > RAMP_TIMES * usual_rows
        && now > usual + RAMP_DEVIATIONS * deviation
        && middle.exp_m1() > RAMP_BETWEEN * usual_rows
        && now > middle)
        .then_some((rows, usual_rows))
}

/// Rows of an actor that is new, against its colleagues; of one that comes seldom, against its own days, however long ago.
fn strange_volume(day: &Day, all: &[Day], peers: Option<Peers>) -> Option<(f64, f64)> {
    let rows = day.rows as f64;
    let greatest = all.iter().map(|past| past.rows).max().unwrap_or(0) as f64;
    // Days on which no reads were recorded tell nothing.
    let told = all.iter().filter(|past| past.rows > 0).count();
    let is_seldom = told >= SELDOM_DAYS && rows > SELDOM_TIMES * greatest;
    let is_stranger = peers.is_some_and(|peers| rows > STRANGER_TIMES * peers.rows) && rows > greatest;
    (rows >= FEW_ROWS && (is_seldom || is_stranger))
        .then(|| (rows, greatest.max(peers.map_or(0.0, |peers| peers.rows))))
}

/// The same of tenants.
fn strange_tenants(
    day: &Day,
    all: &[Day],
    seen: &HashMap<&str, i32>,
    peers: Option<Peers>,
) -> Option<(f64, f64)> {
    let new = new_tenants(day, seen);
    let most = all.iter().map(|past| past.tenants.len()).max().unwrap_or(0);
    let is_seldom = all.len() >= SELDOM_DAYS && new >= SELDOM_TENANTS && new > 2 * most;
    let touched = day.tenants.len() as f64;
    let is_stranger = peers
        .is_some_and(|peers| touched > (STRANGER_TIMES * peers.tenants).max(STRANGER_TENANTS))
        && day.tenants.len() > most;
    (is_seldom || is_stranger)
        .then(|| (touched, peers.map_or(most as f64, |peers| peers.tenants.max(most as f64))))
}
