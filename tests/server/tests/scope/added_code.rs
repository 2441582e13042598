//! Code that somebody added to tables of pg_tally never runs with the rights of their owner, whichever of its own statements changes rows.

use super::operator::Scene;
use postgres::error::SqlState;
use std::thread;
use std::time::Duration;
use tally_server_tests::{Database, ingest, number};

impl Scene {
    /// With something of tenant `a` to change, and functions of the administrator's, `app.f` and `app.spy`, that tell who runs them.
    fn telling(topic: &str) -> Self {
        let mut scene = Self::new(topic);
        scene
            .admin
            .batch_execute(
                "SELECT tally.open_months('-infinity'), tally.set_step_up_policy('erase_subject', false)",
            )
            .unwrap();
        scene
            .as_adm()
            .batch_execute(
                "CREATE TABLE app.seen (who name, what text); GRANT INSERT ON app.seen TO PUBLIC;
                 CREATE FUNCTION app.tell(x text) RETURNS text LANGUAGE plpgsql AS 'BEGIN INSERT INTO app.seen VALUES (current_user, x); RETURN x; END';
                 CREATE FUNCTION app.f(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN app.tell(x); END';
                 CREATE FUNCTION app.spy() RETURNS trigger LANGUAGE plpgsql AS
                   'BEGIN PERFORM app.tell(''trigger''); IF TG_OP = ''DELETE'' THEN RETURN OLD; END IF; RETURN NEW; END';
                 CREATE DOMAIN app.told AS text CHECK (app.f(coalesce(VALUE, 'null')) IS NOT NULL);
                 CREATE TYPE app.holds AS (t app.told); CREATE TYPE app.deep AS (h app.holds[]);
                 CREATE TYPE app.spans AS RANGE (subtype = app.told, multirange_type_name = app.many)",
            )
            .unwrap();
        scene
    }

    /// Sends an event that is stored, of user `u` and of a month of long ago, and one that waits in quarantine.
    fn send(&self) {
        let event = |id: u32, time: &str| {
            format!(
                r#"{{"tenant_id":"a","account_id":"x","name":"n","user_id":"u","event_id":"00000000-0000-4000-8000-{id:012}"{time},"properties":{{"v":"1"}}}}"#
            )
        };
        let batch = format!("[{},{}]", event(1, r#","occurred_at":"2026-01-20T00:00:00Z""#), event(2, ""));
        let sent = ingest(&mut self.database.connect(&self.rw), &batch).unwrap();
        assert_eq!((sent.accepted + sent.duplicates, sent.rejected), (1, 1), "{sent:?}");
    }

    /// What a statement of the administrator's, or of the writer's, in a session of its own, fails with.
    fn refused(&self, role: &str, statement: &str) -> Option<(String, String)> {
        let role = if role == "rw" { &self.rw } else { &self.adm };
        let error = self.database.connect(role).batch_execute(statement).err()?;
        let code = error.code().map(SqlState::code).unwrap_or_default().to_owned();
        Some((code, error.as_db_error().map(|error| error.message().to_owned()).unwrap_or_default()))
    }
}

/// What is added, what has to be refused then, and by what it is taken away. `rw` acts in its tenant, `adm` for all.
const ADDED: &[(&str, &str, &str, &str)] = &[
    (
        "CREATE TRIGGER t BEFORE DELETE ON tally.quarantine FOR EACH ROW EXECUTE FUNCTION app.spy()",
        "rw",
        "SELECT tally.discard('no use')",
        "DROP TRIGGER t ON tally.quarantine",
    ),
    (
        "CREATE TRIGGER t AFTER UPDATE ON tally.quarantine FOR EACH STATEMENT EXECUTE FUNCTION app.spy()",
        "rw",
        "SELECT tally.redrive()",
        "DROP TRIGGER t ON tally.quarantine",
    ),
    (
        "CREATE CONSTRAINT TRIGGER t AFTER UPDATE ON tally.ingest_batch DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.spy()",
        "rw",
        "SELECT tally.redrive()",
        "DROP TRIGGER t ON tally.ingest_batch",
    ),
    (
        "CREATE TRIGGER t BEFORE UPDATE ON tally.quarantine FOR EACH ROW WHEN (app.f(NEW.reason) <> '') EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "rw",
        "SELECT tally.redrive()",
        "DROP TRIGGER t ON tally.quarantine",
    ),
    (
        "ALTER TABLE tally.quarantine ADD CONSTRAINT own CHECK (app.f(reason) <> '') NOT VALID",
        "rw",
        "SELECT tally.redrive()",
        "ALTER TABLE tally.quarantine DROP CONSTRAINT own",
    ),
    (
        "ALTER TABLE tally.quarantine ADD COLUMN own text GENERATED ALWAYS AS (app.f(reason)) STORED",
        "rw",
        "SELECT tally.redrive()",
        "ALTER TABLE tally.quarantine DROP COLUMN own",
    ),
    (
        "CREATE INDEX own ON tally.quarantine (tenant_id, app.f(reason))",
        "rw",
        "SELECT tally.redrive()",
        "DROP INDEX tally.own",
    ),
    (
        "ALTER TABLE tally.quarantine_discard ADD COLUMN own text DEFAULT app.f('a constant')",
        "rw",
        "SELECT tally.discard('no use')",
        "ALTER TABLE tally.quarantine_discard DROP COLUMN own",
    ),
    (
        "ALTER TABLE tally.quarantine_discard ADD COLUMN own app.told",
        "rw",
        "SELECT tally.discard('no use')",
        "ALTER TABLE tally.quarantine_discard DROP COLUMN own",
    ),
    (
        "ALTER TABLE tally.quarantine_discard ADD COLUMN own text DEFAULT table_to_xml('app.view', true, true, '')::text",
        "rw",
        "SELECT tally.discard('no use')",
        "ALTER TABLE tally.quarantine_discard DROP COLUMN own",
    ),
    (
        "CREATE TRIGGER t AFTER DELETE ON tally.events_p2026_01 FOR EACH ROW EXECUTE FUNCTION app.spy()",
        "adm",
        "SELECT tally.erase_subject('a', 'u', 'ticket')",
        "DROP TRIGGER t ON tally.events_p2026_01",
    ),
    (
        "CREATE TRIGGER t BEFORE DELETE ON tally.usage_day_base FOR EACH STATEMENT EXECUTE FUNCTION app.spy()",
        "adm",
        "SELECT tally.rebuild_rollup('usage', '2026-01-01', '2026-02-01')",
        "DROP TRIGGER t ON tally.usage_day_base",
    ),
    (
        "CREATE RULE r AS ON UPDATE TO tally.quarantine DO ALSO SELECT app.f('rule')",
        "rw",
        "SELECT tally.redrive()",
        "DROP RULE r ON tally.quarantine",
    ),
    (
        "CREATE RULE r AS ON UPDATE TO tally.quarantine DO INSTEAD SELECT app.f('rule')",
        "rw",
        "SELECT tally.redrive()",
        "DROP RULE r ON tally.quarantine",
    ),
    (
        "CREATE POLICY p ON tally.quarantine AS RESTRICTIVE FOR DELETE USING (app.f(reason) <> '')",
        "rw",
        "SELECT tally.discard('no use')",
        "DROP POLICY p ON tally.quarantine",
    ),
    // Where nothing of the session has loaded the library before.
    (
        "CREATE TRIGGER t AFTER INSERT OR UPDATE ON tally.retention FOR EACH ROW EXECUTE FUNCTION app.spy()",
        "adm",
        "SELECT tally.set_retention('a', '400 days')",
        "DROP TRIGGER t ON tally.retention",
    ),
    (
        "ALTER TABLE tally.tenant_limit ADD COLUMN own text DEFAULT app.f('a constant')",
        "adm",
        "SELECT tally.limit_tenant('a', statement_timeout_ms => 60000)",
        "ALTER TABLE tally.tenant_limit DROP COLUMN own",
    ),
    (
        "CREATE TRIGGER t AFTER INSERT ON tally.role_binding FOR EACH ROW EXECUTE FUNCTION app.spy()",
        "adm",
        "SELECT tally.bind_role('tally_guest', 'a')",
        "DROP TRIGGER t ON tally.role_binding",
    ),
];

#[test]
fn what_was_added_keeps_our_own_statements_from_changing_rows() {
    let mut scene = Scene::telling("added");
    let guest = scene.database.role("guest", &["tally_reader"]);
    scene.send();
    scene.admin.batch_execute("CREATE VIEW app.view AS SELECT app.f('a view') AS own").unwrap();
    for (added, role, statement, taken) in ADDED {
        let statement = statement.replace("tally_guest", &guest);
        scene.admin.batch_execute(added).unwrap_or_else(|error| panic!("{added}: {error:?}"));
        // What adding it has told.
        scene.admin.batch_execute("TRUNCATE app.seen").unwrap();
        let refused = scene.refused(role, &statement);
        let seen = scene.admin.query("SELECT who::text || ' by ' || what FROM app.seen", &[]).unwrap();
        let seen: Vec<String> = seen.iter().map(|row| row.get(0)).collect();
        assert!(seen.is_empty(), "{added}: {seen:?}");
        assert!(
            matches!(&refused, Some((code, message)) if code == "0A000" && message.contains("would run with the rights of the owner")),
            "{added}: {refused:?}"
        );
        scene.admin.batch_execute(taken).unwrap();
    }
    // Nothing of it has changed a row.
    assert_eq!(number(&mut scene.admin, "SELECT count(*) FROM tally.quarantine WHERE tries = 0"), 1);
    assert_eq!(number(&mut scene.admin, "SELECT count(*) FROM tally.events WHERE user_id = 'u'"), 1);
    for (_, role, statement, _) in ADDED.iter().rev() {
        assert_eq!(scene.refused(role, &statement.replace("tally_guest", &guest)), None, "{statement}");
        scene.send();
    }
}

/// As above, where it is a value of a domain of somebody's that runs code, wherever it is made. `:told` stands for the domain's number, and so on.
const MADE: &[(&str, &str)] = &[
    ("trigger", "NEW.reason::app.told IS NOT NULL"),
    ("trigger", "jsonb_populate_record(NULL::app.holds, '{\"t\": \"x\"}') IS NOT NULL"),
    ("trigger", "array_in('{1}', :told, -1) IS NOT NULL"),
    ("trigger", "domain_in('x', :told, -1) IS NOT NULL"),
    ("policy", "reason::app.told IS NOT NULL"),
    ("policy", "array_in('{1}', :told, -1) IS NOT NULL"),
    ("policy", "jsonb_populate_record(NULL::app.deep, '{\"h\": [{\"t\": \"x\"}]}') IS NOT NULL"),
    ("policy", "EXISTS (SELECT FROM json_to_record('{\"t\": \"x\"}') AS r (t app.told))"),
    ("policy", "EXISTS (SELECT FROM XMLTABLE('/a' PASSING '<a>x</a>' COLUMNS t app.told PATH '.'))"),
    ("policy", "('[' || reason || ',)')::app.spans IS NOT NULL"),
    ("insert", "reason::app.told IS NOT NULL"),
    ("insert", "array_in('{1}', :told, -1) IS NOT NULL"),
    ("check", "array_in('{7}', :told, -1) IS NOT NULL"),
    ("check", "record_in('(x)', :holds, -1) IS NOT NULL"),
    ("check", "range_in('[x,)', :spans, -1) IS NOT NULL"),
    ("check", "multirange_in('{[x,)}', :many, -1) IS NOT NULL"),
    ("check", "('[' || reason || ',)')::app.spans IS NOT NULL"),
    ("check", "('{[' || reason || ',)}')::app.many IS NOT NULL"),
    ("check", "('{\"[' || reason || ',)\"}')::app.spans[] IS NOT NULL"),
    ("default", "('[x,y)'::text::app.spans)::text"),
];

#[test]
fn values_of_types_of_somebodys_keep_our_own_statements_from_changing_rows() {
    let mut scene = Scene::telling("added_made");
    scene.send();
    for (place, expression) in MADE {
        let mut expression = (*expression).to_owned();
        for name in ["told", "holds", "spans", "many"] {
            let id = number(&mut scene.admin, &format!("SELECT 'app.{name}'::regtype::oid::int8"));
            expression = expression
                .replace(&format!(":{name}"), &id.to_string())
                .replace(&format!(":{id}"), &format!("::{name}"));
        }
        let (added, statement, taken) = match *place {
            "trigger" => (
                format!(
                    "CREATE TRIGGER t BEFORE UPDATE ON tally.quarantine FOR EACH ROW WHEN ({expression}) EXECUTE FUNCTION suppress_redundant_updates_trigger()"
                ),
                "SELECT tally.redrive()",
                "DROP TRIGGER t ON tally.quarantine",
            ),
            "policy" => (
                format!("CREATE POLICY p ON tally.quarantine AS RESTRICTIVE FOR DELETE USING ({expression})"),
                "SELECT tally.discard('no use')",
                "DROP POLICY p ON tally.quarantine",
            ),
            "insert" => (
                format!(
                    "CREATE POLICY p ON tally.quarantine_discard AS RESTRICTIVE FOR INSERT WITH CHECK ({expression})"
                ),
                "SELECT tally.discard('no use')",
                "DROP POLICY p ON tally.quarantine_discard",
            ),
            "check" => (
                format!("ALTER TABLE tally.quarantine ADD CONSTRAINT own CHECK ({expression}) NOT VALID"),
                "SELECT tally.redrive()",
                "ALTER TABLE tally.quarantine DROP CONSTRAINT own",
            ),
            _ => (
                format!(
                    "ALTER TABLE tally.quarantine_discard ADD COLUMN own text; ALTER TABLE tally.quarantine_discard ALTER own SET DEFAULT {expression}"
                ),
                "SELECT tally.discard('no use')",
                "ALTER TABLE tally.quarantine_discard DROP COLUMN own",
            ),
        };
        scene.admin.batch_execute(&added).unwrap_or_else(|error| panic!("{added}: {error:?}"));
        scene.admin.batch_execute("TRUNCATE app.seen").unwrap();
        let refused = scene.refused("rw", statement);
        let seen = scene.admin.query("SELECT who::text || ' by ' || what FROM app.seen", &[]).unwrap();
        let seen: Vec<String> = seen.iter().map(|row| row.get(0)).collect();
        assert!(seen.is_empty(), "{added}: {seen:?}");
        assert!(
            matches!(&refused, Some((code, message)) if code == "0A000" && message.contains("would run with the rights of the owner")),
            "{added}: {refused:?}"
        );
        scene.admin.batch_execute(taken).unwrap();
    }
    assert_eq!(number(&mut scene.admin, "SELECT count(*) FROM tally.quarantine WHERE tries = 0"), 1);
}

/// Casts by text between Postgres' own types, and rows of our own tables, make no such values.
#[test]
fn casts_to_types_of_postgres_go_on() {
    let mut scene = Scene::telling("added_cast");
    scene.send();
    scene
        .admin
        .batch_execute(
            "CREATE DOMAIN app.short AS text; CREATE TYPE app.plain AS RANGE (subtype = int4); CREATE TYPE app.kind AS ENUM ('rejected');
             ALTER TABLE tally.quarantine ADD CONSTRAINT own CHECK (('{' || tries::text || '}')::int4[] IS NOT NULL
               AND ('[' || tries::text || ',)')::int4range IS NOT NULL AND ('{[' || tries::text || ',)}')::int4multirange IS NOT NULL
               AND ('[' || tries::text || ',)')::app.plain IS NOT NULL AND reason::app.short IS NOT NULL AND ('{' || outcome || '}')::app.kind[] IS NOT NULL);
             CREATE POLICY p ON tally.quarantine AS RESTRICTIVE USING (('{' || tries::text || '}')::int4[] IS NOT NULL AND reason::app.short IS NOT NULL);
             CREATE POLICY q ON tally.quarantine AS RESTRICTIVE FOR UPDATE USING (quarantine IS DISTINCT FROM NULL);
             CREATE TRIGGER t BEFORE UPDATE ON tally.quarantine FOR EACH ROW WHEN (OLD.* IS NOT DISTINCT FROM NEW.* AND ('{' || NEW.tries::text || '}')::int4[] IS NOT NULL)
               EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        )
        .unwrap();
    assert_eq!(scene.refused("rw", "SELECT tally.redrive()"), None);
    assert_eq!(scene.refused("rw", "SELECT tally.discard('no use')"), None);
    let told = "SELECT count(*) FROM tally.lint() WHERE name IN ('code_as_owner', 'added_code')";
    assert_eq!(number(&mut scene.admin, told), 0);
}

/// Adding a trigger takes a right to the table, and no more.
#[test]
fn a_right_to_add_triggers_is_no_right_to_act_as_the_owner() {
    let mut scene = Scene::telling("added_right");
    scene.send();
    scene.admin.batch_execute(&format!("GRANT TRIGGER ON tally.quarantine TO {}", scene.adm)).unwrap();
    let trigger =
        "CREATE TRIGGER t BEFORE DELETE ON tally.quarantine FOR EACH ROW EXECUTE FUNCTION app.spy()";
    // Where the plan of the statement was made before, too.
    let mut client = scene.database.connect(&scene.rw);
    client.batch_execute("SELECT tally.discard('no use')").unwrap();
    scene.send();
    scene.as_adm().batch_execute(trigger).unwrap();
    let error = client.batch_execute("SELECT tally.discard('no use')").unwrap_err();
    assert_eq!(error.code().map(SqlState::code), Some("0A000"), "{error:?}");
    assert_eq!(number(&mut scene.admin, "SELECT count(*) FROM app.seen"), 0);
    scene.admin.batch_execute("ALTER TABLE tally.quarantine DISABLE TRIGGER t").unwrap();
    client.batch_execute("SELECT tally.discard('no use')").unwrap();
    assert_eq!(number(&mut scene.admin, "SELECT count(*) FROM tally.quarantine"), 0);
}

/// Keys of somebody's table that refer to one of ours, and a statement of ours that would change rows of that table, or read it as its owner.
const KEYS: [(&str, &str, &str); 6] = [
    ("quarantine (tenant_id, batch_id, position)", "ON DELETE CASCADE", "SELECT tally.discard('no use')"),
    ("quarantine (tenant_id, batch_id, position)", "ON DELETE SET NULL", "SELECT tally.discard('no use')"),
    (
        "quarantine (tenant_id, batch_id, position)",
        "ON DELETE RESTRICT ON UPDATE CASCADE",
        "SELECT tally.redrive()",
    ),
    // An index that the check of the key plans with.
    (
        "quarantine (tenant_id, batch_id, position)",
        "; CREATE INDEX ON app.child (tenant_id) WHERE app.f('index') = 'index'",
        "SELECT tally.discard('no use')",
    ),
    (
        "quarantine (tenant_id, batch_id, position)",
        "; CREATE STATISTICS app.own ON batch_id, (app.f('statistics') || tenant_id) FROM app.child",
        "SELECT tally.discard('no use')",
    ),
    // A value that somebody's cast makes comparable.
    ("quarantine (tenant_id, batch_id, position)", "of a type", "SELECT tally.discard('no use')"),
];

/// What a foreign key does to the table that has it fires that table's triggers, as whoever changes rows, or as who commits.
#[test]
fn a_right_to_refer_is_no_right_to_act_as_whoever_changes_rows() {
    let mut scene = Scene::telling("added_key");
    scene.send();
    let adm = scene.adm.clone();
    scene.admin.batch_execute(&format!("GRANT REFERENCES ON ALL TABLES IN SCHEMA tally TO {adm}")).unwrap();
    scene
        .as_adm()
        .batch_execute(
            "CREATE TYPE app.number AS ENUM ('1'); CREATE FUNCTION app.as_number(app.number) RETURNS int4 LANGUAGE plpgsql IMMUTABLE AS
               $$ BEGIN PERFORM app.tell('cast'); RETURN 1; END $$;
             CREATE CAST (app.number AS int4) WITH FUNCTION app.as_number(app.number) AS IMPLICIT",
        )
        .unwrap();
    for (key, what, statement) in KEYS {
        let (of, what) = if what == "of a type" { ("app.number", "") } else { ("int4", what) };
        scene
            .as_adm()
            .batch_execute(&format!(
                "CREATE TABLE app.child (tenant_id text COLLATE \"C\", batch_id int8, position {of});
                 CREATE TRIGGER at_once AFTER UPDATE OR DELETE ON app.child FOR EACH ROW EXECUTE FUNCTION app.spy();
                 CREATE CONSTRAINT TRIGGER later AFTER UPDATE OR DELETE ON app.child DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.spy();
                 ALTER TABLE app.child ADD FOREIGN KEY (tenant_id, batch_id, position) REFERENCES tally.{key} {what}"
            ))
            .unwrap();
        scene.admin.batch_execute("TRUNCATE app.seen").unwrap();
        if of == "int4" && what.starts_with("ON") {
            scene.admin.batch_execute("INSERT INTO app.child SELECT tenant_id, batch_id, position FROM tally.quarantine; TRUNCATE app.seen").unwrap();
        }
        for role in ["rw", "superuser"] {
            let refused = if role == "rw" {
                scene.refused("rw", statement)
            } else {
                let mut client = scene.database.superuser();
                client.batch_execute("BEGIN; SELECT tally.enter('a')").unwrap();
                let error = client.batch_execute(statement).err();
                let _ = client.batch_execute("COMMIT");
                error.map(|error| {
                    let error = error.as_db_error().expect("an SQL error").clone();
                    (error.code().code().to_owned(), error.message().to_owned())
                })
            };
            let seen = scene.admin.query("SELECT who::text || ' by ' || what FROM app.seen", &[]).unwrap();
            let seen: Vec<String> = seen.iter().map(|row| row.get(0)).collect();
            assert!(seen.is_empty(), "{what}, {role}: {seen:?}");
            assert!(
                matches!(&refused, Some((code, message)) if code == "0A000" && message.contains("child_")),
                "{what}, {role}: {refused:?}"
            );
        }
        scene.as_adm().batch_execute("DROP TABLE app.child").unwrap();
    }
    // One that only keeps rows from going, as what refers to events and has no code, does so.
    scene
        .as_adm()
        .batch_execute(
            "CREATE TABLE app.child (tenant_id text COLLATE \"C\", batch_id int8, position int4, FOREIGN KEY (tenant_id, batch_id, position) REFERENCES tally.quarantine);
             CREATE INDEX ON app.child (tenant_id, lower(tenant_id)) WHERE batch_id > 0",
        )
        .unwrap();
    scene
        .admin
        .batch_execute("INSERT INTO app.child SELECT tenant_id, batch_id, position FROM tally.quarantine")
        .unwrap();
    let kept = scene.refused("rw", "SELECT tally.discard('no use')");
    assert_eq!(kept.map(|kept| kept.0).as_deref(), Some("23503"));
    scene.admin.batch_execute("DELETE FROM app.child").unwrap();
    assert_eq!(scene.refused("rw", "SELECT tally.discard('no use')"), None);
    assert_eq!(number(&mut scene.admin, "SELECT count(*) FROM tally.quarantine"), 0);
}

/// What Postgres' own functions do needs no refusing, and our own triggers fire.
#[test]
fn built_in_code_goes_on() {
    let mut scene = Scene::telling("added_built_in");
    scene.send();
    scene
        .admin
        .batch_execute(
            "ALTER TABLE tally.quarantine ADD CONSTRAINT own CHECK (length(reason) < 10000 AND now() IS NOT NULL),
               ADD COLUMN words int4 GENERATED ALWAYS AS (length(reason)) STORED;
             CREATE INDEX own ON tally.quarantine (tenant_id, lower(reason)) WHERE reason <> upper('x');
             CREATE DOMAIN app.short AS text; CREATE TYPE app.kind AS ENUM ('good', 'bad');
             ALTER TABLE tally.quarantine_discard ADD COLUMN number bigserial, ADD COLUMN who name DEFAULT session_user, ADD COLUMN at timestamptz DEFAULT clock_timestamp(),
               ADD COLUMN id uuid DEFAULT gen_random_uuid(), ADD COLUMN short app.short, ADD COLUMN kind app.kind DEFAULT 'good';
             GRANT USAGE ON SEQUENCE tally.quarantine_discard_number_seq TO tally_owner;
             ALTER TABLE tally.retention ADD COLUMN changed_by text DEFAULT current_setting('application_name')",
        )
        .unwrap();
    assert_eq!(scene.refused("rw", "SELECT tally.redrive()"), None);
    assert_eq!(scene.refused("rw", "SELECT tally.discard('no use')"), None);
    assert_eq!(scene.refused("adm", "SELECT tally.set_retention('a', '400 days')"), None);
    assert_eq!(scene.refused("adm", "SELECT tally.erase_subject('a', 'u', 'ticket')"), None);
    let right =
        "SELECT count(*) FROM tally.quarantine_discard WHERE number = 1 AND id IS NOT NULL AND kind = 'good'";
    assert_eq!(number(&mut scene.admin, right), 1);
}

/// Whether an index needs a guard is found of the indexes that are opened, also where one was made since they were looked at.
#[test]
fn an_index_that_is_made_meanwhile_is_guarded_too() {
    let mut scene = Scene::telling("added_meanwhile");
    scene.send();
    let watched = "current_setting('application_name') = 'watched'";
    let function = |name: &str, body: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION app.{name}_now() RETURNS text LANGUAGE plpgsql AS $$ BEGIN {body} RETURN 'x'; END $$;
             CREATE OR REPLACE FUNCTION app.{name}(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN app.{name}_now(); END'"
        )
    };
    let mut adm = scene.as_adm();
    // While the first is opened, the second is made, and a moment later everybody is told of it. Of the first nothing is left to compute then.
    let waits = format!(
        "IF {watched} THEN WHILE NOT EXISTS (SELECT FROM pg_class WHERE relname = 'second') LOOP END LOOP;
           DECLARE told timestamptz := clock_timestamp() + interval '1 second'; BEGIN WHILE clock_timestamp() < told LOOP END LOOP; END; END IF;"
    );
    let tells = format!(
        "IF {watched} AND current_user <> 'tally_evaluator' THEN RAISE 'by %', current_user; END IF;"
    );
    adm.batch_execute(&format!("{}; {}", function("first", ""), function("second", &tells))).unwrap();
    scene
        .admin
        .batch_execute(
            "CREATE INDEX first ON tally.ingest_batch (tenant_id, (coalesce(source, '') || app.first('x')))",
        )
        .unwrap();
    adm.batch_execute(&function("first", &waits)).unwrap();
    let mut writer = scene.database.connect(&scene.rw);
    writer.batch_execute("SET application_name = 'watched'; BEGIN").unwrap();
    let mut maker = scene.database.superuser();
    thread::scope(|threads| {
        let making = threads.spawn(move || {
            // Its indexes are listed then.
            let opens = "SELECT count(*) FROM pg_locks WHERE relation = 'tally.first'::regclass AND mode = 'RowExclusiveLock' AND granted";
            while number(&mut maker, opens) == 0 {
                thread::sleep(Duration::from_millis(5));
            }
            maker.batch_execute("CREATE INDEX CONCURRENTLY second ON tally.ingest_batch (tenant_id, (coalesce(source, '') || app.second('x')))")
        });
        for _ in 0..2 {
            let sent = ingest(&mut writer, r#"{"tenant_id":"a"}"#);
            assert_eq!(sent.map(|sent| sent.rejected).unwrap_or_else(|error| panic!("{error:?}")), 1);
        }
        writer.batch_execute("COMMIT").unwrap();
        making.join().expect("it doesn't panic").unwrap();
    });
}

/// A column that an event has nothing for is judged by its domain, as anywhere, and by nobody.
#[test]
fn domains_of_added_columns_judge_what_is_missing() {
    let mut scene = Scene::telling("added_domain");
    scene
        .admin
        .batch_execute(
            "CREATE FUNCTION app.is_nobodys(x text) RETURNS boolean LANGUAGE plpgsql STABLE AS 'BEGIN RETURN current_user = ''tally_evaluator''; END';
             CREATE DOMAIN app.nobodys AS text CHECK (app.is_nobodys(VALUE)); CREATE DOMAIN app.given AS text CHECK (VALUE IS NOT NULL)",
        )
        .unwrap();
    let sent = |database: &Database, rw: &str| {
        let event = r#"{"tenant_id":"a","account_id":"x","name":"n","occurred_at":"2026-01-20T00:00:00Z","event_id":"00000000-0000-4000-8000-000000000001"}"#;
        ingest(&mut database.connect(rw), event).unwrap()
    };
    scene.admin.batch_execute("ALTER TABLE tally.events ADD COLUMN own app.given").unwrap();
    let refused = sent(&scene.database, &scene.rw);
    assert_eq!((refused.accepted, refused.rejected), (0, 1), "{refused:?}");
    scene
        .admin
        .batch_execute(
            "ALTER TABLE tally.events DROP COLUMN own, ADD COLUMN own app.nobodys, ADD COLUMN given app.given DEFAULT 'x'",
        )
        .unwrap();
    let taken = sent(&scene.database, &scene.rw);
    assert_eq!((taken.accepted, taken.rejected), (1, 0), "{taken:?}");
}

/// Postgres runs functions of an index as the table's owner, whoever has it analyze: they enter no scope, and are in none.
#[test]
fn functions_of_an_index_see_no_tenant_where_statistics_are_made() {
    let mut scene = Scene::telling("added_analyzed");
    scene.send();
    let mut adm = scene.as_adm();
    let body = |enters: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION app.peek(x text) RETURNS text LANGUAGE plpgsql AS $$ DECLARE found text; BEGIN {enters}
               BEGIN found := (SELECT string_agg(user_id, ',') FROM tally.events); EXCEPTION WHEN insufficient_privilege THEN RETURN x; END;
               INSERT INTO app.seen VALUES (current_user, found); RETURN x; END $$"
        )
    };
    adm.batch_execute(
        "CREATE FUNCTION app.peek(x text) RETURNS text LANGUAGE sql AS 'SELECT x';
         CREATE FUNCTION app.peeks(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN app.peek(x); END'",
    )
    .unwrap();
    scene
        .admin
        .batch_execute("CREATE INDEX own ON tally.events_p2026_01 (tenant_id, app.peeks(name))")
        .unwrap();
    adm.batch_execute(&body("PERFORM tally.enter_global();")).unwrap();
    let error = scene.database.superuser().batch_execute("ANALYZE tally.events_p2026_01").unwrap_err();
    assert_eq!(error.code().map(SqlState::code), Some("42501"), "{error:?}");
    assert_eq!(number(&mut scene.admin, "SELECT count(*) FROM app.seen"), 0);
    // What an erasure leaves in the statistics, a step of ours removes.
    adm.batch_execute(&body("")).unwrap();
    let other = r#"{"tenant_id":"a","account_id":"x","name":"n","user_id":"other","occurred_at":"2026-01-20T00:00:00Z","event_id":"00000000-0000-4000-8000-000000000009"}"#;
    adm.batch_execute("ALTER FUNCTION app.peek(text) RENAME TO held; CREATE FUNCTION app.peek(x text) RETURNS text LANGUAGE sql AS 'SELECT x'").unwrap();
    assert_eq!(ingest(&mut scene.database.connect(&scene.rw), other).unwrap().accepted, 1);
    scene.admin.batch_execute("ANALYZE tally.events").unwrap();
    assert_eq!(scene.refused("adm", "SELECT tally.erase_subject('a', 'u', 'ticket')"), None);
    adm.batch_execute("DROP FUNCTION app.peek(text); ALTER FUNCTION app.held(text) RENAME TO peek").unwrap();
    scene.as_adm().batch_execute("CALL tally.maintain()").unwrap();
    let waits =
        "SELECT count(*) FROM tally.erasure_trace WHERE analyzed_at IS NULL OR analyzed_at < changed_at";
    assert_eq!(number(&mut scene.admin, waits), 0);
    assert_eq!(number(&mut scene.admin, "SELECT count(*) FROM app.seen"), 0);
}
