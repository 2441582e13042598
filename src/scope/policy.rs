//! What row security asks of each row: whether it is in the scope. A query reads the scope once, as a key
//! (`tally_core::scope_key`), and each row costs one comparison of bytes.
//!
//! Two comparisons in SQL would bound the account as well, and did: the planner, which can't know their bounds, took a
//! two-hundredth of the rows for granted and sorted where it should have hashed. This function tells it what to expect, and
//! how to find one account by an index.

use super::current::{current, entered, for_records, is_record};
use super::kind::Scope;
use crate::backend::call::{self, Call, Outcome, sql_function};
use crate::backend::planner::{self, Condition};
use crate::backend::reads::Reads;
use crate::backend::session;
use pgrx::pg_sys::Datum;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use tally_core::{id, scope_key};

#[pg_extern(sql = false)]
fn scope_key() -> Result<String, ErrorReport> {
    Ok(current()?.key())
}

sql_function! {
    fn tally_account_in_scope / pg_finfo_tally_account_in_scope(call) fast {
        let (tenant, key) = (call.bytes_in_place(0)?, call.bytes_in_place(2)?);
        // An id is short enough to lie in place; if one doesn't, the other way reads it.
        let mut is_elsewhere = false;
        let admitted = scope_key::admits(key, tenant, || {
            let account = call.bytes_in_place(1);
            is_elsewhere = account.is_none();
            account
        });
        (!is_elsewhere).then(|| Datum::from(admitted))
    } {
        let (Some(tenant), Some(key)) = (call.bytes(0), call.bytes(2)) else { return Ok(None) };
        Ok(Some(Datum::from(scope_key::admits(key, tenant, || call.bytes(1)))))
    }
}

sql_function! {
    fn tally_tenant_in_scope / pg_finfo_tally_tenant_in_scope(call) fast {
        Some(Datum::from(scope_key::admits(call.bytes_in_place(1)?, call.bytes_in_place(0)?, || None)))
    } {
        let (Some(tenant), Some(key)) = (call.bytes(0), call.bytes(1)) else { return Ok(None) };
        Ok(Some(Datum::from(scope_key::admits(key, tenant, || None))))
    }
}

/// The account of a key, or `otherwise`.
fn bound(call: &Call, otherwise: &str) -> Outcome {
    let Some(key) = call.text(0) else { return Ok(None) };
    let account = scope_key::parts(key).and_then(|(_, account)| account);
    Ok(Some(call::varlena(account.unwrap_or(otherwise).as_bytes())))
}

sql_function! { fn tally_first_account / pg_finfo_tally_first_account(call) { bound(call, "") } }
sql_function! { fn tally_last_account / pg_finfo_tally_last_account(call) { bound(call, id::GREATEST) } }

// The guards of 0.1.0 call these two, until ALTER EXTENSION pg_tally UPDATE has made them anew.

#[pg_extern(sql = false)]
fn scope_first_account() -> Result<String, ErrorReport> {
    Ok(current()?.account().unwrap_or_default())
}

#[pg_extern(sql = false)]
fn scope_last_account() -> Result<String, ErrorReport> {
    Ok(current()?.account().unwrap_or_else(|| id::GREATEST.to_owned()))
}

/// The restrictive policy that every isolated table has.
const GUARD: &core::ffi::CStr = c"tally_guard";

/// Refuses a statement that has no scope and reads an isolated table, whatever its plan leaves out and whether there are rows.
/// The policies alone would raise the error when the first row is met. The library is there in time: planning such a table calls
/// `in_scope_support`.
pub fn require_scope(reads: &Reads) -> Result<(), ErrorReport> {
    // The tables first: who reads others has nothing looked up about itself.
    if entered().is_none() && reads.are_bound_by(GUARD, |_| true) && session::is_installed() {
        if reads.are_bound_by(GUARD, |table| !is_record(table)) {
            current()?;
        } else {
            for_records()?;
        }
    }
    Ok(())
}

/// The condition `in_scope(tenant, account, key)`; where a table has no account the key comes second, and nothing is bounded.
const IN_SCOPE: Condition = Condition {
    value: 1,
    key: 2,
    first: c"tally.first_account(pg_catalog.text)",
    last: c"tally.last_account(pg_catalog.text)",
};

sql_function! {
    fn tally_in_scope_support / pg_finfo_tally_in_scope_support(call) {
        // The plan may serve another scope later: this is about speed alone.
        let is_one_account = || matches!(current(), Ok(Scope::Tenant { account: Some(_), .. }));
        Ok(Some(planner::answer(call, &IN_SCOPE, is_one_account)))
    }
}
