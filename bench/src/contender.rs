//! Ways of storing a batch of events once per (tenant_id, event_id).

use postgres::{Client, Statement};
use std::error::Error;
use std::io::Write;

/// The same events in the forms in which contenders take them, made before the clock starts.
pub struct Batch {
    pub count: i64,
    pub json: String,
    pub copy: String,
}

/// One way of storing events, prepared.
pub enum Contender {
    /// `tally.ingest(text)`: ledger, raw rows, quarantine and the built-in rollup.
    Ingest(Statement),
    /// One INSERT from jsonb_to_recordset, duplicates dropped by ON CONFLICT DO NOTHING. Raw rows only.
    OnConflict(Statement),
    /// Text COPY into a table with the same key. Raw rows only, and a duplicate would fail the batch.
    Copy,
}

const COLUMNS: &str = "tenant_id text COLLATE \"C\", account_id text, name text, occurred_at timestamptz, \
                       event_id uuid, user_id text, session_id text, properties jsonb";

/// Creates the tables anew and prepares the contenders; without the extension's `tally.ingest`, only the peers.
pub fn all(client: &mut Client) -> Result<Vec<Contender>, Box<dyn Error>> {
    client.batch_execute("SET client_min_messages = warning; DROP EXTENSION IF EXISTS pg_tally CASCADE")?;
    client.batch_execute("DROP SCHEMA IF EXISTS tally CASCADE; CREATE EXTENSION pg_tally")?;
    for table in ["peer_on_conflict", "peer_copy"] {
        client.batch_execute(&format!(
            "DROP TABLE IF EXISTS {table}; CREATE TABLE {table} ({COLUMNS}, PRIMARY KEY (tenant_id, event_id))"
        ))?;
    }
    let mut contenders = Vec::new();
    let found = "SELECT to_regprocedure('tally.ingest(text)') IS NOT NULL";
    if client.query_one(found, &[])?.get(0) {
        let call = "SELECT accepted FROM tally.ingest($1::text)";
        contenders.push(Contender::Ingest(client.prepare(call)?));
    } else {
        println!("NOT MEASURED: this build has no tally.ingest(text)");
    }
    let insert = format!(
        "INSERT INTO peer_on_conflict SELECT r.* FROM jsonb_to_recordset($1::text::jsonb) AS r ({COLUMNS}) \
         ON CONFLICT (tenant_id, event_id) DO NOTHING"
    );
    contenders.push(Contender::OnConflict(client.prepare(&insert)?));
    contenders.push(Contender::Copy);
    Ok(contenders)
}

impl Contender {
    /// Names the contender in the report.
    pub fn name(&self) -> &'static str {
        match self {
            Contender::Ingest(_) => "tally.ingest (ledger, raw, rollup)",
            Contender::OnConflict(_) => "INSERT from JSON ON CONFLICT (raw)",
            Contender::Copy => "text COPY, same key (raw)",
        }
    }

    /// Stores one batch in a transaction of its own; an error if any event was not stored.
    pub fn load(&mut self, client: &mut Client, batch: &Batch) -> Result<(), Box<dyn Error>> {
        let stored = match self {
            Contender::Ingest(call) => client.query_one(&*call, &[&batch.json])?.get(0),
            Contender::OnConflict(insert) => client.execute(&*insert, &[&batch.json])? as i64,
            Contender::Copy => {
                let mut writer = client.copy_in("COPY peer_copy FROM STDIN")?;
                writer.write_all(batch.copy.as_bytes())?;
                writer.finish()? as i64
            }
        };
        if stored == batch.count {
            return Ok(());
        }
        Err(format!("{}: {stored} of {} events stored", self.name(), batch.count).into())
    }

    /// Counts what is there at the end; an error unless it is all that was sent.
    pub fn verify(&self, client: &mut Client, sent: i64) -> Result<(), Box<dyn Error>> {
        let table = match self {
            Contender::Ingest(_) => "tally.events",
            Contender::OnConflict(_) => "peer_on_conflict",
            Contender::Copy => "peer_copy",
        };
        let found: i64 = client.query_one(&format!("SELECT count(*) FROM {table}"), &[])?.get(0);
        if found == sent { Ok(()) } else { Err(format!("{table} holds {found} of {sent} events").into()) }
    }
}
