//! Ways of storing a batch of events once per (tenant_id, event_id).

use postgres::{Client, Config, NoTls, Statement};
use std::error::Error;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The same events in the forms in which contenders take them, made before the clock starts.
pub struct Batch {
    pub count: i64,
    pub json: String,
    pub copy: String,
}

/// One way of storing events, in a database of its own.
pub struct Contender {
    /// Names it in the report.
    pub name: &'static str,
    client: Client,
    way: Way,
    /// A session that folds beside it, as the background worker does.
    folder: Option<Client>,
}

enum Way {
    /// `tally.ingest(text)`.
    Ingest(Statement),
    /// One INSERT from jsonb_to_recordset, duplicates dropped by ON CONFLICT DO NOTHING. Raw rows only.
    OnConflict(Statement),
    /// Text COPY into a table with the same key. Raw rows only, and a duplicate would fail the batch.
    Copy,
}

/// How many of `all` are ours; they come first.
pub const OURS: usize = 3;

const COLUMNS: &str = "tenant_id text COLLATE \"C\", account_id text, name text, occurred_at timestamptz, \
                       event_id uuid, user_id text, session_id text, properties jsonb";

const FOLD: &str = "CALL tally.maintain()";

/// Whether a process folds on behalf of calls, and more is pending than half of the default `tally.pending_limit`, which calls leave alone.
const IS_FOLDING: &str = "SELECT greatest((SELECT count(*) FROM tally.usage_pending), (SELECT count(*) FROM tally.session_pending), \
                                          (SELECT count(*) FROM tally.user_activity_pending)) > 16384 \
                             AND EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() \
                                           AND backend_type = 'pg_tally on behalf of a session')";

/// Whether anything is pending.
const IS_PENDING: &str = "SELECT EXISTS (SELECT FROM tally.usage_pending) OR EXISTS (SELECT FROM tally.session_pending) \
                             OR EXISTS (SELECT FROM tally.user_activity_pending)";

/// Creates each contender's database anew and prepares it.
pub fn all(client: &mut Client, config: &Config) -> Result<Vec<Contender>, Box<dyn Error>> {
    let mut connect = |database: &str, set_up: &str| -> Result<Client, Box<dyn Error>> {
        client.batch_execute(&format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)"))?;
        client.batch_execute(&format!("CREATE DATABASE {database}"))?;
        let mut own = config.clone().dbname(database).connect(NoTls)?;
        own.batch_execute("SET client_min_messages = warning")?;
        own.batch_execute(set_up)?;
        Ok(own)
    };
    let extension = "CREATE EXTENSION pg_tally; SELECT tally.open_months('2000-01-01')";
    // What docs/SCALING.md says.
    let with_folder =
        "CREATE EXTENSION pg_tally; SELECT tally.open_months('2000-01-01'); SET tally.pending_limit = '32MB'";
    // A filter that nothing passes: it is evaluated for each event.
    let without_rollups = "CREATE EXTENSION pg_tally; SELECT tally.open_months('2000-01-01'); UPDATE tally.rollup SET filter = 'false'";
    let mut contenders = Vec::new();
    for (name, database, set_up, folds_beside) in [
        ("ingest, three rollups", "tally_bench_ingest", extension, false),
        ("ingest, a folder beside it", "tally_bench_folder", with_folder, true),
        ("ingest, no rollup: ledger and raw", "tally_bench_bare", without_rollups, false),
    ] {
        let mut client = connect(database, set_up)?;
        let way = Way::Ingest(client.prepare("SELECT accepted FROM tally.ingest($1::text)")?);
        let folder = folds_beside.then(|| config.clone().dbname(database).connect(NoTls)).transpose()?;
        contenders.push(Contender { name, client, way, folder });
    }
    let peer = format!("CREATE TABLE peer ({COLUMNS}, PRIMARY KEY (tenant_id, event_id))");
    let mut client = connect("tally_bench_on_conflict", &peer)?;
    let way = Way::OnConflict(client.prepare(&format!(
        "INSERT INTO peer SELECT r.* FROM jsonb_to_recordset($1::text::jsonb) AS r ({COLUMNS}) \
         ON CONFLICT (tenant_id, event_id) DO NOTHING"
    ))?);
    let name = "INSERT from JSON ON CONFLICT (raw)";
    contenders.push(Contender { name, client, way, folder: None });
    let client = connect("tally_bench_copy", &peer)?;
    let name = "text COPY, same key (raw)";
    contenders.push(Contender { name, client, way: Way::Copy, folder: None });
    Ok(contenders)
}

impl Contender {
    /// Stores the batches, and has folded what is pending where a session folds beside it; returns the seconds that it took.
    pub fn run(&mut self, batches: &[Batch]) -> Result<f64, Box<dyn Error>> {
        let began = Instant::now();
        let Some(mut folder) = self.folder.take() else {
            batches.iter().try_for_each(|batch| self.load(batch))?;
            // What calls left to processes is part of their cost.
            while matches!(self.way, Way::Ingest(_))
                && self.client.query_one(IS_FOLDING, &[])?.get::<_, bool>(0)
            {
                thread::sleep(Duration::from_millis(5));
            }
            return Ok(began.elapsed().as_secs_f64());
        };
        let done = AtomicBool::new(false);
        let loaded = thread::scope(|scope| -> Result<(), Box<dyn Error>> {
            let folding = scope.spawn(|| -> Result<(), postgres::Error> {
                while !done.load(Ordering::Relaxed) {
                    folder.batch_execute(FOLD)?;
                }
                // A process that calls had started may still be at work.
                loop {
                    folder.batch_execute(FOLD)?;
                    if !folder.query_one(IS_PENDING, &[])?.get::<_, bool>(0) {
                        return Ok(());
                    }
                }
            });
            let loaded = batches.iter().try_for_each(|batch| self.load(batch));
            done.store(true, Ordering::Relaxed);
            folding.join().map_err(|_| "the folder panicked")??;
            loaded
        });
        self.folder = Some(folder);
        loaded?;
        Ok(began.elapsed().as_secs_f64())
    }

    /// Stores one batch in a transaction of its own; an error if any event was not stored.
    fn load(&mut self, batch: &Batch) -> Result<(), Box<dyn Error>> {
        let stored = match &self.way {
            Way::Ingest(call) => self.client.query_one(call, &[&batch.json])?.get(0),
            Way::OnConflict(insert) => self.client.execute(insert, &[&batch.json])? as i64,
            Way::Copy => {
                let mut writer = self.client.copy_in("COPY peer FROM STDIN")?;
                writer.write_all(batch.copy.as_bytes())?;
                writer.finish()? as i64
            }
        };
        if stored == batch.count {
            return Ok(());
        }
        Err(format!("{}: {stored} of {} events stored", self.name, batch.count).into())
    }

    /// Counts what is there at the end; an error unless it is all that was sent.
    pub fn verify(&mut self, sent: i64) -> Result<(), Box<dyn Error>> {
        let table = if matches!(self.way, Way::Ingest(_)) { "tally.events" } else { "peer" };
        let found: i64 = self.client.query_one(&format!("SELECT count(*) FROM {table}"), &[])?.get(0);
        if found == sent { Ok(()) } else { Err(format!("{}: {found} of {sent} events", self.name).into()) }
    }
}
