//! Handing an export out.

use super::failure::ExportError;
use super::fate::{self, Run};
use super::request::{Request, check_role, parts};
use crate::audit::{self, Act};
use crate::backend::bound_query;
use crate::backend::cursor::Cursor;
use crate::backend::report::{Report, given};
use crate::backend::row_count::rows_of;
use crate::backend::subtransaction::{self, Verdict};
use crate::backend::{session, sql, transactions};
use crate::scope::{self, Scope};
use pgrx::datum::Uuid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::{Value, json};
use std::collections::VecDeque;
use tally_core::audit::hex;
use tally_core::event::format_uuid;
use tally_core::export::{Content, hash, on_one_line};

/// Rows of the first batch, and of any; bytes of one, as far as the rows before tell.
const FIRST_ROWS: i64 = 16;
const MOST_ROWS: i64 = 1000;
const BATCH_BYTES: i64 = 1 << 20;

/// An export as it was requested.
struct Stored {
    request: Request,
    hash: String,
    state: String,
    reason: Option<String>,
    /// Whether no other session sees yet what it is now.
    is_uncommitted: bool,
}

/// The export of this id that the session requested, in the present scope.
fn stored(id: &str, scope: Scope) -> Result<Stored, ExportError> {
    let (tenant, account) = parts(&scope);
    let query = "SELECT e.query, e.params::text, e.max_rows, encode(e.request_hash, 'hex'), \
           CASE WHEN e.state IN ('requested', 'approved') AND e.expires_at <= clock_timestamp() THEN 'expired' ELSE e.state END, e.reason, e.xmin::text::int8 \
      FROM tally.export AS e \
     WHERE e.id = $1::uuid AND e.tenant_id = $2 AND e.account_id IS NOT DISTINCT FROM $3 AND e.requester = session_user \
       AND e.requester_role = quote_ident(session_user)::regrole AND tally_internal.is_requester(e.identities)";
    let values = [id.into(), tenant.into(), account.into()];
    let read = |row: sql::Row| Stored {
        request: Request {
            id: id.to_owned(),
            query: row.need(1),
            params: row.need(2),
            max_rows: row.need(3),
            scope: scope.clone(),
        },
        hash: row.need(4),
        state: row.need(5),
        reason: row.get(6),
        is_uncommitted: transactions::is_running(row.need::<i64>(7) as u32),
    };
    let found = session::as_owner(|| sql::rows(query, &values, read));
    found.into_iter().next().ok_or_else(|| ExportError::NotYours(id.to_owned()))
}

fn act<'a>(name: &'a str, request: &'a Request, detail: Value) -> Act<'a> {
    let (tenant, account) = parts(&request.scope);
    let subject = scope::subject().or_else(scope::stepped_up_subject);
    let personal = subject.map_or(Value::Null, |subject| json!({"subject": subject}));
    Act { act: name, tenant, account, object: Some(&request.id), detail, personal }
}

/// Checks that it is approved, and still what was approved, and starts it.
fn begin(id: Uuid) -> Result<Lines, Report> {
    let run = Run { id: *id.as_bytes(), token: i64::from_be_bytes(session::random_bytes()) };
    let Stored { request, hash: approved, state, reason, is_uncommitted } =
        stored(&format_uuid(&run.id), scope::current()?)?;
    let refused = |state: String| {
        audit::attempt(&act(
            "export_denied",
            &request,
            json!({"act": "run", "reason": format!("it is {state}")}),
        ));
        ExportError::State { id: request.id.clone(), state, reason: reason.clone() }
    };
    if state != "approved" {
        return Err(refused(state).into());
    }
    if is_uncommitted {
        return Err(ExportError::SameTransaction(request.id).into());
    }
    check_role()?;
    // First: what it locks stays as it is from here on. What can't be read any more isn't what was approved either; but its own error
    // says more.
    let values = request.values()?;
    let cursor = session::with_settings_of_exports(|| Cursor::open(&request.query, &values));
    let bound = request.bind()?;
    bound_query::watch(run.token, &bound.functions, &bound.types, &bound.shaped);
    if hex(&request.bind()?.hash) != approved {
        audit::attempt(&act("export_void", &request, json!({"request_hash": approved})));
        fate::end(run, "void", 0, None);
        return Err(ExportError::Void(request.id).into());
    }
    let several = "SELECT tally_internal.are_several_people($1::uuid)";
    let are_several = session::as_owner(|| sql::one::<bool>(several, &[request.id.as_str().into()]));
    if are_several != Some(true) {
        let detail = json!({"request_hash": approved, "reason": "the same person approved it"});
        audit::attempt(&act("export_void", &request, detail));
        fate::end(run, "alone", 0, None);
        return Err(ExportError::SamePerson(request.id).into());
    }
    match fate::start(run) {
        None => return Err(ExportError::NoProcess.into()),
        // Another session was faster, or it was withdrawn meanwhile.
        Some(false) => return Err(refused("started already, withdrawn or expired".to_owned()).into()),
        Some(true) => {}
    }
    let detail = json!({"rows": 0, "query_hash": hex(&hash(&request.query)), "request_hash": approved});
    let running = audit::begin_running(&act("export_run", &request, detail));
    Ok(Lines {
        run,
        running,
        max_rows: request.max_rows,
        request,
        approved,
        cursor: Some(cursor),
        waiting: VecDeque::new(),
        content: Content::default(),
        rows: 0,
        bytes: 0,
        counted: 0,
    })
}

/// The lines, as they are asked for.
struct Lines {
    run: Run,
    running: u64,
    max_rows: i64,
    request: Request,
    /// The hash of what was approved.
    approved: String,
    cursor: Option<Cursor>,
    waiting: VecDeque<String>,
    content: Content,
    /// Handed out.
    rows: i64,
    bytes: i64,
    /// What they count as.
    counted: i64,
}

impl Lines {
    /// Takes the next batch from the cursor; at its end, notes that.
    fn fill(&mut self) {
        let Some(cursor) = &self.cursor else { return };
        if let Err(error) = check_role() {
            Report::from(error).raise();
        }
        let average = (self.bytes / self.rows.max(1)).max(1);
        let rows = if self.rows == 0 { FIRST_ROWS } else { (BATCH_BYTES / average).clamp(1, MOST_ROWS) };
        let waiting = &mut self.waiting;
        let found = session::with_settings_of_exports(|| {
            scope::without_row_limit(|| cursor.fetch(rows, |line| waiting.push_back(on_one_line(line))))
        });
        // After they were fetched, before one leaves.
        if bound_query::has_changed(self.run.token, || self.has_other_basis()) {
            self.end("changed");
            self.waiting.clear();
            Report::from(ExportError::Changed(format_uuid(&self.run.id))).raise();
        }
        if found == 0 {
            self.end("done");
        }
    }

    /// Whether what would run now isn't what was approved.
    fn has_other_basis(&self) -> bool {
        match subtransaction::run(|| Verdict::Undo(self.request.bind())) {
            Ok(Ok(bound)) => hex(&bound.hash) != self.approved,
            Ok(Err(_)) => true,
            // What it names is gone, or can't be read as it was.
            Err(caught) if caught.is_about_data() => true,
            Err(caught) => caught.rethrow(),
        }
    }

    fn end(&mut self, state: &str) {
        if let Some(cursor) = self.cursor.take() {
            cursor.close();
        }
        bound_query::unwatch(self.run.token);
        let content = std::mem::take(&mut self.content).finish();
        audit::note_running(self.running, "content_hash", json!(hex(&content)));
        audit::note_running(self.running, "state", json!(state));
        audit::finish_running(self.running);
        fate::end(self.run, state, self.rows as u64, Some(content));
    }
}

impl Iterator for Lines {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        if self.waiting.is_empty() {
            self.fill();
        }
        let line = self.waiting.pop_front()?;
        // As the limit of a statement's rows: many would be put together in one.
        self.counted += rows_of(line.len() as u64) as i64;
        if self.counted > self.max_rows {
            self.end("failed");
            Report::from(ExportError::TooManyRows(self.max_rows)).raise();
        }
        self.content.line(&line);
        self.rows += 1;
        self.bytes += line.len() as i64;
        // Before it leaves: what is broken off then has left this far.
        audit::note_running(self.running, "rows", json!(self.rows));
        Some(line)
    }
}

#[pg_extern(sql = false)]
fn run_export(id: Option<Uuid>) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    Ok(SetOfIterator::new(begin(given(id, "id", "tally.exports shows the ids of exports")?)?))
}
