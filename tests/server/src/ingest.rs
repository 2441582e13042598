//! Ingest as an application calls it.

use postgres::types::Json;
use postgres::{Client, Error, GenericClient, SimpleQueryMessage};

/// What `tally.ingest` answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    pub batch_id: i64,
    pub accepted: i64,
    pub duplicates: i64,
    pub conflicts: i64,
    pub rejected: i64,
    /// What was not accepted, and why.
    pub details: Option<serde_json::Value>,
}

impl Summary {
    /// Sums the outcomes: the number of events sent, if nothing was lost.
    pub fn sent(&self) -> i64 {
        self.accepted + self.duplicates + self.conflicts + self.rejected
    }
}

/// Sends `text`, one event or an array, through `tally.ingest(text)`.
pub fn ingest(client: &mut impl GenericClient, text: &str) -> Result<Summary, Error> {
    let row = client.query_one(
        "SELECT batch_id, accepted, duplicates, conflicts, rejected, details FROM tally.ingest($1::text)",
        &[&text],
    )?;
    Ok(Summary {
        batch_id: row.get(0),
        accepted: row.get(1),
        duplicates: row.get(2),
        conflicts: row.get(3),
        rejected: row.get(4),
        details: row.get::<_, Option<Json<_>>>(5).map(|Json(value)| value),
    })
}

/// The same in one statement by the simple protocol, which ends its transaction: here a call may fold itself. Gives how many were accepted.
pub fn ingest_by_simple_query(client: &mut Client, text: &str) -> Result<i64, Error> {
    let answer = client.simple_query(&format!("SELECT accepted FROM tally.ingest($batch${text}$batch$)"))?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(row.expect("a summary").parse().expect("a number"))
}

/// Joins JSON texts into one array.
pub fn json_array<'a>(objects: impl IntoIterator<Item = &'a str>) -> String {
    let mut out = String::from("[");
    for object in objects {
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(object);
    }
    out.push(']');
    out
}
