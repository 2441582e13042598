//! Sensitive acts ask for a second factor that was shown lately: by a token, to a session or to a pool role's transaction.

use postgres::{Client, GenericClient};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};
use tally_server_tests::{Confined, TokenSigner, code, number};

fn seconds_ago(seconds: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - seconds
}

/// A token that answers a challenge of this transaction, with these claims changed; null takes one away.
fn token(signer: &TokenSigner, client: &mut impl GenericClient, change: Value) -> String {
    let row = client
        .query_one("SELECT tally.challenge(), tally.token_audience(), session_user::text", &[])
        .unwrap();
    let mut claims = signer.claims(row.get(1), row.get(2), "", row.get(0));
    claims.as_object_mut().unwrap().remove("tenant");
    for (name, value) in change.as_object().unwrap() {
        claims[name] = value.clone();
    }
    signer.sign(&claims)
}

/// Steps up in a transaction of its own.
fn step_up(signer: &TokenSigner, client: &mut Client, change: Value) -> String {
    let mut transaction = client.transaction().unwrap();
    let token = token(signer, &mut transaction, change);
    let outcome = transaction.query_one("SELECT tally.step_up($1)", &[&token]);
    if outcome.is_ok() {
        transaction.commit().unwrap();
    }
    code(outcome)
}

/// What comes of asking for an act.
fn ask(client: &mut impl GenericClient, act: &str) -> String {
    code(client.batch_execute(&format!("SELECT tally_internal.require_step_up('{act}')")))
}

const REFUSED: &str = "42T20";
const TAKEN: &str = "no error";

#[test]
fn a_session_steps_up_by_a_token_for_as_long_as_the_policy_says() {
    let Confined { mut database, signer, roles: [bound, _, _, _, analyst, _] } = Confined::new("step_up");
    let admin = database.role("admin", &["tally_admin"]);
    let mut admin = database.connect(&admin);
    let mut client = database.connect(&analyst);
    // Without a policy: acts need it, but those that must come before there is a key.
    assert_eq!(ask(&mut client, "something"), REFUSED);
    assert_eq!(ask(&mut client, "an_act_that_nobody_knows"), REFUSED);
    assert_eq!(ask(&mut client, "key"), TAKEN);
    assert_eq!(ask(&mut database.superuser(), "something"), REFUSED, "superusers are no exception");
    let error = client.batch_execute("SELECT tally_internal.require_step_up('something')").unwrap_err();
    let error = error.as_db_error().unwrap();
    assert!(
        error.message().contains("300 seconds") && error.hint().unwrap().contains("tally.step_up"),
        "{error}"
    );

    assert_eq!(
        step_up(&signer, &mut client, json!({"amr": ["pwd", "otp"], "auth_time": seconds_ago(100)})),
        TAKEN
    );
    assert_eq!(ask(&mut client, "something"), TAKEN);
    // Neither another role's rights nor another session's.
    assert_eq!(ask(&mut database.connect(&analyst), "something"), REFUSED);
    client.batch_execute("SET ROLE tally_reader").unwrap();
    assert_eq!(ask(&mut client, "something"), TAKEN);
    client.batch_execute("RESET ROLE; RESET ALL").unwrap();
    // Rolled back or not.
    client.batch_execute("BEGIN").unwrap();
    assert_eq!(ask(&mut client, "something"), TAKEN);
    client.batch_execute("ROLLBACK").unwrap();
    // The policy of the act, as of now, also for a transaction with an older snapshot.
    client
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM tally.step_up_acts()")
        .unwrap();
    admin.batch_execute("SELECT tally.set_step_up_policy('key', true, '50 seconds')").unwrap();
    assert_eq!(ask(&mut client, "key"), REFUSED);
    client.batch_execute("ROLLBACK").unwrap();
    assert_eq!(ask(&mut client, "something"), TAKEN);
    // Too old, no second factor, a class that nobody listed.
    for (claims, outcome) in [
        (json!({"amr": ["pwd", "otp"], "auth_time": seconds_ago(400)}), REFUSED),
        (json!({"amr": ["pwd"], "auth_time": seconds_ago(1)}), REFUSED),
        (json!({"acr": "gold", "auth_time": seconds_ago(1)}), REFUSED),
        (json!({"amr": ["hwk"], "acr": "gold", "auth_time": seconds_ago(1), "sub": "jane"}), TAKEN),
    ] {
        assert_eq!(step_up(&signer, &mut client, claims.clone()), TAKEN);
        assert_eq!(ask(&mut client, "something"), outcome, "{claims}");
    }
    // DISCARD ALL leaves the session as it began, and a token that is refused leaves nothing of the one before.
    client.batch_execute("DISCARD ALL").unwrap();
    assert_eq!(ask(&mut client, "something"), REFUSED);
    let good = || json!({"amr": ["hwk"], "auth_time": seconds_ago(1)});
    for (change, outcome) in [
        (json!({"amr": ["hwk"]}), "42501"),
        (json!({"auth_time": seconds_ago(1)}), "42501"),
        (json!({"amr": [], "acr": null, "auth_time": seconds_ago(1)}), "42501"),
        (json!({"amr": ["hwk"], "auth_time": seconds_ago(0) + 100}), "42501"),
        (json!({"amr": ["hwk"], "auth_time": seconds_ago(1), "role": bound}), "42501"),
        (json!({"amr": ["hwk"], "auth_time": seconds_ago(1), "tenant": "a"}), "42501"),
        (json!({"amr": ["hwk"], "auth_time": seconds_ago(1), "account": "x"}), "42501"),
        (json!({"amr": ["hwk"], "auth_time": seconds_ago(1), "nonce": "AAAAAAAAAAAAAAAAAAAAAAAA"}), "42501"),
        (json!({"amr": "hwk", "auth_time": seconds_ago(1)}), "42501"),
    ] {
        assert_eq!(step_up(&signer, &mut client, good()), TAKEN);
        assert_eq!(step_up(&signer, &mut client, change.clone()), outcome, "{change}");
        assert_eq!(ask(&mut client, "something"), REFUSED, "{change}");
    }
    // A token works once.
    let mut transaction = client.transaction().unwrap();
    let once = token(&signer, &mut transaction, good());
    transaction.execute("SELECT tally.step_up($1)", &[&once]).unwrap();
    transaction.commit().unwrap();
    assert_eq!(code(client.execute("SELECT tally.step_up($1)", &[&once])), "42501");
    // A bound login, with a token for its tenant, and not with another's.
    let mut client = database.connect(&bound);
    assert_eq!(
        step_up(&signer, &mut client, json!({"amr": ["mfa"], "auth_time": seconds_ago(1), "tenant": "b"})),
        "42501"
    );
    assert_eq!(ask(&mut client, "something"), REFUSED);
    assert_eq!(
        step_up(&signer, &mut client, json!({"amr": ["mfa"], "auth_time": seconds_ago(1), "tenant": "a"})),
        TAKEN
    );
    assert_eq!(ask(&mut client, "something"), TAKEN);
    // Another session user is another one.
    let mut superuser = database.superuser();
    assert_eq!(step_up(&signer, &mut superuser, good()), TAKEN);
    assert_eq!(ask(&mut superuser, "something"), TAKEN);
    superuser.batch_execute(&format!("SET SESSION AUTHORIZATION {analyst}")).unwrap();
    assert_eq!(ask(&mut superuser, "something"), REFUSED);
}

#[test]
fn a_step_up_is_for_one_login_one_scope_and_a_valid_key() {
    let Confined { mut database, signer, roles: [bound, _, trusted, _, analyst, _] } =
        Confined::new("step_up_for");
    let mut superuser = database.superuser();
    let good = || json!({"amr": ["hwk"], "auth_time": seconds_ago(1)});
    // An administrator without a second factor has another person's session do it.
    let admin_role = database.role("admin", &["tally_admin"]);
    superuser
        .batch_execute(&format!(
            "CREATE SCHEMA trap; GRANT USAGE ON SCHEMA trap TO PUBLIC; GRANT CREATE ON SCHEMA trap TO {admin_role};
             SET ROLE {admin_role};
             CREATE FUNCTION trap.spring() RETURNS void LANGUAGE sql SECURITY DEFINER AS $$ SELECT tally.set_step_up_policy('key', false) $$;
             RESET ROLE; SELECT tally.set_step_up_policy('policy', true)"
        ))
        .unwrap();
    let mut client = database.connect(&analyst);
    assert_eq!(step_up(&signer, &mut client, good()), TAKEN);
    assert_eq!(ask(&mut client, "something"), TAKEN);
    assert_eq!(code(client.batch_execute("SELECT trap.spring()")), REFUSED);
    let mut admin = database.connect(&admin_role);
    assert_eq!(code(admin.batch_execute("SELECT trap.spring()")), REFUSED);
    assert_eq!(step_up(&signer, &mut admin, good()), TAKEN);
    assert_eq!(code(admin.batch_execute("SELECT trap.spring()")), TAKEN);
    // A name that could fill the log is none.
    for act in ["", "An act", "x'||'y", &"x".repeat(64)] {
        assert_eq!(ask(&mut client, &act.replace('\'', "''")), "22023", "{act}");
    }
    // For a tenant: not for another one, nor for all.
    client.batch_execute("BEGIN; SELECT tally.enter('a')").unwrap();
    let for_a =
        token(&signer, &mut client, json!({"amr": ["hwk"], "auth_time": seconds_ago(1), "tenant": "a"}));
    client.execute("SELECT tally.step_up($1)", &[&for_a]).unwrap();
    assert_eq!(ask(&mut client, "something"), TAKEN);
    for (scope, outcome) in
        [("tally.enter('b')", REFUSED), ("tally.enter_global()", REFUSED), ("tally.enter('a')", TAKEN)]
    {
        client.batch_execute(&format!("ROLLBACK; BEGIN; SELECT {scope}")).unwrap();
        assert_eq!(ask(&mut client, "something"), outcome, "{scope}");
    }
    client.batch_execute("ROLLBACK").unwrap();
    // A trusted role may be an application's, which lends the connection to the next person.
    let mut shared = database.connect(&trusted);
    shared.batch_execute("BEGIN").unwrap();
    let once = token(&signer, &mut shared, good());
    shared.execute("SELECT tally.step_up($1)", &[&once]).unwrap();
    assert_eq!(ask(&mut shared, "something"), TAKEN);
    shared.batch_execute("COMMIT").unwrap();
    assert_eq!(ask(&mut shared, "something"), REFUSED);
    // Its key is revoked, also in the eyes of a transaction that began before.
    let (mut before, mut during) = (database.connect(&bound), database.connect(&bound));
    assert_eq!(step_up(&signer, &mut before, good()), TAKEN);
    before.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM tally.events").unwrap();
    assert_eq!(ask(&mut before, "something"), TAKEN);
    during.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM tally.events").unwrap();
    let late = token(&signer, &mut during, good());
    superuser.batch_execute("SELECT tally.revoke_key('k')").unwrap();
    assert_eq!(ask(&mut before, "something"), REFUSED);
    assert_eq!(code(during.execute("SELECT tally.step_up($1)", &[&late])), "42501");
}

#[test]
fn a_pool_role_steps_up_by_the_token_that_it_enters_with() {
    let Confined { database, signer, roles: [_, pool, ..] } = Confined::new("step_up_pool");
    let mut client = database.connect(&pool);
    let enter = |client: &mut Client, change: Value| {
        let mut change = change;
        change["tenant"] = json!("a");
        let token = token(&signer, client, change);
        code(client.execute("SELECT tally.enter($1)", &[&token]))
    };
    let strong = || json!({"amr": ["pwd", "hwk"], "auth_time": seconds_ago(10), "sub": "jane"});
    client.batch_execute("BEGIN").unwrap();
    assert_eq!(enter(&mut client, strong()), TAKEN);
    assert_eq!(ask(&mut client, "something"), TAKEN);
    // Another token, for the same scope, without a factor.
    assert_eq!(enter(&mut client, json!({"sub": "jane"})), TAKEN);
    assert_eq!(ask(&mut client, "something"), REFUSED);
    client.batch_execute("ROLLBACK").unwrap();
    // It ends with the transaction.
    client.batch_execute("BEGIN").unwrap();
    assert_eq!(enter(&mut client, strong()), TAKEN);
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(ask(&mut client, "something"), REFUSED);
    client.batch_execute("BEGIN").unwrap();
    assert_eq!(enter(&mut client, json!({})), TAKEN);
    assert_eq!(ask(&mut client, "something"), REFUSED);
    client.batch_execute("ROLLBACK; BEGIN").unwrap();
    let token = token(&signer, &mut client, strong());
    assert_eq!(code(client.execute("SELECT tally.step_up($1)", &[&token])), "42501");
    client.batch_execute("ROLLBACK").unwrap();
}

#[test]
fn policies_are_set_by_administrators_and_each_step_is_recorded() {
    let Confined { mut database, signer, roles: [_, pool, _, nobody, ..] } = Confined::new("step_up_policy");
    let admin_role = database.role("admin", &["tally_admin"]);
    let mut admin = database.connect(&admin_role);
    let listed: Vec<(String, bool)> = admin
        .query("SELECT act, is_required FROM tally.step_up_acts()", &[])
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    for act in ["binding", "key", "policy"] {
        assert!(listed.contains(&(act.to_owned(), false)), "{listed:?}");
    }
    for (statement, outcome) in [
        ("SELECT tally.set_step_up_policy('no such act', true)", "42704"),
        ("SELECT tally.set_step_up_policy(NULL, true)", "22004"),
        ("SELECT tally.set_step_up_policy('key', true, NULL)", "22004"),
        ("SELECT tally.set_step_up_policy('key', true, '0')", "22023"),
        ("SELECT tally.set_step_up_policy('key', true, '25 hours')", "22023"),
        ("SELECT tally.set_step_up_policy('key', true, amr => '{otp,\"a b\"}')", "22023"),
        ("SELECT tally.set_step_up_policy('key', true, acr => '{\"\"}')", "22023"),
        ("SELECT tally.set_step_up_policy('key', true, amr => '{}')", "22023"),
        ("SELECT tally.set_step_up_policy('key', true, '10 minutes', '{sms}', '{gold,silver}')", TAKEN),
    ] {
        assert_eq!(code(admin.batch_execute(statement)), outcome, "{statement}");
    }
    let refused = database.connect(&nobody).batch_execute("SELECT tally.set_step_up_policy('key', false)");
    assert_eq!(code(refused), "42501");
    // Every function that the act is of, once it is required.
    admin
        .batch_execute(
            "SELECT tally.set_step_up_policy('binding', true), tally.set_step_up_policy('policy', true)",
        )
        .unwrap();
    for statement in [
        "SELECT tally.register_key('k9', '\\x00')",
        "SELECT tally.revoke_key('k')",
        &format!("SELECT tally.bind_role('{nobody}', 'a')"),
        &format!("SELECT tally.bind_role('{nobody}', scope => 'global')"),
        &format!("SELECT tally.trust_role('{nobody}')"),
        &format!("SELECT tally.pool_role('{nobody}')"),
        &format!("SELECT tally.unbind_role('{nobody}')"),
        "SELECT tally.set_audit_policy('none')",
        "SELECT tally.set_audit_retention('1 year')",
        "SELECT tally.set_step_up_policy('policy', false)",
    ] {
        let outcome = code(admin.batch_execute(statement));
        // A trial of which nothing stays: what is wrong with it otherwise is looked for first.
        assert!(
            outcome == REFUSED || statement.contains("global") && outcome == "22023",
            "{statement}: {outcome}"
        );
    }
    assert_eq!(
        step_up(&signer, &mut admin, json!({"amr": ["sms"], "auth_time": seconds_ago(5), "sub": "jane"})),
        TAKEN
    );
    assert_eq!(ask(&mut admin, "key"), TAKEN);
    assert_eq!(ask(&mut admin, "policy"), REFUSED, "each act has its own methods");
    assert_eq!(
        step_up(
            &signer,
            &mut admin,
            json!({"amr": ["otp"], "acr": "silver", "auth_time": seconds_ago(5), "sub": "jane"})
        ),
        TAKEN
    );
    assert_eq!(ask(&mut admin, "key"), TAKEN);
    admin.batch_execute("SELECT tally.set_step_up_policy('policy', NULL)").unwrap();
    let mut auditor = database.superuser();
    let counted = |auditor: &mut Client, condition: &str| {
        number(auditor, &format!("SELECT count(*) FROM tally.audit WHERE {condition}"))
    };
    let by = format!("actor = '{admin_role}'");
    assert_eq!(
        counted(&mut auditor, &format!("{by} AND act = 'stepped_up' AND personal->>'subject' = 'jane'")),
        2
    );
    assert_eq!(
        counted(
            &mut auditor,
            &format!(
                "{by} AND act = 'stepped_up' AND detail->>'acr' = 'silver' AND detail->'amr' = '[\"otp\"]'"
            )
        ),
        1
    );
    assert!(
        counted(
            &mut auditor,
            &format!(
                "{by} AND act = 'denied' AND object = 'step_up' AND detail->>'reason' ~ '^no second factor: .*: (key|binding|policy)$'"
            )
        ) >= 3
    );
    assert_eq!(counted(&mut auditor, &format!("{by} AND act LIKE 'step_up_policy_%'")), 4);
    // A second token in the same scope, for somebody else, is an entry of its own.
    let mut client = database.connect(&pool);
    client.batch_execute("BEGIN").unwrap();
    for subject in ["jane", "joe"] {
        let token = token(&signer, &mut client, json!({"tenant": "a", "sub": subject}));
        client.execute("SELECT tally.enter($1)", &[&token]).unwrap();
    }
    // Refused, in another scope: it changes nobody.
    client.batch_execute("SAVEPOINT s").unwrap();
    let refused = token(&signer, &mut client, json!({"tenant": "b", "sub": "eve"}));
    assert_eq!(code(client.execute("SELECT tally.enter($1)", &[&refused])), "42501");
    client.batch_execute("ROLLBACK TO s; SELECT pg_current_xact_id(); COMMIT").unwrap();
    let entered = format!("actor = '{pool}' AND act = 'scope_entered'");
    for subject in ["jane", "joe"] {
        assert_eq!(
            counted(&mut auditor, &format!("{entered} AND personal->>'subject' = '{subject}'")),
            1,
            "{subject}"
        );
    }
    assert_eq!(counted(&mut auditor, &entered), 2);
    assert_eq!(
        counted(
            &mut auditor,
            &format!("actor = '{pool}' AND act = 'denied' AND personal->>'subject' = 'joe'")
        ),
        1
    );
}
