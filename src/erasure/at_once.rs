//! Erasing one subject while the caller waits, in its transaction. Who was erased before may be there again, in a month that was elsewhere
//! then, or as the source of a batch: it is looked for as the first time, and ingest is locked out only where it has raw events.

use super::elsewhere::{self, Found, tried};
use super::failure::ErasureError;
use super::missing;
use super::removal;
use super::request::Request;
use crate::backend::call::sql_function;
use crate::backend::lock::Attempts;
use crate::backend::subtransaction::Verdict;
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
        erase(&request, &hashes)?;
        Ok(last_certificate(&request, &hashes).into_datum())
    }
}

/// How often the subject was erased.
fn times(request: &Request, hashes: &[Uuid]) -> i64 {
    let query = "SELECT count(*) FROM tally.erasure AS x \
                  WHERE x.tenant_id = $1 AND x.subject_hash = ANY ($2) AND x.finished_at IS NOT NULL";
    let values = [request.tenant.into(), hashes.to_vec().into()];
    session::as_owner(|| sql::changed_rows(query, &values, |row| row.need(1))).into_iter().next().unwrap_or(0)
}

fn last_certificate(request: &Request, hashes: &[Uuid]) -> Option<JsonB> {
    let query = "SELECT x.certificate FROM tally.erasure AS x \
                  WHERE x.tenant_id = $1 AND x.subject_hash = ANY ($2) AND x.finished_at IS NOT NULL \
                  ORDER BY x.finished_at DESC LIMIT 1";
    let values = [request.tenant.into(), hashes.to_vec().into()];
    session::as_owner(|| sql::changed_rows(query, &values, |row| row.need::<JsonB>(1))).into_iter().next()
}

fn erase(request: &Request, hashes: &[Uuid]) -> Result<(), ErasureError> {
    let tenant = request.tenant;
    let before = times(request, hashes);
    privacy::fetch_keys();
    // First: what is attached from here on is found below, or told.
    let lost = rollup::Lost::of(tenant);
    // Looked for while ingest goes on; what came in between, the rollup of users' activity knows.
    let everything = i64::MIN..i64::MAX;
    let users = Stored::of(tenant, &request.subjects)?;
    let (known, places) = loop {
        let known = removal::detached_months();
        let mut places = removal::find(tenant, &users.ids, &everything);
        for month in &known {
            places.extend(removal::find_in_detached(tenant, &users.ids, month));
        }
        // One that is attached between the two would be in neither; none is detached any more, since the events were read.
        if removal::detached_months() == known {
            break (known, places);
        }
    };
    let (found, nothing) = (Found::of(tenant, &users, &lost.months)?, Found::nothing());
    // By other ids than those, what was found is not all.
    let found_of = |now: &Stored| if *now == users { &found } else { &nothing };
    if before > 0 && places.is_empty() {
        // Ingest has refused its events since, so that there is nothing to wait for.
        return tried(Attempts::Several, || {
            request.note(hashes);
            let now = Stored::of(tenant, &request.subjects)?;
            let forgotten = elsewhere::forget(tenant, &now, found_of(&now), &lost.months)?;
            let missing = missing::of(&lost, &known);
            elsewhere::certify(tenant, hashes, 1, &forgotten, &lost.months, &missing)?;
            Ok(Verdict::Keep(()))
        });
    }
    tried(Attempts::Several, || {
        // Before ingest is locked out: it goes through what the caller requested himself.
        request.note(hashes);
        found.pin();
        gate::close(&[], Attempts::One)?;
        // Another session may have done it meanwhile.
        if times(request, hashes) > before {
            return Ok(Verdict::Undo(()));
        }
        // Before anything is removed, which would be done for nothing.
        rollup::await_folders()?;
        // What is attached from here on is told.
        let lost = lost.now(tenant);
        // As they are stored now: the tenant may have got keys meanwhile.
        let now = Stored::of(tenant, &request.subjects)?;
        let mut places = places.clone();
        places.extend(match removal::find_by_activity(tenant, &now.ids) {
            Some(places) => places,
            None => removal::find(tenant, &now.ids, &everything),
        });
        // Into a month that was detached nothing comes any more.
        let detached = removal::detached_months();
        for month in detached.iter().filter(|month| !known.contains(month)) {
            places.extend(removal::find_in_detached(tenant, &now.ids, month));
        }
        for place in &places {
            removal::remove(tenant, &now, place, &detached)?;
        }
        let forgotten = elsewhere::forget(tenant, &now, found_of(&now), &lost.months)?;
        let missing = missing::of(&lost, &detached);
        elsewhere::certify(tenant, hashes, 1, &forgotten, &lost.months, &missing)?;
        Ok(Verdict::Keep(()))
    })
}
