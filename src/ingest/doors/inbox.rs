//! The bulk door: rows that are inserted into the view `tally.inbox`, by COPY or INSERT, are buffered and go through the
//! pipeline a batch at a time, so that a statement of any length needs bounded memory.
//!
//! BEFORE STATEMENT opens a buffer, INSTEAD OF INSERT fills it, AFTER STATEMENT sends what is left. Statements can lie within
//! each other (a function that inserts, called by one that is inserting), so buffers are stacked; those of a statement
//! that failed go when its (sub)transaction does.

use crate::backend::call::sql_function;
use crate::backend::copied_row;
use crate::backend::ending;
use crate::backend::report::Report;
use crate::backend::trigger::Trigger;
use crate::ingest::failure::IngestError;
use crate::ingest::options::Options;
use crate::ingest::pipeline;
use crate::quota::{self, Quotas};
use crate::raw::outcome::Counts;
use crate::scope::Scope;
use core::cell::RefCell;
use pgrx::pg_sys::Datum;
use std::collections::HashMap;
use std::rc::Rc;
use tally_core::event::{self, BatchError, EventRef, FieldsParser, Item, Limits, Rejection};

/// Rows of a batch: what costs a batch little beside its rows.
const ROWS: usize = 10_000;
/// Bytes of a batch. 8 MB is 800 bytes a row where there are ROWS of them.
const BYTES: usize = 8 << 20;
const COLUMNS: usize = event::FIELD_NAMES.len();

/// A statement's rows that haven't been ingested yet.
struct Inbox {
    /// Nesting of the transaction that the statement runs in.
    nesting: i32,
    scope: Scope,
    options: Options,
    /// The rows' texts, one behind the other.
    text: String,
    /// Of each row: where each column's text ends in `text`, `None` where it is null.
    rows: Vec<[Option<usize>; COLUMNS]>,
    /// Rows that were ingested before these.
    before: usize,
    /// Where some tenant's batches are limited: the quotas, and how many of these rows are whose.
    limits: Option<Rc<Quotas>>,
    sent: HashMap<String, i64>,
    /// Whether a tenant has as many as its batches may have.
    is_full: bool,
    batches: usize,
    counts: Counts,
}

thread_local! {
    static OPEN: RefCell<Vec<Inbox>> = const { RefCell::new(Vec::new()) };
}

/// Drops the buffers of statements that were undone; 0 drops all.
fn forget(nesting: i32) {
    OPEN.with_borrow_mut(|open| open.retain(|inbox| inbox.nesting < nesting));
}

impl Inbox {
    fn open() -> Result<Self, Report> {
        ending::watch(forget);
        Ok(Self {
            nesting: ending::nesting(),
            scope: pipeline::admit()?,
            limits: quota::current().filter(|quotas| quotas.limit_batches()),
            sent: HashMap::new(),
            is_full: false,
            options: Options::read(None)?,
            text: String::new(),
            rows: Vec::new(),
            before: 0,
            batches: 0,
            counts: Counts::default(),
        })
    }

    fn push(&mut self, texts: [Option<&str>; COLUMNS]) -> Result<(), IngestError> {
        let most = Limits::default().batch_bytes;
        let bytes: usize = texts.iter().flatten().map(|text| text.len()).sum();
        if bytes > most {
            let reason = format!(
                "row {} has {bytes} bytes, at most {most} are allowed",
                self.before + self.rows.len()
            );
            return Err(BatchError::of_size(reason).into());
        }
        if let Some(quotas) = &self.limits {
            let tenant = match &self.scope {
                Scope::Tenant { tenant, .. } => tenant,
                Scope::Global => texts[0].unwrap_or_default(),
            };
            let sent = self.sent.entry(tenant.to_owned()).or_default();
            *sent += 1;
            self.is_full |= quotas.of(tenant).batch_events.is_some_and(|most| *sent >= most);
        }
        self.rows.push(texts.map(|text| {
            text.map(|text| {
                self.text.push_str(text);
                self.text.len()
            })
        }));
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.is_full || self.rows.len() >= ROWS || self.text.len() >= BYTES
    }

    /// Sends what is buffered through the pipeline.
    fn flush(&mut self) -> Result<(), Report> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let limits = pipeline::limits();
        let mut parser = FieldsParser::new(&limits);
        let mut start = 0;
        let judged: Vec<(String, Result<EventRef, Rejection>)> = self
            .rows
            .iter()
            .map(|row| {
                let fields = row.map(|end| {
                    end.map(|end| {
                        let text = &self.text[start..end];
                        start = end;
                        text
                    })
                });
                let event = parser.event(&fields);
                // The text of an event that is accepted is never asked for.
                let body = if event.is_ok() { String::new() } else { event::fields_to_json(&fields) };
                (body, event)
            })
            .collect();
        let (bodies, events): (Vec<String>, Vec<_>) = judged.into_iter().unzip();
        let items = bodies
            .iter()
            .zip(events)
            .enumerate()
            .map(|(row, (raw, event))| Item { position: self.before + row, raw, event })
            .collect();
        let summary = pipeline::run_items(items, self.scope.clone(), self.options.clone())?;
        self.counts.add_all(&summary.counts);
        self.before += self.rows.len();
        self.batches += 1;
        self.rows.clear();
        self.text.clear();
        self.sent.clear();
        self.is_full = false;
        Ok(())
    }

    /// Tells what the statement's row count doesn't.
    fn report(&self) {
        let Counts { accepted, duplicates, conflicts, rejected } = self.counts;
        if conflicts + rejected > 0 {
            pgrx::notice!(
                "tally.inbox: {accepted} accepted, {duplicates} duplicates, {conflicts} conflicts, {rejected} rejected in {} batches",
                self.batches
            );
        }
    }
}

/// The statement's buffer; an error where the function is called otherwise than by the view's triggers.
fn take() -> Result<Inbox, Report> {
    OPEN.with_borrow_mut(Vec::pop).ok_or_else(misused)
}

fn misused() -> Report {
    Report::new("0A000", "this function is for the triggers of tally.inbox").hint("insert into tally.inbox")
}

sql_function! {
    fn tally_inbox_begin / pg_finfo_tally_inbox_begin(call) {
        copied_row::hidden(|| {
            Trigger::of(call).ok_or_else(misused)?;
            let inbox = Inbox::open()?;
            OPEN.with_borrow_mut(|open| open.push(inbox));
            Ok(Some(Datum::from(0)))
        })
    }
}

sql_function! {
    fn tally_inbox_row / pg_finfo_tally_inbox_row(call) {
        copied_row::hidden(|| {
            let trigger = Trigger::of(call).ok_or_else(misused)?;
            let full = OPEN.with_borrow_mut(|open| -> Result<_, Report> {
                let inbox = open.last_mut().ok_or_else(misused)?;
                trigger.with_texts(|texts| inbox.push(texts))??;
                Ok(inbox.is_full())
            })?;
            if full {
                // Out of the stack meanwhile: what ingest runs may insert, too, and what fails must not be sent again.
                let mut inbox = take()?;
                inbox.flush()?;
                OPEN.with_borrow_mut(|open| open.push(inbox));
            }
            Ok(Some(trigger.row()))
        })
    }
}

sql_function! {
    fn tally_inbox_end / pg_finfo_tally_inbox_end(call) {
        copied_row::hidden(|| {
            Trigger::of(call).ok_or_else(misused)?;
            let mut inbox = take()?;
            inbox.flush()?;
            inbox.report();
            Ok(Some(Datum::from(0)))
        })
    }
}
