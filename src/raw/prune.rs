//! Pruning: deletes a tenant's raw events from before its horizon, their keys, and the batches that carried nothing later.

use super::leaf::{Leaf, leaves};
use crate::backend::scan::{self, Snapshot};
use crate::backend::session;
use crate::backend::sql::{self, Moment, within};
use tally_core::batch;

/// A tenant whose events from before its horizon are still there, or were the last time that somebody looked.
pub struct Due {
    pub tenant: String,
    /// Microseconds since 2000, as is that up to which it was pruned.
    pub horizon: i64,
    pruned: i64,
}

/// Those tenants, in order.
pub fn due() -> Vec<Due> {
    let query = format!(
        "SELECT tenant_id, {}, {} FROM tally.tenant_horizon WHERE pruned_from < raw_from ORDER BY tenant_id",
        sql::micros("raw_from"),
        // Infinity is no number.
        sql::micros("greatest(pruned_from, timestamptz '4000-01-01 BC')")
    );
    let read = |row: Vec<Option<String>>| {
        let [Some(tenant), Some(horizon), Some(pruned)] = &row[..] else { unreachable!("all NOT NULL") };
        let time = |text: &str| -> i64 { text.parse().expect("a bigint") };
        Due { tenant: tenant.clone(), horizon: time(horizon), pruned: time(pruned) }
    };
    session::as_owner(|| scan::texts(&query, Snapshot::Fresh)).into_iter().map(read).collect()
}

/// Removes up to `max_rows` events of a tenant with their keys, or keys whose events were dropped; returns how many rows, 0 where another
/// session is at it, or has rows locked.
/// Called as the owner.
pub fn tenant(due: &Due, max_rows: i64) -> i64 {
    let Due { tenant, horizon, pruned } = due;
    let (horizon, pruned) = (Moment(*horizon), Moment(*pruned));
    let tenant = tenant.as_str();
    // One session at a time: what another one is removing would look as if nothing were left.
    let mine = "SELECT true FROM tally.tenant_horizon WHERE tenant_id = $1 AND pruned_from < raw_from FOR UPDATE SKIP LOCKED";
    if sql::one::<bool>(mine, &[tenant.into()]).is_none() {
        return 0;
    }
    let mut removed = 0;
    let due = leaves("l.first < $1 AND l.next > $2", &[horizon.into(), pruned.into()]);
    let mut is_left = false;
    for Leaf { table, source, time } in due {
        let own = format!(
            "tenant_id = $1 AND occurred_at < $2 AND tableoid = $4 AND {}",
            within("occurred_at", &time)
        );
        let remove = format!(
            "WITH gone AS (DELETE FROM {source} WHERE {own} AND ctid = ANY (ARRAY(\
               SELECT ctid FROM {source} WHERE {own} LIMIT $3)) \
               RETURNING event_id), \
             forgotten AS (DELETE FROM tally.event_key AS k USING gone \
               WHERE k.tenant_id = $1 AND k.event_id = gone.event_id) \
             SELECT count(*) FROM gone"
        );
        let values = [tenant.into(), horizon.into(), (max_rows - removed).into(), table.into()];
        removed += sql::one::<i64>(&remove, &values).unwrap_or(0);
        if removed >= max_rows {
            return removed;
        }
        // Rows that somebody changes meanwhile are passed over.
        let left = format!("SELECT EXISTS (SELECT FROM {source} WHERE {})", own.replace("$4", "$3"));
        is_left |= sql::one(&left, &[tenant.into(), horizon.into(), table.into()]) == Some(true);
    }
    // Keys of events that went with a whole month.
    let dropped = "SELECT EXISTS (SELECT FROM tally.raw_horizon WHERE raw_from > $1)";
    if sql::one(dropped, &[pruned.into()]) == Some(true) {
        let values = [tenant.into(), horizon.into(), (max_rows - removed).into()];
        removed += delete_some("event_key", "tenant_id = $1 AND occurred_at < $2", &values);
        if removed >= max_rows {
            return removed;
        }
    }
    // Batches that carried nothing later, and what of them waits in quarantine: sent again it would be too late.
    let first = batch::first_id_with_events_from(horizon.0);
    for table in ["ingest_batch", "quarantine"] {
        let values = [tenant.into(), first.into(), (max_rows - removed).into()];
        let gone = delete_some(table, "tenant_id = $1 AND batch_id < $2", &values);
        if table == "quarantine" && gone > 0 {
            let note = "INSERT INTO tally.quarantine_discard (discarded_at, events, tenant_id, role_name, reason) \
                        VALUES (now(), $1, $2, session_user, 'retention')";
            sql::run(note, &[gone.into(), tenant.into()]);
        }
        removed += gone;
        if removed >= max_rows {
            return removed;
        }
        let left =
            format!("SELECT EXISTS (SELECT FROM tally.{table} WHERE tenant_id = $1 AND batch_id < $2)");
        is_left |= sql::one(&left, &[tenant.into(), first.into()]) == Some(true);
    }
    if is_left {
        return removed;
    }
    let done = "UPDATE tally.tenant_horizon SET pruned_from = $1 WHERE tenant_id = $2";
    sql::run(done, &[horizon.into(), tenant.into()]);
    removed.max(1)
}

/// Deletes at most $3 rows of a table of ours that meet a condition over the other values; returns how many.
fn delete_some(table: &str, condition: &str, values: &[pgrx::datum::DatumWithOid]) -> i64 {
    let delete = format!(
        "WITH gone AS (DELETE FROM tally.{table} WHERE ctid = ANY (ARRAY(\
           SELECT ctid FROM tally.{table} WHERE {condition} LIMIT $3)) RETURNING 1) SELECT count(*) FROM gone"
    );
    sql::one(&delete, values).unwrap_or(0)
}
