//! Revealing: who may, for what, how often, and that a sealed value opens in its own place alone.

use crate::keyed::{Keyed, array, event, id, maintain};
use postgres::{Client, Transaction};
use serde_json::json;
use std::time::{SystemTime, UNIX_EPOCH};
use tally_server_tests::{TokenSigner, away_from_the_hours_end, code, ingest, number};

/// Shows a second factor to the running transaction, of a role that an application may share among people.
fn step_up(signer: &TokenSigner, transaction: &mut Transaction) {
    step_up_as(signer, transaction, None);
}

fn step_up_as(signer: &TokenSigner, transaction: &mut Transaction, subject: Option<&str>) {
    let asked = "SELECT tally.challenge(), tally.token_audience(), session_user::text";
    let row = transaction.query_one(asked, &[]).unwrap();
    let mut claims = signer.claims(row.get(1), row.get(2), "", row.get(0));
    claims.as_object_mut().unwrap().remove("tenant");
    claims["amr"] = json!(["pwd", "otp"]);
    if let Some(subject) = subject {
        claims["sub"] = json!(subject);
    }
    claims["auth_time"] = json!(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
    transaction.query_one("SELECT tally.step_up($1)", &[&signer.sign(&claims)]).unwrap();
}

/// What revealing gives in a tenant's scope, with a second factor where there is a signer: the value, or the SQLSTATE.
fn reveal(
    client: &mut Client,
    signer: Option<&TokenSigner>,
    tenant: &str,
    number: u32,
    path: &str,
) -> String {
    let mut transaction = client.transaction().unwrap();
    if let Some(signer) = signer {
        step_up(signer, &mut transaction);
    }
    if !tenant.is_empty() {
        transaction.execute("SELECT tally.enter($1)", &[&tenant]).unwrap();
    }
    let query = "SELECT tally.reveal($1::text::uuid, $2, 'case 4711')::text";
    // Undone, as whoever wanted to leave no trace would have it.
    match transaction.query_one(query, &[&id(number), &path]) {
        Ok(row) => row.get(0),
        Err(error) => error.code().unwrap().code().to_owned(),
    }
}

#[test]
fn custodians_have_values_revealed_with_a_second_factor_for_a_purpose_and_so_often() {
    let mut keyed = Keyed::new("reveal");
    let roles = ["custodian", "other", "reader"].map(|topic| {
        let group = if topic == "reader" { "tally_reader" } else { "tally_custodian" };
        keyed.database.role(topic, &[group])
    });
    let admin = keyed.database.role("admin", &["tally_admin"]);
    let mut superuser = keyed.database.superuser();
    let signer = TokenSigner::new("k", 1);
    signer.register(&mut superuser).unwrap();
    for role in &roles {
        superuser.batch_execute(&format!("SELECT tally.trust_role('{role}')")).unwrap();
    }
    superuser
        .batch_execute(
            "SELECT tally.protect_property('signup', 'card', 'seal'), tally.protect_property('signup', 'email', 'token'),
                    tally.protect_property('signup', '/list/card', 'seal')",
        )
        .unwrap();
    let sent = [
        event(
            "a",
            1,
            "ada",
            json!({"card": "4111 1111", "email": "ada@example.org", "plan": "gold", "list": [{"card": [1, "x"]}, {"card": 7}]}),
        ),
        event("b", 2, "bob", json!({"card": {"number": 5500}})),
        json!({"tenant_id": "a", "account_id": "north", "name": "", "user_id": "ada"}),
    ];
    assert_eq!(ingest(&mut superuser, &array(sent)).unwrap().accepted, 2);

    // A new hour counts anew.
    away_from_the_hours_end();
    let [mut custodian, mut other, mut reader] = roles.each_ref().map(|role| keyed.database.connect(role));
    assert_eq!(reveal(&mut reader, None, "a", 1, "card"), "42501");
    assert_eq!(reveal(&mut keyed.database.connect(&admin), None, "a", 1, "card"), "42501");
    assert_eq!(reveal(&mut custodian, None, "a", 1, "card"), "42T20", "no second factor");
    let with = Some(&signer);
    assert_eq!(reveal(&mut custodian, with, "", 1, "card"), "42501", "no tenant in scope");
    assert_eq!(reveal(&mut custodian, with, "a", 1, "card"), "\"4111 1111\"");
    assert_eq!(reveal(&mut custodian, with, "b", 2, "/card"), "{\"number\": 5500}");
    assert_eq!(reveal(&mut custodian, with, "a", 1, "/list/0/card/1"), "\"x\"");
    assert_eq!(reveal(&mut custodian, with, "a", 1, "/list/1/card"), "7");
    assert_eq!(reveal(&mut custodian, with, "a", 2, "card"), "02000", "another tenant's event");
    for path in ["plan", "email", "list", "none"] {
        assert_eq!(reveal(&mut custodian, with, "a", 1, path), "22T82", "{path}");
    }
    let no_purpose =
        "SELECT tally.enter('a'); SELECT tally.reveal('00000000-0000-4000-8000-000000000001', 'card', ' x ')";
    assert_eq!(code(custodian.batch_execute(no_purpose)), "22004");

    // Moved by whoever may write into tables: to another event, another property, another tenant.
    superuser
        .batch_execute(
            "UPDATE tally.events SET properties = properties || jsonb_build_object('list', jsonb_build_array(properties -> 'card'),
                 'email', properties -> 'card') WHERE tenant_id = 'a';
             UPDATE tally.events AS b SET properties = jsonb_build_object('card', a.properties -> 'card')
               FROM tally.events AS a WHERE a.tenant_id = 'a' AND b.tenant_id = 'b'",
        )
        .unwrap();
    for (tenant, number, path) in [("a", 1, "email"), ("a", 1, "/list/0"), ("b", 2, "card")] {
        assert_eq!(reveal(&mut custodian, with, tenant, number, path), "22T81", "{tenant} {path}");
    }
    assert_eq!(reveal(&mut custodian, with, "a", 1, "card"), "\"4111 1111\"");

    // A quarantined event.
    let waiting = superuser.query_one("SELECT batch_id, position FROM tally.quarantine", &[]).unwrap();
    let (batch_id, position): (i64, i32) = (waiting.get(0), waiting.get(1));
    let mut transaction = custodian.transaction().unwrap();
    step_up(&signer, &mut transaction);
    transaction.execute("SELECT tally.enter('a')", &[]).unwrap();
    let query = "SELECT tally.reveal_quarantined($1, $2, 'case 4711')";
    let body: String = transaction.query_one(query, &[&batch_id, &position]).unwrap().get(0);
    assert!(body.contains("\"user_id\":\"ada\""), "{body}");
    drop(transaction);

    // Each was counted, though each was undone; one that is not is in the audit log, with its purpose.
    let counted = number(&mut superuser, "SELECT sum(revealed) FROM tally.reveal_count");
    assert!(counted >= 14, "{counted}");
    let mut transaction = custodian.transaction().unwrap();
    step_up(&signer, &mut transaction);
    transaction.batch_execute("SELECT tally.enter('b')").unwrap();
    let query = "SELECT tally.reveal('00000000-0000-4000-8000-000000000002', 'card', 'case 4712')";
    assert_eq!(code(transaction.query(query, &[])), "22T81", "it was moved there");
    transaction.rollback().unwrap();
    let mut transaction = custodian.transaction().unwrap();
    step_up(&signer, &mut transaction);
    transaction.batch_execute("SELECT tally.enter('a')").unwrap();
    let query = "SELECT tally.reveal('00000000-0000-4000-8000-000000000001', 'card', 'case 4713')";
    transaction.query(query, &[]).unwrap();
    transaction.commit().unwrap();
    let told = format!(
        "SELECT count(*) FROM tally.audit WHERE act = 'value_revealed' AND actor = '{}' AND tenant_id = 'a'
            AND object LIKE '%000001 /card' AND personal ->> 'purpose' = 'case 4713'",
        roles[0]
    );
    assert_eq!(number(&mut superuser, &told), 1);

    let mut admin = keyed.database.connect(&admin);
    admin.batch_execute("SELECT tally.set_reveal_limit(1)").unwrap();
    assert_eq!(code(admin.batch_execute("SELECT tally.set_reveal_limit(-1)")), "22023");
    // An hour may begin in between: once more then, not for ever.
    let refused = (0..4).filter(|_| reveal(&mut other, with, "b", 2, "card") == "53400").count();
    assert!(refused >= 2, "{refused}");
}

/// So often is for a person, whatever its logins are called and however many it has.
#[test]
fn the_limit_is_a_persons_under_all_its_logins() {
    let mut keyed = Keyed::new("reveal_person");
    let roles = ["one", "two", "else"].map(|topic| keyed.database.role(topic, &["tally_custodian"]));
    let renamed = keyed.database.reserve_role("renamed");
    let mut superuser = keyed.database.superuser();
    superuser
        .batch_execute(
            "SELECT tally.set_step_up_policy('reveal', false), tally.set_step_up_policy('binding', false), tally.set_reveal_limit(3),
                    tally.protect_property('signup', 'card', 'seal')",
        )
        .unwrap();
    for role in &roles {
        superuser.batch_execute(&format!("SELECT tally.bind_role('{role}', 'a')")).unwrap();
    }
    for role in &roles[..2] {
        superuser.batch_execute(&format!("SELECT tally.map_person('jane', login => '{role}')")).unwrap();
    }
    assert_eq!(
        ingest(&mut superuser, &array([event("a", 1, "ada", json!({"card": "4111"}))])).unwrap().accepted,
        1
    );
    // A new hour counts anew.
    away_from_the_hours_end();
    let ask = |role: &str| reveal(&mut keyed.database.connect(role), None, "", 1, "card");
    let answers = [&roles[0], &roles[1], &roles[0], &roles[1], &roles[0]].map(|role| ask(role));
    assert_eq!(answers, ["\"4111\"", "\"4111\"", "\"4111\"", "53400", "53400"]);
    // Nor is anybody another one who is called otherwise, mapped or not.
    let answers = [(); 4].map(|()| ask(&roles[2]));
    assert_eq!(answers, ["\"4111\"", "\"4111\"", "\"4111\"", "53400"]);
    for role in [&roles[2], &roles[0]] {
        superuser.batch_execute(&format!("ALTER ROLE {role} RENAME TO {renamed}")).unwrap();
        // What is bound is the name.
        superuser.batch_execute(&format!("SELECT tally.bind_role('{renamed}', 'a')")).unwrap();
        let answer = ask(&renamed);
        superuser.batch_execute(&format!("ALTER ROLE {renamed} RENAME TO {role}")).unwrap();
        assert_eq!(answer, "53400");
    }
}

/// Who stepped up for no tenant, no tenant's erasure takes away, but an administrator of all.
#[test]
fn the_subject_of_a_step_up_is_erased_in_the_global_scope() {
    let mut keyed = Keyed::new("stepped_up_erased");
    let roles = ["one", "two"].map(|topic| keyed.database.role(topic, &["tally_admin"]));
    let mut superuser = keyed.database.superuser();
    let signer = TokenSigner::new("k", 1);
    signer.register(&mut superuser).unwrap();
    for role in &roles {
        superuser.batch_execute(&format!("SELECT tally.trust_role('{role}')")).unwrap();
    }
    superuser.batch_execute("SELECT tally.set_step_up_policy('erase_subject', false)").unwrap();
    let [mut one, mut two] = [0, 1].map(|place| keyed.database.connect(&roles[place]));
    let mut transaction = one.transaction().unwrap();
    let subject = "planted-7d20c4";
    step_up_as(&signer, &mut transaction, Some(subject));
    transaction.batch_execute("SELECT tally.set_reveal_limit(7)").unwrap();
    transaction.commit().unwrap();
    maintain(&mut superuser);
    let left = format!("SELECT count(*) FROM tally.audit_personal WHERE strpos(content, '{subject}') > 0");
    two.query("SELECT tally.erase_subject('a', $1, 'ticket 4')", &[&subject]).unwrap();
    assert!(number(&mut superuser, &left) > 0);
    let erase = |client: &mut Client, scope: &str, reason: &str| -> String {
        let mut transaction = client.transaction().unwrap();
        transaction.batch_execute(scope).unwrap();
        let erased = transaction.query_one("SELECT tally.erase_token_subject($1, $2)", &[&subject, &reason]);
        match erased {
            Ok(row) => {
                transaction.commit().unwrap();
                row.get::<_, i64>(0).to_string()
            }
            Err(error) => error.code().unwrap().code().to_owned(),
        }
    };
    // Under that login it may be its own.
    assert_eq!(erase(&mut one, "SELECT tally.enter_global()", "ticket 5"), "42501");
    assert_eq!(erase(&mut two, "SELECT tally.enter('a')", "ticket 5"), "42501");
    assert_eq!(erase(&mut two, "SELECT tally.enter_global()", &format!("{subject} asked")), "22023");
    assert_ne!(erase(&mut two, "SELECT tally.enter_global()", "ticket 5"), "0");
    drop((one, two));
    maintain(&mut superuser);
    assert_eq!(number(&mut superuser, &left), 0);
    let asked =
        "SELECT count(*) FROM tally.audit WHERE act = 'erasure_requested' AND detail::text ~ 'ticket 5'";
    assert_eq!(number(&mut superuser, asked), 1);
}

/// As many as may be are revealed, however many are asked for at once.
#[test]
fn as_many_are_revealed_at_once_as_one_after_the_other() {
    let mut keyed = Keyed::new("reveal_at_once");
    let role = keyed.database.role("custodian", &["tally_custodian"]);
    let mut superuser = keyed.database.superuser();
    superuser
        .batch_execute(&format!(
            "SELECT tally.set_step_up_policy('reveal', false), tally.set_step_up_policy('binding', false), tally.set_reveal_limit(5),
                    tally.protect_property('signup', 'card', 'seal'), tally.bind_role('{role}', 'a')"
        ))
        .unwrap();
    assert_eq!(
        ingest(&mut superuser, &array([event("a", 1, "ada", json!({"card": "4111"}))])).unwrap().accepted,
        1
    );
    away_from_the_hours_end();
    let database = &keyed.database;
    let answers: Vec<String> = std::thread::scope(|scope| {
        let clients: Vec<Client> = (0..8).map(|_| database.connect(&role)).collect();
        let asked: Vec<_> = clients
            .into_iter()
            .map(|mut client| scope.spawn(move || reveal(&mut client, None, "", 1, "card")))
            .collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    let revealed = answers.iter().filter(|answer| *answer == "\"4111\"").count();
    assert_eq!(revealed, 5, "{answers:?}");
    assert!(answers.iter().all(|answer| answer == "\"4111\"" || answer == "53400"), "{answers:?}");
}

/// What says what something is for can be read: white space and characters that show nothing say nothing.
#[test]
fn purposes_and_reasons_have_characters_that_can_be_seen() {
    let (keyed, mut custodian) = Keyed::with_custodian("purposes");
    let mut superuser = keyed.database.superuser();
    superuser
        .batch_execute(
            "SELECT tally.set_step_up_policy('erase_subject', false), tally.protect_property('signup', 'card', 'seal')",
        )
        .unwrap();
    let sent = array([event("a", 1, "ada", json!({"card": "4111"}))]);
    assert_eq!(ingest(&mut superuser, &sent).unwrap().accepted, 1);
    let said = [
        " ",
        "\n\n\n\n\n",
        "\u{a0}\u{a0}\u{a0}\u{a0}\u{a0}",
        "\u{200b}\u{200b}\u{200b}\u{200b}\u{200b}",
        "\u{feff}\t\u{2028}\u{3000}\u{ad}\u{2060}",
        "\u{202e}\u{2800}\u{3164}\u{fe0f}\u{e0020}\u{34f}\u{180e}",
    ];
    let refused = |client: &mut Client, statement: &str, said: &str| {
        let mut transaction = client.transaction().unwrap();
        let answer = transaction.execute(statement, &[&said]);
        assert!(matches!(code(answer.map(drop)).as_str(), "22004" | "22023"), "{statement}: {said:?}");
    };
    for said in said {
        for of in [
            "reveal('00000000-0000-4000-8000-000000000001', 'card', ",
            "reveal_quarantined(1, 0, ",
            "tokens_of('ada', ",
        ] {
            refused(&mut custodian, &format!("SELECT tally.enter('a'), tally.{of}$1)"), said);
        }
        for of in [
            "erase_subject('a', 'nobody', $1)",
            "erase_subjects('a', '{nobody}', $1)",
            "discard($1)",
            "register_event('signup', '{}', $1)",
            "classify('tally.events.name', 'internal', $1)",
            "request_export('SELECT name FROM tally.events', $1, 10)",
        ] {
            refused(&mut superuser, &format!("SELECT tally.{of}"), said);
        }
    }
    // Short of words, too, and words of any script.
    let mut reveal = |said: &str| {
        let mut transaction = custodian.transaction().unwrap();
        transaction.batch_execute("SELECT tally.enter('a')").unwrap();
        let reveal = "SELECT tally.reveal('00000000-0000-4000-8000-000000000001', 'card', $1)";
        transaction.execute(reveal, &[&said]).map(drop)
    };
    assert_eq!(code(reveal("\u{200b}a b\n c\u{a0}d")), "22004");
    for said in ["a b\nc d e", "\u{6848}\u{4ef6} 4711", "\u{645}\u{644}\u{641} 471"] {
        reveal(said).unwrap();
    }
}

/// A purpose that names somebody goes with the erasure, what was revealed or tried, to whom and when stays.
#[test]
fn an_erasure_takes_the_purposes_of_reveals_that_name_the_person() {
    let mut keyed = Keyed::new("reveal_purpose");
    let role = keyed.database.role("custodian", &["tally_custodian"]);
    let mut superuser = keyed.database.superuser();
    superuser
        .batch_execute(&format!(
            "SELECT tally.trust_role('{role}'), tally.protect_property('signup', 'card', 'seal'); SELECT tally.set_step_up_policy(act, false) FROM tally.step_up_acts()"
        ))
        .unwrap();
    let sent = [
        event("a", 1, "user-4", json!({"card": "4111"})),
        event("a", 2, "user-5", json!({"card": "5500"})),
        json!({"tenant_id": "a", "account_id": "north", "name": "", "user_id": "user-5"}),
    ];
    assert_eq!(ingest(&mut superuser, &array(sent)).unwrap().accepted, 2);
    let waiting = superuser.query_one("SELECT batch_id, position FROM tally.quarantine", &[]).unwrap();
    let (batch_id, position): (i64, i32) = (waiting.get(0), waiting.get(1));
    let mut custodian = keyed.database.connect(&role);
    for call in [
        format!("reveal('{}', '/card', 'complaint of user-4, ticket 4711')", id(1)),
        format!("reveal('{}', '/card', 'ticket 4712')", id(2)),
        format!("reveal_quarantined({batch_id}, {position}, 'user-4 asks')"),
        "tokens_of('x', 'what user-4 sent')".to_owned(),
    ] {
        let statement = format!("BEGIN; SELECT tally.enter('a'); SELECT tally.{call}; COMMIT");
        custodian.batch_execute(&statement).unwrap();
    }
    superuser.batch_execute("SELECT tally.set_reveal_limit(0)").unwrap();
    let refused =
        format!("BEGIN; SELECT tally.enter('a'); SELECT tally.reveal('{}', '/card', 'user-4 again')", id(1));
    assert_eq!(code(custodian.batch_execute(&refused)), "53400");
    custodian.batch_execute("ROLLBACK").unwrap();
    drop(custodian);
    let mut naming = |what: &str| {
        let query = format!(
            "SELECT count(*) FROM tally.audit WHERE act IN ('value_revealed', 'reveal_denied') AND concat(object, detail, personal) LIKE '%{what}%'"
        );
        number(&mut superuser, &query)
    };
    // That one was undone and has no worker to go to: it may be in the log alone.
    assert!(naming("user-4") >= 3);
    assert_eq!(naming("ticket 4712"), 1);
    assert_eq!(naming(""), naming("user-4") + 1);
    let before = naming("");
    keyed
        .database
        .superuser()
        .batch_execute("SELECT tally.erase_subject('a', 'user-4', 'ticket 4713')")
        .unwrap();
    maintain(&mut keyed.database.superuser());
    assert_eq!((naming("user-4"), naming("ticket 4712"), naming("")), (0, 1, before));
    let mut superuser = keyed.database.superuser();
    assert!(superuser.query("SELECT * FROM tally.verify_audit()", &[]).unwrap().is_empty());
}
