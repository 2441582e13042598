//! A slow, obvious recomputation of what the rollups should say about the real input.

use crate::GitEvent;
use std::collections::{BTreeMap, HashSet};

/// What is known of a group of events, exactly.
#[derive(Default)]
pub struct Group {
    pub events: i64,
    pub users: HashSet<String>,
    /// Every number of inserted lines, sorted by `groups`.
    pub insertions: Vec<f64>,
    pub first_at: String,
    pub last_at: String,
}

/// Groups `events` by what `key` says.
pub fn groups<K: Ord>(events: &[GitEvent], key: impl Fn(&GitEvent) -> K) -> BTreeMap<K, Group> {
    let mut groups: BTreeMap<K, Group> = BTreeMap::new();
    for event in events {
        let group = groups.entry(key(event)).or_default();
        group.events += 1;
        group.users.extend(event.user_id.clone());
        group.insertions.extend(event.insertions);
        if group.first_at.is_empty() || event.occurred_at < group.first_at {
            group.first_at = event.occurred_at.clone();
        }
        if event.occurred_at > group.last_at {
            group.last_at = event.occurred_at.clone();
        }
    }
    groups.values_mut().for_each(|group| group.insertions.sort_by(f64::total_cmp));
    groups
}

/// Returns how far `value` is from being the percentile at `fraction` of `sorted`, as a fraction of its ranks: 0 if
/// `fraction` lies between the shares of values below `value` and up to `value`.
pub fn rank_error(sorted: &[f64], fraction: f64, value: f64) -> f64 {
    let share = |count: usize| count as f64 / sorted.len() as f64;
    let below = share(sorted.partition_point(|other| *other < value));
    let up_to = share(sorted.partition_point(|other| *other <= value));
    (below - fraction).max(fraction - up_to).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_error_counts_from_the_nearer_end_of_equal_values() {
        let sorted = [1.0, 2.0, 2.0, 2.0, 9.0];
        assert_eq!(rank_error(&sorted, 0.5, 2.0), 0.0);
        assert!((rank_error(&sorted, 0.9, 2.0) - 0.1).abs() < 1e-12);
        assert!((rank_error(&sorted, 0.5, 9.0) - 0.3).abs() < 1e-12);
        assert!((rank_error(&sorted, 0.5, 5.0) - 0.3).abs() < 1e-12);
    }
}
