//! A pool role enters a scope by signed token alone, and a token works once.

use postgres::Client;
use postgres::error::SqlState;
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};
use tally_server_tests::{Database, TokenSigner, ingest, skip};

const TOKENS: &str = include_str!("../../../../docs/tokens.md");

/// A database with an event each of tenants `a` and `b`, a pool role, and a signer whose key is registered.
fn pool(topic: &str) -> (Database, String, TokenSigner) {
    let mut database = Database::new(topic);
    let pool = database.role("pool", &["tally_reader", "tally_writer"]);
    let mut admin = database.superuser();
    let events: Vec<_> = ["a", "b"]
        .iter()
        .enumerate()
        .map(|(number, tenant)| {
            json!({"tenant_id": tenant, "account_id": "x", "name": "run", "occurred_at": "2026-01-05T00:00:00Z",
                "event_id": format!("00000000-0000-4000-8000-{number:012}")})
        })
        .collect();
    ingest(&mut admin, &json!(events).to_string()).unwrap();
    admin.execute("SELECT tally.pool_role($1::text::regrole)", &[&pool]).unwrap();
    let signer = TokenSigner::new("key 1", 1);
    signer.register(&mut admin).unwrap();
    (database, pool, signer)
}

fn code(outcome: Result<impl Sized, postgres::Error>) -> String {
    match outcome {
        Ok(_) => "no error".to_owned(),
        Err(error) => error.code().map(SqlState::code).unwrap_or_default().to_owned(),
    }
}

/// What the transaction sees: tenants of the events.
fn seen(client: &mut impl postgres::GenericClient) -> Result<Vec<String>, postgres::Error> {
    let rows = client.query("SELECT DISTINCT tenant_id FROM tally.events ORDER BY 1", &[])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Tries claims that `change` has changed, in a transaction of their own with a fresh challenge.
fn attempt(
    client: &mut Client,
    signer: &TokenSigner,
    change: impl FnOnce(&mut Value, &mut TokenSigner),
) -> Result<Vec<String>, postgres::Error> {
    let mut transaction = client.transaction()?;
    let row =
        transaction.query_one("SELECT tally.challenge(), tally.token_audience(), session_user::text", &[])?;
    let mut claims = signer.claims(row.get(1), row.get(2), "a", row.get(0));
    let mut with = TokenSigner::new("key 1", 1);
    change(&mut claims, &mut with);
    transaction.execute("SELECT tally.enter($1)", &[&with.sign(&claims)])?;
    let tenants = seen(&mut transaction)?;
    transaction.commit()?;
    Ok(tenants)
}

#[test]
fn a_pool_role_sees_and_writes_what_its_token_names() {
    let (database, pool, signer) = pool("token");
    let mut client = database.connect(&pool);
    for statement in [
        "SELECT * FROM tally.events",
        "SELECT * FROM tally.usage_day",
        "SELECT tally.enter('a')",
        "SELECT tally.enter('a', 'x')",
        "SELECT tally.enter(NULL)",
        "SELECT tally.enter('')",
        "SELECT tally.enter_global()",
        "SELECT tally.current_tenant()",
        "SELECT tally.ingest('[]')",
    ] {
        assert_eq!(code(client.batch_execute(statement)), "42501", "{statement}");
    }
    for (tenant, options) in [("a", ""), ("b", ""), ("a", "READ ONLY"), ("b", "ISOLATION LEVEL SERIALIZABLE")]
    {
        client.batch_execute(&format!("BEGIN {options}")).unwrap();
        signer.enter(&mut client, tenant).unwrap();
        assert_eq!(seen(&mut client).unwrap(), [tenant]);
        client.batch_execute("COMMIT").unwrap();
        assert_eq!(code(seen(&mut client)), "42501", "the scope ended with the transaction");
    }
    let mut transaction = client.transaction().unwrap();
    signer.enter(&mut transaction, "a").unwrap();
    let event = |tenant: &str, number: u32| {
        json!({"tenant_id": tenant, "account_id": "x", "name": "run",
            "event_id": format!("00000000-0000-4000-9000-{number:012}"), "occurred_at": "2026-01-05T00:00:00Z"})
    };
    let summary = ingest(&mut transaction, &json!([event("a", 1), event("b", 2)]).to_string()).unwrap();
    assert_eq!((summary.accepted, summary.rejected), (1, 1));
    // Narrowing needs no second token, leaving the account does.
    transaction.execute("SELECT tally.enter('a', 'y')", &[]).unwrap();
    assert_eq!(seen(&mut transaction).unwrap(), [""; 0]);
    assert_eq!(code(transaction.execute("SELECT tally.enter('a', 'x')", &[])), "42501");
    transaction.rollback().unwrap();
    // A token for one account.
    let tenants = attempt(&mut client, &signer, |claims, _| claims["account"] = json!("y"));
    assert_eq!(tenants.unwrap(), [""; 0]);
    let tenants = attempt(&mut client, &signer, |claims, _| claims["account"] = json!("x"));
    assert_eq!(tenants.unwrap(), ["a"]);
}

#[test]
fn a_token_with_anything_wrong_is_refused() {
    let (mut database, pool, signer) = pool("badtoken");
    let other_role = database.role("other", &["tally_reader"]);
    database.superuser().execute("SELECT tally.pool_role($1::text::regrole)", &[&other_role]).unwrap();
    let mut client = database.connect(&pool);
    let audience: String = client.query_one("SELECT tally.token_audience()", &[]).unwrap().get(0);
    let (cluster, name) = audience.split_once('/').unwrap();
    assert_eq!(name, database.name());
    let back = |claims: &mut Value, seconds: i64| {
        for name in ["iat", "exp"] {
            claims[name] = json!(claims[name].as_i64().unwrap() - seconds);
        }
    };
    type Change<'a> = Box<dyn FnOnce(&mut Value, &mut TokenSigner) + 'a>;
    let wrong: Vec<(&str, Change)> = vec![
        ("expired", Box::new(|claims, _| back(claims, 31))),
        ("from the future", Box::new(|claims, _| back(claims, -60))),
        ("long-lived", Box::new(|claims, _| claims["exp"] = json!(claims["iat"].as_i64().unwrap() + 61))),
        ("never-ending", Box::new(|claims, _| claims["exp"] = json!(i64::MAX))),
        ("other database", Box::new(|claims, _| claims["aud"] = json!(format!("{cluster}/postgres")))),
        ("other cluster", Box::new(|claims, _| claims["aud"] = json!(format!("1{cluster}/{name}")))),
        ("other role", Box::new(|claims, _| claims["role"] = json!(other_role))),
        ("other version", Box::new(|claims, _| claims["v"] = json!(2))),
        ("other nonce", Box::new(|claims, _| claims["nonce"] = json!("AAAAAAAAAAAAAAAAAAAAAAAA"))),
        ("no nonce", Box::new(|claims, _| claims["nonce"] = json!(""))),
        ("unknown key", Box::new(|claims, _| claims["kid"] = json!("key 2"))),
        ("another's signature", Box::new(|_, signer| *signer = TokenSigner::new("key 1", 2))),
        ("no tenant", Box::new(|claims, _| claims["tenant"] = Value::Null)),
        ("extra claim", Box::new(|claims, _| claims["alg"] = json!("none"))),
    ];
    for (what, change) in wrong {
        assert_eq!(code(attempt(&mut client, &signer, change)), "42501", "{what}");
    }
    assert_eq!(code(attempt(&mut client, &signer, |claims, _| claims["tenant"] = json!(""))), "22023");
    assert_eq!(attempt(&mut client, &signer, |_, _| ()).unwrap(), ["a"], "the unchanged one is good");
    // Without a challenge; with one that another call has replaced.
    let mut transaction = client.transaction().unwrap();
    let token = signer.sign(&signer.claims(&audience, &pool, "a", ""));
    assert_eq!(code(transaction.execute("SELECT tally.enter($1)", &[&token])), "42501");
    drop(transaction);
    let mut transaction = client.transaction().unwrap();
    let token = signer.token(&mut transaction, "a").unwrap();
    transaction.query_one("SELECT tally.challenge()", &[]).unwrap();
    assert_eq!(code(transaction.execute("SELECT tally.enter($1)", &[&token])), "42501");
}

/// Every bit of a token whose flip leaves text; Postgres itself refuses the others, which aren't UTF-8.
#[test]
fn a_flipped_bit_is_refused() {
    let (database, pool, signer) = pool("flips");
    let mut client = database.connect(&pool);
    let enter = client.prepare("SELECT tally.enter($1)").unwrap();
    let challenge = client.prepare("SELECT tally.challenge()").unwrap();
    let audience: String = client.query_one("SELECT tally.token_audience()", &[]).unwrap().get(0);
    let (mut position, mut flips) = (0, 0);
    loop {
        let mut length = 0;
        for bit in 0..7 {
            let mut transaction = client.transaction().unwrap();
            let nonce: String = transaction.query_one(&challenge, &[]).unwrap().get(0);
            let mut bytes = signer.sign(&signer.claims(&audience, &pool, "a", &nonce)).into_bytes();
            length = bytes.len();
            bytes[position] ^= 1 << bit;
            if bytes[position] == 0 {
                continue;
            }
            let text = String::from_utf8(bytes).unwrap();
            assert_eq!(code(transaction.execute(&enter, &[&text])), "42501", "{text}, {position}, {bit}");
            flips += 1;
        }
        position += 1;
        if position == length {
            break;
        }
    }
    assert!(flips > 2000, "{flips}");
}

#[test]
fn a_token_works_once_in_one_transaction() {
    let (database, pool, signer) = pool("replay");
    let mut client = database.connect(&pool);
    let mut thief = database.connect(&pool);
    let replay = |client: &mut Client, token: &str, what: &str| {
        // With no challenge of its own, and with one.
        for prelude in ["SELECT 1", "SELECT tally.challenge()"] {
            let mut transaction = client.transaction().unwrap();
            transaction.batch_execute(prelude).unwrap();
            assert_eq!(
                code(transaction.execute("SELECT tally.enter($1)", &[&token])),
                "42501",
                "{what}, {prelude}"
            );
        }
    };
    for end in ["COMMIT", "ROLLBACK"] {
        client.batch_execute("BEGIN").unwrap();
        let token = signer.token(&mut client, "a").unwrap();
        // Stolen before it was used, from where everybody of the same role sees it.
        replay(&mut thief, &token, "unused, elsewhere");
        client.execute("SELECT tally.enter($1)", &[&token]).unwrap();
        replay(&mut thief, &token, "in use, elsewhere");
        client.batch_execute(end).unwrap();
        replay(&mut client, &token, &format!("after {end}"));
        replay(&mut thief, &token, &format!("after {end}, elsewhere"));
        // Signed for this transaction, used in the next: the challenge went with it.
        client.batch_execute("BEGIN").unwrap();
        let late = signer.token(&mut client, "a").unwrap();
        client.batch_execute(end).unwrap();
        client.batch_execute("BEGIN").unwrap();
        assert_eq!(code(client.execute("SELECT tally.enter($1)", &[&late])), "42501");
        client.batch_execute("ROLLBACK").unwrap();
    }
    // Twice in one transaction, also where a savepoint has undone the error or the first use.
    for (tenant, before) in [("a", ""), ("a", "ROLLBACK TO s"), ("b", "")] {
        client.batch_execute("BEGIN; SAVEPOINT s").unwrap();
        let token = signer.token(&mut client, tenant).unwrap();
        let first = client.execute("SELECT tally.enter($1)", &[&token]);
        assert_eq!(code(first), "42501", "inside a savepoint");
        let _ = client.batch_execute(before);
        assert_eq!(code(client.execute("SELECT tally.enter($1)", &[&token])).len(), 5);
        client.batch_execute("ROLLBACK; BEGIN").unwrap();
        let token = signer.token(&mut client, "a").unwrap();
        client.execute("SELECT tally.enter($1)", &[&token]).unwrap();
        assert_eq!(code(client.execute("SELECT tally.enter($1)", &[&token])), "42501", "a second time");
        client.batch_execute("ROLLBACK").unwrap();
        // A second, good token for another tenant; the cursor still shows the first.
        client.batch_execute("BEGIN").unwrap();
        signer.enter(&mut client, "a").unwrap();
        client
            .batch_execute("DECLARE c CURSOR FOR SELECT DISTINCT tenant_id FROM tally.events; SAVEPOINT t")
            .unwrap();
        assert_eq!(code(signer.enter(&mut client, "b")), "42501");
        client.batch_execute("ROLLBACK TO t").unwrap();
        let rows = client.query("FETCH ALL c", &[]).unwrap();
        assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<&str>>(), ["a"]);
        assert_eq!(seen(&mut client).unwrap(), ["a"]);
        client.batch_execute("ROLLBACK").unwrap();
    }
    let caught = "DO $$ BEGIN PERFORM tally.enter(current_setting('test.token')); EXCEPTION WHEN OTHERS THEN NULL; END $$";
    client.batch_execute("BEGIN").unwrap();
    let token = signer.token(&mut client, "a").unwrap();
    client.batch_execute(&format!("SET LOCAL test.token = '{token}'; {caught}")).unwrap();
    assert_eq!(code(seen(&mut client)), "42501", "entered in an exception block");
    client.batch_execute("ROLLBACK").unwrap();
}

#[test]
fn roles_of_other_kinds_gain_nothing_by_a_token() {
    let (mut database, pool, signer) = pool("kinds");
    let mut admin = database.superuser();
    for (topic, bind, codes) in [
        ("nobody", "SELECT 1", "42501"),
        ("bound", "SELECT tally.bind_role('ROLE', 'b')", "42501"),
        ("trusted", "SELECT tally.trust_role('ROLE')", "22023"),
    ] {
        let role = database.role(topic, &["tally_reader"]);
        admin.batch_execute(&bind.replace("ROLE", &role)).unwrap();
        let mut client = database.connect(&role);
        let refused = code(signer.enter(&mut client.transaction().unwrap(), "a"));
        assert!(refused == codes || refused == "22023", "{topic}: {refused}");
    }
    // A role's kind can be changed, and holds from the next statement on.
    let mut client = database.connect(&pool);
    admin.execute("SELECT tally.bind_role($1::text::regrole, 'b')", &[&pool]).unwrap();
    assert_eq!(seen(&mut client).unwrap(), ["b"]);
    admin.execute("SELECT tally.pool_role($1::text::regrole)", &[&pool]).unwrap();
    assert_eq!(code(seen(&mut client)), "42501");
    admin.execute("SELECT tally.unbind_role($1::text::regrole)", &[&pool]).unwrap();
    assert_eq!(code(attempt(&mut client, &signer, |_, _| ())), "22023", "a token is no tenant's id");
    let refused = client.batch_execute("SELECT tally.pool_role(session_user::text::regrole)");
    assert_eq!(code(refused), "42501");
}

#[test]
fn keys_are_registered_rotated_and_revoked() {
    let (mut database, pool, signer) = pool("keys");
    let keeper = database.role("keeper", &["tally_admin"]);
    let mut keeper = database.connect(&keeper);
    let mut client = database.connect(&pool);
    let next = || TokenSigner::new("key 2", 2);
    next().register(&mut keeper).unwrap();
    let with_next = |client: &mut Client| {
        attempt(client, &signer, |claims, signer| {
            *signer = next();
            claims["kid"] = json!("key 2");
        })
    };
    assert_eq!(with_next(&mut client).unwrap(), ["a"]);
    // The old one goes on for an hour, then for no time; it can't be given more.
    let revoke = "SELECT tally.revoke_key('key 1', now() + $1::text::interval) = now() + $1::text::interval";
    for (after, holds, accepted) in
        [("1 hour", true, true), ("2 hours", false, true), ("0 s", true, false), ("1 hour", false, false)]
    {
        assert_eq!(keeper.query_one(revoke, &[&after]).unwrap().get::<_, bool>(0), holds, "{after}");
        let code = code(attempt(&mut client, &signer, |_, _| ()));
        assert_eq!(code == "no error", accepted, "{after}: {code}");
    }
    assert_eq!(with_next(&mut client).unwrap(), ["a"]);
    assert_eq!(code(signer.register(&mut keeper)), "42710", "a revoked key's name stays taken");
    assert_eq!(code(keeper.execute("SELECT tally.revoke_key('key 3')", &[])), "42704");
    keeper.execute("SELECT tally.register_key('key 4', public_key, now() - interval '1 s') FROM tally.token_key LIMIT 1", &[]).unwrap();
    for key in [
        "''",
        "'\\x00'",
        &format!("'\\x{}'", "00".repeat(32)),
        &format!("'\\x01{}'", "00".repeat(31)),
        "NULL",
    ] {
        let refused = code(keeper.execute(&format!("SELECT tally.register_key('weak', {key})"), &[]));
        assert!(refused == "22023" || refused == "22004", "{key}: {refused}");
    }
    for statement in [
        "SELECT * FROM tally.token_key",
        "SELECT tally.register_key('mine', '\\x00')",
        "SELECT tally.revoke_key('key 2')",
        "INSERT INTO tally.token_key (key_id, public_key) VALUES ('k', '\\x00')",
    ] {
        assert_eq!(code(client.batch_execute(statement)), "42501", "{statement}");
    }
    for statement in ["DELETE FROM tally.token_key", "UPDATE tally.token_key SET valid_until = NULL"] {
        assert_eq!(code(keeper.batch_execute(statement)), "42501", "{statement}");
    }
}

/// The code blocks of docs/tokens.md in one language.
fn recipe(language: &str) -> String {
    let mut code = String::new();
    let mut inside = false;
    for line in TOKENS.lines() {
        match line {
            "```" => inside = false,
            line if line == format!("```{language}") => inside = true,
            line if inside => {
                code.push_str(line);
                code.push('\n');
            }
            _ => (),
        }
    }
    assert!(!code.is_empty(), "docs/tokens.md has no block of {language}");
    code
}

/// Runs a program on standard input, and returns what it prints; nothing where it isn't installed.
fn run(program: &str, arguments: &[&str], input: &str) -> Option<Vec<u8>> {
    let mut child =
        Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program}: {input}");
    Some(output.stdout)
}

/// What an application has around the Go recipe.
const GO_HEAD: &str = r#"
package main
import ("crypto/ed25519"; "crypto/x509"; "encoding/base64"; "encoding/json"; "encoding/pem"; "fmt"; "os"; "time")
"#;
const GO_MAIN: &str = r#"
func main() {
	block, _ := pem.Decode([]byte(os.Args[1]))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil { panic(err) }
	var claims map[string]any
	if err := json.Unmarshal([]byte(os.Args[2]), &claims); err != nil { panic(err) }
	token, err := mintToken(key.(ed25519.PrivateKey), claims)
	if err != nil { panic(err) }
	fmt.Print(token)
}
"#;

/// Enters with what the recipe makes of an ID token, and does what needs a second factor; not with one of somebody else's.
fn the_step_up_recipe_is_taken(client: &mut Client, pem: &str, code: &str, call: impl Fn(&str) -> String) {
    let mint = |nonce: &str, id_token: Value| {
        let caught = "except PermissionError: print(end='refused')";
        let print = format!(
            "print(mint_step_up({}.encode(), json.loads({}), 'jane', **{}), end='')",
            json!(pem),
            json!(id_token.to_string()),
            call(nonce)
        );
        String::from_utf8(
            run("/usr/bin/python3", &["-"], &format!("{code}\ntry: {print}\n{caught}")).unwrap(),
        )
        .unwrap()
    };
    let mut transaction = client.transaction().unwrap();
    let row = transaction
        .query_one("SELECT tally.challenge(), extract(epoch FROM now() - interval '20 s')::int8", &[])
        .unwrap();
    let (nonce, shown): (String, i64) = (row.get(0), row.get(1));
    let claims = |sub: &str| json!({"iss": "https://id.example.com", "aud": "app", "sub": sub, "amr": ["pwd", "otp"], "auth_time": shown});
    assert_eq!(mint(&nonce, claims("joe")), "refused");
    let mut undated = claims("jane");
    undated.as_object_mut().unwrap().remove("auth_time");
    assert_eq!(mint(&nonce, undated), "refused");
    transaction.execute("SELECT tally.enter($1)", &[&mint(&nonce, claims("jane"))]).unwrap();
    transaction.batch_execute("SELECT tally_internal.require_step_up('something')").unwrap();
}

#[test]
fn the_recipes_sign_tokens_that_are_taken() {
    let (database, pool, _) = pool("recipes");
    let Some(pem) = run("openssl", &["genpkey", "-algorithm", "ed25519"], "") else {
        return skip("openssl is not installed");
    };
    let pem = String::from_utf8(pem).unwrap();
    let public = run("openssl", &["pkey", "-pubout", "-outform", "DER"], &pem).unwrap();
    let mut admin = database.superuser();
    admin.execute("SELECT tally.register_key('recipe', $1)", &[&public]).unwrap();
    let mut client = database.connect(&pool);
    let audience: String = client.query_one("SELECT tally.token_audience()", &[]).unwrap().get(0);
    let call = |nonce: &str| {
        json!({"kid": "recipe", "tenant": "a", "aud": audience, "role": pool, "nonce": nonce}).to_string()
    };
    for language in ["js", "python", "go"] {
        let mut transaction = client.transaction().unwrap();
        let nonce: String = transaction.query_one("SELECT tally.challenge()", &[]).unwrap().get(0);
        let code = recipe(language);
        let token = match language {
            "js" => run(
                "node",
                &["-"],
                &format!("{code}\nprocess.stdout.write(mintToken({}, {}))", json!(pem), call(&nonce)),
            ),
            "go" => {
                let file = std::env::temp_dir().join(format!("{}.go", database.name()));
                std::fs::write(&file, format!("{GO_HEAD}{code}{GO_MAIN}")).unwrap();
                let token = run("go", &["run", file.to_str().unwrap(), &pem, &call(&nonce)], "");
                std::fs::remove_file(file).unwrap();
                token
            }
            _ => run(
                "/usr/bin/python3",
                &["-"],
                &format!("{code}\nprint(mint_token({}.encode(), **{}), end='')", json!(pem), call(&nonce)),
            ),
        };
        let Some(token) = token else {
            skip(&format!("no interpreter for {language}"));
            continue;
        };
        let token = String::from_utf8(token).unwrap();
        transaction
            .execute("SELECT tally.enter($1)", &[&token])
            .unwrap_or_else(|error| panic!("{language}: {error:?}"));
        assert_eq!(seen(&mut transaction).unwrap(), ["a"], "{language}");
        if language == "python" {
            drop(transaction);
            the_step_up_recipe_is_taken(&mut client, &pem, &code, call);
        }
    }
}
