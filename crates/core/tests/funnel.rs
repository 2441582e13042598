//! Funnels against an enumeration of every chain.

use proptest::prelude::*;
use tally_core::funnel::{EXCLUDED, Order, Rule, chain};

fn sorted(mut events: Vec<(i64, u32)>) -> Vec<(i64, u32)> {
    events.sort();
    events
}

/// Every chain that begins with `chosen`, by the definition.
fn extend(rule: &Rule, events: &[(i64, u32)], chosen: &mut Vec<usize>, all: &mut Vec<Vec<i64>>) {
    if chosen.len() == rule.steps {
        return;
    }
    for (place, &(time, mask)) in events.iter().enumerate() {
        if chosen.contains(&place) || mask >> chosen.len() & 1 == 0 {
            continue;
        }
        if let (Some(&first), Some(&last)) = (chosen.first(), chosen.last()) {
            let (first, last) = (events[first].0, events[last].0);
            let between = |from: i64, other: i64| from < other && other < time;
            if time < last
                || (rule.strict_increase && time == last)
                || time - first > rule.window
                || (rule.order == Order::Strict && events.iter().any(|other| between(last, other.0)))
                || events.iter().any(|other| other.1 & EXCLUDED != 0 && between(first, other.0))
            {
                continue;
            }
        }
        chosen.push(place);
        all.push(chosen.iter().map(|&place| events[place].0).collect());
        extend(rule, events, chosen, all);
        chosen.pop();
    }
}

fn by_enumeration(rule: &Rule, events: &[(i64, u32)]) -> Vec<i64> {
    let mut all = vec![];
    extend(rule, events, &mut vec![], &mut all);
    all.into_iter()
        .min_by_key(|times| (-(times.len() as i64), times[times.len() - 1], -times[0], times.clone()))
        .unwrap_or_default()
}

/// The most steps that events can be given to, by trying every gift.
fn covered(steps: usize, masks: &[u32], done: u32) -> usize {
    let Some((mask, rest)) = masks.split_first() else { return done.count_ones() as usize };
    let mut most = covered(steps, rest, done);
    for step in 0..steps {
        if mask >> step & 1 == 1 && done >> step & 1 == 0 {
            most = most.max(covered(steps, rest, done | 1 << step));
        }
    }
    most
}

fn any_by_enumeration(rule: &Rule, events: &[(i64, u32)]) -> Vec<i64> {
    let between = |from: i64, to: i64| {
        let masks: Vec<u32> =
            events.iter().filter(|e| from <= e.0 && e.0 <= to).map(|e| e.1 & !EXCLUDED).collect();
        covered(rule.steps, &masks, 0)
    };
    let mut all = vec![];
    for &(from, _) in events {
        for &(to, _) in events {
            let barred = events.iter().any(|e| e.1 & EXCLUDED != 0 && from < e.0 && e.0 < to);
            if from <= to && to - from <= rule.window && !barred {
                all.push((-(between(from, to) as i64), to, -from));
            }
        }
    }
    let Some((depth, _, from)) = all.into_iter().min() else { return vec![] };
    (1..=-depth as usize)
        .map(|depth| {
            events.iter().map(|e| e.0).find(|&to| to >= -from && between(-from, to) >= depth).unwrap()
        })
        .collect()
}

fn events() -> impl Strategy<Value = Vec<(i64, u32)>> {
    let excluded = prop_oneof![9 => Just(0u32), 1 => Just(EXCLUDED)];
    prop::collection::vec((-2i64..8, 0u32..16, excluded), 0..8)
        .prop_map(|events| sorted(events.into_iter().map(|(time, mask, bar)| (time, mask | bar)).collect()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn agrees_with_every_chain_tried(
        events in events(), steps in 1usize..5, window in 0i64..8, strict in any::<bool>(), increase in any::<bool>()
    ) {
        let order = if strict { Order::Strict } else { Order::Steps };
        let rule = Rule { steps, window, order, strict_increase: increase };
        prop_assert_eq!(chain(&rule, &events), by_enumeration(&rule, &events));
    }

    #[test]
    fn any_order_agrees_with_every_window_tried(events in events(), steps in 1usize..5, window in 0i64..8) {
        let rule = Rule { steps, window, order: Order::Any, strict_increase: false };
        prop_assert_eq!(chain(&rule, &events), any_by_enumeration(&rule, &events));
    }

    #[test]
    fn survives_the_ends_of_time(
        times in prop::collection::vec((prop_oneof![Just(i64::MIN), Just(i64::MAX), any::<i64>()], any::<u32>()), 0..40),
        steps in 1usize..=31, window in 0..=i64::MAX, order in 0..3
    ) {
        let order = [Order::Steps, Order::Strict, Order::Any][order as usize];
        let rule = Rule { steps, window, order, strict_increase: false };
        let events = sorted(times);
        prop_assert!(chain(&rule, &events).len() <= steps.min(events.len()));
    }
}

const DAY: Rule = Rule { steps: 3, window: 10, order: Order::Steps, strict_increase: false };

#[test]
fn a_window_includes_its_end_and_nothing_later() {
    assert_eq!(chain(&DAY, &[(0, 1), (10, 2), (10, 4)]), [0, 10, 10]);
    assert_eq!(chain(&DAY, &[(0, 1), (10, 2), (11, 4)]), [0, 10]);
    // A later start brings the third step into the window.
    assert_eq!(chain(&DAY, &[(0, 1), (1, 1), (10, 2), (11, 4)]), [1, 10, 11]);
}

#[test]
fn a_step_before_the_start_does_not_count() {
    assert_eq!(chain(&DAY, &[(0, 2), (1, 4), (2, 1)]), [2]);
    assert_eq!(chain(&Rule { order: Order::Any, ..DAY }, &[(0, 2), (1, 4), (2, 1)]), [0, 1, 2]);
}

#[test]
fn repeated_steps_want_events_of_their_own() {
    assert_eq!(chain(&DAY, &[(0, 7), (3, 7)]), [0, 3]);
    assert_eq!(chain(&DAY, &[(0, 7), (0, 7), (0, 7)]), [0, 0, 0]);
    assert_eq!(chain(&Rule { strict_increase: true, ..DAY }, &[(0, 7), (0, 7), (0, 7)]), [0]);
}

#[test]
fn strict_order_allows_nothing_between() {
    let strict = Rule { order: Order::Strict, ..DAY };
    assert_eq!(chain(&strict, &[(0, 1), (1, 0), (2, 2), (3, 4)]), [0]);
    assert_eq!(chain(&strict, &[(0, 1), (1, 0), (2, 1), (3, 2), (4, 4)]), [2, 3, 4]);
}

#[test]
fn an_excluded_event_ends_chains_that_began_before_it() {
    assert_eq!(chain(&DAY, &[(0, 1), (1, 2), (2, EXCLUDED), (3, 4)]), [0, 1]);
    assert_eq!(chain(&DAY, &[(0, 1), (1, 2), (2, EXCLUDED), (3, 1), (4, 2), (5, 4)]), [3, 4, 5]);
}
