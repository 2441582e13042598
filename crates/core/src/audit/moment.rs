//! When entries say that they happened, against when they were written and sealed: what can't be was put in by hand.

use super::Entry;
use std::collections::HashMap;

const DAY: i64 = 86_400_000_000;
/// Clocks differ, and are set back, by less.
const AHEAD: i64 = DAY;
/// An entry is written when it happens, at the end of its transaction, or, by a session without a worker, within a week.
const BACK: i64 = 30 * DAY;

/// The moments of the entries of each cluster, which are sealed in the order of their transactions.
#[derive(Default)]
pub struct Moments {
    /// The latest one of the round before, and of the one that is being read.
    latest: HashMap<u64, (Option<i64>, Option<i64>)>,
}

impl Moments {
    /// A round of the sealer begins, of entries of this cluster.
    pub fn begin_round(&mut self, origin: u64) {
        let (before, now) = self.latest.entry(origin).or_default();
        *before = now.take().or(*before);
    }

    /// Why an entry that was there by some time, sealed or exported, can't have happened when it says, if so.
    pub fn problem(&self, entry: &Entry, there_by: Option<i64>) -> Option<String> {
        let before = self.latest.get(&entry.origin).and_then(|(before, _)| *before);
        self.compare(entry, there_by, before)
    }

    /// The same of an entry that comes after all that were sealed.
    pub fn problem_of_unsealed(&self, entry: &Entry, there_by: Option<i64>) -> Option<String> {
        let before = self.latest.get(&entry.origin).and_then(|(before, now)| now.or(*before));
        self.compare(entry, there_by, before)
    }

    fn compare(&self, entry: &Entry, there_by: Option<i64>, before: Option<i64>) -> Option<String> {
        if there_by.is_some_and(|by| entry.at > by + AHEAD) {
            let days = (entry.at - there_by?) / DAY;
            return Some(format!("it is dated {days} days after it was there"));
        }
        // What was sealed while the clock was ahead makes nothing late that came once it was right again.
        let before = before?.min(there_by.unwrap_or(i64::MAX));
        let days = (before - entry.at) / DAY;
        (before - entry.at > BACK).then(|| {
            format!("it is dated {days} days before entries that had been sealed when it was written")
        })
    }

    /// An entry was sealed at that time.
    pub fn note(&mut self, entry: &Entry, sealed_at: i64) {
        let (_, now) = self.latest.entry(entry.origin).or_default();
        // One that is dated ahead makes no others late.
        let at = entry.at.min(sealed_at);
        *now = Some(now.map_or(at, |latest| latest.max(at)));
    }
}
