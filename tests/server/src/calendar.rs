//! What a test that speaks of today needs to know of the clock.

use std::thread;
use std::time::{Duration, SystemTime};

const DAY: u64 = 86_400;
/// How long a test may take that must begin and end on the same day, in seconds.
const TEST: u64 = 300;

/// Returns when it isn't nearly midnight (UTC): a test that asks which day it is, and tells the server so, needs both to be of
/// the same day, and of the same month.
pub fn away_from_midnight() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970").as_secs();
    let left = DAY - now % DAY;
    if left < TEST {
        thread::sleep(Duration::from_secs(left + 2));
    }
}
