//! The probe: an event like any other, of a tenant that nobody else uses, and whether the built-in rollup shows it.

use crate::backend::{session, sql};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

#[pg_extern(sql = false)]
fn probe_send() -> Result<TimestampWithTimeZone, ErrorReport> {
    session::require_writable(c"tally.probe()");
    session::as_owner(|| {
        // Whole milliseconds: what the rollup's last_at is compared with.
        let sent = "INSERT INTO tally.probe_result (sent_at) VALUES (date_trunc('milliseconds', clock_timestamp())) RETURNING sent_at";
        let sent: TimestampWithTimeZone = sql::one(sent, &[]).expect("the row is inserted");
        sql::run("DELETE FROM tally.probe_result WHERE sent_at < now() - interval '30 days'", &[]);
        sql::run(
            "SELECT tally.ingest(jsonb_build_object('tenant_id', 'tally:probe', 'account_id', 'probe', 'name', 'probe', \
               'event_id', gen_random_uuid(), 'occurred_at', to_json($1)::text::jsonb)::text)",
            &[sent.into()],
        );
        Ok(sent)
    })
}

#[pg_extern(sql = false)]
fn probe_shown(sent_at: TimestampWithTimeZone) -> Result<bool, ErrorReport> {
    session::require_writable(c"tally.probe()");
    let shown = "WITH shown AS (UPDATE tally.probe_result SET shown_at = clock_timestamp() \
                   WHERE sent_at = $1 AND EXISTS (SELECT FROM tally.usage_hour WHERE tenant_id = 'tally:probe' \
                     AND account_id = 'probe' AND bucket = date_trunc('hour', $1, 'UTC') AND name = 'probe' AND last_at >= $1) \
                   RETURNING 1) SELECT EXISTS (SELECT FROM shown)";
    Ok(session::as_owner(|| sql::one(shown, &[sent_at.into()])).unwrap_or(false))
}
