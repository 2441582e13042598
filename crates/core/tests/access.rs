//! Anomalies of access on labelled months of many actors, normal ones and ones that misbehave; more seeds than the test with a server
//! has. `TALLY_SEEDS` sets how many.

mod months;

use months::{Actor, actors, peers};
use std::collections::HashMap;
use tally_core::access::{Day, Finding, Kind, Peers, judge};

/// What was found, and what not.
#[derive(Default)]
struct Score {
    attacks: usize,
    found: usize,
    alarms: usize,
    days: usize,
}

/// One alarm a kind and week, as alerts are kept.
fn alarms(findings: &[Finding]) -> Vec<(Kind, i32)> {
    let mut last: HashMap<Kind, i32> = HashMap::new();
    let mut alarms = Vec::new();
    for finding in findings {
        if last.insert(finding.kind, finding.day).is_none_or(|last| finding.day > last + 7) {
            alarms.push((finding.kind, finding.day));
        }
    }
    alarms
}

fn score(
    actor: &Actor,
    peers: Option<Peers>,
    score: &mut Score,
    missed: &mut Vec<String>,
    wrong: &mut Vec<String>,
) {
    let findings = judge(&actor.days, i32::MIN, peers);
    score.days += actor.days.len();
    if let Some(attack) = &actor.attack {
        score.attacks += 1;
        let is_found = findings.iter().any(|found| (attack.from..=attack.to).contains(&found.day));
        score.found += usize::from(is_found);
        if !is_found {
            missed.push(format!("{}: {:?}", actor.name, attack));
        }
    }
    for (kind, day) in alarms(&findings) {
        // What a slow attack leaves in the days that are summed up is no false alarm.
        let is_right =
            actor.attack.as_ref().is_some_and(|attack| (attack.from..=attack.to + 14).contains(&day));
        if !is_right {
            score.alarms += 1;
            wrong.push(format!("{}: {} on day {day}", actor.name, kind.name()));
        }
    }
}

#[test]
fn labelled_months_are_told_apart() {
    let seeds = std::env::var("TALLY_SEEDS").map_or(3, |text| text.parse().expect("a number"));
    let mut all = Score::default();
    for seed in 1..=seeds {
        let mut this = Score::default();
        let (mut missed, mut wrong) = (Vec::new(), Vec::new());
        let actors = actors(seed, 150, 120);
        let peers = peers(&actors);
        for actor in &actors {
            score(actor, peers, &mut this, &mut missed, &mut wrong);
        }
        let recall = this.found as f64 / this.attacks as f64;
        let alarms = 1000.0 * this.alarms as f64 / this.days as f64;
        println!(
            "seed {seed}: {} attacks, recall {recall:.3}, {alarms:.3} false alarms in 1,000 actor-days",
            this.attacks
        );
        println!("missed {missed:#?} wrong {wrong:#?}");
        assert!(recall >= 0.95, "seed {seed}: {missed:#?}");
        assert!(alarms <= 1.0, "seed {seed}: {wrong:#?}");
        all.attacks += this.attacks;
        all.found += this.found;
        all.alarms += this.alarms;
        all.days += this.days;
    }
    println!(
        "{} attacks, {} found; {} false alarms in {} actor-days",
        all.attacks, all.found, all.alarms, all.days
    );
}

#[test]
fn days_without_recorded_reads_tell_nothing_of_rows() {
    let mut days: Vec<Day> = (0..4).map(|day| Day { day, ..Day::default() }).collect();
    days.push(Day { day: 4, rows: 50_000, ..Day::default() });
    assert_eq!(judge(&days, i32::MIN, None), [], "reads are recorded from today on");
    for day in &mut days[..4] {
        day.rows = 100;
    }
    assert_eq!(judge(&days, i32::MIN, None).len(), 1);
}

#[test]
fn nobody_is_judged_without_a_past() {
    let mut days = actors(3, 4, 60).remove(0).days;
    days.truncate(8);
    assert_eq!(judge(&days, i32::MIN, None), []);
    assert_eq!(judge(&[], 0, None), []);
}
