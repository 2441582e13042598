//! Whatever a superuser changes in the audit log is found with anchors that were kept elsewhere, and the first bad place is named;
//! nothing is found in a log that nobody changed, crashes among what it records or not. `TALLY_CASES` sets the number of edits (60)
//! and, by a tenth of it, that of crashes. `TALLY_VERIFY` names the program tally-verify, which then reads each crash's export, too.

use postgres::{Client, Transaction};
use std::collections::HashMap;
use std::process::Command;
use tally_core::audit::{Anchor, Entry};
use tally_core::audit::{Frontier, Hash, Line, Seal, SealedEntry, Verifier, hex, leaf_hash};
use tally_core::event::format_uuid;
use tally_server_tests::{Database, PrivateServer, number, seeded, wait_for};
use tally_workload::Random;

fn cases() -> u64 {
    std::env::var("TALLY_CASES").map_or(60, |text| text.parse().expect("TALLY_CASES is a number"))
}

/// Seals everything that was done so far; transactions of other databases of the cluster are waited for.
fn seal_all(admin: &mut Client) {
    wait_for("the seals", || {
        admin.batch_execute("SELECT tally.seal_audit()").unwrap();
        admin
            .query_one("SELECT unsealed_since IS NULL FROM tally_internal.audit_state()", &[])
            .unwrap()
            .get::<_, bool>(0)
            .then_some(())
    });
}

/// Acts of four tenants and of none, an anchor after each round.
fn furnish(admin: &mut Client, random: &mut Random) -> Vec<String> {
    (0..8)
        .map(|_| {
            for _ in 0..1 + random.below(6) {
                let (tenant, days) = (random.below(4), 100 + random.below(1000));
                let undone = if random.below(4) == 0 { "ROLLBACK" } else { "COMMIT" };
                admin
                    .batch_execute(&format!(
                        "BEGIN; SELECT tally.set_retention('t{tenant}', '{days} days'); {undone}"
                    ))
                    .unwrap();
            }
            admin.batch_execute("SELECT tally.set_retention('t0', '1 year')").unwrap();
            seal_all(admin);
            admin.query_one("SELECT tally.audit_anchor()", &[]).unwrap().get(0)
        })
        .collect()
}

/// The log as it is exported.
fn export(client: &mut Transaction) -> (Vec<String>, Vec<(Seal, Vec<SealedEntry>)>) {
    let lines: Vec<String> =
        client.query("SELECT tally.export_audit()", &[]).unwrap().iter().map(|row| row.get(0)).collect();
    let mut seals: Vec<(Seal, Vec<SealedEntry>)> = Vec::new();
    for line in &lines {
        match Line::read(line).unwrap() {
            Line::Seal { seal, .. } => seals.push((*seal, Vec::new())),
            Line::Cluster(_) => {}
            Line::Entry(entry) => {
                let (seal, entries) = seals.last_mut().unwrap();
                if entries.len() < seal.leaves.len() {
                    entries.push(*entry);
                }
            }
        }
    }
    (lines, seals)
}

/// What was edited: the entry, the seal that it is under.
struct Edit {
    what: String,
    entry: Option<[u8; 16]>,
    seal: u64,
    /// Whether hashes were made anew, so that only anchors tell, and only the round.
    is_hidden: bool,
}

fn pick<'a>(seals: &'a [(Seal, Vec<SealedEntry>)], random: &mut Random) -> (&'a Seal, &'a SealedEntry) {
    let (seal, entries) = &seals[random.below(seals.len())];
    (seal, &entries[random.below(entries.len())])
}

fn edit(client: &mut Transaction, seals: &[(Seal, Vec<SealedEntry>)], random: &mut Random) -> Edit {
    let (seal, row) = pick(seals, random);
    let entry = &row.entry;
    let id = format_uuid(&entry.entry_id);
    let of = format!("WHERE entry_id = '{id}'");
    let made = |what: String| Edit { what, entry: Some(entry.entry_id), seal: seal.place, is_hidden: false };
    match random.below(8) {
        // A byte of an entry.
        0 | 1 => {
            let change = [
                "at = at + interval '1 microsecond'",
                "actor = overlay(actor PLACING chr(1 + ascii(substr(actor, 2))) FROM 2 FOR 1)",
                "act = overlay(act PLACING chr(1 + ascii(substr(act, 3))) FROM 3 FOR 1)",
                "detail = coalesce(overlay(detail PLACING chr(1 + ascii(substr(detail, 4))) FROM 4 FOR 1), 'x')",
                "object = coalesce(object || ' ', '')",
                "account_id = 'a'",
                "leaf = set_byte(leaf, 7, get_byte(leaf, 7) # 1)",
                "xid = (xid::text::int8 + 1)::text::xid8",
                "tenant_id = tenant_id || 'x'",
                "origin = origin # 1",
                "personal = '\\x00'",
            ][random.below(11)];
            client.batch_execute(&format!("UPDATE tally.audit_entry SET {change} {of}")).unwrap();
            made(format!("{change} of {id}"))
        }
        2 => {
            client.batch_execute(&format!("DELETE FROM tally.audit_entry {of}")).unwrap();
            made(format!("delete {id}"))
        }
        3 => {
            // With a hash of its own that is right.
            let new = Entry { entry_id: [random.below(256) as u8; 16], ..entry.clone() };
            let new_id = format_uuid(&new.entry_id);
            client
                .execute(
                    &format!(
                        "INSERT INTO tally.audit_entry SELECT xid, at, origin, '{new_id}', tenant_id, account_id, actor, act, object, detail, personal, $1 FROM tally.audit_entry {of}"
                    ),
                    &[&&new.leaf()[..]],
                )
                .unwrap();
            Edit {
                what: format!("insert {new_id}"),
                entry: Some(new.entry_id),
                seal: seal.place,
                is_hidden: false,
            }
        }
        4 => {
            // Two entries exchange what they tell.
            let (other_seal, other) = pick(seals, random);
            if (&other.entry.act, &other.entry.detail, &other.entry.object)
                == (&entry.act, &entry.detail, &entry.object)
            {
                client.batch_execute(&format!("DELETE FROM tally.audit_entry {of}")).unwrap();
                return made(format!("delete {id}"));
            }
            let other_id = format_uuid(&other.entry.entry_id);
            client
                .batch_execute(&format!(
                    "UPDATE tally.audit_entry AS e SET act = o.act, object = o.object, detail = o.detail FROM tally.audit_entry AS o
                      WHERE (e.entry_id, o.entry_id) IN (('{id}', '{other_id}'), ('{other_id}', '{id}'))"
                ))
                .unwrap();
            let first = seal.place.min(other_seal.place);
            Edit { what: format!("swap {id} {other_id}"), entry: None, seal: first, is_hidden: false }
        }
        5 => {
            let from = seal.place;
            for (seal, entries) in seals.iter().filter(|(seal, _)| seal.place >= from) {
                for row in entries {
                    let id = format_uuid(&row.entry.entry_id);
                    client
                        .batch_execute(&format!("DELETE FROM tally.audit_entry WHERE entry_id = '{id}'"))
                        .unwrap();
                }
                client
                    .batch_execute(&format!("DELETE FROM tally.audit_seal WHERE place = {}", seal.place))
                    .unwrap();
            }
            // The entries that aren't sealed yet, too: what comes is the end of the log.
            client
                .batch_execute(
                    "DELETE FROM tally.audit_entry WHERE xid >= tally_internal.audit_sealed_to(origin)",
                )
                .unwrap();
            Edit { what: format!("cut from seal {from}"), entry: None, seal: from, is_hidden: false }
        }
        6 => {
            let change = [
                "sealed_at = sealed_at + interval '1 microsecond'",
                "number = number + 100",
                "total = total + 1",
                "to_xid = (to_xid::text::int8 + 1)::text::xid8",
                "root = set_byte(root, 0, get_byte(root, 0) # 1)",
                "previous = set_byte(previous, 31, get_byte(previous, 31) # 128)",
                "hash = set_byte(hash, 3, get_byte(hash, 3) # 2)",
                "leaves = set_byte(leaves, 5, get_byte(leaves, 5) # 4)",
            ][random.below(8)];
            client
                .batch_execute(&format!("UPDATE tally.audit_seal SET {change} WHERE place = {}", seal.place))
                .unwrap();
            Edit {
                what: format!("{change} of seal {}", seal.place),
                entry: None,
                seal: seal.place,
                is_hidden: false,
            }
        }
        _ => {
            rewrite(client, seals, entry);
            Edit { what: format!("rewrite from {id}"), entry: None, seal: seal.place, is_hidden: true }
        }
    }
}

/// Changes an entry and makes every hash anew that depends on it.
fn rewrite(client: &mut Transaction, seals: &[(Seal, Vec<SealedEntry>)], changed: &Entry) {
    let mut tree = Frontier::default();
    let mut last: HashMap<String, Hash> = HashMap::new();
    for (seal, entries) in seals {
        let mut seal = seal.clone();
        seal.leaves = entries
            .iter()
            .map(|row| {
                let mut entry = row.entry.clone();
                if entry.entry_id == changed.entry_id {
                    entry.actor = "somebody else".to_owned();
                    let id = format_uuid(&entry.entry_id);
                    client
                        .execute(
                            &format!(
                                "UPDATE tally.audit_entry SET actor = $1, leaf = $2 WHERE entry_id = '{id}'"
                            ),
                            &[&entry.actor, &&entry.leaf()[..]],
                        )
                        .unwrap();
                }
                entry.leaf()
            })
            .collect();
        seal.root = seal.root_of_leaves();
        seal.previous = last.get(&seal.tenant_id).copied().unwrap_or_default();
        let hash = seal.hash();
        last.insert(seal.tenant_id.clone(), hash);
        tree.push(hash);
        client
            .execute(
                "UPDATE tally.audit_seal SET leaves = $2, root = $3, previous = $4, hash = $5,
                        frontier = CASE WHEN frontier IS NOT NULL THEN $6::bytea END WHERE place = $1",
                &[
                    &(seal.place as i64),
                    &seal.leaves.concat(),
                    &&seal.root[..],
                    &&seal.previous[..],
                    &&hash[..],
                    &tree.encode(),
                ],
            )
            .unwrap();
    }
}

#[test]
fn every_edit_is_found_and_its_place_named() {
    let mut random = seeded();
    let mut database = Database::new("audit_edits");
    let role = database.role("admin", &["tally_admin"]);
    let mut admin = database.connect(&role);
    let anchors = furnish(&mut admin, &mut random);
    let clean = "SELECT count(*) FROM tally.verify_audit(VARIADIC $1)";
    assert_eq!(admin.query_one(clean, &[&anchors]).unwrap().get::<_, i64>(0), 0);
    let mut superuser = database.superuser();
    let read: Vec<Anchor> = anchors.iter().map(|anchor| Anchor::read(anchor).unwrap()).collect();
    for case in 0..cases() {
        let mut transaction = superuser.transaction().unwrap();
        transaction
            .batch_execute("ALTER TABLE tally.audit_rest DISABLE TRIGGER ALL; ALTER TABLE tally.audit_seal DISABLE TRIGGER ALL")
            .unwrap();
        let (_, seals) = export(&mut transaction);
        let edit = edit(&mut transaction, &seals, &mut random);
        let query =
            "SELECT fault, seal, tenant_id, entry_id::text, detail FROM tally.verify_audit(VARIADIC $1)";
        let found = transaction.query(query, &[&anchors]).unwrap();
        let place = format!("case {case}, {}: {found:?}", edit.what);
        assert!(!found.is_empty(), "{place}");
        let first = &found[0];
        let (seal, entry): (Option<i64>, Option<String>) = (first.get(1), first.get(3));
        if edit.is_hidden {
            let round =
                read.iter().map(|anchor| anchor.size).filter(|size| *size < edit.seal).max().unwrap_or(0);
            assert_eq!((first.get::<_, &str>(0), seal), ("rewritten", Some(round as i64 + 1)), "{place}");
        } else {
            let is_named = edit.entry.is_some() && entry == edit.entry.map(|id| format_uuid(&id));
            assert!(is_named || seal == Some(edit.seal as i64), "{place}");
        }
        // Without a database the same is found.
        let lines: Vec<String> = transaction
            .query("SELECT tally.export_audit()", &[])
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
        let mut verifier = Verifier::new(read.clone());
        lines.iter().for_each(|line| verifier.read(line));
        let report = verifier.finish();
        assert_eq!(
            (report.found as usize, report.problems[0].seal.map(|seal| seal as i64)),
            (found.len(), seal),
            "{place}"
        );
        transaction.rollback().unwrap();
    }
    assert_eq!(admin.query_one(clean, &[&anchors]).unwrap().get::<_, i64>(0), 0);
    assert_eq!(hex(&leaf_hash(b"")), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
}

/// Checks the log inside the database and without one; both find the same: the first fault, and which seal and entry it names.
fn first_fault(admin: &mut Client, anchor: &str) -> Option<(String, Option<i64>, Option<String>)> {
    let found = admin
        .query("SELECT fault, seal, entry_id::text, detail FROM tally.verify_audit($1)", &[&anchor])
        .unwrap();
    let mut verifier = Verifier::new(vec![Anchor::read(anchor).unwrap()]);
    for row in admin.query("SELECT tally.export_audit()", &[]).unwrap() {
        verifier.read(row.get(0));
    }
    let report = verifier.finish();
    let inside: Vec<String> = found.iter().map(|row| row.get(3)).collect();
    let outside: Vec<String> = report.problems.iter().map(|problem| problem.detail.clone()).collect();
    assert_eq!(inside, outside);
    found.first().map(|row| (row.get(0), row.get(1), row.get(2)))
}

/// Who removes entries and says that retention did it is believed only where it can be true.
#[test]
fn what_retention_did_not_drop_is_missed_whatever_an_entry_says() {
    let mut database = Database::new("audit_claims");
    let role = database.role("admin", &["tally_admin"]);
    let mut admin = database.connect(&role);
    for tenant in ["a", "b"] {
        admin.batch_execute(&format!("SELECT tally.set_audit_policy('all', '{tenant}')")).unwrap();
    }
    seal_all(&mut admin);
    let anchor: String = admin.query_one("SELECT tally.audit_anchor()", &[]).unwrap().get(0);
    assert_eq!(first_fault(&mut admin, &anchor), None);
    let mut superuser = database.superuser();
    superuser
        .batch_execute(
            "BEGIN; ALTER TABLE tally.audit_rest DISABLE TRIGGER audit_kept; DELETE FROM tally.audit_entry WHERE tenant_id = 'b';
             ALTER TABLE tally.audit_rest ENABLE ALWAYS TRIGGER audit_kept; COMMIT",
        )
        .unwrap();
    let missing = first_fault(&mut admin, &anchor);
    assert_eq!(missing.as_ref().map(|(fault, ..)| &fault[..]), Some("missing"));
    superuser
        .batch_execute(
            "SET ROLE tally_owner;
             SELECT tally_internal.record_act('audit_month_dropped', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-01'), '{\"entries\": 2}')",
        )
        .unwrap();
    assert_eq!(first_fault(&mut admin, &anchor), missing);
    seal_all(&mut admin);
    assert_eq!(first_fault(&mut admin, &anchor), missing);
}

/// An entry that somebody writes by hand, with a hash that is right, is found where its time or transaction can't be.
#[test]
fn an_entry_that_cannot_have_been_written_is_found() {
    let mut database = Database::new("audit_forged");
    let role = database.role("admin", &["tally_admin"]);
    let mut admin = database.connect(&role);
    admin.batch_execute("SELECT tally.set_audit_policy('all', 'a')").unwrap();
    seal_all(&mut admin);
    let anchor: String = admin.query_one("SELECT tally.audit_anchor()", &[]).unwrap().get(0);
    seal_all(&mut admin);
    let mut superuser = database.superuser();
    let mut forge = |xid: &str, interval: &str| -> String {
        let mut transaction = superuser.transaction().unwrap();
        let query = format!(
            "SELECT {xid}::text, (extract(epoch FROM date_trunc('second', now()) + interval '{interval}' - timestamptz '2000-01-01 00:00:00+00') * 1000000)::int8,
                    tally_internal.cluster_number(), gen_random_uuid()::text"
        );
        let row = transaction.query_one(&query, &[]).unwrap();
        let (xid, at, origin, id): (String, i64, i64, String) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let entry = Entry {
            tenant_id: "a".into(),
            origin: origin as u64,
            xid: xid.parse().unwrap(),
            at,
            entry_id: tally_core::event::parse_uuid(&id).unwrap(),
            actor: "somebody".into(),
            act: "export_approved".into(),
            ..Entry::default()
        };
        transaction
            .execute(
                "INSERT INTO tally.audit_entry (xid, at, origin, entry_id, tenant_id, actor, act, leaf)
                 VALUES ($1::text::xid8, timestamptz '2000-01-01 00:00:00+00' + interval '1 microsecond' * $2::int8, $3, $4::text::uuid, 'a', 'somebody', 'export_approved', $5)",
                &[&xid, &at, &origin, &id, &&entry.leaf()[..]],
            )
            .unwrap();
        transaction.commit().unwrap();
        id
    };
    // Who can do everything can write what is right; only the server's log has no line of it.
    forge("pg_current_xact_id()", "0");
    seal_all(&mut admin);
    assert_eq!(first_fault(&mut admin, &anchor), None);
    let back = forge("pg_current_xact_id()", "-40 days");
    let named = |found: Option<(String, Option<i64>, Option<String>)>| {
        let (fault, seal, entry) = found.expect("a fault");
        assert_eq!(fault, "inserted");
        (seal.is_some(), entry.expect("an entry"))
    };
    assert_eq!(named(first_fault(&mut admin, &anchor)), (false, back.clone()));
    seal_all(&mut admin);
    assert_eq!(named(first_fault(&mut admin, &anchor)), (true, back));
    let never = forge("9000000000000000000", "0");
    let query = "SELECT entry_id::text FROM tally.verify_audit($1) WHERE fault = 'inserted'";
    let found: Vec<String> = admin.query(query, &[&anchor]).unwrap().iter().map(|row| row.get(0)).collect();
    assert!(found.len() == 2 && found[1] == never, "{found:?}");
}

/// Has the program check an export that nobody changed.
fn verify_by(program: &str, anchors: &[String], lines: &[&str]) {
    let file = |name: &str, lines: String| {
        let path = std::env::temp_dir().join(format!("tally_{name}_{}", std::process::id()));
        std::fs::write(&path, lines).unwrap();
        path
    };
    let kept = file("anchors", anchors.join("\n"));
    let export = file("audit", lines.join("\n"));
    let answer = Command::new(program).arg("--anchors").arg(&kept).arg(&export).output().unwrap();
    for path in [kept, export] {
        std::fs::remove_file(path).unwrap();
    }
    assert!(answer.status.success(), "{answer:?}");
}

/// What was answered is recorded, once, and verifies, however often the server is killed.
#[test]
fn crashes_leave_the_log_whole() {
    let server = PrivateServer::create(
        "audit_crash",
        "shared_preload_libraries = 'pg_tally'\ntally.worker_databases = 'shop'\ntally.worker_role = 'worker'\ntally.worker_interval = 1",
    );
    let mut postgres = server.connect("postgres", "postgres");
    postgres.batch_execute("CREATE ROLE worker LOGIN; CREATE ROLE bi LOGIN").unwrap();
    postgres.batch_execute("CREATE DATABASE shop").unwrap();
    let mut superuser = server.connect("postgres", "shop");
    superuser
        .batch_execute("CREATE EXTENSION pg_tally; GRANT tally_admin TO worker; GRANT tally_reader TO bi; SELECT tally.bind_role('bi', 'acme')")
        .unwrap();
    let mut random = seeded();
    let mut anchors: Vec<String> = Vec::new();
    let mut acknowledged = 0;
    for round in 0..(cases() / 10).max(2) {
        let mut admin = server.connect("worker", "shop");
        let mut bi = server.connect("bi", "shop");
        let mut denied = Vec::new();
        for n in 0..5 + random.below(30) {
            let days = 100 + n;
            admin.batch_execute(&format!("SELECT tally.set_retention('r{round}', '{days} days')")).unwrap();
            acknowledged += 1;
            if n < 8 && bi.batch_execute("SELECT tally.enter('globex')").is_err() {
                denied.push(n);
            }
        }
        if random.below(2) == 0 {
            anchors.push(admin.query_one("SELECT tally.audit_anchor()", &[]).unwrap().get(0));
        }
        let in_log = server.log().matches("act=denied").count();
        assert!(in_log >= denied.len(), "each denial has its line before its answer");
        server.kill();
        wait_for("the server", || {
            std::thread::sleep(std::time::Duration::from_millis(200));
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| server.start())).ok()
        });
        superuser = server.connect("postgres", "shop");
        let found: Vec<String> = superuser
            .query("SELECT v::text FROM tally.verify_audit(VARIADIC $1) AS v", &[&anchors])
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
        if !found.is_empty() {
            for row in superuser.query("SELECT format('%s %s %s %s..%s %s', place, tenant_id, number, from_xid, to_xid, sealed_at) FROM tally.audit_seal ORDER BY place DESC LIMIT 12", &[]).unwrap() {
                println!("{}", row.get::<_, String>(0));
            }
            for row in superuser.query("SELECT format('%s %s %s %s %s', xid, at, tenant_id, act, entry_id) FROM tally.audit_entry ORDER BY xid DESC LIMIT 60", &[]).unwrap() {
                println!("{}", row.get::<_, String>(0));
            }
        }
        assert!(found.is_empty(), "round {round}: {found:?}");
        // Without a database nothing is found, either.
        let mut verifier =
            Verifier::new(anchors.iter().map(|anchor| Anchor::read(anchor).unwrap()).collect());
        let rows = superuser.query("SELECT tally.export_audit()", &[]).unwrap();
        let lines: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
        lines.iter().for_each(|line| verifier.read(line));
        assert_eq!(verifier.finish().found, 0, "round {round}");
        if let Ok(program) = std::env::var("TALLY_VERIFY") {
            verify_by(&program, &anchors, &lines);
        }
        let stored = number(
            &mut superuser,
            "SELECT count(*) FROM tally.audit WHERE act IN ('retention_added', 'retention_changed')",
        );
        assert_eq!(stored, acknowledged, "round {round}");
    }
}

/// After a restore there may be more of the other cluster's than one step seals; all of it is sealed before anything of this one's.
#[test]
fn all_of_a_restored_log_is_sealed_before_the_clusters_own() {
    let database = Database::new("audit_restored");
    let mut superuser = database.superuser();
    let mut transaction = superuser.transaction().unwrap();
    transaction
        .batch_execute(
            "DO $$ DECLARE part text; BEGIN
               FOR part IN SELECT c.oid::regclass::text FROM pg_class AS c WHERE c.relnamespace = 'tally'::regnamespace AND c.relname ~ '^audit_(p[0-9]|rest|seal)' AND c.relkind = 'r' LOOP
                 EXECUTE format('ALTER TABLE %s DISABLE TRIGGER USER', part);
               END LOOP;
             END $$;
             DELETE FROM tally.audit_seal; DELETE FROM tally.audit_entry;
             INSERT INTO tally.audit_entry (xid, at, origin, entry_id, tenant_id, actor, act, leaf)
             SELECT n::text::xid8, now(), origin, gen_random_uuid(), 'a', 'somebody', 'limit_changed', decode(repeat('00', 32), 'hex')
               FROM generate_series(3, 9) AS n, unnest(ARRAY[42, 43, tally_internal.cluster_number()]) AS origin",
        )
        .unwrap();
    let mut steps = 0;
    loop {
        let sealed: i64 = transaction.query_one("SELECT tally.seal_audit(2)", &[]).unwrap().get(0);
        if sealed == 0 {
            break;
        }
        steps += 1;
        assert!(steps < 30);
    }
    let sealed: Vec<(i64, i64)> = transaction
        .query(
            "SELECT s.origin, sum(s.entries) FROM tally.audit_seal AS s WHERE s.tenant_id = 'a'
              GROUP BY s.origin ORDER BY s.origin = tally_internal.cluster_number(), s.origin",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    assert_eq!(sealed[..2], [(42, 7), (43, 7)]);
    assert_eq!(sealed[2].1, 7);
    let first_of_own: bool = transaction
        .query_one(
            "SELECT min(s.place) FILTER (WHERE s.origin NOT IN (42, 43)) > max(s.place) FILTER (WHERE s.origin IN (42, 43)) FROM tally.audit_seal AS s",
            &[],
        )
        .unwrap()
        .get(0);
    assert!(first_of_own);

    // Moved on to another cluster, which sealed some of its own, and back from there.
    transaction
        .batch_execute(
            "UPDATE tally.audit_seal SET origin = 44, from_xid = '5', to_xid = '6' WHERE place = (SELECT max(place) FROM tally.audit_seal);
             INSERT INTO tally.audit_entry (xid, at, origin, entry_id, tenant_id, actor, act, leaf)
             SELECT n::text::xid8, now() - interval '2 days', 44, gen_random_uuid(), 'a', 'somebody', 'limit_changed', decode(repeat('00', 32), 'hex')
               FROM generate_series(6, 9) AS n",
        )
        .unwrap();
    let left = "SELECT count(*) FROM tally.audit_entry AS e WHERE e.origin <> tally_internal.cluster_number()
                   AND NOT EXISTS (SELECT FROM tally.audit_seal AS s WHERE s.origin = e.origin AND s.to_xid > e.xid)";
    let count = |transaction: &mut Transaction| -> i64 { transaction.query_one(left, &[]).unwrap().get(0) };
    assert_eq!(count(&mut transaction), 4);
    let seal = |transaction: &mut Transaction| -> i64 {
        transaction.query_one("SELECT tally.seal_audit(2)", &[]).unwrap().get(0)
    };
    for _ in 0..4 {
        seal(&mut transaction);
    }
    assert_eq!(count(&mut transaction), 0);
    // What is put in under another cluster's name afterwards is sealed by nobody.
    transaction
        .batch_execute(
            "UPDATE tally.audit_seal SET origin = tally_internal.cluster_number() WHERE place = (SELECT max(place) FROM tally.audit_seal);
             INSERT INTO tally.audit_entry (xid, at, origin, entry_id, tenant_id, actor, act, leaf)
             VALUES ('8', now(), 45, gen_random_uuid(), 'a', 'somebody', 'limit_changed', decode(repeat('00', 32), 'hex'))",
        )
        .unwrap();
    seal(&mut transaction);
    assert_eq!(count(&mut transaction), 1);
    transaction.rollback().unwrap();
}

/// A database of a copy of this cluster, which went on for longer: nothing that is recorded here can be sealed, and that is told at once.
#[test]
fn a_log_that_is_ahead_of_its_cluster_is_told() {
    for ahead in [
        "INSERT INTO tally.audit_seal (from_xid, to_xid, sealed_at, place, number, origin, total, entries, month, tenant_id, root, previous, hash, leaves)
         VALUES ('9000000000000000', '9000000000000001', now(), 1000000, 1000000, tally_internal.cluster_number(), 1, 1, '2026-01-01', '', '', '', '', '')",
        "INSERT INTO tally.audit_entry (xid, at, origin, entry_id, tenant_id, actor, act, leaf)
         VALUES ('9000000000000000', now(), tally_internal.cluster_number(), gen_random_uuid(), 'a', 'somebody', 'limit_changed', decode(repeat('00', 32), 'hex'))",
    ] {
        let mut database = Database::new("audit_ahead");
        let role = database.role("admin", &["tally_admin"]);
        let mut admin = database.connect(&role);
        let health = "SELECT status, coalesce(advice, '') FROM tally.observe_health() WHERE component = 'audit'";
        let mut told = |statement: &str| -> (String, String) {
            if !statement.is_empty() {
                admin.batch_execute(statement).unwrap();
            }
            let row = admin.query_one(health, &[]).unwrap();
            (row.get(0), row.get(1))
        };
        // Also of a transaction that has recorded something itself.
        assert_eq!(told("BEGIN; SELECT tally.set_retention('a', '90 days')").0, "ok");
        assert_eq!(told("COMMIT").0, "ok");
        database.superuser().batch_execute(ahead).unwrap();
        let (status, advice) = told("");
        assert_eq!(status, "failing");
        assert!(advice.contains("restore.md"), "{advice}");
    }
}
