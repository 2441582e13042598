//! Months in which nobody could look for a subject: which those were, and of how many.

use crate::backend::session;
use crate::backend::sql;
use crate::rollup::Lost;
use crate::scope;
use pgrx::Uuid;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

/// The months in which a tenant's events were out of reach: those whose events are elsewhere, also from before the horizon of all. Those that lie
/// in schema tally, detached, by hand or by `detach_raw()`, were searched.
pub fn of(lost: &Lost, searched: &[String]) -> Vec<i64> {
    let months: Vec<i64> = lost.earlier.iter().chain(&lost.months).copied().collect();
    let query = format!(
        "SELECT {}, to_char(u.month AT TIME ZONE 'UTC', 'YYYY_MM') FROM unnest({}) AS u (month) ORDER BY 1",
        sql::micros("u.month"),
        array(&months)
    );
    let read = |row: sql::Row| (row.need::<i64>(1), row.need::<String>(2));
    let named = session::as_owner(|| sql::changed_rows(&query, &[], read)).into_iter();
    let is_searched = |name: &String| {
        let (month, part) = (format!("events_p{name}"), format!("events_p{name}_"));
        let is_of_it = |table: &String| {
            *table == month || table.starts_with(&part) || *table == format!("detached_events_{name}")
        };
        searched.iter().any(is_of_it)
    };
    named.filter(|(_, name)| !is_searched(name)).map(|(month, _)| month).collect()
}

/// SQL for an array of moments.
pub fn array(months: &[i64]) -> String {
    let months: Vec<String> = months.iter().map(|&month| sql::moment(month)).collect();
    format!("ARRAY[{}]::timestamptz[]", months.join(", "))
}

/// Notes the months in which some subjects' events were out of reach, for `tally.lint()` to tell when they are there again.
pub fn note(tenant: &str, hashes: Vec<Uuid>, months: &[i64]) {
    let note = format!(
        "UPDATE tally.erasure AS x SET months_missing = m.months \
           FROM (SELECT ARRAY(SELECT u.month FROM unnest({}) AS u (month) ORDER BY 1) AS months) AS m \
          WHERE x.tenant_id = $1 AND x.subject_hash = ANY ($2) AND x.months_missing <> m.months",
        array(months)
    );
    session::as_owner(|| sql::run(&note, &[tenant.into(), hashes.into()]));
}

#[pg_extern(sql = false)]
fn erased_without_months() -> TableIterator<
    'static,
    (name!(tenant_id, String), name!(month, TimestampWithTimeZone), name!(persons, i64)),
> {
    let query = "SELECT x.tenant_id, u.month, count(DISTINCT x.subject_hash) \
                   FROM tally.erasure AS x CROSS JOIN LATERAL unnest(x.months_missing) AS u (month) \
                  WHERE x.finished_at IS NOT NULL GROUP BY x.tenant_id, u.month ORDER BY 1, 2";
    let own = scope::tenant_of_session();
    let read = |row: sql::Row| (row.need::<String>(1), row.need(2), row.need(3));
    let mut found = session::as_owner(|| sql::rows(query, &[], read));
    // Who else there is, no tenant learns.
    found.retain(|(tenant, ..)| own.as_ref().is_none_or(|own| own == tenant));
    TableIterator::new(found)
}
