//! The tables that raw events lie in, by their bounds: whoever made them and whatever they are called.

use crate::backend::sql;
use core::ops::Range;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::Oid;

pub struct Leaf {
    pub table: Oid,
    /// What to read and to change it by.
    pub source: String,
    /// Microseconds since 2000; the least and the greatest number bound nothing.
    pub time: Range<i64>,
}

/// Those that meet a condition over `tally_internal.event_leaves()`, in order of time. Called as the owner.
pub fn leaves(condition: &str, values: &[DatumWithOid]) -> Vec<Leaf> {
    let query = format!(
        "SELECT l.leaf, l.source, {}, {} FROM tally_internal.event_leaves() AS l WHERE {condition} ORDER BY l.first, l.leaf",
        sql::micros("nullif(l.first, '-infinity')"),
        sql::micros("nullif(l.next, 'infinity')")
    );
    sql::changed_rows(&query, values, |row| Leaf {
        table: row.need(1),
        source: row.need(2),
        time: row.get(3).unwrap_or(i64::MIN)..row.get(4).unwrap_or(i64::MAX),
    })
}
