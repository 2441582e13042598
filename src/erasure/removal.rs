//! Removing subjects' raw events, an account and a month at a time, and renewing the rollups that counted them, in one transaction:
//! at no moment do rollups and events differ.

use super::failure::ErasureError;
use crate::backend::lock::Attempts;
use crate::backend::scan::{self, Snapshot};
use crate::backend::session;
use crate::backend::sql::{self, Moment};
use crate::privacy::Stored;
use crate::raw::gate;
use crate::raw::leaf::{Leaf, leaves};
use crate::rollup::{self, Gone, Renewed};
use core::ops::Range;
use std::collections::{BTreeSet, HashMap};
use tally_core::grain::Grain;

/// A month, by its start in microseconds since 2000, and an account.
pub type Place = (i64, String);

/// Where subjects have raw events, in a range of time.
pub fn find(tenant: &str, subjects: &[String], range: &Range<i64>) -> BTreeSet<Place> {
    find_where(tenant, subjects, "tally.events", &sql::within("e.occurred_at", range))
}

/// The same in a table, of events that meet a condition.
fn find_where(tenant: &str, subjects: &[String], source: &str, condition: &str) -> BTreeSet<Place> {
    let query = format!(
        "SELECT {}, e.account_id FROM {source} AS e \
          WHERE e.tenant_id = $1 AND e.user_id = ANY ($2) AND {condition} GROUP BY 1, 2",
        sql::micros("date_trunc('month', e.occurred_at, 'UTC')")
    );
    places(&query, tenant, subjects)
}

/// Where the rollup `user_activity` knows of events of theirs; `None` where there is no such rollup.
pub fn find_by_activity(tenant: &str, subjects: &[String]) -> Option<BTreeSet<Place>> {
    session::find_relation(c"user_activity_pending")?;
    let query = format!(
        "SELECT DISTINCT {}, p.account_id FROM tally_internal.user_activity_part AS p, \
           generate_series(date_trunc('month', p.first_at, 'UTC') AT TIME ZONE 'UTC', p.last_at AT TIME ZONE 'UTC', interval '1 month') AS m \
          WHERE p.tenant_id = $1 AND p.user_id = ANY ($2)",
        sql::micros("(m AT TIME ZONE 'UTC')")
    );
    Some(places(&query, tenant, subjects))
}

fn places(query: &str, tenant: &str, subjects: &[String]) -> BTreeSet<Place> {
    let values = [tenant.into(), subjects.to_vec().into()];
    let read = |row: sql::Row| (row.need::<i64>(1), row.need::<String>(2));
    session::as_owner(|| sql::changed_rows(query, &values, read)).into_iter().collect()
}

/// A partition of the events.
#[derive(PartialEq, Eq)]
pub struct Part {
    /// The start of the month that it is; `None` where it is another time.
    pub month: Option<i64>,
    /// What tells its table from any other, also from one that takes its name, or its number in a restored database.
    pub mark: String,
}

/// The partitions as they are now, in order of time.
pub fn parts() -> Vec<Part> {
    let query = format!(
        "SELECT CASE WHEN p.is_month THEN {} END, concat(p.part, ' ', c.relname) \
           FROM tally_internal.event_parts() AS p JOIN pg_class AS c ON c.oid = p.part ORDER BY p.first, 2",
        sql::micros("p.first")
    );
    let read = |row: sql::Row| Part { month: row.get(1), mark: row.need(2) };
    session::as_owner(|| sql::changed_rows(&query, &[], read))
}

/// Where subjects have raw events in partitions that are not one month each: somebody made those.
pub fn find_in_others(tenant: &str, subjects: &[String]) -> BTreeSet<Place> {
    let others = session::as_owner(|| leaves("NOT l.is_month", &[]));
    let of = |leaf: &Leaf| {
        let rows = format!("e.tableoid = {} AND {}", leaf.table, sql::within("e.occurred_at", &leaf.time));
        find_where(tenant, subjects, &leaf.source, &rows)
    };
    others.iter().flat_map(of).collect()
}

/// Where subjects have events in a month that was detached.
pub fn find_in_detached(tenant: &str, subjects: &[String], month: &str) -> BTreeSet<Place> {
    find_where(tenant, subjects, &format!("tally.{}", sql::quote(month)), "true")
}

/// The tables of months that were detached and are still there.
pub fn detached_months() -> Vec<String> {
    let query = "SELECT d.month::text FROM tally_internal.detached_months() AS d (month)";
    session::as_owner(|| sql::changed_rows(query, &[], |row| row.need(1)))
}

/// The time of a month.
pub fn time_of(month: i64) -> Range<i64> {
    month..Grain::Month.ceiling(month + 1)
}

/// Removes the subjects' events of an account and a month, also from months that were detached, and renews what counted them; returns how
/// many events were removed or read. The caller has locked ingest out.
pub fn remove(
    tenant: &str,
    subjects: &Stored,
    (month, account): &Place,
    detached: &[String],
) -> Result<i64, ErasureError> {
    let time = time_of(*month);
    let micros = |column: &str| format!("ARRAY(SELECT {} FROM unnest(r.{column}) AS m)", sql::micros("m"));
    let remove = format!(
        "SELECT r.removed, coalesce(r.users, '{{}}'), {}, {} FROM tally_internal.erase_events($1, $2, $3, $4, $5, $6, $7::text[]::name[]) AS r",
        micros("moments"),
        micros("anonymous_moments")
    );
    let values = [
        tenant.into(),
        account.as_str().into(),
        Moment(time.start).into(),
        Moment(time.end).into(),
        subjects.ids.clone().into(),
        subjects.sent.clone().into(),
        detached.to_vec().into(),
    ];
    let read = |row: sql::Row| {
        (row.need::<i64>(1), row.need::<Vec<String>>(2), row.need::<Vec<i64>>(3), row.need::<Vec<i64>>(4))
    };
    let removed = session::as_owner(|| sql::changed_rows(&remove, &values, read));
    let Some((removed, users, moments, anonymous_moments)) = removed.into_iter().next() else { return Ok(0) };
    if removed == 0 {
        return Ok(0);
    }
    let gone =
        Gone { tenant, account, users: &users, moments: &moments, anonymous_moments: &anonymous_moments };
    let renewed = rollup::renew(&gone)?;
    note_unrenewed(tenant, account, &renewed);
    Ok(removed + renewed.read)
}

/// Notes the months whose buckets of an account count still what was removed, since they were elsewhere.
fn note_unrenewed(tenant: &str, account: &str, renewed: &Renewed) {
    let note = "INSERT INTO tally.erasure_unrenewed (month, tenant_id, account_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    for &month in &renewed.left {
        session::as_owner(|| sql::run(note, &[Moment(month).into(), tenant.into(), account.into()]));
    }
}

/// Those of them that are attached again, of one tenant or of all: tenants, accounts and the beginnings of the months.
pub fn unrenewed(tenant: Option<&str>) -> Vec<(String, String, i64)> {
    let of_tenant =
        tenant.map_or_else(String::new, |tenant| format!(" AND w.tenant_id = {}", sql::literal(tenant)));
    let there = format!(
        "SELECT w.tenant_id, w.account_id, {} FROM tally.erasure_unrenewed AS w \
          WHERE EXISTS (SELECT FROM tally_internal.event_parts() AS p WHERE w.month >= p.first AND w.month < p.next) \
            AND to_char(w.month AT TIME ZONE 'UTC', 'YYYY-MM') NOT IN (SELECT l.month FROM tally_internal.lost_months() AS l (month)){of_tenant} ORDER BY 1, 3, 2",
        sql::micros("w.month")
    );
    // As of now, and without writing: lint asks, too, also on a standby.
    let rows = session::as_owner(|| scan::texts(&there, Snapshot::Fresh)).into_iter();
    let mut found: Vec<_> = rows
        .filter_map(|row| match <[Option<String>; 3]>::try_from(row) {
            Ok([Some(tenant), Some(account), Some(month)]) => Some((tenant, account, month.parse().ok()?)),
            _ => None,
        })
        .collect();
    // The month may be there without the part of a tenant that lies apart.
    let mut known = HashMap::new();
    found.retain(|(tenant, _, month)| {
        *known.entry((tenant.clone(), *month)).or_insert_with(|| rollup::has_its_events(tenant, *month))
    });
    found
}

/// Makes anew what an account has of such a month; how much that was, 0 where there is none. Locks ingest out.
pub fn renew_attached(tenant: &str) -> Result<i64, ErasureError> {
    let Some((_, account, month)) = unrenewed(Some(tenant)).into_iter().next() else {
        return Ok(0);
    };
    gate::close(&[], Attempts::One)?;
    let renewed = rollup::renew_month(tenant, &account, month)?;
    let done = "DELETE FROM tally.erasure_unrenewed AS u WHERE u.month = $1 AND u.tenant_id = $2 AND u.account_id = $3";
    session::as_owner(|| {
        sql::run(done, &[Moment(month).into(), tenant.into(), account.as_str().into()]);
        let tables: Vec<String> = renewed.tables.iter().cloned().collect();
        sql::run("SELECT tally_internal.note_trace($1)", &[tables.into()]);
    });
    note_unrenewed(tenant, &account, &renewed);
    Ok(renewed.read.max(1))
}
