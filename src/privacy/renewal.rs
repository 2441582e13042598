//! Steps of going through what is stored of a tenant. What each stage does is in sql/privacy/renewal.sql.

use crate::backend::call::sql_function;
use crate::backend::lock::{self, Attempts};
use crate::backend::{session, sql};
use pgrx::pg_sys::{self, Datum};

sql_function! {
    /// `renew_stored(tenant_id, max_rows)`: one bounded step; 0 where nothing is left.
    fn renew_stored_wrapper / pg_finfo_renew_stored_wrapper(call) {
        let (tenant, max_rows) = (call.text(0).unwrap_or_default(), call.long(1).unwrap_or(1).max(1));
        session::require_writable(c"tally.maintain()");
        let stage = "SELECT r.stage FROM tally.privacy_renewal AS r WHERE r.tenant_id = $1 AND r.finished_at IS NULL";
        let done = match session::as_owner(|| sql::one::<i32>(stage, &[tenant.into()])) {
            Some(0) => {
                // What a running call stores it protects as it was declared before: it must have ended.
                let ingest = (session::relation(c"rollup"), pg_sys::ShareRowExclusiveLock);
                lock::relations("ingest can't be paused", &[ingest], Attempts::One)?;
                let begin = "UPDATE tally.privacy_renewal AS r SET stage = 1, updated_at = clock_timestamp() \
                              WHERE r.tenant_id = $1 AND r.stage = 0";
                let others = "INSERT INTO tally.privacy_renewal AS r (tenant_id) SELECT t.tenant_id FROM tally.tenant AS t \
                               WHERE EXISTS (SELECT FROM tally.protection AS p WHERE p.tenant_id = '') ON CONFLICT DO NOTHING";
                session::as_owner(|| {
                    sql::run(begin, &[tenant.into()]);
                    // Those whose first events came with calls that began before.
                    if tenant.is_empty() {
                        sql::run(others, &[]);
                    }
                });
                1
            }
            Some(1) => step("SELECT tally_internal.renew_events($1, $2)", tenant, max_rows),
            Some(3) => step("SELECT tally_internal.renew_quarantine($1, $2)", tenant, max_rows),
            _ => 0,
        };
        Ok(Some(Datum::from(done)))
    }
}

fn step(statement: &str, tenant: &str, max_rows: i64) -> i64 {
    session::as_owner(|| sql::one(statement, &[tenant.into(), max_rows.into()])).unwrap_or(0)
}
