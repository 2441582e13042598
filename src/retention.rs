//! Retention: removing raw events once every rollup has folded the buckets that end with them. Of all tenants by whole
//! months, and of each tenant by the days that it keeps.
//!
//! A tenant's horizon, `tally.tenant_horizon.raw_from`, moves first, with ingest locked out: from then on earlier events are
//! rejected as too late, so their keys can leave the ledger together with them, and no retry is counted again. It never
//! moves back. Buckets that begin before a horizon are frozen: neither verified nor rebuilt.

use super::RollupError;
use super::definition::{self, Definition};
use super::fold::{self, quote};
use super::rebuild;
use crate::backend::arena::Arena;
use crate::backend::lock::Patience;
use crate::backend::lookup::{Key, Lookup, View};
use crate::backend::scan::{self, Snapshot};
use crate::backend::session;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use pgrx::spi::quote_literal;
use std::collections::BTreeMap;
use std::ffi::CStr;
use tally_core::batch;
use tally_core::grain::Grain;

/// SQL for a column of type timestamptz in microseconds since 2000.
fn micros(column: &str) -> String {
    format!("(extract(epoch FROM {column}) * 1000000)::int8 - 946684800000000")
}

/// The moment before which events of every tenant may be gone: microseconds since 2000, and as text. `None` where none
/// were dropped.
pub fn horizon() -> Option<(i64, String)> {
    let latest = format!(
        "SELECT {}, raw_from FROM tally.raw_horizon ORDER BY raw_from DESC LIMIT 1",
        micros("raw_from")
    );
    let row = session::as_owner(|| scan::texts(&latest, Snapshot::Fresh)).pop()?;
    let [Some(time), Some(text)] = &row[..] else { unreachable!("both columns are NOT NULL") };
    Some((time.parse().expect("a bigint"), text.clone()))
}

/// The horizons of some tenants, in microseconds since 2000, of those that have one. Before reading them, takes the lock
/// that moving a horizon waits for: they hold until the transaction ends.
pub fn hold_horizons<'a>(tenants: impl Iterator<Item = &'a str>) -> BTreeMap<String, i64> {
    session::lock_relation(session::relation(c"rollup"), pg_sys::RowExclusiveLock);
    let mut tenants: Vec<&str> = tenants.collect();
    tenants.sort_unstable();
    tenants.dedup();
    let mut arena = Arena::default();
    let mut horizons = Lookup::open(session::relation(c"tenant_horizon"), &[Key::Text], View::Latest);
    let mut found = BTreeMap::new();
    for tenant in tenants {
        if let Some(row) = horizons.find(&[arena.varlena(tenant.as_bytes())], [1]) {
            found.insert(tenant.to_owned(), row.values[0].value() as i64);
        }
    }
    horizons.close();
    found
}

/// Moments from which each tenant's buckets of every grain are rebuilt, of those tenants that have a horizon.
pub struct Frozen(BTreeMap<String, i64>);

impl Frozen {
    pub fn read(definition: &Definition) -> Self {
        let query = format!("SELECT tenant_id, {} FROM tally.tenant_horizon", micros("raw_from"));
        let rows = session::as_owner(|| scan::texts(&query, Snapshot::Fresh));
        let moments = rows.into_iter().map(|row| {
            let [Some(tenant), Some(time)] = &row[..] else { unreachable!("both columns are NOT NULL") };
            (tenant.clone(), rebuild::ceiling(definition, time.parse().expect("a bigint")))
        });
        Self(moments.collect())
    }

    /// Whether no tenant has a horizon of its own.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// That of one tenant.
    pub fn of(&self, tenant: &str) -> Option<i64> {
        self.0.get(tenant).copied()
    }

    /// SQL that is true where `column`, a moment of the row's tenant, isn't frozen.
    pub fn not_frozen(&self, column: &str) -> String {
        if self.0.is_empty() {
            return "true".to_owned();
        }
        // One look-up in an object, however many tenants there are.
        let moments: BTreeMap<&str, i64> = self.0.iter().map(|(t, m)| (t.as_str(), *m)).collect();
        let moments = serde_json::to_string(&moments).expect("texts and numbers");
        format!(
            "coalesce({} >= ({}::jsonb ->> tenant_id)::int8, true)",
            micros(column),
            quote_literal(moments)
        )
    }
}

/// What becomes of whole months.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Dropped,
    Detached,
}

#[pg_extern(sql = false)]
fn drop_raw(before: TimestampWithTimeZone) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    session::require_writable(c"tally.drop_raw()");
    Ok(SetOfIterator::new(months(before, Fate::Dropped)?))
}

#[pg_extern(sql = false)]
fn detach_raw(before: TimestampWithTimeZone) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    session::require_writable(c"tally.detach_raw()");
    Ok(SetOfIterator::new(months(before, Fate::Detached)?))
}

/// Moves whole months to a tablespace.
#[pg_extern(sql = false)]
fn move_raw(
    before: TimestampWithTimeZone,
    tablespace: &CStr,
) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    session::require_writable(c"tally.move_raw()");
    let tablespace = tablespace.to_str().map_err(|_| RollupError::Range)?.to_owned();
    if matches!(i64::from(before), i64::MIN | i64::MAX) {
        return Err(RollupError::Range.into());
    }
    lock_months(before, Patience::Tries)?;
    let moved = session::as_owner_defining(|| {
        Spi::get_one_with_args::<Vec<String>>(
            "SELECT coalesce(array_agg(moved), '{}') FROM tally.move_partitions($1, $2::name) AS moved",
            &[before.into(), tablespace.as_str().into()],
        )
    });
    Ok(SetOfIterator::new(moved.expect("DDL raises its own errors").unwrap_or_default()))
}

fn months(before: TimestampWithTimeZone, fate: Fate) -> Result<Vec<String>, RollupError> {
    if session::has_fixed_snapshot() {
        return Err(RollupError::FixedSnapshot);
    }
    if matches!(i64::from(before), i64::MIN | i64::MAX) {
        return Err(RollupError::Range);
    }
    lock_months(before, Patience::Tries)?;
    remove_months(before, fate)
}

/// Locks ingest out, and everybody from the events and the months that end by a moment.
fn lock_months(before: TimestampWithTimeZone, patience: Patience) -> Result<(), RollupError> {
    let months = session::as_owner(|| {
        let months = partitions_before(before);
        months
            .iter()
            .flat_map(|month| tables_of(month))
            .map(|table| fold::relation(&table))
            .collect::<Vec<_>>()
    });
    let events = session::relation(c"events");
    let also: Vec<Oid> =
        if months.is_empty() { vec![] } else { std::iter::once(events).chain(months).collect() };
    definition::lock_out_ingest(&also, patience)
}

/// Removes whole months. The caller holds their locks.
fn remove_months(before: TimestampWithTimeZone, fate: Fate) -> Result<Vec<String>, RollupError> {
    let definitions = definition::all()?;
    let month = Grain::Month.floor(i64::from(before));
    session::as_owner(|| {
        for definition in definitions.iter() {
            if definition.filled_from != i64::MIN {
                return Err(RollupError::Unfilled(definition.name.clone()));
            }
            if has_pending_before(&definition.name, definition.pending_grain(), month, None) {
                return Err(RollupError::Pending(definition.name.clone()));
            }
        }
        let partitions = partitions_before(before);
        record_losses(&partitions, before);
        let done = partitions.iter().map(|partition| remove(partition, fate)).collect();
        if !partitions.is_empty() {
            Spi::run_with_args(
                "INSERT INTO tally.raw_horizon (raw_from) VALUES (date_trunc('month', $1, 'UTC')) ON CONFLICT DO NOTHING",
                &[before.into()],
            )
            .expect("an INSERT raises its own errors");
        }
        Ok(done)
    })
}

/// Notes whose raw events go with these months, since metrics of those tenants alone miss them; the row of the empty
/// tenant says that it was noted.
fn record_losses(partitions: &[String], before: TimestampWithTimeZone) {
    // A database that isn't updated yet has no such table; its update takes every tenant for one that has lost some.
    if partitions.is_empty() || session::find_relation(c"raw_loss").is_none() {
        return;
    }
    Spi::run_with_args(
        "INSERT INTO tally.raw_loss AS l (tenant_id, whole_from) \
         SELECT t.tenant_id, m.start FROM (SELECT date_trunc('month', $1, 'UTC') AS start) AS m, \
           LATERAL (SELECT '' AS tenant_id UNION ALL SELECT t.tenant_id FROM tally.tenant AS t \
                     WHERE EXISTS (SELECT FROM tally.events AS e WHERE e.tenant_id = t.tenant_id AND e.occurred_at < m.start)) AS t \
         ORDER BY 1 ON CONFLICT (tenant_id) DO UPDATE SET whole_from = excluded.whole_from \
          WHERE l.whole_from < excluded.whole_from",
        &[before.into()],
    )
    .expect("an INSERT raises its own errors");
}

/// Removes one month; returns the name of its table, which a detached one keeps.
fn remove(partition: &str, fate: Fate) -> String {
    let run = |statement: String| Spi::run(&statement).expect("DDL raises its own errors");
    let name = quote(partition);
    session::as_owner_defining(|| {
        if fate == Fate::Dropped {
            run(format!("DROP TABLE tally.{name}"));
            return partition.to_owned();
        }
        let kept = detached_name(partition);
        run(format!("ALTER TABLE tally.events DETACH PARTITION tally.{name}"));
        // A late event makes the month's partition again, so its names must be free.
        for table in tables_of(partition) {
            let renamed = format!("{kept}{}", table.trim_start_matches(partition));
            for suffix in ["", "_tenant_account_time"] {
                // Of a month that is partitioned by tenant, the whole has no index.
                run(format!(
                    "ALTER {} IF EXISTS tally.{} RENAME TO {}",
                    if suffix.is_empty() { "TABLE" } else { "INDEX" },
                    quote(&format!("{table}{suffix}")),
                    quote(&format!("{renamed}{suffix}"))
                ));
            }
        }
        kept
    })
}

/// Notes with a rollup that is being declared from when on the raw events are whole that it begins with, where some are gone.
/// Called as the owner.
pub fn note_what_is_gone(rollup: &str) {
    // A database that isn't updated yet has no place for it.
    if session::find_relation(c"raw_loss").is_some() {
        let note = "UPDATE tally.rollup SET whole_from = greatest((SELECT max(whole_from) FROM tally.raw_loss), \
                      (SELECT max(raw_from) FROM tally.raw_horizon), (SELECT max(raw_from) FROM tally.tenant_horizon)) \
                     WHERE rollup_name = $1";
        Spi::run_with_args(note, &[rollup.into()]).expect("an UPDATE raises its own errors");
    }
}

/// Says so in the comments of its views. Called as the owner.
pub fn say_what_is_gone(rollup: &str, grains: &[Grain]) {
    if session::find_relation(c"raw_loss").is_none() {
        return;
    }
    let known = "SELECT (SELECT whole_from::text FROM tally.rollup WHERE rollup_name = $1)";
    let whole_from = Spi::get_one_with_args::<String>(known, &[rollup.into()]).expect("a text");
    let Some(whole_from) = whole_from else { return };
    for grain in grains {
        let comment = format!(
            "rollup {rollup} by {grain} (UTC): finished numbers; when it was declared, raw events from before {whole_from} \
             were gone, which it doesn't count"
        );
        let view = quote(&format!("{rollup}_{grain}"));
        Spi::run(&format!("COMMENT ON VIEW tally.{view} IS {}", quote_literal(comment)))
            .expect("DDL raises its own errors");
    }
}

/// Whether a rollup has pending rows, of a tenant or of any, of a bucket that ends by a moment. One that goes on after it gets
/// rows for as long as events come in.
fn has_pending_before(rollup: &str, grain: Grain, moment: i64, tenant: Option<&str>) -> bool {
    let query = format!(
        "SELECT EXISTS (SELECT FROM tally.{} WHERE bucket < {}{})",
        quote(&format!("{rollup}_pending")),
        rebuild::literal(grain.floor(moment)),
        tenant.map_or_else(String::new, |tenant| format!(" AND tenant_id = {}", quote_literal(tenant)))
    );
    Spi::get_one::<bool>(&query) != Ok(Some(false))
}

/// The partitions whose month ends at or before a moment.
fn partitions_before(moment: TimestampWithTimeZone) -> Vec<String> {
    Spi::get_one_with_args::<Vec<String>>(
        "SELECT coalesce(array_agg(c.relname::text ORDER BY c.relname), '{}') \
           FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid \
          WHERE i.inhparent = 'tally.events'::regclass AND c.relname ~ '^events_p[0-9]{4,}_[0-9]{2}$' \
            AND to_timestamp(substr(c.relname, 9), 'YYYY_MM') + interval '1 month' <= $1",
        &[moment.into()],
    )
    .expect("the columns have these types")
    .unwrap_or_default()
}

/// A month's table, and the tenants' where it has such.
fn tables_of(month: &str) -> Vec<String> {
    Spi::get_one_with_args::<Vec<String>>(
        "SELECT ARRAY[$1] || coalesce(array_agg(c.relname::text ORDER BY c.relname), '{}') \
           FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid \
          WHERE i.inhparent = ('tally.' || quote_ident($1))::regclass",
        &[month.into()],
    )
    .expect("the columns have these types")
    .unwrap_or_default()
}

/// A name that is free for a detached month: a month can be detached again after late events.
fn detached_name(partition: &str) -> String {
    let month = partition.trim_start_matches("events_p");
    let free = |name: &String| {
        let query = "SELECT to_regclass('tally.' || quote_ident($1)) IS NULL";
        Spi::get_one_with_args::<bool>(query, &[name.as_str().into()]) == Ok(Some(true))
    };
    let first = format!("detached_events_{month}");
    let later = (2..).map(|number| format!("{first}_{number}"));
    std::iter::once(first.clone()).chain(later).find(free).expect("numbers don't end")
}

/// One step of retention.
#[pg_extern(sql = false)]
fn retain(max_rows: i64) -> Result<i64, ErrorReport> {
    session::require_writable(c"tally.retain()");
    if session::has_fixed_snapshot() {
        return Err(RollupError::FixedSnapshot.into());
    }
    if max_rows < 1 {
        return Err(RollupError::Range.into());
    }
    // What others' transactions keep locked waits for the next round; what needs no lock goes on.
    let mut kept_waiting = None;
    match advance_horizons() {
        Ok(0) => {}
        Ok(moved) => return Ok(moved),
        Err(busy @ RollupError::Busy(_)) => kept_waiting = Some(busy),
        Err(error) => return Err(error.into()),
    }
    let waits = "SELECT EXISTS (SELECT FROM tally.rollup_backfill WHERE finished_at IS NULL)";
    if session::as_owner(|| Spi::get_one::<bool>(waits)) != Ok(Some(false)) {
        // Earlier events wait to be counted.
        return Ok(0);
    }
    match drop_passed_month() {
        Ok(0) => {}
        Ok(dropped) => return Ok(dropped),
        Err(busy @ RollupError::Busy(_)) => kept_waiting = Some(busy),
        Err(error) => return Err(error.into()),
    }
    // Row by row, also of a month that can't be dropped now: events go when their time has come.
    match (prune(max_rows)?, kept_waiting) {
        (0, Some(busy)) => Err(busy.into()),
        (removed, _) => Ok(removed),
    }
}

/// Moves the horizon of each tenant that keeps less than it has; returns how many moved.
fn advance_horizons() -> Result<i64, RollupError> {
    // The day in which the retention begins.
    let wanted = "SELECT t.tenant_id, date_trunc('day', now() - coalesce(own.keep, usual.keep), 'UTC') AS raw_from \
           FROM tally.tenant AS t \
           LEFT JOIN tally.retention AS own ON own.tenant_id = t.tenant_id \
           LEFT JOIN tally.retention AS usual ON usual.tenant_id = '' \
          WHERE coalesce(own.keep, usual.keep) IS NOT NULL";
    let due = format!(
        "SELECT count(*) FROM ({wanted}) AS w LEFT JOIN tally.tenant_horizon AS h USING (tenant_id) \
          WHERE h.raw_from IS NULL OR h.raw_from < w.raw_from"
    );
    if session::as_owner(|| Spi::get_one::<i64>(&due)) == Ok(Some(0)) {
        return Ok(0);
    }
    definition::lock_out_ingest(&[], Patience::Once)?;
    let moved = format!(
        "WITH moved AS (INSERT INTO tally.tenant_horizon AS h (tenant_id, raw_from) \
           SELECT w.tenant_id, w.raw_from FROM ({wanted}) AS w ORDER BY 1 \
           ON CONFLICT (tenant_id) DO UPDATE SET raw_from = excluded.raw_from WHERE h.raw_from < excluded.raw_from \
           RETURNING 1) SELECT count(*) FROM moved"
    );
    Ok(session::as_owner(|| Spi::get_one::<i64>(&moved)).expect("a count").unwrap_or(0))
}

/// Drops the oldest month if every tenant's horizon lies behind it; returns 1 if it did.
fn drop_passed_month() -> Result<i64, RollupError> {
    let everybody = "SELECT min(coalesce(h.raw_from, '-infinity')) \
                       FROM tally.tenant AS t LEFT JOIN tally.tenant_horizon AS h USING (tenant_id)";
    let oldest = || -> Option<TimestampWithTimeZone> {
        session::as_owner(|| {
            let passed = Spi::get_one::<TimestampWithTimeZone>(everybody).expect("a moment")?;
            if i64::from(passed) == i64::MIN {
                return None;
            }
            let first = partitions_before(passed).into_iter().next()?;
            let end = "SELECT to_timestamp($1, 'YYYY_MM') + interval '1 month'";
            let month = first.trim_start_matches("events_p");
            Spi::get_one_with_args::<TimestampWithTimeZone>(end, &[month.into()]).expect("a moment")
        })
    };
    // Not by way of the definitions, whose lock is the weaker one of those that two sessions would then hold and wait for.
    let folded = |moment: TimestampWithTimeZone| {
        session::as_owner(|| {
            definition::grains().iter().all(|(name, grains)| {
                !has_pending_before(name, definition::finest(grains), i64::from(moment), None)
            })
        })
    };
    let Some(end) = oldest().filter(|&end| folded(end)) else { return Ok(0) };
    // A tenant that is new since then, or whose event came in between, is seen under the lock.
    lock_months(end, Patience::Once)?;
    match oldest() {
        Some(again) if i64::from(again) == i64::from(end) && folded(end) => {
            remove_months(end, Fate::Dropped)?;
            Ok(1)
        }
        _ => Ok(0),
    }
}

/// Removes up to `max_rows` events with their keys, or keys whose events were dropped, of the first tenant that has any
/// before its horizon.
fn prune(max_rows: i64) -> Result<i64, RollupError> {
    let definitions = definition::all()?;
    // Asked again under the lock that keeps rollups from being declared.
    if definitions.iter().any(|definition| definition.filled_from != i64::MIN) {
        return Ok(0);
    }
    let due = format!(
        "SELECT tenant_id, {}, {} FROM tally.tenant_horizon WHERE pruned_from < raw_from ORDER BY tenant_id",
        micros("raw_from"),
        // Infinity is no number.
        micros("greatest(pruned_from, timestamptz '4000-01-01 BC')")
    );
    let due = session::as_owner(|| scan::texts(&due, Snapshot::Fresh));
    for row in due {
        let [Some(tenant), Some(horizon), Some(pruned)] = &row[..] else { unreachable!("all NOT NULL") };
        let time = |text: &str| -> i64 { text.parse().expect("a bigint") };
        let (horizon, pruned) = (time(horizon), time(pruned));
        let removed = session::as_owner(|| prune_tenant(&definitions, tenant, pruned, horizon, max_rows));
        if removed > 0 {
            return Ok(removed);
        }
    }
    Ok(0)
}

/// Deletes at most so many rows of a table of ours that meet a condition; returns how many.
fn delete_some(table: &str, condition: &str, most: i64) -> i64 {
    let delete = format!(
        "WITH gone AS (DELETE FROM tally.{table} WHERE ctid = ANY (ARRAY(\
           SELECT ctid FROM tally.{table} WHERE {condition} LIMIT {most})) RETURNING 1) SELECT count(*) FROM gone"
    );
    Spi::get_one::<i64>(&delete).expect("a DELETE raises its own errors").unwrap_or(0)
}

fn prune_tenant(definitions: &[Definition], tenant: &str, pruned: i64, horizon: i64, max_rows: i64) -> i64 {
    let (name, moment) = (quote_literal(tenant), rebuild::literal(horizon));
    let waits = |definition: &Definition| {
        has_pending_before(&definition.name, definition.pending_grain(), horizon, Some(tenant))
    };
    if definitions.iter().any(waits) {
        return 0;
    }
    let mut removed = 0;
    let partitions = format!(
        "SELECT leaf.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid \
          CROSS JOIN pg_partition_tree(c.oid) AS part JOIN pg_class AS leaf ON leaf.oid = part.relid AND part.isleaf \
          WHERE i.inhparent = 'tally.events'::regclass AND c.relname ~ '^events_p[0-9]{{4,}}_[0-9]{{2}}$' \
            AND to_timestamp(substr(c.relname, 9), 'YYYY_MM') < {moment} \
            AND to_timestamp(substr(c.relname, 9), 'YYYY_MM') + interval '1 month' > {} ORDER BY 1",
        rebuild::literal(pruned)
    );
    for row in scan::texts(&partitions, Snapshot::Fresh) {
        let partition = quote(row[0].as_deref().expect("a name"));
        let remove = format!(
            "WITH gone AS (DELETE FROM tally.{partition} WHERE ctid = ANY (ARRAY(\
               SELECT ctid FROM tally.{partition} WHERE tenant_id = {name} AND occurred_at < {moment} LIMIT {})) \
               RETURNING event_id), \
             forgotten AS (DELETE FROM tally.event_key AS k USING gone \
               WHERE k.tenant_id = {name} AND k.event_id = gone.event_id) \
             SELECT count(*) FROM gone",
            max_rows - removed
        );
        removed += Spi::get_one::<i64>(&remove).expect("a DELETE raises its own errors").unwrap_or(0);
        if removed >= max_rows {
            return removed;
        }
    }
    // Keys of events that went with a whole month.
    let dropped = format!(
        "SELECT EXISTS (SELECT FROM tally.raw_horizon WHERE raw_from > {})",
        rebuild::literal(pruned)
    );
    if Spi::get_one::<bool>(&dropped) == Ok(Some(true)) {
        let too_old = format!("tenant_id = {name} AND occurred_at < {moment}");
        removed += delete_some("event_key", &too_old, max_rows - removed);
        if removed >= max_rows {
            return removed;
        }
    }
    // Batches that carried nothing later, and what of them waits in quarantine: sent again it would be too late.
    let first = batch::first_id_with_events_from(horizon);
    let too_old = format!("tenant_id = {name} AND batch_id < {first}");
    for table in ["ingest_batch", "quarantine"] {
        let gone = delete_some(table, &too_old, max_rows - removed);
        if table == "quarantine" && gone > 0 {
            let note = "INSERT INTO tally.quarantine_discard (discarded_at, events, tenant_id, role_name, reason) \
                        VALUES (now(), $1, $2, session_user, 'retention')";
            Spi::run_with_args(note, &[gone.into(), tenant.into()]).expect("an INSERT raises its own errors");
        }
        removed += gone;
        if removed >= max_rows {
            return removed;
        }
    }
    Spi::run(&format!("UPDATE tally.tenant_horizon SET pruned_from = {moment} WHERE tenant_id = {name}"))
        .expect("an UPDATE raises its own errors");
    removed.max(1)
}
