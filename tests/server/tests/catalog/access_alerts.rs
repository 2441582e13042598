//! Access alerts from the audit log: labelled months of many logins, written as entries; the states of an alert, and who may set them.

#[path = "../../../../crates/core/tests/months/mod.rs"]
mod months;

use months::{Actor, actors};
use postgres::Client;
use std::fmt::Write as _;
use std::io::Write as _;
use tally_server_tests::{Database, code, number};

const DAYS: i32 = 100;

/// Writes an actor's days as entries of the audit log, the days numbered from a Monday.
fn record(superuser: &mut Client, actor: &Actor) {
    let mut lines = String::new();
    for day in &actor.days {
        let hours: Vec<usize> =
            (0..24).flat_map(|hour| std::iter::repeat_n(hour, day.hours[hour] as usize)).collect();
        // One entry for each of the day's, and more where there are more tenants.
        for place in 0..hours.len().max(day.tenants.len()).max(2) {
            let (act, detail) = match place {
                0 => ("read", format!(r#"{{"rows": {}, "relations": ["tally.events"]}}"#, day.rows)),
                1 if day.denials > 0 => ("denied", format!(r#"{{"times": {}}}"#, day.denials)),
                _ => ("scope_entered", "{}".to_owned()),
            };
            let hour = hours[place % hours.len()];
            let tenant = &day.tenants[place % day.tenants.len()];
            writeln!(lines, "{}\t{hour}\t{tenant}\t{}\t{act}\t{detail}", day.day, actor.name).unwrap();
        }
    }
    let mut copy = superuser.copy_in("COPY pg_temp.month FROM STDIN").unwrap();
    copy.write_all(lines.as_bytes()).unwrap();
    copy.finish().unwrap();
}

#[test]
fn labelled_months_in_the_audit_log_raise_the_right_alerts() {
    let mut database = Database::new("access_alerts");
    let auditor = database.role("auditor", &["tally_auditor"]);
    let mut superuser = database.superuser();
    superuser
        .batch_execute("CREATE TEMP TABLE month (day int4, hour int4, tenant_id text, actor text, act text, detail text)")
        .unwrap();
    let actors: Vec<Actor> = [1, 2].into_iter().flat_map(|seed| actors(seed, 24, DAYS)).collect();
    for actor in &actors {
        record(&mut superuser, actor);
    }
    let monday = "SELECT date_trunc('week', now() - interval '119 days', 'UTC')::text";
    let monday = format!("timestamptz '{}'", superuser.query_one(monday, &[]).unwrap().get::<_, String>(0));
    superuser
        .batch_execute(&format!(
            "SET timezone = 'UTC';
             INSERT INTO tally.audit_entry (xid, at, origin, entry_id, tenant_id, actor, act, detail, leaf)
             SELECT pg_current_xact_id(), {monday} + make_interval(days => m.day, hours => m.hour, mins => 5), tally_internal.cluster_number(), gen_random_uuid(),
                    m.tenant_id, m.actor, m.act, m.detail, '' FROM pg_temp.month AS m"
        ))
        .unwrap();
    let mut client = database.connect(&auditor);
    client.batch_execute("SET timezone = 'UTC'").unwrap();
    client.execute(&format!("SELECT * FROM tally.find_access_alerts({monday})"), &[]).unwrap();
    let query = format!(
        "SELECT actor, kind, first_day - ({monday})::date, last_day - ({monday})::date FROM tally.access_alert"
    );
    let alerts: Vec<(String, String, i32, i32)> = client
        .query(&query, &[])
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
        .collect();
    let days: usize = actors.iter().map(|actor| actor.days.len()).sum();
    let attacked: Vec<&Actor> = actors.iter().filter(|actor| actor.attack.is_some()).collect();
    let missed: Vec<String> = attacked
        .iter()
        .filter(|actor| {
            let attack = actor.attack.as_ref().unwrap();
            !alerts.iter().any(|(name, _, first, last)| {
                *name == actor.name && *last >= attack.from && *first <= attack.to
            })
        })
        .map(|actor| format!("{}: {:?}", actor.name, actor.attack))
        .collect();
    let wrong: Vec<_> = alerts
        .iter()
        .filter(|(name, _, first, last)| {
            let actor = actors.iter().find(|actor| actor.name == *name).unwrap();
            !actor.attack.as_ref().is_some_and(|attack| *last >= attack.from && *first <= attack.to + 14)
        })
        .collect();
    let recall = 1.0 - missed.len() as f64 / attacked.len() as f64;
    let alarms = 1000.0 * wrong.len() as f64 / days as f64;
    println!(
        "{} attacks, recall {recall:.3}; {days} actor-days, {alarms:.3} false alarms in 1,000",
        attacked.len()
    );
    assert!(recall >= 0.95, "{missed:#?}");
    assert!(alarms <= 1.0, "{wrong:#?}");

    // Again, nothing is raised anew; what was closed stays so.
    let count = number(&mut client, "SELECT count(*) FROM tally.access_alert");
    let again = format!("SELECT count(*) FROM tally.find_access_alerts({monday})");
    let id: String =
        client.query_one("SELECT alert_id::text FROM tally.access_alert LIMIT 1", &[]).unwrap().get(0);
    client
        .batch_execute(&format!("SELECT tally.set_alert_state('{id}', 'acknowledged', 'we ask them')"))
        .unwrap();
    client.batch_execute(&format!("SELECT tally.set_alert_state('{id}', 'closed')")).unwrap();
    number(&mut client, &again);
    assert_eq!(number(&mut client, "SELECT count(*) FROM tally.access_alert"), count);
    let closed = format!(
        "SELECT count(*) FROM tally.access_alert WHERE alert_id = '{id}' AND state = 'closed' AND note = 'we ask them' AND state_by = session_user"
    );
    assert_eq!(number(&mut client, &closed), 1);
    let recorded = "SELECT count(*) FROM tally.audit WHERE act = 'access_alert_changed' AND detail -> 'to' ->> 'state' IN ('acknowledged', 'closed')";
    assert_eq!(number(&mut client, recorded), 2);
    assert_eq!(code(client.execute(&format!("SELECT tally.set_alert_state('{id}', 'gone')"), &[])), "22023");
    assert_eq!(code(client.execute("SELECT tally.set_alert_state(gen_random_uuid(), 'open')", &[])), "42704");
    // A new login among few colleagues, of whom one reads everything each night.
    superuser
        .batch_execute(
            "DELETE FROM tally.access_alert; DELETE FROM tally.access_day;
             INSERT INTO tally.access_day (rows, denials, day, actor, hours, tenants)
             SELECT CASE a WHEN 'all' THEN 9000000 ELSE 1000 + 10 * d END, 0, now()::date - d, a, array_fill(0::int8, '{24}'), '{t}'
               FROM generate_series(1, 30) AS d, unnest('{b,c,d,e,f,g,all}'::text[]) AS a;
             INSERT INTO tally.access_day (rows, denials, day, actor, hours, tenants)
             SELECT v.rows, 0, now()::date, v.actor, array_fill(0::int8, '{24}'), '{t}' FROM (VALUES ('newcomer', 200000), ('modest', 1500)) AS v (actor, rows)",
        )
        .unwrap();
    let found: Vec<(String, String)> = client
        .query(
            "SELECT actor, kind FROM tally.find_access_alerts(now()) WHERE actor IN ('newcomer', 'modest')",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    assert_eq!(found, [("newcomer".to_owned(), "volume".to_owned())]);
    // Nobody else's, and not a tenant's.
    let bound = database.role("bound", &["tally_auditor", "tally_reader"]);
    let analyst = database.role("analyst", &["tally_analyst"]);
    superuser.batch_execute(&format!("SELECT tally.bind_role('{bound}', 'acme')")).unwrap();
    let mut bound = database.connect(&bound);
    assert_eq!(
        number(&mut bound, "SELECT count(*) FROM tally.access_alert")
            + number(&mut bound, "SELECT count(*) FROM tally.access_day"),
        0
    );
    assert_eq!(code(bound.execute("SELECT * FROM tally.find_access_alerts()", &[])), "42501");
    assert_eq!(code(database.connect(&analyst).execute("SELECT * FROM tally.access_alert", &[])), "42501");
    // Housekeeping looks once an hour.
    let admin = database.role("admin", &["tally_admin"]);
    let mut admin = database.connect(&admin);
    let step = "SELECT done FROM tally_internal.step_access('', 1000)";
    assert_eq!(number(&mut admin, step), 0);
    superuser
        .batch_execute("UPDATE tally.access_day SET updated_at = updated_at - interval '2 hours'")
        .unwrap();
    assert!(number(&mut admin, step) >= 0);
    assert_eq!(
        number(
            &mut admin,
            "SELECT count(*) FROM tally.access_day WHERE updated_at > now() - interval '1 minute'"
        )
        .min(1),
        1
    );
}
