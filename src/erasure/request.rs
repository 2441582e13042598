//! What is asked for: checked, and noted with a hash of the subject, by which ingest refuses its events.

use super::failure::ErasureError;
use crate::backend::call::sql_function;
use crate::backend::{session, sql};
use crate::privacy::subject;
use crate::raw::RawError;
use crate::scope;
use core::ffi::CStr;
use pgrx::Uuid;
use pgrx::pg_sys::Datum;

/// Bytes from which on a subject is looked for in the reason: shorter ones stand in it by chance.
const TELLING_BYTES: usize = 4;

/// Whom to erase, and why.
pub struct Request<'a> {
    pub tenant: &'a str,
    pub subjects: Vec<String>,
    pub reason: &'a str,
}

impl<'a> Request<'a> {
    /// Checks what a caller gave, and that it has shown a second factor where that is needed.
    pub fn check(
        command: &CStr,
        tenant: Option<&'a str>,
        subjects: Option<Vec<Option<String>>>,
        reason: Option<&'a str>,
    ) -> Result<Self, ErasureError> {
        session::require_writable(command);
        if session::has_fixed_snapshot() {
            return Err(RawError::FixedSnapshot.into());
        }
        let tenant = tenant.ok_or(ErasureError::Missing("tenant_id"))?;
        let subjects: Option<Vec<String>> = subjects.and_then(|subjects| subjects.into_iter().collect());
        let subjects = subjects.ok_or(ErasureError::Missing("subject"))?;
        let reason =
            reason.filter(|reason| scope::says_something(reason)).ok_or(ErasureError::Missing("reason"))?;
        scope::check_words("reason", reason)?;
        scope::check("tenant_id", tenant)?;
        for subject in &subjects {
            scope::check("subject", subject)?;
            if subject.len() >= TELLING_BYTES && reason.contains(subject.as_str()) {
                return Err(ErasureError::Named);
            }
        }
        if scope::tenant_of_session().is_some_and(|own| own != tenant) {
            return Err(ErasureError::Elsewhere);
        }
        scope::require_step_up("erase_subject")?;
        Ok(Self { tenant, subjects, reason })
    }

    /// What stands for each subject.
    pub fn hashes(&self) -> Vec<Uuid> {
        self.subjects.iter().map(|subject| subject::hash_or_begin(self.tenant, subject)).collect()
    }

    /// Notes the request; returns how many subjects weren't noted before.
    pub fn note(&self, hashes: &[Uuid]) -> i64 {
        let requested_by = scope::subject().unwrap_or_else(session::session_role_name);
        let note = "SELECT tally_internal.request_erasures($1, $2, $3, $4, $5)";
        let values = [
            self.tenant.into(),
            self.subjects.clone().into(),
            hashes.to_vec().into(),
            self.reason.into(),
            requested_by.into(),
        ];
        session::as_owner(|| sql::one(note, &values)).unwrap_or(0)
    }
}

sql_function! {
    /// Has housekeeping erase them: `erase_subjects(tenant_id, subjects, reason)`.
    fn tally_erase_subjects / pg_finfo_tally_erase_subjects(call) {
        let request = Request::check(c"tally.erase_subjects()", call.text(0), call.texts(1), call.text(2))?;
        Ok(Some(Datum::from(request.note(&request.hashes()))))
    }
}
