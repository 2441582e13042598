//! Erasing one subject while the caller waits, in its transaction.

use super::elsewhere;
use super::failure::ErasureError;
use super::removal;
use super::request::Request;
use crate::backend::call::sql_function;
use crate::backend::lock::Attempts;
use crate::backend::{session, sql};
use crate::privacy::{self, Stored};
use crate::raw::gate;
use crate::rollup;
use pgrx::{IntoDatum, JsonB, Uuid};

sql_function! {
    /// `erase_subject(tenant_id, subject, reason)`
    fn tally_erase_subject / pg_finfo_tally_erase_subject(call) {
        let subject = call.text(1).map(str::to_owned);
        let request = Request::check(c"tally.erase_subject()", call.text(0), Some(vec![subject]), call.text(2))?;
        let hashes = request.hashes();
        if let Some(certificate) = certificate(&request, &hashes) {
            return Ok(certificate.into_datum());
        }
        erase(&request, &hashes)?;
        Ok(certificate(&request, &hashes).into_datum())
    }
}

/// That of a subject that was erased.
fn certificate(request: &Request, hashes: &[Uuid]) -> Option<JsonB> {
    let query = "SELECT x.certificate FROM tally.erasure AS x \
                  WHERE x.tenant_id = $1 AND x.subject_hash = ANY ($2) AND x.finished_at IS NOT NULL";
    let values = [request.tenant.into(), hashes.to_vec().into()];
    session::as_owner(|| sql::changed_rows(query, &values, |row| row.need::<JsonB>(1))).into_iter().next()
}

fn erase(request: &Request, hashes: &[Uuid]) -> Result<(), ErasureError> {
    let tenant = request.tenant;
    privacy::fetch_keys();
    // Looked for while ingest goes on; what came in between, the rollup of users' activity knows.
    let everything = i64::MIN..i64::MAX;
    let mut places = removal::find(tenant, &Stored::of(tenant, &request.subjects)?.ids, &everything);
    let lost = rollup::Lost::of(tenant);
    gate::close(&[], Attempts::Several)?;
    // As they are stored now: the tenant may have got keys meanwhile.
    let users = Stored::of(tenant, &request.subjects)?;
    places.extend(match removal::find_by_activity(tenant, &users.ids) {
        Some(places) => places,
        None => removal::find(tenant, &users.ids, &everything),
    });
    // Another session may have done it meanwhile.
    if certificate(request, hashes).is_some() {
        return Ok(());
    }
    request.note(hashes);
    for place in &places {
        removal::remove(tenant, &users, place)?;
    }
    let lost = lost.now(tenant);
    let forgotten = elsewhere::forget(tenant, &users, &lost)?;
    elsewhere::certify(tenant, hashes, 1, &forgotten, &lost)
}
