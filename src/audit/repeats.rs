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
    SEEN.with_borrow_mut(|all| {
        if let Some(seen) = all.get_mut(&key) {
            // A clock that was put back begins a window, too.
            if (seen.since..seen.since + WINDOW).contains(&now) {
                if seen.entries < burst {
                    seen.entries += 1;
                    return Some((record(), 1));
                }
                seen.repeats += 1;
                return None;
            }
            let times = seen.repeats + 1;
            *seen = Seen { since: now, entries: 1, repeats: 0, record: record() };
            return Some((seen.record.clone(), times));
        }
        if all.len() >= ACTS {
            tell(all);
        }
        pending::tell_at_exit(flush);
        let record = record();
        all.insert(key, Seen { since: now, entries: 1, repeats: 0, record: record.clone() });
        Some((record, 1))
    })
}

fn tell(all: &mut HashMap<u64, Seen>) {
    for seen in all.values_mut().filter(|seen| seen.repeats > 0) {
        let mut record = std::mem::take(&mut seen.record);
        record.entry.at = pending::now();
        // Another one than the entry that it repeats.
        for (byte, other) in
            record.entry.entry_id.iter_mut().zip(crate::backend::session::random_bytes::<6>())
        {
            *byte ^= other;
        }
        with_times(&mut record, seen.repeats);
        pending::at_exit(&record);
    }
    all.clear();
}

/// Tells the counts that are left, when the session ends.
fn flush() {
    SEEN.with_borrow_mut(tell);
}

/// Notes in an entry's detail how often its act happened.
pub fn with_times(record: &mut Record, times: u64) {
    if times > 1 {
        let detail = record.entry.detail.take().unwrap_or_else(|| "{}".to_owned());
        let begin = if detail == "{}" { "{" } else { &format!("{},", &detail[..detail.len() - 1]) };
        record.entry.detail = Some(format!("{begin}\"times\":{times}}}"));
    }
}
