//! Functions that take a tenant tell a login that is bound to one nothing of another: they answer as if there were no such tenant, or
//! refuse. The oracle is a tenant that there isn't.

use crate::keyed::{Keyed, array, event, id, maintain};
use postgres::Client;
use serde_json::json;
use tally_server_tests::{ingest, number};

/// Functions that the login may call and that take a tenant, as calls in which `$tenant` stands for it.
const CALLS: &str = "
    SELECT p.oid::regprocedure::text,
           format('SELECT coalesce(string_agg(r::text, '' '' ORDER BY r::text), ''nothing'') FROM %I.%I(%s) AS r', n.nspname, p.proname,
                  (SELECT string_agg(format('%I => %s', a.name,
                            CASE WHEN a.name ~ 'tenant' THEN '''$tenant'''
                                 WHEN a.name = 'rollup_name' THEN '''user_activity'''
                                 WHEN a.name = 'column_names' THEN '''{user_id}'''
                                 WHEN a.name IN ('from', 'since') THEN '''2025-01-01'''
                                 WHEN a.name IN ('to', 'until', 'before') THEN '''2027-01-01'''
                                 WHEN a.name IN ('subject', 'user_id') THEN '''person-of-b'''
                                 WHEN a.name = 'path' THEN '''/mail'''
                                 WHEN a.type IN ('int4'::regtype, 'int8'::regtype, 'numeric'::regtype) THEN '1000'
                                 WHEN a.type IN ('timestamptz'::regtype, 'date'::regtype) THEN '''2026-03-02'''
                                 WHEN a.type = 'interval'::regtype THEN '''50 years'''
                                 WHEN a.type = 'boolean'::regtype THEN 'true'
                                 WHEN a.type IN ('jsonb'::regtype, 'json'::regtype) THEN '''{}'''
                                 WHEN a.type = 'uuid'::regtype THEN '''00000000-0000-4000-8000-000000000001'''
                                 WHEN a.type::text LIKE '%[]' THEN '''{}'''
                                 ELSE '''x''' END), ', ' ORDER BY a.place)
                     FROM unnest(p.proargnames[:p.pronargs], p.proargtypes::oid[]::regtype[]) WITH ORDINALITY AS a (name, type, place)
                    WHERE a.place <= p.pronargs - p.pronargdefaults OR a.name ~ 'tenant'))
      FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
     WHERE n.nspname IN ('tally', 'tally_internal') AND p.prokind = 'f' AND p.prorettype <> 'trigger'::regtype
       AND p.proargnames IS NOT NULL AND has_function_privilege($1::text, p.oid, 'EXECUTE')
       AND EXISTS (SELECT FROM unnest(p.proargnames[:p.pronargs]) AS a (name) WHERE a.name ~ 'tenant')
     ORDER BY 1";

/// Acts of administration, which are for any tenant whatever the caller's scope: how many rows a step of housekeeping changed, and which key
/// a tenant has got.
const ACTS: [&str; 2] = ["tally.rotate_keys(text)", "tally_internal.renew_stored(text,bigint)"];

fn outcome(client: &mut Client, call: &str, tenant: &str) -> String {
    client.batch_execute("BEGIN").unwrap();
    let found = match client.query_one(&call.replace("$tenant", tenant), &[]) {
        Ok(row) => row.get::<_, String>(0),
        Err(error) => error.as_db_error().map_or_else(
            || error.to_string(),
            |error| format!("{} {}", error.code().code(), error.message()),
        ),
    };
    client.batch_execute("ROLLBACK").unwrap();
    found.replace(tenant, "$tenant")
}

#[test]
fn who_is_bound_to_a_tenant_is_told_nothing_of_another() {
    let mut keyed = Keyed::new("others");
    let groups = ["tally_admin", "tally_auditor", "tally_analyst", "tally_writer", "tally_custodian"];
    let bound: Vec<String> =
        groups.iter().map(|group| keyed.database.role(&format!("bound_{group}"), &[group])).collect();
    let mut superuser = keyed.database.superuser();
    for role in &bound {
        superuser.batch_execute(&format!("SELECT tally.bind_role('{role}', 'tenant-a')")).unwrap();
    }
    // Of a month that is gone, of one that is there, and in quarantine; somebody is to be erased, and something protected.
    let of = |tenant: &str, place: u32| {
        let mut gone = event(tenant, place, "person-of-b", json!({"mail": "x@example.com"}));
        gone["occurred_at"] = json!("2025-12-02T09:15:00Z");
        let mut held = event(tenant, place + 2, "person-of-b", json!({}));
        held["name"] = json!("");
        [gone, event(tenant, place + 1, "person-of-b", json!({"mail": "x@example.com"})), held]
    };
    ingest(&mut superuser, &array(of("tenant-a", 1).into_iter().chain(of("tenant-b", 11)))).unwrap();
    maintain(&mut superuser);
    superuser
        .batch_execute(
            "SELECT tally.drop_raw('2026-02-01'), tally.set_step_up_policy(act, false) FROM unnest('{unprotect,reveal,erase_subject}'::text[]) AS act;
             SELECT tally.protect_property(NULL, 'mail', 'token', 'tenant-b'), tally.erase_subjects('tenant-b', '{person-of-b}', 'asked for'),
                    tally.set_retention('tenant-b', '20 years'), tally.limit_tenant('tenant-b', 5000)",
        )
        .unwrap();
    assert_eq!(
        number(
            &mut superuser,
            &format!("SELECT count(*) FROM tally.event_key WHERE event_id = '{}'", id(12))
        ),
        1
    );
    let mut asked = 0;
    let mut told = Vec::new();
    for role in &bound {
        let mut client = keyed.database.connect(role);
        client.batch_execute("SET statement_timeout = '30s'").unwrap();
        for call in superuser.query(CALLS, &[role]).unwrap() {
            let (function, call) = (call.get::<_, String>(0), call.get::<_, String>(1));
            let [of_other, of_none] =
                ["tenant-b", "tenant-z"].map(|tenant| outcome(&mut client, &call, tenant));
            asked += 1;
            if of_other != of_none && !of_other.starts_with("42501") && !ACTS.contains(&&*function) {
                told.push(format!("{role}: {function}: {of_other}\n  where there is none: {of_none}"));
            }
        }
    }
    assert!(asked > 20, "{asked}");
    assert!(told.is_empty(), "{}", told.join("\n"));
}
