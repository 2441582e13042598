//! Through PgBouncer in transaction mode: fifty clients, each a tenant of its own and every other one an attacker, share
//! five connections. Nothing that one leaves behind shows it another's rows, or catches what another writes.

use postgres::{Client, SimpleQueryMessage};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use tally_server_tests::{Bouncer, Database, TokenSigner, major, seeded};

const CLIENTS: usize = 50;
const CONNECTIONS: u32 = 5;

/// What an attacker leaves, in its own scope (`true`) or in none. CLIENT is its tenant.
const POISON: &[(bool, &str)] = &[
    (false, "CREATE TEMP TABLE orders (tenant text, card text)"),
    (false, "CREATE TEMP VIEW orders AS SELECT 'x'::text AS tenant, 'y'::text AS card"),
    (true, "CREATE TEMP TABLE orders AS SELECT tenant, card FROM shop.orders"),
    (false, "CREATE FUNCTION pg_temp.price(text) RETURNS text LANGUAGE sql AS 'SELECT ''stolen''::text'"),
    (true, "CREATE FUNCTION pg_temp.current_tenant() RETURNS text LANGUAGE sql AS 'SELECT ''CLIENT''::text'"),
    (false, "SET search_path = trap, shop"),
    (true, "SET search_path = pg_temp, trap"),
    (false, "SELECT set_config('search_path', 'trap, shop', false)"),
    (true, "SELECT set_config('search_path', 'trap', false)"),
    (true, "DECLARE held CURSOR WITH HOLD FOR SELECT tenant, card FROM shop.orders"),
    (false, "DECLARE held CURSOR WITH HOLD FOR SELECT 'none'::text, card FROM trap.orders"),
    (true, "PREPARE spy AS INSERT INTO trap.loot SELECT tenant FROM shop.orders"),
    (false, "PREPARE orders AS SELECT tenant, card FROM shop.orders"),
    (false, "SELECT pg_advisory_lock(CLIENTNUMBER)"),
    (true, "SELECT pg_try_advisory_lock(1, CLIENTNUMBER)"),
    (false, "SET tally.scope = '*'"),
    (false, "SET row_security = off"),
    (false, "SET SESSION AUTHORIZATION DEFAULT; SET ROLE NONE"),
    (false, "LISTEN orders"),
    (true, "SET work_mem = '64kB'; SET plan_cache_mode = force_generic_plan"),
];

/// What an attacker looks at afterwards. It may see errors, nothing, or what attackers have left for each other.
const LOOK: &[&str] = &[
    "SELECT tenant, card FROM pg_temp.orders",
    "FETCH ALL FROM held",
    "EXECUTE orders",
    "SELECT tenant, 'loot' FROM trap.loot",
    "SELECT tenant, card FROM trap.orders",
    "SELECT tenant, card FROM orders",
];

struct Party<'a> {
    client: Client,
    signer: &'a TokenSigner,
    role: &'a str,
    audience: &'a str,
    tenant: String,
}

impl Party<'_> {
    fn rows(&mut self, query: &str) -> Result<Vec<(String, String)>, postgres::Error> {
        let messages = self.client.simple_query(query)?;
        let cell = |row: &postgres::SimpleQueryRow, column: usize| {
            if column < row.len() { row.get(column).unwrap_or_default().to_owned() } else { String::new() }
        };
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((cell(row, 0), cell(row, 1))),
            _ => None,
        });
        Ok(rows.collect())
    }

    fn begin(&mut self) -> Result<(), postgres::Error> {
        let challenge = self.rows("BEGIN; SELECT tally.challenge()")?;
        let token =
            self.signer.sign(&self.signer.claims(self.audience, self.role, &self.tenant, &challenge[0].0));
        self.client.batch_execute(&format!("SELECT tally.enter('{token}')"))
    }

    /// Orders something in the tenant's scope; says whether the session was clean enough.
    fn order(&mut self, number: usize) -> bool {
        if let Err(refused) = self.begin() {
            assert_eq!(refused.code().map(|code| code.code()), Some("42501"), "{refused:?}");
            self.client.batch_execute("ROLLBACK").unwrap();
            // Perhaps this reaches the dirty session.
            self.client.batch_execute("DISCARD ALL").unwrap();
            return false;
        }
        let tenant = self.tenant.clone();
        self.client
            .batch_execute(&format!("INSERT INTO orders VALUES ('{tenant}', '{tenant} card {number}')"))
            .unwrap();
        let rows = self.rows("SELECT tenant, card FROM orders").unwrap();
        assert!(
            rows.iter().all(|(owner, card)| *owner == tenant && card.starts_with(&format!("{tenant} "))),
            "{rows:?}"
        );
        assert!(
            rows.iter().any(|(_, card)| *card == format!("{tenant} card {number}")),
            "its own order is there"
        );
        assert_eq!(
            self.rows("SELECT price('x'), tally.current_tenant()").unwrap(),
            [("honest".to_owned(), tenant)]
        );
        self.client.batch_execute("COMMIT").unwrap();
        true
    }

    fn attack(&mut self, number: usize, (in_scope, poison): (bool, &str)) {
        let poison =
            poison.replace("CLIENTNUMBER", &(number % CLIENTS).to_string()).replace("CLIENT", &self.tenant);
        let entered = if in_scope { self.begin() } else { self.client.batch_execute("BEGIN") };
        if entered.is_ok() {
            let _ = self.client.batch_execute(&poison);
        }
        let _ = self.client.batch_execute("COMMIT");
        for look in LOOK {
            if let Ok(rows) = self.rows(look) {
                let honest =
                    rows.iter().find(|(owner, card)| owner.starts_with('h') || card.starts_with('h'));
                assert!(honest.is_none(), "{} saw {honest:?} by {look}", self.tenant);
            }
            let _ = self.client.batch_execute("ROLLBACK");
        }
    }
}

fn transactions() -> usize {
    std::env::var("TALLY_POOL_TRANSACTIONS")
        .map_or(1500, |text| text.parse().expect("a number of transactions"))
}

#[test]
fn nothing_passes_from_tenant_to_tenant_through_a_pool() {
    let mut database = Database::new("bouncer");
    let [pool, owner] = [("pool", "tally_reader"), ("owner", "tally_writer")]
        .map(|(role, group)| database.role(role, &[group]));
    let mut admin = database.superuser();
    admin
        .batch_execute(&format!(
            "CREATE SCHEMA shop AUTHORIZATION {owner}; CREATE SCHEMA trap; GRANT USAGE ON SCHEMA shop TO PUBLIC;
             GRANT USAGE, CREATE ON SCHEMA trap TO PUBLIC; SET ROLE {owner};
             CREATE TABLE shop.orders (tenant text NOT NULL, card text NOT NULL); SELECT tally.protect('shop.orders', 'tenant');
             CREATE FUNCTION shop.price(text) RETURNS text LANGUAGE sql AS 'SELECT ''honest''::text';
             GRANT SELECT, INSERT ON shop.orders TO PUBLIC; RESET ROLE;
             CREATE TABLE trap.orders (tenant text, card text); CREATE TABLE trap.loot (tenant text);
             CREATE FUNCTION trap.price(text) RETURNS text LANGUAGE sql AS 'SELECT ''stolen''::text';
             GRANT ALL ON trap.orders, trap.loot TO PUBLIC; ALTER ROLE {pool} SET search_path = shop;
             SELECT tally.pool_role('{pool}')"
        ))
        .unwrap();
    let signer = TokenSigner::new("k", 1);
    signer.register(&mut admin).unwrap();
    let audience: String = admin.query_one("SELECT tally.token_audience()", &[]).unwrap().get(0);
    let Some(bouncer) = Bouncer::start(&database, &[&pool], CONNECTIONS) else { return };
    let each = transactions().div_ceil(CLIENTS);
    let mut random = seeded();
    let seeds: Vec<u64> = (0..CLIENTS).map(|_| random.bits()).collect();
    let (kept, refused) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|threads| {
        for (number, seed) in seeds.into_iter().enumerate() {
            let (bouncer, signer, pool, audience, kept, refused) =
                (&bouncer, &signer, &pool, &audience, &kept, &refused);
            threads.spawn(move || {
                let mut random = tally_workload::Random::new(seed);
                let is_honest = number % 2 == 0;
                let tenant = format!("{}{number}", if is_honest { "h" } else { "attacker" });
                let mut party = Party { client: bouncer.connect(pool), signer, role: pool, audience, tenant };
                for turn in 0..each {
                    if !is_honest {
                        party.attack(number, POISON[random.below(POISON.len())]);
                    } else if party.order(turn) {
                        kept.fetch_add(1, Ordering::Relaxed);
                    } else {
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let (kept, refused) = (kept.into_inner(), refused.into_inner());
    println!("{} transactions: {kept} orders, {refused} refused in dirty sessions", each * CLIENTS);
    // Every order is where it belongs, and nowhere else.
    let rows = admin.query("SELECT tenant, card FROM shop.orders", &[]).unwrap();
    let mut by_tenant: BTreeMap<&str, u32> = BTreeMap::new();
    for row in &rows {
        let (tenant, card): (&str, &str) = (row.get(0), row.get(1));
        assert!(card.starts_with(&format!("{tenant} card")));
        *by_tenant.entry(tenant).or_default() += 1;
    }
    assert_eq!(rows.len() as u32, kept);
    for trap in ["trap.orders", "trap.loot"] {
        let caught: i64 = admin.query_one(&format!("SELECT count(*) FROM {trap}"), &[]).unwrap().get(0);
        assert_eq!(caught, 0, "{trap}");
    }
    assert!(kept > 100 && refused > 0 && by_tenant.len() >= CLIENTS / 4, "{kept} {refused} {by_tenant:?}");
}

/// One client changes the path of the session that it shares; the next one has done nothing and isn't made to pay. From PostgreSQL
/// 18 on the server tells the pooler of it, which puts the first path back between the two.
#[test]
fn who_changed_nothing_keeps_the_connection() {
    let mut database = Database::new("bouncer_path");
    let pool = database.role("pool", &["tally_reader"]);
    let mut admin = database.superuser();
    admin
        .batch_execute(&format!(
            "CREATE SCHEMA shop; CREATE SCHEMA other; GRANT USAGE ON SCHEMA shop, other TO PUBLIC;
             ALTER ROLE {pool} SET search_path = shop; SELECT tally.pool_role('{pool}')"
        ))
        .unwrap();
    let signer = TokenSigner::new("k", 1);
    signer.register(&mut admin).unwrap();
    let audience: String = admin.query_one("SELECT tally.token_audience()", &[]).unwrap().get(0);
    let Some(bouncer) = Bouncer::start(&database, &[&pool], 1) else { return };
    let party = |tenant: &str| Party {
        client: bouncer.connect(&pool),
        signer: &signer,
        role: &pool,
        audience: &audience,
        tenant: tenant.to_owned(),
    };
    let (mut first, mut second) = (party("first"), party("second"));
    for change in ["SET LOCAL search_path = other", "SELECT set_config('search_path', 'other', true)"] {
        first.begin().unwrap();
        first.client.batch_execute(change).unwrap();
        assert_eq!(first.rows("SHOW search_path").unwrap()[0].0, "other", "{change}");
        first.client.batch_execute("COMMIT").unwrap();
        second.begin().unwrap_or_else(|error| panic!("after {change}: {error:?}"));
        assert_eq!(second.rows("SHOW search_path").unwrap()[0].0, "shop", "after {change}");
        second.client.batch_execute("COMMIT").unwrap();
        assert_eq!(first.rows("SHOW search_path").unwrap()[0].0, "shop", "after {change} and its end");
    }
    // A function leaves it in the session. More than once, since the pooler may have a new connection by then.
    for number in 0..5 {
        let mut first = party(&format!("first {number}"));
        first.begin().unwrap();
        first.rows("SELECT set_config('search_path', 'other', false)").unwrap();
        first.client.batch_execute("COMMIT").unwrap();
        if let Err(refused) = second.begin() {
            let code = refused.code().map(|code| code.code());
            assert!(major() < 18 && code == Some("42501"), "{refused:?}");
            second.client.batch_execute("ROLLBACK").unwrap();
            second.client.batch_execute("DISCARD ALL").unwrap();
            second.begin().unwrap();
        }
        assert_eq!(second.rows("SHOW search_path").unwrap()[0].0, "shop");
        second.client.batch_execute("COMMIT").unwrap();
    }
}
