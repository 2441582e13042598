//! What a test that speaks of today needs to know of the clock.

use std::thread;
use std::time::{Duration, SystemTime};

const DAY: u64 = 86_400;
/// How long a test may take that must begin and end on the same day, in seconds.
const TEST: u64 = 300;

/// Returns when it isn't nearly midnight (UTC): a test that asks which day it is, and tells the server so, needs both to be of
/// the same day, and of the same month. Called when the test has its database, for which it may have waited long.
pub fn away_from_midnight() {
    away_from_the_end_of(DAY, TEST);
}

/// The same of an hour, for a test that takes seconds.
pub fn away_from_the_hours_end() {
    away_from_the_end_of(3600, 60);
}

fn away_from_the_end_of(period: u64, test: u64) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970").as_secs();
    let left = period - now % period;
    if left < test {
        thread::sleep(Duration::from_secs(left + 2));
    }
}
