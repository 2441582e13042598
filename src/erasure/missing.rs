//! Months in which nobody could look for a subject: which those were, and of how many.

use crate::backend::session;
use crate::backend::sql;
use crate::scope;
use pgrx::Uuid;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

/// Notes the months in which some subjects' events were out of reach, for `tally.lint()` to tell when they are there again; those that lie
/// in schema tally, detached, were searched.
pub fn note(tenant: &str, hashes: Vec<Uuid>, lost: &[i64]) {
    let months: Vec<String> = lost.iter().map(|&month| sql::moment(month)).collect();
    let note = format!(
        "UPDATE tally.erasure AS x SET months_missing = m.months \
           FROM (SELECT coalesce(array_agg(u.month ORDER BY u.month), '{{}}') AS months FROM unnest(ARRAY[{}]::timestamptz[]) AS u (month) \
                  WHERE NOT EXISTS (SELECT FROM tally_internal.detached_months() AS d (month) \
                                     WHERE d.month = 'events_p' || to_char(u.month AT TIME ZONE 'UTC', 'YYYY_MM'))) AS m \
          WHERE x.tenant_id = $1 AND x.subject_hash = ANY ($2) AND x.months_missing <> m.months",
        months.join(", ")
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
