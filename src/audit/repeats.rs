//! Acts that a session repeats, as a pool that enters the same scopes all day: the first one is an entry of its own, and what
//! follows within the window is counted, and told of by the next entry or when the session ends.

use super::pending;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use tally_core::audit::Record;

/// Microseconds within which repeats are counted.
const WINDOW: i64 = 10_000_000;
/// Different acts that a session keeps count of; then all counts are told, and it begins anew.
const ACTS: usize = 2000;

struct Seen {
    since: i64,
    entries: u32,
    repeats: u64,
    record: Record,
}

thread_local! {
    static SEEN: RefCell<HashMap<u64, Seen>> = RefCell::new(HashMap::new());
}

/// How often an act is to be told of now, counting those before that weren't: `None` where it is only counted. A window has
/// `burst` entries of the same act. `record` makes the entry.
pub fn count(key: &impl Hash, burst: u32, record: impl FnOnce() -> Record) -> Option<(Record, u64)> {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let (key, now) = (hasher.finish(), pending::now());
    let (times, is_full) = SEEN.with_borrow_mut(|all| {
        let Some(seen) = all.get_mut(&key) else { return (Some(1), all.len() >= ACTS) };
        // A clock that was put back begins a window, too.
        if !(seen.since..seen.since + WINDOW).contains(&now) {
            return (Some(seen.repeats + 1), false);
        }
        if seen.entries < burst {
            seen.entries += 1;
            return (None, false);
        }
        seen.repeats += 1;
        (Some(0), false)
    });
    // What makes and tells entries may fail, or count acts itself: nothing is borrowed meanwhile.
    match times {
        Some(0) => None,
        None => Some((record(), 1)),
        Some(times) => {
            if is_full {
                flush();
            }
            pending::tell_at_exit(flush);
            let record = record();
            let seen = Seen { since: now, entries: 1, repeats: 0, record: record.clone() };
            SEEN.with_borrow_mut(|all| all.insert(key, seen));
            Some((record, times))
        }
    }
}

/// Tells the counts that are left: when there are many, and when the session ends.
fn flush() {
    for mut seen in SEEN.take().into_values().filter(|seen| seen.repeats > 0) {
        let record = &mut seen.record;
        record.entry.at = pending::now();
        // Another one than the entry that it repeats.
        for (byte, other) in
            record.entry.entry_id.iter_mut().zip(crate::backend::session::random_bytes::<6>())
        {
            *byte ^= other;
        }
        with_times(record, seen.repeats);
        pending::at_exit(record);
    }
}

/// Notes in an entry's detail how often its act happened.
pub fn with_times(record: &mut Record, times: u64) {
    if times > 1 {
        let detail = record.entry.detail.take().unwrap_or_else(|| "{}".to_owned());
        let begin = if detail == "{}" { "{" } else { &format!("{},", &detail[..detail.len() - 1]) };
        record.entry.detail = Some(format!("{begin}\"times\":{times}}}"));
    }
}
