//! What users set on a rollup's views: grants, comments, security_barrier. It is read before the views are dropped and set on those that
//! are made instead.

use super::definition::Definition;
use super::layout;
use crate::backend::scan::{self, Snapshot};
use crate::backend::sql::{self, literal, quote};
use std::collections::BTreeMap;

/// Of all views of a rollup.
pub struct ViewSettings {
    views: Vec<String>,
    /// Statements, for the columns that there are.
    grants: Vec<String>,
    /// By the object, as SQL.
    comments: BTreeMap<String, Option<String>>,
}

impl ViewSettings {
    pub fn read(definition: &Definition) -> Self {
        let views: Vec<String> = definition
            .grains
            .iter()
            .flat_map(|grain| [format!("{grain}"), format!("{grain}_state")])
            .map(|part| definition.table(&part))
            .collect();
        let of_views = of(&views);
        // Somebody to whom another role granted it has it from the owner then.
        let granted = format!(
            "SELECT format('GRANT %s%s ON %s TO %s%s', a.privilege_type, g.columns, v.id, \
                           CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END, \
                           CASE WHEN bool_or(a.is_grantable) THEN ' WITH GRANT OPTION' ELSE '' END) \
               FROM ({of_views}) AS v \
               JOIN pg_class AS c ON c.oid = v.id \
              CROSS JOIN LATERAL (SELECT '', c.relacl UNION ALL \
                                  SELECT format(' (%I)', t.attname), t.attacl FROM pg_attribute AS t \
                                   WHERE t.attrelid = c.oid AND t.attnum > 0 AND NOT t.attisdropped) AS g (columns, acl) \
              CROSS JOIN LATERAL aclexplode(g.acl) AS a \
              WHERE a.grantee <> c.relowner AND (a.grantee = 0 OR EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = a.grantee)) \
              GROUP BY v.id, g.columns, a.privilege_type, a.grantee \
             UNION ALL \
             SELECT format('ALTER VIEW %s SET (security_barrier = %L)', v.id, o.option_value) \
               FROM ({of_views}) AS v JOIN pg_class AS c ON c.oid = v.id \
              CROSS JOIN LATERAL pg_options_to_table(c.reloptions) AS o WHERE o.option_name = 'security_barrier'"
        );
        let grants = scan::texts(&granted, Snapshot::Fresh).into_iter().flatten().flatten().collect();
        Self { grants, comments: comments(&views), views }
    }

    /// Sets it again, on views of the same names. Columns that they have more get `added` into their comments.
    pub fn set_again(self, added: Option<&str>) {
        for view in &self.views {
            sql::run(&layout::without_default_privileges(&quote(view)), &[]);
        }
        self.grants.iter().for_each(|statement| sql::run(statement, &[]));
        // Those that aren't as they were made are a user's.
        let made = comments(&self.views);
        let is_new = |object: &str| object.starts_with("COLUMN") && !self.comments.contains_key(object);
        for (object, comment) in made.iter().filter(|(object, _)| is_new(object)) {
            let Some(added) = added else { break };
            let comment =
                comment.as_deref().map_or_else(|| added.to_owned(), |made| format!("{made}; {added}"));
            sql::run(&format!("COMMENT ON {object} IS {}", literal(&comment)), &[]);
        }
        for (object, comment) in self.comments {
            if made.get(&object).is_some_and(|made| *made != comment) {
                let comment = comment.map_or_else(|| "NULL".to_owned(), |text| literal(&text));
                sql::run(&format!("COMMENT ON {object} IS {comment}"), &[]);
            }
        }
    }
}

/// SQL of the ids of those views that there are.
fn of(views: &[String]) -> String {
    let ids: Vec<String> = views
        .iter()
        .map(|view| format!("SELECT to_regclass({}) AS id", literal(&format!("tally.{}", quote(view)))))
        .collect();
    format!("SELECT named.id FROM ({}) AS named WHERE named.id IS NOT NULL", ids.join(" UNION ALL "))
}

/// The comments of views and their columns, by what they are of.
fn comments(views: &[String]) -> BTreeMap<String, Option<String>> {
    let query = format!(
        "SELECT 'VIEW ' || v.id::text, obj_description(v.id, 'pg_class') FROM ({0}) AS v UNION ALL \
         SELECT format('COLUMN %s.%I', v.id, a.attname), col_description(v.id, a.attnum) \
           FROM ({0}) AS v JOIN pg_attribute AS a ON a.attrelid = v.id AND a.attnum > 0 AND NOT a.attisdropped",
        of(views)
    );
    let rows = scan::texts(&query, Snapshot::Fresh);
    let entry = |row: Vec<Option<String>>| {
        let mut row = row.into_iter();
        Some((row.next()??, row.next()?))
    };
    rows.into_iter().filter_map(entry).collect()
}
