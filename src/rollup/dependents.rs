//! What others have made that stands on a rollup's views and tables, and goes with them or keeps them: any login that may read a
//! view may make one over it.

use super::RollupError;
use crate::backend::scan::{self, Snapshot};
use crate::backend::session;
use tally_core::grain::Grain;

/// What becomes of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Dependents {
    /// There are none.
    None,
    Dropped,
}

/// What of a rollup is to be dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Going {
    /// Its tables and views.
    All,
    /// Its views. Of what stands on its tables only others' foreign keys are in the way: rows go that they refer to.
    Views,
}

/// Objects that depend on some relations or on their row types, of other schemas and kinds than those that Postgres made with them.
const DIRECT: &str = "
    SELECT DISTINCT pg_describe_object(o.class, o.id, 0)
           || coalesce(' of role ' || quote_ident(pg_get_userbyid(c.relowner)), '')
      FROM unnest($relations) AS r (id)
      JOIN pg_class AS k ON k.oid = r.id
      LEFT JOIN pg_type AS t ON t.oid = k.reltype
      JOIN pg_depend AS d ON d.deptype IN ('n', 'a')
       AND (d.refclassid = 'pg_class'::regclass AND d.refobjid = r.id OR d.refclassid = 'pg_type'::regclass AND d.refobjid IN (t.oid, t.typarray))
      LEFT JOIN pg_rewrite AS w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
      CROSS JOIN LATERAL (SELECT CASE WHEN w.oid IS NULL THEN d.classid ELSE 'pg_class'::regclass END, coalesce(w.ev_class, d.objid)) AS o (class, id)
      LEFT JOIN pg_class AS c ON o.class = 'pg_class'::regclass AND c.oid = o.id
     WHERE NOT (o.class = 'pg_class'::regclass AND o.id = ANY ($relations))
       AND NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = r.id AND o.class = 'pg_class'::regclass AND i.indexrelid = o.id)
       AND NOT EXISTS (SELECT FROM pg_constraint AS n WHERE n.conrelid = r.id AND o.class = 'pg_constraint'::regclass AND n.oid = o.id)
       AND NOT EXISTS (SELECT FROM pg_trigger AS g WHERE g.tgrelid = r.id AND o.class = 'pg_trigger'::regclass AND g.oid = o.id)
       AND NOT EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = r.id AND o.class = 'pg_policy'::regclass AND p.oid = o.id)
       AND NOT EXISTS (SELECT FROM pg_attrdef AS a WHERE a.adrelid = r.id AND o.class = 'pg_attrdef'::regclass AND a.oid = o.id)
       AND NOT EXISTS (SELECT FROM pg_statistic_ext AS s WHERE s.stxrelid = r.id AND o.class = 'pg_statistic_ext'::regclass AND s.oid = o.id)
       AND o.class <> 'pg_publication_rel'::regclass
     ORDER BY 1 LIMIT 8";

/// Objects of extensions, ours among them, that depend on some relations, at any depth: a cascade would go on to the extension.
const OF_EXTENSIONS: &str = "
    WITH RECURSIVE gone (class, id) AS (
      SELECT 'pg_class'::regclass::oid, r.id FROM unnest($relations) AS r (id)
      UNION
      SELECT n.* FROM gone AS g CROSS JOIN LATERAL (
        SELECT d.classid, d.objid FROM pg_depend AS d WHERE d.refclassid = g.class AND d.refobjid = g.id AND d.deptype <> 'e'
        UNION ALL
        SELECT 'pg_class'::regclass::oid, w.ev_class FROM pg_rewrite AS w WHERE g.class = 'pg_rewrite'::regclass AND w.oid = g.id
      ) AS n (class, id)
    )
    SELECT DISTINCT pg_describe_object(g.class, g.id, 0)
      FROM gone AS g JOIN pg_depend AS d ON d.classid = g.class AND d.objid = g.id AND d.deptype = 'e'
     WHERE NOT (g.class = 'pg_class'::regclass AND g.id = ANY ($relations))
     ORDER BY 1 LIMIT 8";

/// Foreign keys of other tables that refer to some relations.
const FOREIGN_KEYS: &str = "
    SELECT pg_describe_object('pg_constraint'::regclass, n.oid, 0)
      FROM pg_constraint AS n
     WHERE n.contype = 'f' AND n.confrelid = ANY ($relations) AND n.conrelid <> ALL ($relations)
     ORDER BY 1 LIMIT 8";

impl Dependents {
    /// Of a rollup; an error where there are some, and they are not to be dropped. The caller has locked its views and tables, so none
    /// comes to be meanwhile.
    pub fn of(rollup: &str, grains: &[Grain], cascade: bool, going: Going) -> Result<Self, RollupError> {
        let views = grains.iter().flat_map(|grain| [format!("_{grain}"), format!("_{grain}_state")]);
        let tables =
            std::iter::once("_pending".to_owned()).chain(grains.iter().map(|grain| format!("_{grain}_base")));
        let refuse_found = |query: &str, parts: &mut dyn Iterator<Item = String>, hint: &'static str| {
            let relations: Vec<String> = parts
                .filter_map(|part| session::find_relation_named(&format!("{rollup}{part}")))
                .map(|relation| relation.to_u32().to_string())
                .collect();
            let query = query.replace("$relations", &format!("'{{{}}}'::oid[]", relations.join(",")));
            let rows = session::as_owner(|| scan::texts(&query, Snapshot::Fresh));
            let found: Vec<String> = rows.into_iter().flatten().flatten().collect();
            let (rollup, dependents) = (rollup.to_owned(), found.join("; "));
            if found.is_empty() { Ok(()) } else { Err(RollupError::Depended { rollup, dependents, hint }) }
        };
        let (query, hint) = if cascade {
            (OF_EXTENSIONS, "what belongs to an extension is not dropped with a rollup")
        } else {
            (
                DIRECT,
                "drop them first, or call it with cascade => true, which drops them and what depends on them, whoever owns them",
            )
        };
        match going {
            Going::All => refuse_found(query, &mut views.chain(tables), hint)?,
            Going::Views => {
                refuse_found(query, &mut views.into_iter(), hint)?;
                let hint = "drop the foreign keys first: the rows that they refer to are made anew";
                refuse_found(FOREIGN_KEYS, &mut tables.into_iter(), hint)?;
            }
        }
        Ok(if cascade { Self::Dropped } else { Self::None })
    }

    /// How a DROP ends.
    pub fn sql(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Dropped => " CASCADE",
        }
    }
}
