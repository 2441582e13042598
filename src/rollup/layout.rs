//! How a rollup lies in the database: its tables and views, as SQL.

use super::definition::{Column, Definition, Kind};
use super::dependents::Dependents;
use super::fold::{aggregate, bucket};
use crate::backend::expression::{self, type_name};
use crate::backend::schema;
use crate::backend::sql::{self, literal, quote};
use pgrx::pg_sys::Oid;
use tally_core::grain::Grain;

/// Percentiles that a finished view shows of each t-digest.
const SHOWN_PERCENTILES: [(&str, &str); 3] = [("p50", "0.5"), ("p95", "0.95"), ("p99", "0.99")];

/// Names of its tables and views.
pub fn relations(definition: &Definition) -> Vec<String> {
    let name = &definition.name;
    let mut relations = vec![format!("{name}_pending")];
    for grain in &definition.grains {
        relations.extend([
            format!("{name}_{grain}_base"),
            format!("{name}_{grain}"),
            format!("{name}_{grain}_state"),
        ]);
    }
    relations
}

/// Columns that the finished view shows of a column: name, SQL over the state view, comment. The comment says whether a tool may sum
/// the column, and what to ask of the state view where it may not.
pub fn finished(column: &Column) -> Vec<(String, String, String)> {
    let (name, quoted) = (&column.name, quote(&column.name));
    match column.kind {
        Kind::Dimension => vec![(name.clone(), quoted, "dimension".into())],
        Kind::Distinct => vec![
            (
                name.clone(),
                format!("tally.distinct_count({quoted})"),
                format!("estimated number of distinct values. {}", instead(column)),
            ),
            (
                format!("{name}_stderr"),
                format!("tally.distinct_count({quoted}) * tally.stderror({quoted})"),
                format!("standard error of {name}, in values. Doesn't add up"),
            ),
        ],
        Kind::Percentiles => SHOWN_PERCENTILES
            .iter()
            .map(|(suffix, fraction)| {
                (
                    format!("{name}_{suffix}"),
                    format!("tally.approx_percentile({fraction}, {quoted})"),
                    format!(
                        "estimated value at fraction {fraction}. Doesn't add up, nor do averages of it: of several rows ask \
                         tally.approx_percentile({fraction}, tally.rollup({quoted})) of the _state view"
                    ),
                )
            })
            .collect(),
        Kind::Days => {
            let comment = format!("number of days. {}", instead(column));
            vec![(name.clone(), format!("tally.day_count({quoted})"), comment)]
        }
        Kind::SessionWindows => vec![(
            name.clone(),
            format!("tally.session_window_count({quoted})"),
            format!("number of session windows. {}", instead(column)),
        )],
        _ => vec![(name.clone(), quoted, plain_comment(column))],
    }
}

/// Comment of a measure that both views show as it is stored.
fn plain_comment(column: &Column) -> String {
    let name = &column.name;
    match column.kind {
        Kind::Count | Kind::Sum => format!("{}. Adds up", column.kind.name()),
        Kind::Min | Kind::Max => {
            format!("{0}. Doesn't add up: of several rows take the {0}", column.kind.name())
        }
        Kind::First => format!(
            "first value, that of {name}_at. Doesn't add up: of several rows take that of the least {name}_at"
        ),
        Kind::Last => format!(
            "last value, that of {name}_at. Doesn't add up: of several rows take that of the greatest {name}_at"
        ),
        kind => kind.name().into(),
    }
}

/// What to ask of several rows, where sums would be wrong.
fn instead(column: &Column) -> String {
    format!("Doesn't add up: of several rows ask {} of the _state view", of_several(column))
}

/// SQL over rows of the state view that gives the number of all of them together.
fn of_several(column: &Column) -> String {
    let quoted = quote(&column.name);
    match column.kind {
        Kind::Percentiles => format!("tally.approx_percentile(0.95, tally.rollup({quoted}))"),
        Kind::Days => format!("tally.day_count(tally.union_days({quoted}))"),
        Kind::SessionWindows => format!("tally.session_window_count(tally.union_session_windows({quoted}))"),
        _ => format!("tally.distinct_count(tally.rollup({quoted}))"),
    }
}

/// Comment of a column of the state view.
fn state_comment(column: &Column) -> String {
    match column.kind {
        Kind::Distinct | Kind::Percentiles | Kind::Days | Kind::SessionWindows => {
            format!(
                "{}, as a state: ask {}, of one row or of several",
                column.kind.name(),
                of_several(column)
            )
        }
        _ => plain_comment(column),
    }
}

/// Whether views of a grain have the bucket as a date, too.
pub fn has_date(grain: Grain) -> bool {
    !matches!(grain, Grain::Minute | Grain::Hour)
}

/// Name of the column that has the bucket as a date: that of the grain, from a day on, unless a rollup from before 0.2.0 has one of that name.
fn date_column(grain: Grain, shown: &[(String, String, String)]) -> Option<&'static str> {
    let name = grain.name();
    (has_date(grain) && shown.iter().all(|(column, ..)| column != name)).then_some(name)
}

fn column_type(column: &Column) -> String {
    match (column.kind, &column.expression) {
        (Kind::Distinct, _) => "tally.hll".into(),
        (Kind::Percentiles, _) => "tally.tdigest".into(),
        (Kind::Days | Kind::SessionWindows, _) => "bytea".into(),
        (Kind::Count, _) | (_, None) => "bigint".into(),
        (_, Some(expression)) if expression.collation != Oid::INVALID => {
            format!("{} COLLATE \"C\"", type_name(expression.type_oid))
        }
        (_, Some(expression)) => type_name(expression.type_oid),
    }
}

/// Statements that make the tables.
pub fn create_tables(definition: &Definition) -> Vec<String> {
    let name = &definition.name;
    let columns: String =
        definition.columns.iter().map(|column| format!(", {}", column_definition(column))).collect();
    let keys = "tenant_id text COLLATE \"C\" NOT NULL, account_id text COLLATE \"C\" NOT NULL, \
                bucket timestamptz NOT NULL";
    let pending = quote(&format!("{name}_pending"));
    // A dense sketch and a digest together exceed the usual 2 kB: kept in line, a reader needs no second look-up.
    let mut statements = vec![
        format!(
            "CREATE TABLE tally.{pending} ({keys}{columns}) WITH (toast_tuple_target = 8160, \
             autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, \
             autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000)"
        ),
        // Rows have no key, or one with nulls in it: logical replication sends them whole.
        format!("ALTER TABLE tally.{pending} REPLICA IDENTITY FULL"),
        format!("SELECT tally_internal.secure_table('tally.{pending}')"),
        format!("GRANT SELECT ON tally.{pending} TO tally_reader"),
        format!(
            "COMMENT ON TABLE tally.{pending} IS 'rollup {name}: rows written by ingest, not yet folded'"
        ),
    ];
    for &grain in &definition.grains {
        let base = quote(&format!("{name}_{grain}_base"));
        let key = quote(&format!("{name}_{grain}_key"));
        // Workers share the cost of reading all of it, which then looks cheaper than a tenant's pages; the views gain little by them.
        statements.extend([
            format!(
                "CREATE TABLE tally.{base} ({keys}{columns}, CONSTRAINT {key} {}) \
                 WITH (fillfactor = 70, toast_tuple_target = 8160, parallel_workers = 0)",
                unique(definition)
            ),
            format!("ALTER TABLE tally.{base} REPLICA IDENTITY FULL"),
            format!("SELECT tally_internal.secure_table('tally.{base}')"),
            format!("GRANT SELECT ON tally.{base} TO tally_reader"),
            format!("COMMENT ON TABLE tally.{base} IS 'rollup {name} by {grain}: folded rows'"),
        ]);
    }
    statements
}

/// A column of the tables, as it is declared in SQL.
pub fn column_definition(column: &Column) -> String {
    format!("{} {}", quote(&column.name), column_type(column))
}

/// The constraint that is the key of base tables, without its name.
pub fn unique(definition: &Definition) -> String {
    let key: Vec<String> = definition.key().into_iter().map(quote).collect();
    format!("UNIQUE NULLS NOT DISTINCT ({})", key.join(", "))
}

/// Statements that make the views.
pub fn create_views(definition: &Definition) -> Vec<String> {
    let name = &definition.name;
    let shown: Vec<_> = definition.columns.iter().flat_map(finished).collect();
    let finished: String = shown.iter().map(|(name, sql, _)| format!(", {sql} AS {}", quote(name))).collect();
    let mut statements = Vec::new();
    for &grain in &definition.grains {
        let (view, state) = (quote(&format!("{name}_{grain}")), quote(&format!("{name}_{grain}_state")));
        let date = date_column(grain, &shown)
            .map(|column| format!(", (bucket AT TIME ZONE 'UTC')::date AS {column}"))
            .unwrap_or_default();
        statements.extend([
            format!("CREATE VIEW tally.{state} WITH (security_invoker = true) AS {}", states(definition, grain)),
            format!(
                "CREATE VIEW tally.{view} WITH (security_invoker = true) AS \
                 SELECT tenant_id, account_id, bucket{finished}{date} FROM tally.{state}"
            ),
            without_default_privileges(&state),
            without_default_privileges(&view),
            format!("GRANT SELECT ON tally.{view}, tally.{state} TO tally_reader"),
            format!("COMMENT ON VIEW tally.{view} IS 'rollup {name} by {grain} (UTC): finished numbers'"),
            format!("COMMENT ON VIEW tally.{state} IS 'rollup {name} by {grain} (UTC): sketches, for further roll-ups'"),
        ]);
        for (column, comment) in [
            ("tenant_id", "the tenant"),
            ("account_id", "the account"),
            ("bucket", "start of the bucket (UTC)"),
        ] {
            for view in [&view, &state] {
                statements.push(format!("COMMENT ON COLUMN tally.{view}.{column} IS '{comment}'"));
            }
        }
        if let Some(column) = date_column(grain, &shown) {
            statements.push(format!(
                "COMMENT ON COLUMN tally.{view}.{column} IS 'the bucket as a date, of its first day (UTC), the same in every time zone'"
            ));
        }
        for (column, _, comment) in &shown {
            statements.push(format!(
                "COMMENT ON COLUMN tally.{view}.{} IS {}",
                quote(column),
                literal(comment)
            ));
        }
        for column in &definition.columns {
            statements.push(format!(
                "COMMENT ON COLUMN tally.{state}.{} IS {}",
                quote(&column.name),
                literal(&state_comment(column))
            ));
        }
    }
    statements
}

/// The query of a state view. Most base rows have nothing pending that would have to be added to them: these are shown as they are, and
/// only the others grouped with what is pending. Of a quarter or a year most groups' bucket is the present one.
fn states(definition: &Definition, grain: Grain) -> String {
    let name = &definition.name;
    let (base, pending) = (quote(&format!("{name}_{grain}_base")), quote(&format!("{name}_pending")));
    let names: String =
        definition.columns.iter().map(|column| format!(", {}", quote(&column.name))).collect();
    let dimensions: String =
        definition.dimensions().map(|column| format!(", {}", quote(&column.name))).collect();
    let merged: String = definition
        .measures()
        .map(|column| format!(", {} AS {}", merged_in_view(column), quote(&column.name)))
        .collect();
    let places = (1..=3 + definition.dimensions().count())
        .map(|place| place.to_string())
        .collect::<Vec<_>>()
        .join(", ");
    let bucket = bucket(definition, grain);
    let grouped = |which: &str| {
        format!(
            "SELECT tenant_id, account_id, bucket{dimensions}{merged} FROM (\
             SELECT tenant_id, account_id, bucket{names} FROM tally.{base}{which} UNION ALL \
             SELECT tenant_id, account_id, {bucket} AS bucket{names} FROM tally.{pending}) AS rows GROUP BY {places}"
        )
    };
    if !schema::is_updated() || grain > Grain::Month {
        return grouped("");
    }
    let alone: String =
        definition.columns.iter().map(|column| format!(", {}", alone_in_view(column))).collect();
    let has_pending =
        "tally_internal.may_have_pending((SELECT waiting.keys FROM waiting), tenant_id, account_id, bucket)";
    // The common table expression keeps the planner from taking query and union for one: it leaves out columns that nobody asks for
    // only in a query around a union. The outer join, which it leaves out, has it refuse FOR UPDATE, which would lock nothing.
    format!(
        "WITH waiting AS MATERIALIZED (\
         SELECT tally_internal.pending_keys(tenant_id, account_id, bucket, '{grain}') AS keys FROM tally.{pending}) \
         SELECT tenant_id, account_id, bucket{names} FROM (\
         SELECT tenant_id, account_id, bucket{alone} FROM tally.{base} WHERE {has_pending} IS NOT TRUE UNION ALL {}) AS rows \
         LEFT JOIN (SELECT count(*)) AS no_row_locks ON true",
        grouped(&format!(" WHERE {has_pending}"))
    )
}

/// SQL of a column of a base row that nothing is added to, in the type of what [`merged_in_view`] gives: of a few types Postgres' `min`
/// and `max` take what those are cast to.
fn alone_in_view(column: &Column) -> String {
    let (name, stored) = (quote(&column.name), column.stored_type());
    let function = match column.kind {
        Kind::Min | Kind::Max
            if !expression::is_type_of_postgres(stored) || !expression::has_minimum(stored) =>
        {
            return name;
        }
        Kind::Min => "min",
        Kind::Max => "max",
        _ => return name,
    };
    let merged = format!("SELECT pg_typeof({function}(NULL::{}))::oid", type_name(stored));
    match sql::one::<Oid>(&merged, &[]) {
        Some(merged) if merged != stored => format!("{name}::{} AS {name}", type_name(merged)),
        _ => name,
    }
}

/// SQL that merges a measure's states in a view, where a group has few rows: as [`aggregate`], by aggregates that workers don't begin.
fn merged_in_view(column: &Column) -> String {
    let name = quote(&column.name);
    match column.kind {
        // Its update makes the views anew.
        _ if !schema::is_updated() => aggregate(column),
        Kind::Count => format!("tally_internal.total({name})"),
        Kind::Distinct | Kind::Percentiles => format!("tally_internal.rollup_few({name})"),
        Kind::Days => format!("tally_internal.union_few_days({name})"),
        Kind::SessionWindows => format!("tally_internal.union_few_session_windows({name})"),
        _ => aggregate(column),
    }
}

/// A statement that revokes what default privileges have given on a relation of ours; of a table, `tally_internal.secure_table` does.
pub fn without_default_privileges(relation: &str) -> String {
    format!(
        "DO $do$ DECLARE who text; BEGIN \
           FOR who IN SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END \
                        FROM pg_class AS c, aclexplode(c.relacl) AS a \
                       WHERE c.oid = 'tally.{relation}'::regclass AND a.grantee <> c.relowner \
           LOOP EXECUTE 'REVOKE ALL ON tally.{relation} FROM ' || who || ' CASCADE'; END LOOP; END $do$"
    )
}

/// Statements that remove the views.
pub fn drop_views(rollup_name: &str, grains: &[Grain], dependents: Dependents) -> Vec<String> {
    let views = grains.iter().map(|grain| format!("{rollup_name}_{grain}"));
    views
        // They are gone already where somebody dropped a type of theirs, with CASCADE.
        .map(|view| {
            format!(
                "DROP VIEW IF EXISTS tally.{}, tally.{}{}",
                quote(&view),
                quote(&format!("{view}_state")),
                dependents.sql()
            )
        })
        .collect()
}
