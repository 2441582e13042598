//! What administrators and users set on a rollup's tables and views stays when it is altered.

use postgres::Client;
use tally_server_tests::{Database, assert_right, ingest, json_array, number};

/// One line a setting of the tables and views of rollup `visits`, but for what they are made of.
const SETTINGS: &str = r#"
WITH r AS (SELECT c.*, c.oid::regclass::text AS name FROM pg_class AS c
            WHERE c.relnamespace = 'tally'::regnamespace AND c.relname ~ '^visits_' AND c.relkind IN ('r', 'v'))
SELECT concat_ws(' ', name, relreplident, relpersistence, (SELECT spcname FROM pg_tablespace AS s WHERE s.oid = r.reltablespace),
         (SELECT string_agg(o, ',' ORDER BY o) FROM unnest(r.reloptions || (SELECT t.reloptions FROM pg_class AS t WHERE t.oid = r.reltoastrelid)) AS o)) FROM r
UNION ALL SELECT concat_ws(' ', name, 'granted', a.grantee::regrole, a.privilege_type, a.is_grantable) FROM r, aclexplode(relacl) AS a
UNION ALL SELECT concat_ws(' ', name, t.attname, 'granted', a.grantee::regrole, a.privilege_type, a.is_grantable)
     FROM r JOIN pg_attribute AS t ON t.attrelid = r.oid, aclexplode(t.attacl) AS a
UNION ALL SELECT concat_ws(' ', name, t.attname, t.attstattarget, (SELECT o FROM unnest(t.attoptions) AS o WHERE o !~ '^pg_'), t.attstorage, t.attcompression) FROM r JOIN pg_attribute AS t ON t.attrelid = r.oid
     WHERE t.attnum > 0 AND NOT t.attisdropped
UNION ALL SELECT concat_ws(' ', name, (SELECT attname FROM pg_attribute WHERE attrelid = r.oid AND attnum = d.objsubid), 'comment', d.description)
     FROM r JOIN pg_description AS d ON d.classoid = 'pg_class'::regclass AND d.objoid = r.oid
UNION ALL SELECT concat_ws(' ', name, 'published', p.pubname, pg_get_expr(s.prqual, s.prrelid)) FROM r JOIN pg_publication_rel AS s ON s.prrelid = r.oid JOIN pg_publication AS p ON p.oid = s.prpubid
UNION ALL SELECT concat_ws(' ', name, 'statistics', s.stxname, s.stxstattarget) FROM r JOIN pg_statistic_ext AS s ON s.stxrelid = r.oid
UNION ALL SELECT concat_ws(' ', name, i.indexrelid::regclass, array_to_string(c.reloptions, ','), (SELECT spcname FROM pg_tablespace AS s WHERE s.oid = c.reltablespace))
     FROM r JOIN pg_index AS i ON i.indrelid = r.oid JOIN pg_class AS c ON c.oid = i.indexrelid
UNION ALL SELECT concat_ws(' ', name, 'policy', p.polname) FROM r JOIN pg_policy AS p ON p.polrelid = r.oid
UNION ALL SELECT concat_ws(' ', name, 'check', c.conname, pg_get_constraintdef(c.oid)) FROM r JOIN pg_constraint AS c ON c.conrelid = r.oid AND c.contype = 'c'
UNION ALL SELECT concat_ws(' ', name, 'depended on by', d.objid::regclass) FROM r JOIN pg_depend AS d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'n'
"#;

fn settings(client: &mut Client) -> Vec<String> {
    let mut lines: Vec<String> = client.query(SETTINGS, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    lines.sort();
    lines
}

fn event(n: usize) -> String {
    format!(
        r#"{{"tenant_id":"t{}","account_id":"a{}","name":"n{}","user_id":"u{n}","event_id":"00000000-0000-4000-8000-{n:012}",
            "occurred_at":"2026-{:02}-03T09:15:00Z","properties":{{"plan":"p{}"}}}}"#,
        n % 2,
        n % 3,
        n % 5,
        1 + n % 6,
        n % 4
    )
}

fn send(client: &mut Client, numbers: std::ops::Range<usize>) {
    let events: Vec<String> = numbers.map(event).collect();
    let sent = ingest(client, &json_array(events.iter().map(String::as_str))).unwrap();
    assert_eq!(sent.accepted as usize, events.len());
}

#[test]
fn what_was_set_on_tables_and_views_stays_when_a_rollup_is_altered() {
    for has_horizon in [false, true] {
        let mut database = Database::new("altered");
        let (admin, dashboards, auditor) = (
            database.role("admin", &["tally_admin"]),
            database.role("boards", &[]),
            database.role("auditor", &[]),
        );
        let tablespace = format!("space_{}", database.name());
        let mut superuser = database.superuser();
        superuser
            .batch_execute("SELECT tally.create_rollup('visits', '{day,week,year}', ARRAY['count(*) AS n', 'distinct(user_id) AS people'], ARRAY['name'])")
            .unwrap();
        send(&mut superuser, 0..300);
        if has_horizon {
            superuser.batch_execute("CALL tally.maintain()").unwrap();
            superuser.batch_execute("SELECT tally.drop_raw('2026-03-01Z')").unwrap();
        }
        superuser.batch_execute("SET allow_in_place_tablespaces = on").unwrap();
        superuser.batch_execute(&format!("CREATE TABLESPACE {tablespace} LOCATION ''")).unwrap();
        superuser
            .batch_execute(&format!(
                "GRANT CREATE ON TABLESPACE {tablespace} TO tally_owner;
                 ALTER TABLE tally.visits_day_base RESET (parallel_workers), SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.5, toast.autovacuum_enabled = off);
                 ALTER TABLE tally.visits_pending SET (autovacuum_vacuum_threshold = 777);
                 ALTER TABLE tally.visits_day_base SET TABLESPACE {tablespace};
                 ALTER INDEX tally.visits_day_key SET TABLESPACE {tablespace}; ALTER INDEX tally.visits_day_key SET (fillfactor = 77);
                 ALTER INDEX tally.visits_week_key RENAME TO own_key;
                 ALTER TABLE tally.visits_day_base ALTER n SET STATISTICS 500, ALTER name SET (n_distinct = -0.5), ALTER people SET STORAGE EXTERNAL,
                   ALTER people SET COMPRESSION pglz, ADD COLUMN note text DEFAULT 'none', ADD CONSTRAINT many CHECK (n >= 0);
                 CREATE STATISTICS tally.own ON tenant_id, name FROM tally.visits_day_base;
                 CREATE INDEX own_index ON tally.visits_day_base (tenant_id, bucket) WITH (fillfactor = 66);
                 CREATE VIEW public.own AS SELECT n FROM tally.visits_day_base;
                 CREATE PUBLICATION own FOR TABLE tally.visits_day_base WHERE (tenant_id = 't1'), tally.visits_pending;
                 ALTER TABLE tally.visits_year_base REPLICA IDENTITY DEFAULT;
                 GRANT SELECT ON tally.visits_day_base TO {auditor}; GRANT SELECT (n) ON tally.visits_pending TO {auditor};
                 REVOKE SELECT ON tally.visits_week_base FROM tally_reader;
                 GRANT SELECT ON tally.visits_day TO {dashboards}, PUBLIC; GRANT SELECT ON tally.visits_day_state TO {dashboards} WITH GRANT OPTION;
                 GRANT SELECT (bucket, n) ON tally.visits_week TO {dashboards}; REVOKE SELECT ON tally.visits_year, tally.visits_year_state FROM tally_reader;
                 ALTER VIEW tally.visits_week SET (security_barrier = true);
                 COMMENT ON TABLE tally.visits_day_base IS 'ours'; COMMENT ON COLUMN tally.visits_day_base.n IS 'visits, ours';
                 COMMENT ON VIEW tally.visits_day IS 'visits by day, ours'; COMMENT ON COLUMN tally.visits_day.n IS 'visits, really'; COMMENT ON COLUMN tally.visits_day.name IS NULL"
            ))
            .unwrap();
        let mut admin = database.connect(&admin);
        for (added, columns) in [
            ("add_measures => '{count(user_id) AS m}'", &["m"][..]),
            (
                "add_measures => '{max(name) AS latest}', add_dimensions => ARRAY[$$properties->>'plan' AS plan$$]",
                &["latest", "plan"],
            ),
        ] {
            let before = settings(&mut superuser);
            admin.batch_execute(&format!("SELECT tally.alter_rollup('visits', {added})")).unwrap();
            let after = settings(&mut superuser);
            let lost: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
            assert!(lost.is_empty(), "{added}: {lost:#?}");
            let new: Vec<_> = after
                .iter()
                .filter(|line| !before.contains(line))
                .filter(|line| columns.iter().all(|column| !line.contains(&format!(" {column} "))))
                .collect();
            assert!(new.is_empty(), "{added}: {new:#?}");
            assert_right(&mut admin, "visits");
        }
        // From when on what was added has everything, where raw events are gone.
        let told = "SELECT count(*) FROM pg_description WHERE objoid = 'tally.visits_year'::regclass AND description LIKE '%raw events from before 2026-03-01%'";
        assert_eq!(number(&mut superuser, told), if has_horizon { 3 } else { 0 });
        // It goes on as before, with the columns in another order than they are declared in.
        send(&mut superuser, 300..600);
        assert_right(&mut admin, "visits");
        let refused =
            admin.batch_execute("SELECT tally.alter_rollup('visits', '{count(*) AS note}')").unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "42701", "{refused}");
        admin.batch_execute("CALL tally.maintain()").unwrap();
        assert_right(&mut admin, "visits");
        let counted = "SELECT sum(n)::int8 FROM tally.visits_day_base";
        assert_eq!(number(&mut superuser, counted), 600, "horizon: {has_horizon}");
        admin.batch_execute("SELECT tally.drop_rollup('visits', cascade => true)").unwrap();
        superuser
            .batch_execute(&format!("REVOKE CREATE ON TABLESPACE {tablespace} FROM tally_owner"))
            .unwrap();
        // What was dropped leaves a file until the next checkpoint.
        superuser.batch_execute("CHECKPOINT").unwrap();
        superuser.batch_execute(&format!("DROP TABLESPACE {tablespace}")).unwrap();
    }
}

/// Where the key's index is the replica identity and gets columns that may be null, rows are sent whole.
#[test]
fn a_key_that_was_the_replica_identity_stands_back() {
    let database = Database::new("altered_identity");
    let mut superuser = database.superuser();
    superuser
        .batch_execute(
            "SELECT tally.create_rollup('visits', '{day}', ARRAY['count(*) AS n']);
             ALTER TABLE tally.visits_day_base REPLICA IDENTITY USING INDEX visits_day_key",
        )
        .unwrap();
    send(&mut superuser, 0..30);
    let identity =
        "SELECT ascii(relreplident::text)::int8 FROM pg_class WHERE oid = 'tally.visits_day_base'::regclass";
    superuser.batch_execute("SELECT tally.alter_rollup('visits', '{count(user_id) AS m}')").unwrap();
    assert_eq!(number(&mut superuser, identity), i64::from(b'i'));
    superuser.batch_execute("SELECT tally.alter_rollup('visits', add_dimensions => '{name}')").unwrap();
    assert_eq!(number(&mut superuser, identity), i64::from(b'f'));
    assert_right(&mut superuser, "visits");
}

/// Rows that another table refers to are made anew, so its foreign key is in the way.
#[test]
fn a_foreign_key_to_a_rollup_is_named() {
    let database = Database::new("altered_referred");
    let mut superuser = database.superuser();
    superuser
        .batch_execute(
            "SELECT tally.create_rollup('visits', '{day}', ARRAY['count(*) AS n']);
             CREATE TABLE public.note (tenant_id text COLLATE \"C\", account_id text COLLATE \"C\", bucket timestamptz, text text,
               FOREIGN KEY (tenant_id, account_id, bucket) REFERENCES tally.visits_day_base (tenant_id, account_id, bucket))",
        )
        .unwrap();
    for cascade in ["false", "true"] {
        let refused = superuser
            .batch_execute(&format!(
                "SELECT tally.alter_rollup('visits', '{{count(user_id) AS m}}', cascade => {cascade})"
            ))
            .unwrap_err();
        let error = refused.as_db_error().unwrap();
        assert_eq!(error.code().code(), "2BP01", "{error:?}");
        assert!(error.detail().is_some_and(|detail| detail.contains("table public.note")), "{error:?}");
    }
}
