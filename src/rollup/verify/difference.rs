//! The statement that joins two sides in full and lists each measure in which they differ.

use super::super::definition::{Column, Definition, Kind};
use super::stored;
use crate::backend::expression;
use crate::backend::sql;
use tally_core::grain::Grain;

/// Where the second side comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Theirs {
    /// Recomputed from events: sets of days as arrays of dates, no damage.
    Recomputed,
    /// Merged from another grain's states, of which some may be damaged.
    Stored,
}

/// SQL for two sides, each with tenant, account, bucket and a column `c<place>` for each of the definition's; the first with
/// a column `d<place>` for what is wrong with a state, and so the second where it is stored.
pub struct Sides {
    pub ours: String,
    pub theirs: String,
    pub kind: Theirs,
}

/// What the answer of `verify_rollup` consists of.
pub fn statement(definition: &Definition, grain: Grain, sides: &Sides) -> String {
    let key = |side: &str| {
        let values: String =
            definition.dimensions().enumerate().map(|(place, _)| format!(", {side}.c{place}")).collect();
        format!("jsonb_build_array({side}.tenant_id, {side}.account_id, {side}.bucket{values})")
    };
    let values: Vec<String> = (0..definition.dimensions().count())
        .map(|place| format!("coalesce(s.c{place}, r.c{place})::text"))
        .collect();
    let rows: Vec<String> = definition
        .columns
        .iter()
        .enumerate()
        .filter(|(_, column)| column.kind != Kind::Dimension)
        .map(|(place, column)| difference(column, place, sides.kind))
        .collect();
    format!(
        "WITH r AS ({theirs}), s AS ({ours}) \
         SELECT '{grain}', coalesce(s.tenant_id, r.tenant_id), coalesce(s.account_id, r.account_id), {bucket}, {shown}, \
                difference.measure, \
                CASE WHEN s.tenant_id IS NULL THEN NULL ELSE coalesce(difference.stored, 'null') END, \
                CASE WHEN r.tenant_id IS NULL THEN NULL ELSE coalesce(difference.recomputed, 'null') END \
           FROM s FULL JOIN r ON {our_key} = {their_key}, \
                LATERAL (VALUES {rows}) AS difference (measure, differs, stored, recomputed) \
          WHERE s.tenant_id IS NULL OR r.tenant_id IS NULL OR difference.differs ORDER BY 2, 3, 4, 5, 6",
        theirs = sides.theirs,
        ours = sides.ours,
        bucket = sql::micros("coalesce(s.bucket, r.bucket)"),
        shown = dimensions(definition, &values),
        our_key = key("s"),
        their_key = key("r"),
        rows = rows.join(", "),
    )
}

/// SQL for the dimensions as an object, from SQL for each one's text.
pub fn dimensions(definition: &Definition, values: &[String]) -> String {
    if values.is_empty() {
        return "'{}'::jsonb".to_owned();
    }
    let names: Vec<String> = definition.dimensions().map(|column| sql::literal(&column.name)).collect();
    format!("jsonb_object(ARRAY[{}], ARRAY[{}])", names.join(", "), values.join(", "))
}

/// SQL for how a state that can't be read is shown.
pub fn unreadable(damage: &str) -> String {
    format!("'unreadable: ' || {damage}")
}

/// A row for the list of measures: name, whether the sides differ, both sides as text.
fn difference(column: &Column, place: usize, kind: Theirs) -> String {
    let name = sql::literal(&column.name);
    let (ours, theirs) = (format!("s.c{place}"), format!("r.c{place}"));
    let (differs, our_text, their_text) = compare(column, &ours, &theirs, kind);
    if stored::damage(column, &ours, "0").is_none() {
        return format!("({name}, {differs}, {our_text}, {their_text})");
    }
    let damaged = format!("s.d{place}");
    let differs = match kind {
        Theirs::Recomputed => format!("CASE WHEN {damaged} IS NOT NULL THEN true ELSE {differs} END"),
        // A state that can't be read is listed as such, once.
        Theirs::Stored => {
            format!("CASE WHEN {damaged} IS NOT NULL OR r.d{place} IS NOT NULL THEN false ELSE {differs} END")
        }
    };
    let our_text =
        format!("CASE WHEN {damaged} IS NOT NULL THEN {} ELSE {our_text} END", unreadable(&damaged));
    format!("({name}, {differs}, {our_text}, {their_text})")
}

/// SQL for whether two sides differ, and for each as text.
fn compare(column: &Column, ours: &str, theirs: &str, kind: Theirs) -> (String, String, String) {
    match column.kind {
        // An empty sketch says what null says.
        Kind::Distinct => (
            format!(
                "CASE WHEN {ours} IS NULL OR {theirs} IS NULL \
                 THEN coalesce(tally.distinct_count({ours}), 0) <> coalesce(tally.distinct_count({theirs}), 0) \
                 ELSE {ours}::bytea IS DISTINCT FROM {theirs}::bytea END"
            ),
            format!("tally.distinct_count({ours})::text"),
            format!("tally.distinct_count({theirs})::text"),
        ),
        Kind::Percentiles => {
            let shown = |side: &str| {
                format!(
                    "concat_ws(' ', tally.num_vals({side}), tally.min_val({side}), \
                     tally.approx_percentile(0.5, {side}), tally.max_val({side}), tally.mean({side}))"
                )
            };
            (
                format!(
                    "CASE WHEN {ours} IS NULL OR {theirs} IS NULL \
                     THEN coalesce(tally.num_vals({ours}), 0) <> coalesce(tally.num_vals({theirs}), 0) \
                     ELSE NOT tally_internal.agrees({ours}, {theirs}) END"
                ),
                shown(ours),
                shown(theirs),
            )
        }
        Kind::Days => {
            let ours = format!("tally.day_list({ours})");
            let theirs = match kind {
                Theirs::Recomputed => theirs.to_owned(),
                Theirs::Stored => format!("tally.day_list({theirs})"),
            };
            (format!("{ours} IS DISTINCT FROM {theirs}"), format!("{ours}::text"), format!("{theirs}::text"))
        }
        _ => {
            let is_strange = (column.expression.as_ref())
                .is_some_and(|expression| !expression::is_type_of_postgres(expression.type_oid));
            let shown = |side: &str| if is_strange { output(side) } else { format!("{side}::text") };
            let compared = |side: &str| if is_strange { output(side) } else { side.to_owned() };
            let differs = format!("{} IS DISTINCT FROM {}", compared(ours), compared(theirs));
            (differs, shown(ours), shown(theirs))
        }
    }
}

/// SQL for a value of a type that somebody made as text. Casts of such a type, to text or to what operators take, are somebody's
/// code, and this statement has the rights of the tables' owner; output functions are not.
fn output(side: &str) -> String {
    format!("CASE WHEN num_nulls({side}) = 0 THEN concat({side}) END")
}
