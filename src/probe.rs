//! The probe: an event like any other, of a tenant that nobody else uses, and whether the built-in rollup shows it.

use crate::backend::session;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

#[pg_extern(sql = false)]
fn probe_send() -> Result<TimestampWithTimeZone, ErrorReport> {
    session::require_writable(c"tally.probe()");
    session::as_owner(|| {
        // Whole milliseconds: what the rollup's last_at is compared with.
        let sent = "INSERT INTO tally.probe_result (sent_at) VALUES (date_trunc('milliseconds', clock_timestamp())) RETURNING sent_at";
        let sent = Spi::get_one::<TimestampWithTimeZone>(sent)
            .expect("an INSERT raises its own errors")
            .expect("the row is inserted");
        Spi::run("DELETE FROM tally.probe_result WHERE sent_at < now() - interval '30 days'")
            .expect("a DELETE raises its own errors");
        Spi::run_with_args(
            "SELECT tally.ingest(jsonb_build_object('tenant_id', 'tally:probe', 'account_id', 'probe', 'name', 'probe', \
               'event_id', gen_random_uuid(), 'occurred_at', to_json($1)::text::jsonb)::text)",
            &[sent.into()],
        )
        .expect("ingest raises its own errors");
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
    Ok(session::as_owner(|| Spi::get_one_with_args::<bool>(shown, &[sent_at.into()]))
        .expect("an UPDATE raises its own errors")
        .unwrap_or(false))
}
