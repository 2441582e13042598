//! Renewing: makes anew the groups of an account in which events counted that are gone, from the events that are left, as one change.
//! Where others' raw events of a bucket are gone, too, it stays as it is: also where somebody took a month out by hand.

use super::RollupError;
use super::append;
use super::definition::{self, Column, Definition, Kind};
use super::fold::{self, await_folding};
use super::frozen::{self, joined, renewed_from};
use super::rebuild::months_without_events;
use super::user_values::{self, Made, is_user, is_value, named_dimensions, named_measures, reads_of};
use crate::backend::session;
use crate::backend::sql::{self, quote, within, within_any};
use crate::raw::{horizon, leaf};
use core::ops::Range;
use pgrx::pg_sys::{self, Oid};
use std::collections::BTreeSet;
use tally_core::grain::Grain;

/// What is gone of an account.
pub struct Gone<'a> {
    pub tenant: &'a str,
    pub account: &'a str,
    /// Whose events.
    pub users: &'a [String],
    /// Moments near which there were any, one in each minute, in microseconds since 2000.
    pub moments: &'a [i64],
    /// The same of events without a user.
    pub anonymous_moments: &'a [i64],
}

/// Some groups of a rollup, and the events that count in them, as SQL, in which `$1` are the users: their ids must not be part of a
/// statement's text, which errors and logs show.
struct Part {
    groups: String,
    events: String,
    buckets: BTreeSet<(i64, i64)>,
}

/// What became of it.
#[derive(Default)]
pub struct Renewed {
    /// How many events were read.
    pub read: i64,
    /// Months, by their beginnings, that somebody took out by hand, and whose buckets stay as they are therefore.
    pub left: BTreeSet<i64>,
    /// The tables in which buckets were made anew.
    pub tables: BTreeSet<String>,
}

/// Makes the groups anew. The caller has locked ingest out, and removed the events.
pub fn renew(gone: &Gone) -> Result<Renewed, RollupError> {
    renew_parts(gone.tenant, gone.account, gone.users, |definition| parts(definition, gone))
}

/// Makes anew the groups of an account in a month, that was elsewhere when events were removed from it, but for the groups of single users. The caller
/// has locked ingest out.
pub fn renew_month(tenant: &str, account: &str, month: i64) -> Result<Renewed, RollupError> {
    let end = Grain::Month.ceiling(month + 1);
    renew_parts(tenant, account, &[], |definition| {
        let (groups, events) = match definition.dimensions().find(|column| is_user(column)) {
            None => ("true".to_owned(), "true".to_owned()),
            Some(column) => (format!("{} IS NULL", quote(&column.name)), "user_id IS NULL".to_owned()),
        };
        let next = |&(_, next): &(i64, i64)| Some((next, definition.ceiling(next + 1)));
        let first = (definition.floor(month), definition.ceiling(month + 1));
        let buckets = std::iter::successors(Some(first), next).take_while(|&(start, _)| start < end);
        vec![Part { groups, events, buckets: buckets.collect() }]
    })
}

fn renew_parts(
    tenant: &str,
    account: &str,
    users: &[String],
    parts: impl Fn(&Definition) -> Vec<Part>,
) -> Result<Renewed, RollupError> {
    let own = format!("tenant_id = {} AND account_id = {}", sql::literal(tenant), sql::literal(account));
    let mut renewed = Renewed::default();
    for definition in definition::all()?.iter() {
        let from = renewed_from(definition, tenant);
        for part in parts(definition) {
            renew_part(definition, from, &own, users, part, &mut renewed)?;
        }
    }
    Ok(renewed)
}

/// The groups of a rollup in which what is gone counted: of one by user the users' own, and those without a user.
fn parts(definition: &Definition, gone: &Gone) -> Vec<Part> {
    match definition.dimensions().find(|column| is_user(column)) {
        None => vec![Part {
            groups: "true".to_owned(),
            events: "true".to_owned(),
            buckets: buckets(definition, &[gone.moments, gone.anonymous_moments].concat()),
        }],
        Some(column) => {
            let is_one = "= ANY ($1)";
            let column = quote(&column.name);
            vec![
                Part {
                    groups: format!("{column} {is_one}"),
                    events: format!("user_id {is_one}"),
                    buckets: buckets(definition, gone.moments),
                },
                Part {
                    groups: format!("{column} IS NULL"),
                    events: "user_id IS NULL".to_owned(),
                    buckets: buckets(definition, gone.anonymous_moments),
                },
            ]
        }
    }
}

fn renew_part(
    definition: &Definition,
    from: i64,
    own: &str,
    users: &[String],
    part: Part,
    renewed: &mut Renewed,
) -> Result<(), RollupError> {
    let mut buckets = part.buckets;
    buckets.retain(|&(start, _)| start >= from);
    let Some(all) = within_any("bucket", &joined(&buckets)) else { return Ok(()) };
    // Made anew, what is of a month that is gone would lose what it has of others.
    for (month, _) in months_without_events(&format!("{own} AND {all}")) {
        let end = Grain::Month.ceiling(month + 1);
        buckets.retain(|&(start, next)| next <= month || start >= end);
        renewed.left.insert(month);
    }
    let ranges = joined(&buckets);
    let (Some(buckets), Some(times)) = (within_any("bucket", &ranges), within_any("occurred_at", &ranges))
    else {
        return Ok(());
    };
    await_folding(definition)?;
    renewed.tables.extend(definition.tables());
    session::as_owner(|| {
        for table in definition.tables() {
            let condition = format!("{own} AND {buckets} AND {}", part.groups);
            let delete = format!("DELETE FROM tally.{} WHERE {condition}", quote(&table));
            // An argument that a statement doesn't use needs no type of its own.
            sql::run(&delete, &[users.to_vec().into()]);
        }
    });
    renewed.read +=
        append::fill_of(&definition.name, &format!("{own} AND {times} AND {}", part.events), users)?;
    Ok(())
}

/// Buckets of every grain that some moments lie in.
fn buckets(definition: &Definition, moments: &[i64]) -> BTreeSet<(i64, i64)> {
    moments.iter().map(|&moment| (definition.floor(moment), definition.ceiling(moment + 1))).collect()
}

/// Whether a dimension's values may be one user's alone: made from its id, its session or from what the application sends.
fn is_telling(column: &Column) -> bool {
    let reads = reads_of(column);
    !reads.properties.is_empty()
        || ["user_id", "session_id", "event_id"].iter().any(|of| reads.reads_column(of))
}

/// What a rollup may know of a tenant's users where it isn't made anew.
pub struct Kept {
    pub rollup: String,
    /// Buckets of these times are not made anew: in microseconds since 2000, in order, open to the past where it is the least number.
    pub frozen: Vec<Range<i64>>,
    pub grains: Vec<String>,
    pub tables: Vec<String>,
    /// Dimensions that are the user: rows of a user are its own.
    pub user_columns: Vec<String>,
    /// What is made from the user: other dimensions, extremes, first and last values.
    pub named_dimensions: Vec<Own>,
    pub named_measures: Vec<NamedMeasure>,
    /// Sketches, extremes and values in which one user's events can't be told from others' afterwards.
    pub merged_columns: Vec<String>,
    /// Counts and sums in which they are counted with others'.
    pub counted_columns: Vec<String>,
    /// Dimensions whose values may be one user's alone, by something else than its id.
    pub telling_dimensions: Vec<String>,
}

/// Values of a column that are users' alone.
pub struct Own {
    pub column: String,
    pub is_text: bool,
    /// As text.
    pub values: Vec<String>,
}

/// A measure whose value may be made from a user's id.
pub struct NamedMeasure {
    pub own: Own,
    /// For each table, that of the finest grain first: SQL that sets what a row `c` has without the value.
    pub without: Vec<(String, String)>,
}

impl NamedMeasure {
    fn new(definition: &Definition, column: &Column, own: Own) -> Self {
        let base = |grain: Grain| definition.table(&format!("{grain}_base"));
        let finest = definition.pending_grain();
        let has_finest = definition.grains.contains(&finest);
        let same: Vec<String> = definition
            .dimensions()
            .map(|dimension| quote(&dimension.name))
            .map(|name| format!(" AND f.{name} IS NOT DISTINCT FROM c.{name}"))
            .collect();
        // Of a first or last value its time goes with it: else what comes later would seem to be as early.
        let time = definition.columns.iter().find(|other| other.name == column.time_name());
        let set = |value: &dyn Fn(&Column) -> String| -> String {
            let set = |column: &Column| format!("{} = {}", quote(&column.name), value(column));
            std::iter::once(column).chain(time).map(set).collect::<Vec<_>>().join(", ")
        };
        let unknown = set(&|_| "NULL".to_owned());
        // A coarser bucket is what its finer ones are, as verifying has it; where there are none, nobody knows.
        let without = |grain: Grain| match grain {
            grain if grain == finest || !has_finest => unknown.clone(),
            grain => set(&|column| {
                format!(
                    "(SELECT {} FROM tally.{} AS f WHERE f.tenant_id = c.tenant_id AND f.account_id = c.account_id \
                       AND date_trunc('{grain}', f.bucket, 'UTC') = c.bucket{})",
                    fold::aggregate(column),
                    quote(&base(finest)),
                    same.concat()
                )
            }),
        };
        let (finest_first, coarser): (Vec<Grain>, Vec<Grain>) =
            definition.grains.iter().partition(|&&grain| grain == finest);
        let bases = finest_first.into_iter().chain(coarser).map(|grain| (base(grain), without(grain)));
        let pending = (definition.table("pending"), unknown.clone());
        Self { own, without: bases.chain([pending]).collect() }
    }
}

/// Months of which a tenant has numbers and whose events are gone, though nothing of ours took those out.
#[derive(Clone)]
pub struct Lost {
    /// The tables that events lay in then, with their bounds.
    tables: Vec<(Oid, Range<i64>)>,
    /// Their beginnings.
    pub months: Vec<i64>,
    /// The same from before the horizon of all, which we took out: what was left of one may be put back.
    pub earlier: Vec<i64>,
}

impl Lost {
    /// Reads all days of the tenant's numbers: to be called before ingest is locked out.
    pub fn of(tenant: &str) -> Self {
        let tables = tables_of_events();
        let from = horizon::of_all().map_or(i64::MIN, |(moment, _)| moment);
        let gone = |time: Range<i64>| -> Vec<i64> {
            let own = format!("tenant_id = {} AND {}", sql::literal(tenant), within("bucket", &time));
            months_without_events(&own).into_iter().map(|(month, _)| month).collect()
        };
        let earlier = if from == i64::MIN { Vec::new() } else { gone(i64::MIN..from) };
        Self { tables, months: gone(from..i64::MAX), earlier }
    }

    /// As of now, where ingest is locked out: read again only if a table came or went since.
    pub fn now(&self, tenant: &str) -> Self {
        if self.tables == tables_of_events() { self.clone() } else { Self::of(tenant) }
    }
}

fn tables_of_events() -> Vec<(Oid, Range<i64>)> {
    session::as_owner(|| leaf::leaves("true", &[])).into_iter().map(|leaf| (leaf.table, leaf.time)).collect()
}

/// Takes the locks that keep rollups from being folded until the transaction ends. The caller has locked ingest out.
pub fn await_folders() -> Result<(), RollupError> {
    definition::all()?.iter().try_for_each(await_folding)
}

/// The rollups, as an erasure of some users must know them, of whom some values may be `made`, which lost the events of some months; holds the locks that keep each from being folded until the transaction ends. The caller
/// has locked ingest out.
pub fn kept(tenant: &str, lost: &[i64], users: &[String], made: &Made) -> Result<Vec<Kept>, RollupError> {
    let definitions = definition::all()?;
    let names = |columns: &mut dyn Iterator<Item = &Column>| -> Vec<String> {
        columns.map(|column| column.name.clone()).collect()
    };
    let describe = |definition: &Definition| {
        await_folding(definition)?;
        let frozen = frozen::times(definition, tenant, lost);
        let is_all_made_anew = frozen.is_empty();
        let values = |column: &Column| match made.find(definition, column) {
            _ if is_all_made_anew => Ok(Vec::new()),
            Some(values) => Ok(values.clone()),
            None => {
                user_values::of_users(definition, column, tenant, users, &user_values::alike(tenant, users))
            }
        };
        let own = |column: &Column| -> Result<Own, RollupError> {
            Ok(Own {
                column: column.name.clone(),
                is_text: matches!(column.stored_type(), pg_sys::TEXTOID | pg_sys::VARCHAROID),
                values: values(column)?,
            })
        };
        let is_merged =
            |column: &&Column| is_value(column) || matches!(column.kind, Kind::Distinct | Kind::Percentiles);
        let has_user = definition.dimensions().any(is_user);
        Ok(Kept {
            rollup: definition.name.clone(),
            frozen,
            grains: definition.grains.iter().map(|grain| grain.to_string()).collect(),
            tables: definition.tables(),
            user_columns: names(&mut definition.dimensions().filter(|column| is_user(column))),
            named_dimensions: named_dimensions(definition).map(own).collect::<Result<_, _>>()?,
            named_measures: named_measures(definition)
                .map(|column| Ok(NamedMeasure::new(definition, column, own(column)?)))
                .collect::<Result<_, RollupError>>()?,
            // Of a rollup by user nothing of another user's group is a user's.
            merged_columns: names(&mut definition.measures().filter(is_merged).filter(|_| !has_user)),
            counted_columns: names(
                &mut definition.measures().filter(|column| !is_merged(column)).filter(|_| !has_user),
            ),
            telling_dimensions: names(
                &mut definition.dimensions().filter(|column| !is_user(column) && is_telling(column)),
            ),
        })
    };
    definitions.iter().map(describe).collect()
}
