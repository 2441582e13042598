//! Code in declared expressions that is neither Postgres' nor ours: what of it is refused when it is declared, and reported
//! where it became so afterwards.

use super::RollupError;
use super::definition::{self, Kind};
use super::failure::Problem;
use crate::backend::evaluator;
use crate::backend::expression_code::Code;
use crate::backend::scan::{self, Snapshot};
use crate::backend::session;
use crate::backend::subtransaction::{self, Verdict};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// Functions that are called, those of domains' checks, of input and output and of comparison among them: of a type, those of
/// everything that it consists of. What superusers alone can make, in C, is theirs to answer for.
const STRANGE: &str = "
    WITH RECURSIVE part (id) AS (
      SELECT t.id FROM unnest($types) AS t (id)
      UNION
      SELECT n.id FROM part AS p JOIN pg_type AS t ON t.oid = p.id CROSS JOIN LATERAL (
        SELECT t.typbasetype WHERE t.typtype = 'd'
        UNION ALL SELECT t.typelem WHERE t.typelem <> 0
        UNION ALL SELECT r.rngsubtype FROM pg_range AS r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
        UNION ALL SELECT a.atttypid FROM pg_attribute AS a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
      ) AS n (id)
    ), other AS (
      SELECT t.* FROM pg_type AS t JOIN part AS p ON p.id = t.oid WHERE t.oid >= 16384
    ), called (id) AS (
      SELECT f.id FROM unnest($functions) AS f (id)
      UNION SELECT unnest(ARRAY[t.typinput, t.typoutput, t.typreceive, t.typsend, t.typmodin, t.typmodout]) FROM other AS t
      UNION SELECT unnest(ARRAY[r.rngcanonical, r.rngsubdiff]) FROM other AS t JOIN pg_range AS r ON t.oid IN (r.rngtypid, r.rngmultitypid)
      UNION SELECT s.amproc FROM other AS t
        JOIN pg_opclass AS c ON c.opcintype = t.oid AND c.opcdefault
          OR c.oid IN (SELECT r.rngsubopc FROM pg_range AS r WHERE t.oid IN (r.rngtypid, r.rngmultitypid))
        JOIN pg_amproc AS s ON s.amprocfamily = c.opcfamily AND c.opcintype IN (s.amproclefttype, s.amprocrighttype)
      UNION SELECT coalesce(o.oprcode, d.refobjid) FROM other AS t
        JOIN pg_constraint AS k ON k.contypid = t.oid
        JOIN pg_depend AS d ON d.classid = 'pg_constraint'::regclass AND d.objid = k.oid
         AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)
        LEFT JOIN pg_operator AS o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
    )
    SELECT p.oid::regprocedure::text, CASE WHEN p.prosecdef THEN 'elevated' WHEN k.setting IS NOT NULL THEN k.setting ELSE 'open' END
      FROM called AS c JOIN pg_proc AS p ON p.oid = c.id
      JOIN pg_language AS l ON l.oid = p.prolang
      JOIN pg_namespace AS n ON n.oid = p.pronamespace
     CROSS JOIN LATERAL (SELECT 'SET ' || min(split_part(s.setting, '=', 1)) FROM unnest(p.proconfig) AS s (setting)
                          WHERE lower(split_part(s.setting, '=', 1)) <> ALL ($settings)) AS k (setting)
     WHERE p.oid >= 16384 AND n.nspname <> 'pg_catalog'
       AND NOT EXISTS (SELECT FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
                        WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
                          AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'pg_tally')
       AND (p.prosecdef OR k.setting IS NOT NULL
         OR l.lanname NOT IN ('internal', 'c')
        AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS s (setting) WHERE starts_with(s.setting, 'search_path=')))
     ORDER BY 2, 1";

/// Refuses code that has no fixed search path, where names would mean what a caller's path says, that has its owner's rights, or
/// settings that it may not have.
pub fn refuse(code: &Code) -> Result<(), RollupError> {
    match strange(code).into_iter().next() {
        None => Ok(()),
        Some((function, problem)) => Err(RollupError::StrangeCode { function, problem }),
    }
}

/// Such functions, by name.
fn strange(code: &Code) -> Vec<(String, Problem)> {
    if code.is_built_in() {
        return Vec::new();
    }
    let list = |ids: &[pgrx::pg_sys::Oid]| {
        let ids: Vec<String> = ids.iter().map(|id| id.to_u32().to_string()).collect();
        format!("'{{{}}}'::oid[]", ids.join(","))
    };
    let query = STRANGE
        .replace("$types", &list(&code.types))
        .replace("$functions", &list(&code.functions))
        .replace("$settings", &format!("'{{{}}}'", evaluator::SETTINGS.join(",")));
    let rows = session::as_owner(|| scan::texts(&query, Snapshot::Fresh));
    let read = |row: Vec<Option<String>>| {
        let [Some(function), Some(kind)] = &row[..] else { unreachable!("neither is null") };
        let problem = match kind.as_str() {
            "open" => Problem::Open,
            "elevated" => Problem::Elevated,
            setting => Problem::Sets(setting.trim_start_matches("SET ").to_owned()),
        };
        (function.clone(), problem)
    };
    rows.into_iter().map(read).collect()
}

/// What is wrong with the code of each declared rollup: the function or the whole expression, and how: open, elevated, unreadable,
/// momentary, mutable, or what it sets.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of a set-returning function")]
fn strange_code() -> Result<
    TableIterator<'static, (name!(rollup_name, String), name!(code, String), name!(problem, String))>,
    ErrorReport,
> {
    let declared = "SELECT r.rollup_name, c.kind, c.expression FROM tally.rollup AS r JOIN tally.rollup_column AS c USING (rollup_name)
                     WHERE c.expression IS NOT NULL
                    UNION ALL SELECT r.rollup_name, NULL, r.filter FROM tally.rollup AS r WHERE r.filter IS NOT NULL";
    let mut found = Vec::new();
    for row in session::as_owner(|| scan::texts(declared, Snapshot::Fresh)) {
        let [Some(rollup), kind, Some(text)] = &row[..] else { unreachable!("only the kind is null") };
        let kind =
            kind.as_deref().map(|kind| kind.parse::<Kind>().expect("a check constraint lists the kinds"));
        let analysed = subtransaction::run(|| {
            Verdict::Undo(kind.map_or_else(
                || definition::analyse_filter(text),
                |kind| definition::analyse(text, kind.argument_type()),
            ))
        });
        match analysed {
            Ok(Ok(analysis)) => {
                if analysis.says_moment || analysis.has_mutable_part {
                    let problem = if analysis.says_moment { "momentary" } else { "mutable" };
                    found.push((rollup.clone(), text.clone(), problem.to_owned()));
                }
                found.extend(strange(&analysis.code).into_iter().map(|(function, problem)| {
                    let problem = match problem {
                        Problem::Open => "open".to_owned(),
                        Problem::Elevated => "elevated".to_owned(),
                        Problem::Sets(setting) => format!("sets {setting}"),
                    };
                    (rollup.clone(), function, problem)
                }))
            }
            Ok(Err(_)) => found.push((rollup.clone(), text.clone(), "unreadable".to_owned())),
            Err(caught) if caught.may_be_of_an_expression() => {
                found.push((rollup.clone(), text.clone(), "unreadable".to_owned()));
            }
            Err(caught) => caught.rethrow(),
        }
    }
    found.sort();
    found.dedup();
    Ok(TableIterator::new(found))
}
