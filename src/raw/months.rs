//! The months whose tables are there, and how whole ones leave: dropped, detached or moved.

use crate::backend::lock::{self, Attempts, Busy};
use crate::backend::session;
use crate::backend::sql::{self, Moment, quote};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::Oid;
use tally_core::grain::Grain;

use super::{gate, lost_months};

/// What becomes of whole months.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Dropped,
    Detached,
}

/// The partitions whose month ends at or before a moment. Called as the owner.
pub fn before(moment: TimestampWithTimeZone) -> Vec<String> {
    let query = "SELECT coalesce(array_agg(c.relname::text ORDER BY c.relname), '{}') \
           FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid \
          WHERE i.inhparent = 'tally.events'::regclass AND c.relname ~ '^events_p[0-9]{4,}_[0-9]{2}$' \
            AND to_timestamp(substr(c.relname, 9), 'YYYY_MM') + interval '1 month' <= $1";
    sql::one(query, &[moment.into()]).unwrap_or_default()
}

/// The end of a partition's month. Called as the owner.
pub fn end(partition: &str) -> Option<TimestampWithTimeZone> {
    let month = partition.trim_start_matches("events_p");
    sql::one("SELECT to_timestamp($1, 'YYYY_MM') + interval '1 month'", &[month.into()])
}

/// Locks ingest out, and everybody from the events and the months that end by a moment.
pub fn lock(moment: TimestampWithTimeZone, attempts: Attempts) -> Result<(), Busy> {
    let months: Vec<Oid> = session::as_owner(|| {
        before(moment)
            .iter()
            .flat_map(|month| tables_of(month))
            .map(|table| session::relation_named(&table))
            .collect()
    });
    let events = session::relation(c"events");
    let also: Vec<Oid> =
        if months.is_empty() { vec![] } else { std::iter::once(events).chain(months).collect() };
    gate::close(&also, attempts)
}

/// Moves the months that end by a moment to a tablespace; returns the names of what moved. The caller holds their locks.
pub fn move_to(tablespace: &str, moment: TimestampWithTimeZone) -> Vec<String> {
    lock::as_owner_defining(|| {
        let statement = "SELECT coalesce(array_agg(moved), '{}') FROM tally_internal.move_partitions($1, $2::name) AS moved";
        sql::one(statement, &[moment.into(), tablespace.into()]).unwrap_or_default()
    })
}

/// Removes the months that end by a moment; returns the names of their tables. Called as the owner, who holds their locks.
pub fn remove(moment: TimestampWithTimeZone, fate: Fate) -> Vec<String> {
    // With ingest and readers locked out, nothing is waited for.
    lock::waiting_at_most(lock::LONGEST_TRY, || remove_locked(moment, fate))
}

fn remove_locked(moment: TimestampWithTimeZone, fate: Fate) -> Vec<String> {
    let month = Grain::Month.floor(i64::from(moment));
    let partitions = before(moment);
    let mut by_hand = lost_months::all();
    by_hand.retain(|lost| lost.start < month);
    lost_months::record(&by_hand);
    record_losses(&partitions, moment);
    let done = partitions.iter().map(|partition| remove_one(partition, fate)).collect();
    if !partitions.is_empty() || !by_hand.is_empty() {
        lost_months::freeze(month);
    }
    if session::find_relation(c"raw_month").is_some() {
        sql::run("DELETE FROM tally.raw_month WHERE month < $1", &[Moment(month).into()]);
    }
    done
}

/// Notes whose raw events go with these months, since metrics of those tenants alone miss them.
fn record_losses(partitions: &[String], before: TimestampWithTimeZone) {
    // A database that isn't updated yet has no such table; its update takes every tenant for one that has lost some.
    if partitions.is_empty() || session::find_relation(c"raw_loss").is_none() {
        return;
    }
    sql::run(
        "INSERT INTO tally.raw_loss AS l (tenant_id, whole_from) \
         SELECT t.tenant_id, m.start FROM (SELECT date_trunc('month', $1, 'UTC') AS start) AS m, \
           LATERAL (SELECT t.tenant_id FROM tally.tenant AS t \
                     WHERE EXISTS (SELECT FROM tally.events AS e WHERE e.tenant_id = t.tenant_id AND e.occurred_at < m.start)) AS t \
         ORDER BY 1 ON CONFLICT (tenant_id) DO UPDATE SET whole_from = excluded.whole_from \
          WHERE l.whole_from < excluded.whole_from",
        &[before.into()],
    );
}

/// Removes one month; returns the name of its table, which a detached one keeps.
fn remove_one(partition: &str, fate: Fate) -> String {
    let name = quote(partition);
    lock::as_owner_defining(|| {
        if fate == Fate::Dropped {
            sql::run(&format!("DROP TABLE tally.{name}"), &[]);
            return partition.to_owned();
        }
        let kept = detached_name(partition);
        sql::run(&format!("ALTER TABLE tally.events DETACH PARTITION tally.{name}"), &[]);
        // A late event makes the month's partition again, so its names must be free.
        for table in tables_of(partition) {
            let renamed = format!("{kept}{}", table.trim_start_matches(partition));
            for suffix in ["", "_tenant_account_time"] {
                // Of a month that is partitioned by tenant, the whole has no index.
                let rename = format!(
                    "ALTER {} IF EXISTS tally.{} RENAME TO {}",
                    if suffix.is_empty() { "TABLE" } else { "INDEX" },
                    quote(&format!("{table}{suffix}")),
                    quote(&format!("{renamed}{suffix}"))
                );
                sql::run(&rename, &[]);
            }
        }
        kept
    })
}

/// A month's table, and the tenants' where it has such.
fn tables_of(month: &str) -> Vec<String> {
    let query = "SELECT ARRAY[$1] || coalesce(array_agg(c.relname::text ORDER BY c.relname), '{}') \
           FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid \
          WHERE i.inhparent = ('tally.' || quote_ident($1))::regclass";
    sql::one(query, &[month.into()]).unwrap_or_default()
}

/// A name that is free for a detached month: a month can be detached again after late events.
fn detached_name(partition: &str) -> String {
    let month = partition.trim_start_matches("events_p");
    let free = |name: &String| {
        let query = "SELECT to_regclass('tally.' || quote_ident($1)) IS NULL";
        sql::one(query, &[name.as_str().into()]) == Some(true)
    };
    let first = format!("detached_events_{month}");
    let later = (2..).map(|number| format!("{first}_{number}"));
    std::iter::once(first.clone()).chain(later).find(free).expect("numbers don't end")
}
