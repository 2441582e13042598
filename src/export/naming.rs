//! Whether an export's texts name one of many people, for erasures.

use crate::backend::call::{Call, sql_function};
use crate::backend::report::Report;
use pgrx::pg_sys::Datum;
use std::cell::RefCell;
use tally_core::export::parameters;
use tally_core::naming::Names;

thread_local! {
    /// Those of the last call, with the array that they came in: an erasure asks of many texts.
    static NAMES: RefCell<(Vec<u8>, Names)> = RefCell::default();
}

/// Asks a question about the names of an argument.
fn ask(call: &Call, argument: usize, question: impl FnOnce(&Names) -> bool) -> Result<Option<Datum>, Report> {
    let Some(array) = call.bytes(argument) else { return Ok(None) };
    NAMES.with_borrow_mut(|(known, names)| {
        if known != array {
            *names = Names::new(call.texts(argument).into_iter().flatten().flatten());
            array.clone_into(known);
        }
        Ok(Some(Datum::from(question(names))))
    })
}

sql_function! {
    /// `is_text_naming(text, subjects)`
    fn tally_is_text_naming / pg_finfo_tally_is_text_naming(call) {
        let text = call.text(0).unwrap_or_default();
        ask(call, 1, |names| names.are_in_text(text))
    }
}

sql_function! {
    /// `is_query_naming(query, params, subjects)`
    fn tally_is_query_naming / pg_finfo_tally_is_query_naming(call) {
        let (query, params) = (call.text(0).unwrap_or_default(), call.text(1).unwrap_or_default());
        let params = parameters(params).unwrap_or_default();
        ask(call, 2, |names| names.are_in_query(query) || names.are_in_parameters(&params))
    }
}
