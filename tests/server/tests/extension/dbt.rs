//! integrations/dbt on the demo's data, as a tenant's login: dbt makes its models, and all its tests pass. Where dbt isn't there, TALLY_DBT=1
//! installs it, which takes more than a minute.

use std::path::Path;
use std::process::Command;
use tally_server_tests::{bin_and_sockets, number, skip, succeed, told};

#[test]
fn the_package_builds_and_its_tests_pass() {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // Some dozens of packages: taken from a directory of its own, which the first run fills.
    let found = Command::new(checkout.join("tests/dbt.sh")).output().unwrap();
    if !found.status.success() {
        skip(&format!("dbt: {}", String::from_utf8_lossy(&found.stderr).trim()));
        return;
    }
    let dbt = String::from_utf8(found.stdout).unwrap();
    let (mut database, [_, reader]) = told("dbt");
    let mut superuser = database.superuser();
    superuser.batch_execute(&format!("GRANT CREATE ON DATABASE {} TO {reader}", database.name())).unwrap();
    let port = number(&mut superuser, "SELECT setting::int8 FROM pg_settings WHERE name = 'port'");
    let scratch = std::env::temp_dir().join(format!("tally_{}", database.name()));
    let mut build = Command::new(dbt.trim());
    build.current_dir(checkout.join("integrations/dbt"));
    build
        .args(["--no-use-colors", "build", "--profiles-dir", ".", "--target-path"])
        .arg(scratch.join("target"));
    build.arg("--log-path").arg(scratch.join("log")).env("DBT_SEND_ANONYMOUS_USAGE_STATS", "false");
    build.env("PGHOST", &bin_and_sockets().1).env("PGPORT", port.to_string());
    build.env("PGUSER", &reader).env("PGDATABASE", database.name());
    let said = String::from_utf8(succeed(&mut build).stdout).unwrap();
    std::fs::remove_dir_all(&scratch).unwrap();
    assert!(said.contains("PASS=22 WARN=0 ERROR=0 SKIP=0"), "{said}");

    // What the models say is what pg_tally says, of this tenant alone.
    let mut client = database.connect(&reader);
    let summed = number(&mut client, "SELECT sum(events)::int8 FROM analytics.tally_users_by_week");
    assert_eq!(summed, number(&mut client, "SELECT count(*) FROM tally.events"));
    let invokers = "SELECT count(*) FROM pg_class WHERE relnamespace = 'analytics'::regnamespace AND reloptions = '{security_invoker=true}'";
    assert_eq!(number(&mut superuser, invokers), 3);
    // Another tenant's login, which may read the model, sees its own tenant in it.
    let other = database.role("other", &["tally_reader"]);
    superuser
        .batch_execute(&format!(
            "SELECT tally.bind_role('{other}', 'globex'); GRANT USAGE ON SCHEMA analytics TO {other};
             GRANT SELECT ON analytics.tally_accounts_by_month TO {other}"
        ))
        .unwrap();
    let tenants = "SELECT string_agg(DISTINCT tenant_id, ',') FROM analytics.tally_accounts_by_month";
    for (login, tenant) in [(&reader, "acme"), (&other, "globex")] {
        assert_eq!(database.connect(login).query_one(tenants, &[]).unwrap().get::<_, &str>(0), tenant);
    }
}
