//! Thirteen weeks of a software company whose three tenants have customers of their own, so that a dashboard has something to tell:
//! accounts sign up, more each week; some of their users get going, pay, bring colleagues, leave; weekends are quiet; one
//! account's script runs wild in the last two days; one account's clients were offline and report two days late.

mod account;

use account::Account;
use tally_workload::{Event, Random, mix};

pub(crate) const MINUTE: i64 = 60_000_000;
pub(crate) const DAY: i64 = 1_440 * MINUTE;
/// Length of the story.
pub const DAYS: i64 = 91;

/// A tenant: its name, accounts that sign up in the first week, in a later week, by how much more in each following week, and
/// the share of paying accounts that cancel in a month.
const TENANTS: [(&str, f64, f64, f64, f64); 3] =
    [("acme", 9.0, 2.5, 0.6, 0.15), ("globex", 8.0, 1.0, 0.0, 0.05), ("initech", 9.0, 0.3, 0.0, 0.3)];

/// Accounts of the first tenant by the order in which they sign up: the one whose script runs wild, and the one that was offline.
const WILD: usize = 4;
const OFFLINE: usize = 6;

/// Describes the story. Equal fields tell the same.
#[derive(Clone, Debug)]
pub struct Story {
    /// Where every random number starts.
    pub seed: u64,
    /// The end: no event is later. Microseconds since 1970-01-01 UTC.
    pub until: i64,
}

impl Story {
    /// The events in the order in which they arrive.
    pub fn events(&self) -> Vec<Event> {
        let mut random = Random::new(self.seed);
        let start = self.until.div_euclid(DAY) * DAY - (DAYS - 1) * DAY;
        let mut arrivals: Vec<(i64, Event)> = Vec::new();
        for (tenant, (name, first, later, growth, churn)) in TENANTS.into_iter().enumerate() {
            for (rank, signed_up) in sign_ups(&mut random, first, later, growth).into_iter().enumerate() {
                let (is_wild, is_offline) = (tenant == 0 && rank == WILD, tenant == 0 && rank == OFFLINE);
                let mut account = if is_wild || is_offline {
                    Account::steady(&mut random, name, rank, start + signed_up)
                } else {
                    Account::new(&mut random, name, rank, start + signed_up, churn)
                };
                let mut events = account.live(&mut random, self.until);
                if is_wild {
                    events.extend(account.run_wild(&mut random, self.until));
                }
                arrivals.extend(events.into_iter().map(|event| {
                    let late =
                        is_offline && (self.until - 3 * DAY..self.until - DAY).contains(&event.occurred_at);
                    let arrived = if late { self.until } else { event.occurred_at };
                    (arrived, event)
                }));
            }
        }
        arrivals.sort_by_key(|(arrived, event)| (*arrived, event.occurred_at, event.event_id));
        arrivals.into_iter().map(|(_, event)| event).collect()
    }
}

/// When accounts sign up, in microseconds from the start, ascending.
fn sign_ups(random: &mut Random, first: f64, later: f64, growth: f64) -> Vec<i64> {
    let mut times = Vec::new();
    // What a week leaves of an account counts for the next one.
    let mut owed = 0.0;
    for week in 0..DAYS / 7 {
        owed += if week == 0 { first } else { later + growth * week as f64 };
        while owed >= 1.0 {
            owed -= 1.0;
            let day = week * 7 + random.below(7) as i64;
            times.push(day * DAY + 8 * 60 * MINUTE + random.below(9 * 60) as i64 * MINUTE);
        }
    }
    times.sort_unstable();
    times
}

/// A UUID of version 4 that follows from what it is made of.
pub(crate) fn event_id(random: &mut Random) -> [u8; 16] {
    let mut id = (u128::from(mix(random.bits())) << 64 | u128::from(random.bits())).to_be_bytes();
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    /// Thursday, 2026-11-26, 20:00 UTC.
    const UNTIL: i64 = 1_795_723_200_000_000;

    fn story() -> Vec<Event> {
        Story { seed: 1, until: UNTIL }.events()
    }

    fn count(events: &[Event], matches: impl Fn(&Event) -> bool) -> usize {
        events.iter().filter(|event| matches(event)).count()
    }

    #[test]
    fn it_is_the_same_each_time_and_ends_now() {
        let events = story();
        assert_eq!(events, story());
        assert!((30_000..80_000).contains(&events.len()), "{} events", events.len());
        let ids: HashSet<_> = events.iter().map(|event| event.event_id).collect();
        assert_eq!(ids.len(), events.len());
        let last = events.iter().map(|event| event.occurred_at).max().unwrap();
        assert!(last <= UNTIL && last > UNTIL - 60 * MINUTE, "{last}");
        assert!(events.iter().all(|event| event.occurred_at >= UNTIL - DAYS * DAY));
    }

    #[test]
    fn it_grows_rests_on_weekends_and_is_late_once() {
        let events = story();
        let acme: Vec<Event> = events.iter().filter(|event| event.tenant_id == "acme").cloned().collect();
        let day = |event: &Event| event.occurred_at.div_euclid(DAY);
        let first = UNTIL / DAY - DAYS + 1;
        let week = |n: i64| count(&acme, |event| event.user_id.is_some() && (day(event) - first) / 7 == n);
        assert!(week(11) > 2 * week(1), "{} and {}", week(1), week(11));
        // Day 0 of 1970 was a Thursday.
        let weekend = count(&acme, |event| event.user_id.is_some() && (day(event) + 3).rem_euclid(7) > 4);
        assert!(weekend * 7 < acme.len(), "{weekend} of {}", acme.len());
        let backwards =
            events.windows(2).filter(|pair| pair[1].occurred_at < pair[0].occurred_at - DAY).count();
        assert_eq!(backwards, 1, "the late batch, once");
    }

    #[test]
    fn people_sign_up_get_going_pay_and_leave() {
        let events = story();
        let named = |name: &str| count(&events, |event| event.tenant_id == "acme" && event.name == name);
        let (up, ran, paid) = (named("signed_up"), named("report.run"), named("paid"));
        assert!(up > 250 && ran > up && paid > 40 && paid < up, "{up} {ran} {paid}");
        assert!((2..20).contains(&named("subscription.cancelled")), "{}", named("subscription.cancelled"));
        // Sessions of one event alone.
        let mut sessions: HashMap<&str, usize> = HashMap::new();
        events
            .iter()
            .filter_map(|event| event.session_id.as_deref())
            .for_each(|id| *sessions.entry(id).or_default() += 1);
        let bounced = sessions.values().filter(|&&events| events == 1).count() * 100 / sessions.len();
        assert!((15..45).contains(&bounced), "{bounced} % bounced");
        // Some work for two accounts: sums over accounts count them twice.
        let mut accounts: HashMap<&str, HashSet<&str>> = HashMap::new();
        for event in events.iter().filter(|event| event.tenant_id == "acme") {
            if let Some(user) = &event.user_id {
                accounts.entry(user).or_default().insert(&event.account_id);
            }
        }
        let several = accounts.values().filter(|accounts| accounts.len() > 1).count();
        assert!((5..60).contains(&several), "{several} users of several accounts");
    }

    #[test]
    fn one_account_runs_wild_at_the_end() {
        let events = story();
        let mut calls: HashMap<&str, [usize; 2]> = HashMap::new();
        for event in events.iter().filter(|event| event.tenant_id == "acme" && event.name == "api.call") {
            calls.entry(&event.account_id).or_default()[usize::from(event.occurred_at >= UNTIL - 2 * DAY)] +=
                1;
        }
        let wild = calls.values().filter(|[before, after]| *after > 500 && *after > *before).count();
        assert_eq!(wild, 1, "{calls:?}");
    }
}
