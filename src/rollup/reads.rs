//! What the expressions of rollups read of an event, as it is asked by who protects it, erases it or says where it is.

use crate::backend::evaluator;
use crate::backend::expression;
use crate::backend::expression_reads::Reads;
use crate::backend::memory;
use crate::backend::version::transaction_number;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use tally_core::privacy::Path;

/// Expressions that are remembered at most.
const MAX_REMEMBERED: usize = 10_000;

/// What was found in a transaction, by the expression's text.
struct Known {
    transaction: u32,
    reads: HashMap<String, Rc<Reads>>,
}

thread_local! {
    static KNOWN: RefCell<Option<Known>> = const { RefCell::new(None) };
}

/// What an expression reads, with the meaning that it has for ingest. Of one that can't be read any more, as its function is gone, that
/// may be everything. It is asked once a transaction: what becomes of functions meanwhile changes nothing of what was read by them.
pub fn reads(text: &str) -> Rc<Reads> {
    let transaction = transaction_number();
    let known = KNOWN.with_borrow(|known| {
        known.as_ref().filter(|known| known.transaction == transaction)?.reads.get(text).cloned()
    });
    known.unwrap_or_else(|| {
        let found = Rc::new(read(text));
        KNOWN.with_borrow_mut(|known| {
            let is_usable =
                |known: &Known| known.transaction == transaction && known.reads.len() < MAX_REMEMBERED;
            if !known.as_ref().is_some_and(is_usable) {
                *known = Some(Known { transaction, reads: HashMap::new() });
            }
            if let Some(known) = known {
                known.reads.insert(text.to_owned(), found.clone());
            }
        });
        found
    })
}

fn read(text: &str) -> Reads {
    let look = || memory::in_temporary(c"pg_tally expression", || expression::reads(text));
    match evaluator::try_apart(look) {
        Ok(found) => found.unwrap_or_else(|_| Reads::unknown()),
        Err(caught) if caught.may_be_of_an_expression() => Reads::unknown(),
        Err(caught) => caught.rethrow(),
    }
}

/// `reads_property(expression, path)`
#[pg_extern(sql = false)]
fn reads_property(expression: &str, path: &str) -> Result<bool, ErrorReport> {
    let path = Path::parse(path).map_err(|problem| {
        ErrorReport::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, problem, "reads_property")
    })?;
    Ok(reads(expression).properties.iter().any(|reading| reading.meets(&path)))
}

/// `reads_user_id(expression)`
#[pg_extern(sql = false)]
fn reads_user_id(expression: &str) -> bool {
    reads(expression).reads_column("user_id")
}

/// `reads_session_id(expression)`
#[pg_extern(sql = false)]
fn reads_session_id(expression: &str) -> bool {
    reads(expression).reads_column("session_id")
}
