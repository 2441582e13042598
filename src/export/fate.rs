//! What becomes of an export, noted in a transaction of its own: rows that have left don't come back where the client's is undone.

use crate::backend::arena::Arena;
use crate::backend::heap::Declared;
use crate::backend::lookup::{Key, Lookup, View};
use crate::backend::worker::{self, process_main};
use crate::backend::{own_transaction, session, sql};
use pgrx::pg_sys;
use tally_core::event::format_uuid;
use tally_core::token::encode;

/// An export, and the random number of the session that runs it.
#[derive(Clone, Copy)]
pub struct Run {
    pub id: [u8; 16],
    pub token: i64,
}

const EXPORTS: Declared = Declared {
    table: "export",
    columns: &[
        ("requested_at", pg_sys::TIMESTAMPTZOID),
        ("expires_at", pg_sys::TIMESTAMPTZOID),
        ("decided_at", pg_sys::TIMESTAMPTZOID),
        ("started_at", pg_sys::TIMESTAMPTZOID),
        ("ended_at", pg_sys::TIMESTAMPTZOID),
        ("max_rows", pg_sys::INT8OID),
        ("rows", pg_sys::INT8OID),
        ("run_token", pg_sys::INT8OID),
        ("approvals", pg_sys::INT4OID),
        ("id", pg_sys::UUIDOID),
    ],
    key: &["id"],
};

/// Starts it, which succeeds once; `None` where Postgres has no process to spare.
pub fn start(run: Run) -> Option<bool> {
    if !tell(run.id, run.token, "start", 0, "") {
        return None;
    }
    // As of now, whatever the transaction's snapshot.
    let mut arena = Arena::default();
    let mut exports = Lookup::open(session::relation(c"export"), &[Key::Uuid], View::Now);
    exports.require(&EXPORTS);
    let found = exports.find(&[arena.fixed(&run.id)], [EXPORTS.at("run_token")]).and_then(|row| row.long(0));
    exports.close();
    Some(found == Some(run.token))
}

/// Notes that it has ended: `done`, or `failed`, or that it is `void`.
pub fn end(run: Run, state: &str, rows: u64, content: Option<[u8; 32]>) {
    let content = content.map(|hash| encode(&hash)).unwrap_or_default();
    tell(run.id, 0, state, rows, &content);
}

/// Has the process started; a message of it has 127 bytes at most.
fn tell(id: [u8; 16], token: i64, state: &str, rows: u64, content: &str) -> bool {
    let id = u128::from_be_bytes(id);
    own_transaction::run("tally_export_main", &format!("{id:032x} {token:x} {state} {rows} {content}"))
}

process_main! {
    /// Where Postgres starts the process that notes what becomes of an export.
    fn tally_export_main() {
        let message = own_transaction::begin();
        let words: Vec<&str> = message.split(' ').collect();
        let [id, token, state, rows, content] = words[..] else { return };
        let (Ok(id), Ok(token), Ok(rows)) =
            (u128::from_str_radix(id, 16), u64::from_str_radix(token, 16), rows.parse::<i64>())
        else {
            return;
        };
        let (id, token) = (format_uuid(&id.to_be_bytes()), token as i64);
        worker::transaction(|| {
            session::as_owner(|| {
                if state == "start" {
                    sql::one::<bool>(
                        "SELECT tally_internal.start_export($1::uuid, $2)",
                        &[id.as_str().into(), token.into()],
                    );
                } else {
                    sql::run(
                        "SELECT tally_internal.end_export($1::uuid, $2, $3, \
                         encode(decode(translate(nullif($4, ''), '-_', '+/') || '=', 'base64'), 'hex'))",
                        &[id.as_str().into(), state.into(), rows.into(), content.into()],
                    );
                }
            });
        });
    }
}
