//! Session windows in SQL: the aggregates `session_windows(time)` and `union_session_windows(state)`, and their parts.

use super::merging::{self, Mergeable, unreadable};
use crate::backend::aggregate::{Combines, Holds, combine};
use crate::backend::array::fixed_values;
use crate::backend::call::{Call, Outcome, sql_function};
use crate::backend::report::Report;
use crate::sketch::damage::damage;
use pgrx::pg_sys::{self, Datum, Oid};
use tally_core::session::{Window, Windows, WindowsRef};
use tally_core::stored::StateError;

impl Holds for Windows {
    fn outside(&self) -> usize {
        self.memory()
    }
}

impl Combines for Windows {
    fn combine(&mut self, other: &Self) -> Result<(), Report> {
        other.as_slice().iter().for_each(|&window| self.join(window));
        Ok(())
    }
}

impl Mergeable for Windows {
    const NAME: &'static str = "set of session windows";

    fn add_time(&mut self, time: i64) {
        self.add(time);
    }

    fn merge_stored(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        self.merge(&WindowsRef::parse(bytes)?);
        Ok(())
    }

    fn stored(&self) -> Option<Vec<u8>> {
        self.to_bytes()
    }
}

fn read<'a>(call: &'a Call) -> Result<Option<WindowsRef<'a>>, Report> {
    call.bytes(0)
        .map(|bytes| WindowsRef::parse(bytes).map_err(|error| unreadable(Windows::NAME, error)))
        .transpose()
}

/// An array of one number of each window.
fn list(call: &Call, of: Oid, part: impl Fn(Window) -> i64) -> Outcome {
    let Some(stored) = read(call)? else { return Ok(None) };
    let mut parts = Vec::new();
    stored.each(|window| parts.push(part(window)));
    Ok(Some(fixed_values(of, parts.len(), parts.iter().map(|part| part.to_ne_bytes()))))
}

sql_function! { fn tally_windows_trans / pg_finfo_tally_windows_trans(call) { merging::add::<Windows>(call) } }
sql_function! { fn tally_windows_union / pg_finfo_tally_windows_union(call) { merging::union::<Windows>(call) } }
sql_function! { fn tally_windows_combine / pg_finfo_tally_windows_combine(call) { combine::<Windows>(call) } }
sql_function! { fn tally_windows_stored / pg_finfo_tally_windows_stored(call) { merging::stored::<Windows>(call) } }
sql_function! { fn tally_windows_deserialize / pg_finfo_tally_windows_deserialize(call) { merging::deserialize::<Windows>(call) } }
sql_function! { fn tally_merge_windows / pg_finfo_tally_merge_windows(call) { merging::merge::<Windows>(call) } }

sql_function! {
    fn tally_window_count / pg_finfo_tally_window_count(call) {
        Ok(read(call)?.map(|windows| Datum::from(windows.count() as i64)))
    }
}
sql_function! {
    fn tally_window_starts / pg_finfo_tally_window_starts(call) {
        list(call, pg_sys::TIMESTAMPTZOID, |window| window.first)
    }
}
sql_function! {
    fn tally_window_ends / pg_finfo_tally_window_ends(call) {
        list(call, pg_sys::TIMESTAMPTZOID, |window| window.last)
    }
}
sql_function! {
    fn tally_window_events / pg_finfo_tally_window_events(call) {
        list(call, pg_sys::INT8OID, |window| window.events as i64)
    }
}

sql_function! {
    /// What is wrong with a stored set.
    fn tally_windows_damage / pg_finfo_tally_windows_damage(call) {
        damage(call, |bytes| WindowsRef::parse(bytes).err().map(|error| error.about(Windows::NAME)))
    }
}
