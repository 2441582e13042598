//! What a scope costs: entering one by each of the three ways, and row security over a query that names its tenant.

use crate::pairing::{spread, turn_about};
use postgres::{Client, Config, NoTls, Statement};
use std::error::Error;
use std::time::Instant;
use tally_workload::{Workload, json_array};

const EVENTS: usize = 200_000;
/// Executions of each statement in a round; their median is the round's time.
const REPEATS: usize = 301;
/// Pairs of backends that a round's queries run in, and executions in each.
const BACKENDS: usize = 4;
const REPEATS_OF_QUERY: usize = 15;

const ROLES: &str = "
    DO $$ BEGIN
      FOR number IN 1 .. 4 LOOP
        BEGIN EXECUTE 'CREATE ROLE tally_bench_' || (ARRAY['bound','trusted','pool','stranger'])[number] || ' LOGIN';
        EXCEPTION WHEN duplicate_object THEN NULL; END;
      END LOOP;
    END $$;
    GRANT tally_reader TO tally_bench_bound, tally_bench_trusted, tally_bench_pool;
    SELECT tally.trust_role('tally_bench_trusted'), tally.pool_role('tally_bench_pool')";

/// Microseconds that a statement takes, in a transaction of its own whose other statements aren't timed.
fn microseconds(client: &mut Client, statement: &Statement, parameter: &str) -> Result<f64, Box<dyn Error>> {
    let began = Instant::now();
    if statement.params().is_empty() {
        client.query(statement, &[])?;
    } else {
        client.query(statement, &[&parameter])?;
    }
    Ok(began.elapsed().as_secs_f64() * 1e6)
}

/// Makes the parameter of a transaction's statement, before the clock starts.
type Parameter<'a> = dyn Fn(&mut Client) -> Result<String, Box<dyn Error>> + 'a;

/// A login, and the statement by which it comes into a scope.
struct Way<'a> {
    name: &'static str,
    wanted: Option<f64>,
    client: Client,
    statement: &'static str,
    parameter: Box<Parameter<'a>>,
}

impl Way<'_> {
    /// The median, over many pairs of transactions, of what the statement takes, and of what it takes longer than `SELECT 1`
    /// of a login that has nothing to do with the extension. The two run one after the other, in turning order.
    fn compare(&mut self, stranger: &mut Client) -> Result<[f64; 2], Box<dyn Error>> {
        let (nothing, own) = (stranger.prepare("SELECT 1")?, self.client.prepare(self.statement)?);
        let (mut base, mut over) = (Vec::new(), Vec::new());
        for pair in 0..REPEATS {
            let mut taken = [0.0; 2];
            for turn in 0..2 {
                let side = (pair + turn) % 2;
                let client = if side == 0 { &mut *stranger } else { &mut self.client };
                client.batch_execute("BEGIN")?;
                taken[side] = if side == 0 {
                    microseconds(client, &nothing, "")?
                } else {
                    let parameter = (self.parameter)(client)?;
                    microseconds(client, &own, &parameter)?
                };
                client.batch_execute("COMMIT")?;
            }
            base.push(taken[0]);
            over.push(taken[1] - taken[0]);
        }
        Ok([spread(&base)[1], spread(&over)[1]])
    }
}

/// Runs `rounds` rounds.
pub fn compare(client: &mut Client, config: &Config, rounds: usize) -> Result<(), Box<dyn Error>> {
    client.batch_execute("SET client_min_messages = warning; SET tally.allow_drop = on; DROP EXTENSION IF EXISTS pg_tally CASCADE")?;
    client.batch_execute("DROP SCHEMA IF EXISTS tally CASCADE; CREATE EXTENSION pg_tally; SELECT tally.open_months('2000-01-01')")?;
    let workload = Workload { seed: 7, events: EVENTS, ..Workload::default() };
    for batch in workload.batches(10_000) {
        client.execute("SELECT tally.ingest($1::text)", &[&json_array(&batch)])?;
    }
    while client.query_one("SELECT tally.fold('usage')", &[])?.get::<_, i64>(0) > 0 {}
    client.batch_execute("VACUUM ANALYZE")?;
    client.batch_execute(ROLES)?;
    let busiest = "SELECT tenant_id, count(*) FROM tally.events GROUP BY 1 ORDER BY 2 DESC LIMIT 1";
    let row = client.query_one(busiest, &[])?;
    let (tenant, events): (String, i64) = (row.get(0), row.get(1));
    client.execute("SELECT tally.bind_role('tally_bench_bound', $1)", &[&tenant])?;
    let signer = Signer::new(client, &tenant)?;
    let login = |role: &str| config.clone().user(role).connect(NoTls);
    let none = |_: &mut Client| Ok(String::new());
    let mut ways = [
        Way {
            name: "bound: the scope of the login",
            wanted: Some(10.0),
            client: login("tally_bench_bound")?,
            statement: "SELECT tally.current_tenant()",
            parameter: Box::new(none),
        },
        Way {
            name: "trusted: enter(tenant)",
            wanted: None,
            client: login("tally_bench_trusted")?,
            statement: "SELECT tally.enter($1)",
            parameter: Box::new(|_| Ok(tenant.clone())),
        },
        Way {
            name: "pool: enter(token)",
            wanted: Some(150.0),
            client: login("tally_bench_pool")?,
            statement: "SELECT tally.enter($1)",
            parameter: Box::new(|client| signer.token(client)),
        },
    ];
    let mut stranger = login("tally_bench_stranger")?;
    println!(
        "\nentering a scope, {rounds} rounds, prepared; microseconds over SELECT 1 of a login that isn't ours, least–greatest"
    );
    for way in &mut ways {
        let (mut base, mut over) = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            let [nothing, more] = way.compare(&mut stranger)?;
            if round > 0 {
                base.push(nothing);
                over.push(more);
            }
        }
        let [least, middle, greatest] = spread(&over);
        let wanted = way.wanted.map_or(String::new(), |most| format!(", wanted at most {most}"));
        let nothing = spread(&base)[1];
        println!("  {:<32} {middle:>8.1}  ({least:.1}–{greatest:.1}) over {nothing:.1}{wanted}", way.name);
    }

    println!(
        "\nrow security of one tenant's login over a literal predicate, {events} of {EVENTS} events; milliseconds"
    );
    for (what, query) in [
        ("raw, whole tenant", "SELECT name, count(*) FROM tally.events WHERE TENANT GROUP BY 1"),
        (
            "raw, one day",
            "SELECT count(*) FROM tally.events WHERE TENANT AND occurred_at >= (SELECT max(occurred_at) - interval '1 day' FROM tally.events WHERE TENANT)",
        ),
        ("rollup by day", "SELECT bucket, sum(events) FROM tally.usage_day WHERE TENANT GROUP BY 1"),
    ] {
        let scoped = query.replace("WHERE TENANT AND", "WHERE").replace("WHERE TENANT", "");
        let literal = query.replace("TENANT", &format!("tenant_id = '{tenant}'"));
        let mut ratios = Vec::new();
        let mut milliseconds = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            let mut taken = [Vec::new(), Vec::new()];
            for _ in 0..BACKENDS {
                let mut sides = [login("tally_bench_bound")?, config.connect(NoTls)?];
                turn_about(&mut sides, [&scoped, &literal], REPEATS_OF_QUERY, &mut taken)?;
            }
            let [scoped, literal] = taken.map(|seconds| spread(&seconds)[1] * 1e3);
            ratios.push(scoped / literal);
            milliseconds[0].push(scoped);
            milliseconds[1].push(literal);
        }
        let [least, middle, greatest] = spread(&ratios);
        println!(
            "  {what:<20} {:>8.2} / {:>8.2} = {middle:.2} ({least:.2}–{greatest:.2}), wanted at most 1.10",
            spread(&milliseconds[0])[1],
            spread(&milliseconds[1])[1]
        );
    }
    Ok(())
}

/// Signs tokens for the pool role.
struct Signer {
    key: ed25519_dalek::SigningKey,
    tenant: String,
    audience: String,
}

impl Signer {
    fn new(client: &mut Client, tenant: &str) -> Result<Self, Box<dyn Error>> {
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
        client.execute("SELECT tally.register_key('bench', $1)", &[&&key.verifying_key().to_bytes()[..]])?;
        let audience = client.query_one("SELECT tally.token_audience()", &[])?.get(0);
        Ok(Self { key, tenant: tenant.to_owned(), audience })
    }

    fn token(&self, client: &mut Client) -> Result<String, Box<dyn Error>> {
        use ed25519_dalek::Signer as _;
        let nonce: String = client.query_one("SELECT tally.challenge()", &[])?.get(0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let claims = format!(
            r#"{{"v":1,"kid":"bench","tenant":"{}","aud":"{}","role":"tally_bench_pool","nonce":"{nonce}","iat":{now},"exp":{}}}"#,
            self.tenant,
            self.audience,
            now + 30
        );
        let text = format!("{}{}", tally_core::token::PREFIX, tally_core::token::encode(claims.as_bytes()));
        Ok(format!("{text}.{}", tally_core::token::encode(&self.key.sign(text.as_bytes()).to_bytes())))
    }
}
