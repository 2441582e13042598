//! Months that somebody dropped or detached by hand, by DROP TABLE or ALTER TABLE ... DETACH PARTITION: nobody noted whose events
//! went with them. `tally.raw_month` knows that they were there.

use crate::backend::partition::Routing;
use crate::backend::scan::{self, Snapshot};
use crate::backend::{session, sql};
use pgrx::prelude::*;
use tally_core::grain::Grain;

/// A month whose events were there and are not now.
pub struct Month {
    /// Microseconds since 2000.
    pub start: i64,
    /// `YYYY-MM`.
    pub name: String,
    /// Whether its partition was made anew since, by a late event; whose events went was noted then.
    pub is_noted: bool,
}

impl Month {
    pub fn end(&self) -> i64 {
        Grain::Month.ceiling(self.start + 1)
    }

    /// Whether events were counted there. With an empty month nothing went.
    fn has_numbers(&self) -> bool {
        let query = format!("SELECT tally_internal.has_numbers({})", sql::moment(self.start));
        let rows = session::as_owner(|| scan::texts(&query, Snapshot::Fresh));
        rows.first().is_none_or(|row| row[0].as_deref() != Some("f"))
    }
}

/// The months that were taken out by hand, in order of time.
pub fn all() -> Vec<Month> {
    // A database that isn't updated yet has no such table.
    if session::find_relation(c"raw_month").is_none() {
        return Vec::new();
    }
    let query = format!(
        "SELECT {}, to_char(month AT TIME ZONE 'UTC', 'YYYY-MM'), lost_at IS NOT NULL FROM tally.raw_month ORDER BY month",
        sql::micros("month")
    );
    let known = session::as_owner(|| scan::texts(&query, Snapshot::Fresh));
    // Asked of the table as it is now, whatever the statement's snapshot; a standby allows no stronger lock.
    let routing = Routing::open_to_read(session::relation(c"events"));
    let lost = known.into_iter().filter_map(|row| {
        let [Some(start), Some(name), Some(is_noted)] = &row[..] else { unreachable!("all are NOT NULL") };
        let start = start.parse().expect("a bigint");
        // One that was made anew and is gone again took more with it than was noted.
        let is_there = routing.covers(start);
        let month = Month { start, name: name.clone(), is_noted: is_noted == "t" && is_there };
        (month.is_noted || !is_there && month.has_numbers()).then_some(month)
    });
    let lost = lost.collect();
    routing.close();
    lost
}

#[pg_extern(sql = false)]
fn lost_months() -> SetOfIterator<'static, String> {
    SetOfIterator::new(all().into_iter().map(|month| month.name).collect::<Vec<_>>())
}

/// The end of the last month of which nobody noted whose events went with it; the least number where there is none.
pub fn unnoted_until() -> i64 {
    all().iter().filter(|month| !month.is_noted).map(Month::end).max().unwrap_or(i64::MIN)
}

/// Notes whose events went with these months, and that this was done. Called as the owner.
pub fn record(months: &[Month]) {
    let list = |months: &mut dyn Iterator<Item = &Month>| -> String {
        months.map(|month| sql::moment(month.start)).collect::<Vec<_>>().join(", ")
    };
    let unnoted = list(&mut months.iter().filter(|month| !month.is_noted));
    if !unnoted.is_empty() {
        sql::run(&format!("SELECT tally_internal.record_losses(ARRAY[{unnoted}]::timestamptz[])"), &[]);
        sql::run(&format!("DELETE FROM tally.raw_month WHERE month IN ({unnoted})"), &[]);
    }
    let noted = list(&mut months.iter().filter(|month| month.is_noted));
    if !noted.is_empty() {
        sql::run(&format!("UPDATE tally.raw_month SET lost_at = NULL WHERE month IN ({noted})"), &[]);
    }
}

/// Notes that raw events from before a moment may be gone, so that earlier buckets keep what they have, and that whose they were
/// has been noted. Called as the owner.
pub fn freeze(moment: i64) {
    let moment = sql::moment(moment);
    let horizon =
        format!("INSERT INTO tally.raw_horizon (raw_from) VALUES ({moment}) ON CONFLICT DO NOTHING");
    sql::run(&horizon, &[]);
    // A database that isn't updated yet has no such table; its update takes every tenant for one that has lost some.
    if session::find_relation(c"raw_loss").is_some() {
        let noted = format!(
            "INSERT INTO tally.raw_loss AS l (tenant_id, whole_from) VALUES ('', {moment}) \
             ON CONFLICT (tenant_id) DO UPDATE SET whole_from = excluded.whole_from WHERE l.whole_from < excluded.whole_from"
        );
        sql::run(&noted, &[]);
    }
}
