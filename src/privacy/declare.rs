//! Declaring what is protected, and rotating keys: what the SQL functions of the noun call.

use super::failure::PrivacyFailure;
use super::{keys, rules};
use crate::backend::call::sql_function;
use crate::backend::lookup::View;
use crate::backend::report::Report;
use crate::backend::{session, sql};
use pgrx::pg_sys::Datum;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use tally_core::privacy::Path;

/// Checks a path, and spells it as a JSON Pointer.
#[pg_extern(sql = false)]
fn property_path(path: &str) -> Result<String, ErrorReport> {
    let read = Path::parse(path);
    let read = read
        .map_err(|problem| PrivacyFailure::Path(format!("path \"{path}\" can't be followed: {problem}")))?;
    Ok(read.text())
}

/// The keys that a path goes through.
#[pg_extern(sql = false)]
fn path_steps(path: &str) -> Result<Vec<String>, ErrorReport> {
    let read = Path::parse(path).map_err(PrivacyFailure::Path)?;
    Ok(read.steps().to_vec())
}

/// Writes a declaration as the owner, or removes it where the treatment is null; makes the keys that are needed. The empty tenant
/// stands for all, the empty event for every one, the empty path for the user id. Says whether that changed anything.
fn write(tenant_id: &str, event: &str, path: &str, treatment: Option<&str>) -> Result<bool, PrivacyFailure> {
    session::require_writable(c"tally.protect_property()");
    let removed = "DELETE FROM tally.protection AS p WHERE p.tenant_id = $1 AND p.event_name = $2 AND p.path = $3 RETURNING true";
    let place = [tenant_id.into(), event.into(), path.into()];
    let Some(treatment) = treatment else {
        let was_there = session::as_owner(|| !sql::changed_rows(removed, &place, |_| ()).is_empty());
        rules::changed();
        return Ok(was_there);
    };
    keys::ensure_boxes()?;
    if !tenant_id.is_empty() {
        keys::of_or_made(tenant_id)?;
    }
    let write = "INSERT INTO tally.protection AS p (tenant_id, event_name, path, treatment) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT ON CONSTRAINT protection_pkey DO UPDATE SET treatment = excluded.treatment \
                   WHERE p.treatment <> excluded.treatment RETURNING true";
    let [tenant, name, path] = place;
    let values = [tenant, name, path, treatment.into()];
    let has_changed = session::as_owner(|| !sql::changed_rows(write, &values, |_| ()).is_empty());
    rules::changed();
    Ok(has_changed)
}

sql_function! {
    /// `write_protection(tenant_id, event_name, path, treatment)`
    fn tally_write_protection / pg_finfo_tally_write_protection(call) {
        let text = |place| call.text(place).unwrap_or_default();
        Ok(Some(Datum::from(write(text(0), text(1), text(2), call.text(3))?)))
    }
}

sql_function! {
    /// `rotate_tenant_key(tenant_id)`: gives a tenant a new key; returns its epoch.
    fn tally_rotate_tenant_key / pg_finfo_tally_rotate_tenant_key(call) {
        session::require_writable(c"tally.rotate_keys()");
        Ok(Some(Datum::from(keys::rotate(call.text(0).unwrap_or_default())? as i32)))
    }
}

sql_function! {
    /// `rewrap_tenant_keys(tenant_id)`: wraps a tenant's keys with the first key-encrypting key that is at hand; says whether that
    /// changed anything.
    fn tally_rewrap_tenant_keys / pg_finfo_tally_rewrap_tenant_keys(call) {
        session::require_writable(c"tally.rewrap_keys()");
        Ok(Some(Datum::from(keys::rewrap(call.text(0).unwrap_or_default())?)))
    }
}

/// `tally_internal.request_renewal()`, whatever the caller's scope.
#[pg_extern(sql = false)]
fn start_renewal(tenant_id: &str, changed: Vec<Option<String>>) {
    session::require_writable(c"tally.rotate_keys()");
    let request = "SELECT tally_internal.request_renewal($1, $2)";
    let changed: Vec<String> = changed.into_iter().flatten().collect();
    session::as_owner(|| sql::run(request, &[tenant_id.into(), changed.into()]));
}

/// Why a tenant's keys can't be used now; null where they can, or where it has none.
#[pg_extern(sql = false)]
fn key_problem(tenant_id: &str) -> Option<String> {
    let found = keys::wrapped(tenant_id, View::Now)?;
    let failure = found.open(tenant_id).err()?;
    Some(Report::from(failure).message().to_owned())
}

/// The id of the key-encrypting key that wraps now; null where none is at hand.
#[pg_extern(sql = false)]
fn master_key_id() -> Option<String> {
    super::master::keys().ok().map(|keys| keys.first().id().to_owned())
}
