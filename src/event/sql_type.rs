//! The SQL type `event`: input, output, casts, order and parts.

use crate::backend::call::{self, Call, Outcome, sql_function};
use crate::backend::report::Report;
use pgrx::pg_sys::Datum;
use std::cmp::Ordering;
use tally_core::event::{self, CodecError, EventView, Limits, Rejection};

impl From<CodecError> for Report {
    fn from(error: CodecError) -> Self {
        Report::new(error.sqlstate, error.reason)
    }
}

impl From<Rejection> for Report {
    fn from(error: Rejection) -> Self {
        Report::new(error.sqlstate, error.reason)
            .hint("an event is a JSON object with tenant_id, account_id, name, occurred_at and event_id; user_id, session_id and properties are optional")
    }
}

/// Reads a stored event argument: it was checked when it came in.
fn view(call: &Call, argument: usize) -> Result<Option<EventView<'_>>, Report> {
    Ok(call.bytes(argument).map(EventView::read).transpose()?)
}

sql_function! {
    fn tally_event_in / pg_finfo_tally_event_in(call) {
        let Some(text) = call.cstring(0) else { return Ok(None) };
        Ok(Some(call::varlena(&event::encode(&event::parse_event(text, &Limits::widest())?))))
    }
}

sql_function! {
    fn tally_event_out / pg_finfo_tally_event_out(call) {
        let Some(event) = view(call, 0)? else { return Ok(None) };
        Ok(Some(call::cstring(&event::to_json_text(&event)?)))
    }
}

sql_function! {
    fn tally_event_recv / pg_finfo_tally_event_recv(call) {
        let Some(bytes) = call.message(0) else { return Ok(None) };
        EventView::parse(bytes)?;
        Ok(Some(call::varlena(bytes)))
    }
}

sql_function! {
    fn tally_event_send / pg_finfo_tally_event_send(call) {
        Ok(call.bytes(0).map(call::varlena))
    }
}

fn compare(call: &Call, holds: fn(Ordering) -> bool) -> Outcome {
    let (Some(left), Some(right)) = (view(call, 0)?, view(call, 1)?) else { return Ok(None) };
    Ok(Some(Datum::from(holds(left.compare(&right)))))
}

sql_function! {
    fn tally_event_lt / pg_finfo_tally_event_lt(call) { compare(call, Ordering::is_lt) }
}
sql_function! {
    fn tally_event_le / pg_finfo_tally_event_le(call) { compare(call, Ordering::is_le) }
}
sql_function! {
    fn tally_event_eq / pg_finfo_tally_event_eq(call) { compare(call, Ordering::is_eq) }
}
sql_function! {
    fn tally_event_ne / pg_finfo_tally_event_ne(call) { compare(call, Ordering::is_ne) }
}
sql_function! {
    fn tally_event_ge / pg_finfo_tally_event_ge(call) { compare(call, Ordering::is_ge) }
}
sql_function! {
    fn tally_event_gt / pg_finfo_tally_event_gt(call) { compare(call, Ordering::is_gt) }
}

sql_function! {
    fn tally_event_cmp / pg_finfo_tally_event_cmp(call) {
        let (Some(left), Some(right)) = (view(call, 0)?, view(call, 1)?) else { return Ok(None) };
        Ok(Some(Datum::from(left.compare(&right) as i32)))
    }
}

sql_function! {
    fn tally_event_hash / pg_finfo_tally_event_hash(call) {
        Ok(view(call, 0)?.map(|event| Datum::from(event.hash(0) as u32 as i32)))
    }
}

sql_function! {
    fn tally_event_hash_extended / pg_finfo_tally_event_hash_extended(call) {
        let (Some(event), Some(seed)) = (view(call, 0)?, call.long(1)) else { return Ok(None) };
        Ok(Some(Datum::from(event.hash(seed as u64) as i64)))
    }
}

sql_function! {
    fn tally_event_tenant_id / pg_finfo_tally_event_tenant_id(call) {
        Ok(view(call, 0)?.map(|event| call::varlena(event.tenant_id.as_bytes())))
    }
}

sql_function! {
    fn tally_event_account_id / pg_finfo_tally_event_account_id(call) {
        Ok(view(call, 0)?.map(|event| call::varlena(event.account_id.as_bytes())))
    }
}

sql_function! {
    fn tally_event_name / pg_finfo_tally_event_name(call) {
        Ok(view(call, 0)?.map(|event| call::varlena(event.name.as_bytes())))
    }
}

sql_function! {
    fn tally_event_user_id / pg_finfo_tally_event_user_id(call) {
        Ok(view(call, 0)?.and_then(|event| event.user_id).map(|user| call::varlena(user.as_bytes())))
    }
}

sql_function! {
    fn tally_event_session_id / pg_finfo_tally_event_session_id(call) {
        Ok(view(call, 0)?.and_then(|event| event.session_id).map(|session| call::varlena(session.as_bytes())))
    }
}

sql_function! {
    fn tally_event_occurred_at / pg_finfo_tally_event_occurred_at(call) {
        Ok(view(call, 0)?.map(|event| Datum::from(event.occurred_at)))
    }
}

sql_function! {
    fn tally_event_event_id / pg_finfo_tally_event_event_id(call) {
        Ok(view(call, 0)?.map(|event| call::fixed(&event.event_id)))
    }
}

sql_function! {
    fn tally_event_properties / pg_finfo_tally_event_properties(call) {
        Ok(view(call, 0)?.map(|event| call::varlena(event.properties)))
    }
}

sql_function! {
    fn tally_event_id_from_key / pg_finfo_tally_event_id_from_key(call) {
        Ok(call.text(0).map(|key| call::fixed(&event::event_id_from_key(key))))
    }
}
