//! Buckets whose raw events are gone: neither verified nor rebuilt.

use super::definition::Definition;
use crate::backend::session;
use crate::backend::sql::{self, Moment, quote};
use crate::raw::{horizon, lost_months};
use core::ops::Range;
use std::collections::{BTreeMap, BTreeSet};
use tally_core::grain::Grain;

/// Moments from which each tenant's buckets of every grain are rebuilt, of those tenants that have a horizon.
pub struct Frozen(BTreeMap<String, i64>);

impl Frozen {
    pub fn read(definition: &Definition) -> Self {
        let moments = horizon::of_tenants().into_iter();
        Self(moments.map(|(tenant, moment)| (tenant, definition.ceiling(moment))).collect())
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
        let moments = serde_json::to_string(&self.0).expect("texts and numbers");
        format!(
            "coalesce({} >= ({}::jsonb ->> tenant_id)::int8, true)",
            sql::micros(column),
            sql::literal(&moments)
        )
    }
}

/// The moment from which on a tenant's buckets of every grain are made anew: those before have lost raw events.
pub fn renewed_from(definition: &Definition, tenant: &str) -> i64 {
    let of_all = horizon::of_all().map_or(i64::MIN, |(moment, _)| definition.ceiling(moment));
    Frozen::read(definition).of(tenant).unwrap_or(i64::MIN).max(of_all)
}

/// The times of which a tenant's buckets are not made anew, in order: those from before its horizon, and those of months, given by their
/// beginnings, that somebody took out by hand.
pub fn times(definition: &Definition, tenant: &str, lost: &[i64]) -> Vec<Range<i64>> {
    let from = renewed_from(definition, tenant);
    let lost = lost
        .iter()
        .map(|&month| (definition.floor(month), definition.ceiling(Grain::Month.ceiling(month + 1))));
    let before = (i64::MIN, from);
    joined(&lost.chain([before]).filter(|&(start, end)| end > start).collect())
}

/// Ranges of time in order, joined where they meet.
pub fn joined(ranges: &BTreeSet<(i64, i64)>) -> Vec<Range<i64>> {
    let mut joined: Vec<Range<i64>> = Vec::new();
    for &(start, end) in ranges {
        match joined.last_mut() {
            Some(last) if last.end >= start => last.end = last.end.max(end),
            _ => joined.push(start..end),
        }
    }
    joined
}

/// The moment from which on no tenant's raw events are gone; `None` where none are. Called as the owner.
pub fn whole_from() -> Option<String> {
    // A database that isn't updated yet has no place for it.
    session::find_relation(c"raw_loss")?;
    let by_hand = Some(lost_months::unnoted_until()).filter(|&end| end != i64::MIN).map(Moment);
    let latest = "SELECT greatest((SELECT max(whole_from) FROM tally.raw_loss), \
                    (SELECT max(raw_from) FROM tally.raw_horizon), (SELECT max(raw_from) FROM tally.tenant_horizon), $1)::text";
    sql::one(latest, &[by_hand.into()])
}

/// Notes with a rollup that is being declared from when on the raw events are whole that it begins with, where some are gone.
/// Called as the owner.
pub fn note_what_is_gone(rollup: &str) {
    if let Some(whole_from) = whole_from() {
        let note = "UPDATE tally.rollup SET whole_from = $2::timestamptz WHERE rollup_name = $1";
        sql::run(note, &[rollup.into(), whole_from.as_str().into()]);
    }
}

/// Says so in the comments of its views. Called as the owner.
pub fn say_what_is_gone(rollup: &str, grains: &[Grain]) {
    if session::find_relation(c"raw_loss").is_none() {
        return;
    }
    let known = "SELECT whole_from::text FROM tally.rollup WHERE rollup_name = $1";
    let Some(whole_from) = sql::one::<String>(known, &[rollup.into()]) else { return };
    for grain in grains {
        let comment = format!(
            "rollup {rollup} by {grain} (UTC): finished numbers; when it was declared, raw events from before {whole_from} \
             were gone, which it doesn't count"
        );
        let view = quote(&format!("{rollup}_{grain}"));
        sql::run(&format!("COMMENT ON VIEW tally.{view} IS {}", sql::literal(&comment)), &[]);
    }
}
