//! What others have made over a rollup's views and tables is named where a rollup is to be dropped or altered, and goes where the
//! administrator says so: one tenant keeps nobody from it.

use postgres::Client;
use tally_server_tests::{Database, ingest, number};

const EVENT: &str = r#"{"tenant_id":"a","account_id":"n","name":"paid","event_id":"00000000-0000-4000-8000-000000000001","occurred_at":"2026-03-03T09:15:00Z"}"#;

struct Shop {
    tenant: Client,
    /// A member of tally_admin, no superuser.
    admin: Client,
    superuser: Client,
    _database: Database,
}

fn shop(topic: &str) -> Shop {
    let mut database = Database::new(topic);
    let (tenant, admin) =
        (database.role("tenant", &["tally_reader"]), database.role("admin", &["tally_admin"]));
    let mut superuser = database.superuser();
    superuser
        .batch_execute(&format!(
            "SELECT tally.bind_role('{tenant}', 'a'); CREATE SCHEMA own AUTHORIZATION {tenant};
             SELECT tally.create_rollup('visits', '{{day,week}}', ARRAY['count(*) AS n'], ARRAY['name'])"
        ))
        .unwrap();
    ingest(&mut superuser, EVENT).unwrap();
    Shop {
        tenant: database.connect(&tenant),
        admin: database.connect(&admin),
        superuser,
        _database: database,
    }
}

/// What a tenant may make, and what of it is named.
const DEPENDING: [(&str, &str); 8] = [
    ("CREATE VIEW own.v AS SELECT * FROM tally.visits_day", "view own.v of role tenant_"),
    ("CREATE TEMP VIEW v AS SELECT n FROM tally.visits_week", ".v of role tenant_"),
    (
        "CREATE VIEW own.v AS SELECT bucket FROM tally.visits_day_state; CREATE VIEW own.w AS SELECT * FROM own.v",
        "view own.v of role tenant_",
    ),
    ("CREATE VIEW own.v AS SELECT bucket FROM tally.visits_day_base", "view own.v of role tenant_"),
    ("CREATE VIEW own.v AS SELECT bucket FROM tally.visits_pending", "view own.v of role tenant_"),
    (
        "CREATE MATERIALIZED VIEW own.v AS SELECT * FROM tally.visits_day WITH NO DATA",
        "materialized view own.v of role tenant_",
    ),
    (
        "CREATE FUNCTION own.f() RETURNS int8 LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM tally.visits_day; END",
        "function own.f()",
    ),
    ("CREATE TABLE own.t (day tally.visits_day)", "table own.t"),
];

#[test]
fn what_depends_on_a_rollup_is_named_and_goes_when_asked_for() {
    for command in [
        "SELECT tally.drop_rollup('visits')",
        "SELECT tally.alter_rollup('visits', ARRAY['count(user_id) AS users'])",
    ] {
        let mut shop = shop("depending");
        for (made, named) in DEPENDING {
            shop.tenant.batch_execute(made).unwrap();
            // An altered rollup keeps its tables.
            let stays = command.contains("alter") && (made.contains("_base") || made.contains("_pending"));
            if stays {
                shop.admin.batch_execute(&format!("BEGIN; {command}; ROLLBACK")).expect(made);
                shop.tenant.batch_execute("TABLE own.v; DROP VIEW own.v").unwrap();
                continue;
            }
            let refused = shop.admin.batch_execute(command).expect_err(made);
            let error = refused.as_db_error().unwrap_or_else(|| panic!("{made}: {refused}"));
            assert_eq!(error.code().code(), "2BP01", "{made}: {error:?}");
            assert!(error.detail().is_some_and(|detail| detail.contains(named)), "{made}: {error:?}");
            assert!(error.hint().is_some_and(|hint| hint.contains("cascade => true")), "{made}: {error:?}");
            shop.admin
                .batch_execute(&format!(
                    "BEGIN; {}, cascade => true); ROLLBACK",
                    command.trim_end_matches(')')
                ))
                .unwrap_or_else(|problem| panic!("{made}: {problem:?}"));
            shop.tenant
                .batch_execute("DROP SCHEMA own CASCADE; DISCARD TEMP")
                .unwrap_or_else(|problem| panic!("{made}: {problem:?}"));
            let owner = "SELECT r.rolname FROM pg_roles AS r WHERE r.rolname ~ ('^tenant_' || current_database() || '$')";
            let owner: String = shop.superuser.query_one(owner, &[]).unwrap().get(0);
            shop.superuser.batch_execute(&format!("CREATE SCHEMA own AUTHORIZATION {owner}")).unwrap();
        }
        shop.tenant.batch_execute("CREATE VIEW own.v AS SELECT * FROM tally.visits_day; CREATE TEMP VIEW v AS SELECT * FROM own.v").unwrap();
        shop.admin.batch_execute(&format!("{}, cascade => true)", command.trim_end_matches(')'))).unwrap();
        let left = "SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = 'own'";
        assert_eq!(number(&mut shop.superuser, left), 0);
        let visits = "SELECT count(*) FROM tally.rollup WHERE rollup_name = 'visits'";
        assert_eq!(number(&mut shop.superuser, visits), i64::from(command.contains("alter")));
    }
}

/// A cascade goes no further than what extensions own: ours would be dropped with all of it.
#[test]
fn a_cascade_drops_no_extension() {
    let mut shop = shop("depending_built_in");
    for rollup in ["usage", "payment", "session", "user_activity"] {
        for options in ["", ", cascade => true"] {
            let refused = shop
                .admin
                .batch_execute(&format!("SELECT tally.drop_rollup('{rollup}'{options})"))
                .unwrap_err();
            let code = refused.code().map(|code| code.code().to_owned());
            assert_eq!(code.as_deref(), Some("2BP01"), "{rollup}{options}: {refused:?}");
        }
    }
    assert_eq!(
        number(&mut shop.superuser, "SELECT count(*) FROM pg_extension WHERE extname = 'pg_tally'"),
        1
    );
    assert_eq!(number(&mut shop.superuser, "SELECT count(*) FROM tally.events"), 1);
}
