//! What is kept of subjects besides raw events and the buckets that were made anew: their rows in frozen buckets, the quarantine, the
//! audit log's personal parts and what nouns register. And the certificates, which tell what is left.

use super::failure::ErasureError;
use super::missing;
use crate::backend::lock::{self, Attempts};
use crate::backend::session;
use crate::backend::sql::{self, Moment, quote};
use crate::backend::subtransaction::Verdict;
use crate::privacy::Stored;
use crate::rollup::{self, Kept, Own};
use core::ops::Range;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::{JsonB, Uuid};
use serde_json::{Value, json};
use std::collections::HashSet;

/// Runs work on what others' transactions may have locked, and keep so, as `lock::tried` does: each is waited for a moment, since everybody's
/// ingest waits.
pub fn tried<T>(
    attempts: Attempts,
    work: impl Fn() -> Result<Verdict<T>, ErasureError>,
) -> Result<T, ErasureError> {
    // Tables of which tenants' own functions lock rows, for as long as their transactions stay open.
    let tables = [c"quarantine", c"export"].map(session::relation);
    let what = "what else is kept of those who are erased can't be changed";
    let moment = || lock::waiting_at_most(lock::LONGEST_TRY, &work);
    lock::tried(what, &tables, attempts, ErasureError::is_busy, moment)
}

/// What was found of some subjects before ingest was locked out.
pub struct Found {
    /// What nouns keep, by the noun.
    parts: Value,
    /// What rollups made of their ids.
    made: rollup::Made,
}

impl Found {
    /// Looks for it, while ingest goes on: a tenant may have much.
    /// `lost` are the months whose events are gone.
    pub fn of(tenant: &str, subjects: &Stored, lost: &[i64]) -> Result<Self, ErasureError> {
        let made = rollup::Made::of(tenant, &subjects.ids, lost)?;
        Ok(Self { parts: seek(tenant, subjects, &json!({})), made })
    }

    /// As if nobody had looked.
    pub fn nothing() -> Self {
        Self { parts: json!({}), made: rollup::Made::default() }
    }

    /// Locks it.
    pub fn pin(&self) {
        let pin = "SELECT tally_internal.pin_subjects($1)";
        session::as_owner(|| sql::run(pin, &[JsonB(self.parts.clone()).into()]));
    }
}

/// Finds what else is kept of the subjects; with what was found before, what came since.
fn seek(tenant: &str, subjects: &Stored, found: &Value) -> Value {
    let seek = "SELECT tally_internal.seek_subjects($1, $2, $3)";
    let values = [tenant.into(), subjects.ids.clone().into(), JsonB(found.clone()).into()];
    session::as_owner(|| sql::one::<JsonB>(seek, &values)).map_or(Value::Null, |found| found.0)
}

/// Removes what else is kept of the subjects; returns what each part of it was, for the certificates. The caller has locked ingest
/// out, and removed their raw events; `found` is what was found before that, and `lost` are the months whose events are gone otherwise.
pub fn forget(tenant: &str, subjects: &Stored, found: &Found, lost: &[i64]) -> Result<Value, ErasureError> {
    let parts = seek(tenant, subjects, &found.parts);
    let active = [tenant.into(), subjects.ids.clone().into(), subjects.sent.clone().into()];
    session::as_owner(|| sql::run("SELECT tally_internal.know_activity($1, $2, $3)", &active));
    let known = "SELECT tally_internal.known_subjects($1, $2, $3, $4)";
    let values = [
        tenant.into(),
        subjects.ids.clone().into(),
        subjects.sent.clone().into(),
        JsonB(parts.clone()).into(),
    ];
    let mut known: Vec<String> = session::as_owner(|| sql::changed_rows(known, &values, |row| row.need(1)))
        .into_iter()
        .next()
        .unwrap_or_default();
    let rollups = rollup::kept(tenant, lost, &subjects.ids, &found.made)?;
    let mut rows = 0;
    for kept in &rollups {
        // What values are compared by is text, written as it was where the expressions were evaluated.
        rows += session::with_fixed_settings(|| {
            session::as_owner(|| forget_in_rollup(kept, tenant, &subjects.ids))
        });
    }
    if rows > 0 && subjects.sent.windows(2).all(|pair| pair[0] == pair[1]) {
        // Of one alone it is known whose they are.
        known.clone_from(&subjects.ids);
    }
    let forget = "SELECT tally_internal.forget_subjects($1, $2, $3, $4)";
    let values = [tenant.into(), subjects.ids.clone().into(), known.into(), JsonB(parts).into()];
    let told: Option<JsonB> = session::as_owner(|| sql::one(forget, &values));
    let mut told = told.map_or(Value::Null, |told| told.0);
    told["rollup_rows"] = rows.into();
    // Removed with the others, a month and an account at a time.
    let detached = "SELECT sum(x.detached_events)::int8 FROM tally.erasure AS x WHERE x.tenant_id = $1 AND x.subject = ANY ($2)";
    let values = [tenant.into(), subjects.sent.clone().into()];
    told["detached"] = session::as_owner(|| sql::one::<i64>(detached, &values)).unwrap_or(0).into();
    Ok(told)
}

/// In what `forget_together` tells: what there was of those that had been erased before.
const AGAIN: &str = "again";

/// Subjects of a run, and what was found of them.
pub type Sought = Vec<(Stored, Found)>;

/// The same of the subjects of a run. Those that were erased before are gone through by themselves, so that it is known whether anything was there
/// of them again.
pub fn seek_together(tenant: &str, subjects: &Stored, lost: &[i64]) -> Result<Sought, ErasureError> {
    let before = "SELECT x.subject FROM tally.erasure AS x WHERE x.tenant_id = $1 AND x.subject = ANY ($2) \
        AND EXISTS (SELECT FROM tally.erasure AS b WHERE b.tenant_id = x.tenant_id AND b.subject_hash = x.subject_hash AND b.finished_at IS NOT NULL)";
    let values = [tenant.into(), subjects.sent.clone().into()];
    let before: HashSet<String> =
        session::as_owner(|| sql::changed_rows(before, &values, |row| row.need(1))).into_iter().collect();
    let (again, new) = subjects.split(|sent| before.contains(sent));
    let parts = [again, new].into_iter().filter(|part| !part.ids.is_empty());
    parts
        .map(|part| {
            let found = Found::of(tenant, &part, lost)?;
            Ok((part, found))
        })
        .collect()
}

/// Removes what else is kept of the subjects of a run.
pub fn forget_together(tenant: &str, sought: &Sought, lost: &[i64]) -> Result<Value, ErasureError> {
    let forgotten = sought.iter().map(|(subjects, found)| forget(tenant, subjects, found, lost));
    let mut forgotten = forgotten.collect::<Result<Vec<_>, _>>()?.into_iter();
    let (first, second) = (forgotten.next().unwrap_or(Value::Null), forgotten.next());
    let Some(new) = second else { return Ok(first) };
    let again = first;
    let rows = |told: &Value, part: &String| told[part.as_str()].as_i64().unwrap_or(0);
    let parts = new.as_object().into_iter().flatten().map(|(part, _)| part);
    let all = parts.map(|part| (part.clone(), (rows(&again, part) + rows(&new, part)).into()));
    let mut all = Value::Object(all.collect());
    all[AGAIN] = again;
    Ok(all)
}

/// Rows and values of the subjects in buckets that aren't made anew.
fn forget_in_rollup(kept: &Kept, tenant: &str, subjects: &[String]) -> i64 {
    let mut changed = 0;
    let mut count = |statement: String, values: &[String]| {
        if values.is_empty() {
            return;
        }
        let counted = format!("WITH gone AS ({statement} RETURNING 1) SELECT count(*) FROM gone");
        changed += sql::one::<i64>(&counted, &[tenant.into(), values.to_vec().into()]).unwrap_or(0);
    };
    let is_one = |own: &Own| {
        let column = quote(&own.column);
        if own.is_text {
            format!("c.{column} = ANY ($2)")
        } else {
            // Not by a cast, which may be anybody's function, nor by the type's equality, which not every type has.
            format!("c.{column} IS NOT NULL AND format('%s', c.{column}) COLLATE \"C\" = ANY ($2)")
        }
    };
    for table in &kept.tables {
        let table = quote(table);
        for column in &kept.user_columns {
            let column = quote(column);
            count(
                format!("DELETE FROM tally.{table} AS c WHERE c.tenant_id = $1 AND c.{column} = ANY ($2)"),
                subjects,
            );
        }
    }
    if let Some(frozen) = sql::within_any("c.bucket", &kept.frozen) {
        for (table, own) in
            kept.tables.iter().flat_map(|table| kept.named_dimensions.iter().map(move |own| (table, own)))
        {
            let (table, is_one) = (quote(table), is_one(own));
            count(
                format!("DELETE FROM tally.{table} AS c WHERE c.tenant_id = $1 AND {is_one} AND {frozen}"),
                &own.values,
            );
        }
        for measure in &kept.named_measures {
            let is_one = is_one(&measure.own);
            for (table, set) in &measure.without {
                let table = quote(table);
                count(
                    format!(
                        "UPDATE tally.{table} AS c SET {set} WHERE c.tenant_id = $1 AND {is_one} AND {frozen}"
                    ),
                    &measure.own.values,
                );
            }
        }
    }
    let note = "SELECT tally_internal.note_trace($1)";
    sql::run(note, &[kept.tables.clone().into()]);
    changed
}

/// A subject whose erasure ends.
struct Ending {
    hash: Uuid,
    requested_at: String,
    reason: String,
    events: i64,
    anonymous_events: i64,
    detached_events: i64,
    first_at: Option<TimestampWithTimeZone>,
    last_at: Option<TimestampWithTimeZone>,
    /// How often it was erased before.
    before: i64,
}

impl Ending {
    /// Whether it was erased before, and nothing was there again.
    fn has_found_nothing(&self, forgotten: &Value) -> bool {
        let has_nothing = |(part, rows): (&String, &Value)| {
            part == "detached" || part == "subjects" || rows.as_i64() == Some(0)
        };
        self.before > 0
            && self.events + self.anonymous_events + self.detached_events == 0
            && forgotten
                .get(AGAIN)
                .unwrap_or(forgotten)
                .as_object()
                .is_some_and(|parts| parts.iter().all(has_nothing))
    }
}

/// Writes the certificates of some subjects; `forgotten` is what `forget` told of all that were erased together. Who was erased before, and of
/// whom nothing was there again, keeps the one of before. `missing` are the months that nobody could search. The caller has locked ingest
/// out, or nothing is left to be removed.
pub fn certify(
    tenant: &str,
    hashes: &[Uuid],
    together: i64,
    forgotten: &Value,
    lost: &[i64],
    missing: &[i64],
) -> Result<(), ErasureError> {
    let rollups = rollup::kept(tenant, lost, &[], &rollup::Made::default())?;
    let ending = "SELECT x.subject_hash, to_char(x.requested_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), x.reason, x.events, x.anonymous_events, \
                         x.detached_events, x.first_at, x.last_at, \
                         (SELECT count(*) FROM tally.erasure AS b WHERE b.tenant_id = x.tenant_id AND b.subject_hash = x.subject_hash AND b.finished_at IS NOT NULL) \
                    FROM tally.erasure AS x WHERE x.tenant_id = $1 AND x.subject_hash = ANY ($2) AND x.finished_at IS NULL";
    let read = |row: sql::Row| Ending {
        hash: row.need(1),
        requested_at: row.need(2),
        reason: row.need(3),
        events: row.need(4),
        anonymous_events: row.need(5),
        detached_events: row.need(6),
        first_at: row.get(7),
        last_at: row.get(8),
        before: row.need(9),
    };
    let values = [tenant.into(), hashes.to_vec().into()];
    let ending = session::as_owner(|| sql::changed_rows(ending, &values, read));
    let (nothing, ending): (Vec<Ending>, Vec<Ending>) =
        ending.into_iter().partition(|subject| subject.has_found_nothing(forgotten));
    if !nothing.is_empty() {
        let withdraw = "DELETE FROM tally.erasure AS x WHERE x.tenant_id = $1 AND x.subject_hash = ANY ($2) AND x.finished_at IS NULL";
        let hashes: Vec<Uuid> = nothing.iter().map(|subject| subject.hash).collect();
        session::as_owner(|| sql::run(withdraw, &[tenant.into(), hashes.into()]));
    }
    let mut told = forgotten.clone();
    if let Some(parts) = told.as_object_mut() {
        parts.remove(AGAIN);
    }
    let certificates: Vec<JsonB> = ending
        .iter()
        .map(|subject| {
            JsonB(json!({
                "version": 1,
                "tenant_id": tenant,
                "subject_hash": subject.hash.to_string(),
                "requested_at": subject.requested_at,
                "reason": subject.reason,
                "events_removed": subject.events,
                "anonymous_events_removed": subject.anonymous_events,
                "erased_before": subject.before,
                "erased_together": together,
                "removed_elsewhere": told,
                "left_in_rollups": left(&rollups, subject),
                "left_in_the_ledger": "keys of its events, without its id, so that a retry is not counted again",
                "left_in_files": "until tables are vacuumed, and in WAL, standbys and backups until those are gone",
            }))
        })
        .collect();
    let hashes: Vec<Uuid> = ending.iter().map(|subject| subject.hash).collect();
    let write = "SELECT tally_internal.certify_erasures($1, $2, $3)";
    session::as_owner(|| sql::run(write, &[tenant.into(), hashes.into(), certificates.into()]));
    missing::note(tenant, ending.iter().chain(&nothing).map(|subject| subject.hash).collect(), missing);
    Ok(())
}

/// The rollups in whose frozen buckets a subject's events are counted or merged with others'. Rollups are kept for ever, so there is
/// no date on which they go by themselves.
fn left(rollups: &[Kept], subject: &Ending) -> Vec<Value> {
    let (Some(first), Some(last)) = (subject.first_at, subject.last_at) else { return Vec::new() };
    let own = i64::from(first)..i64::from(last) + 1;
    let text = |moment: i64| {
        let text = "SELECT to_char($1 AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')";
        session::as_owner(|| sql::one::<String>(text, &[Moment(moment).into()]))
    };
    let told = |kept: &Kept, frozen: &Range<i64>| {
        json!({
            "rollup": kept.rollup,
            "grains": kept.grains,
            "columns": kept.merged_columns,
            "numbers": kept.counted_columns,
            "by": kept.telling_dimensions,
            "from": text(own.start.max(frozen.start)),
            "before": text(own.end.min(frozen.end)),
            "why": "raw events of these buckets are gone, so they can't be made anew: in \"columns\" its values are merged with \
                    others', in \"numbers\" its events are counted still, by \"by\" too, except where that is its id",
            "goes": Value::Null,
        })
    };
    let has_others = |kept: &&Kept| !kept.merged_columns.is_empty() || !kept.counted_columns.is_empty();
    let of_one = |kept: &Kept| -> Vec<Value> {
        let meets = |frozen: &&Range<i64>| frozen.start < own.end && own.start < frozen.end;
        kept.frozen.iter().filter(meets).map(|frozen| told(kept, frozen)).collect()
    };
    rollups.iter().filter(has_others).flat_map(of_one).collect()
}
