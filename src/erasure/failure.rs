//! Why a subject can't be erased.

use crate::backend::lock::Busy;
use crate::backend::report::{Report, raised_by_pgrx};
use crate::privacy::PrivacyFailure;
use crate::raw::RawError;
use crate::rollup::RollupError;
use crate::scope::ScopeError;

/// Why a subject can't be erased.
#[derive(Debug)]
pub enum ErasureError {
    /// Tenant, subject or reason is missing.
    Missing(&'static str),
    /// The reason names the subject.
    Named,
    /// The session is confined to another tenant.
    Elsewhere,
    /// The tenant's keys, under which events of the subject may be stored, are not at hand.
    Privacy(PrivacyFailure),
    Raw(RawError),
    Rollup(RollupError),
    Scope(ScopeError),
    Busy(Busy),
}

impl From<PrivacyFailure> for ErasureError {
    fn from(failure: PrivacyFailure) -> Self {
        Self::Privacy(failure)
    }
}

impl From<RawError> for ErasureError {
    fn from(error: RawError) -> Self {
        Self::Raw(error)
    }
}

impl From<RollupError> for ErasureError {
    fn from(error: RollupError) -> Self {
        Self::Rollup(error)
    }
}

impl From<ScopeError> for ErasureError {
    fn from(error: ScopeError) -> Self {
        Self::Scope(error)
    }
}

impl ErasureError {
    /// Whether others' transactions hold what was to be locked.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::Rollup(RollupError::Busy(_)))
    }
}

impl From<Busy> for ErasureError {
    fn from(busy: Busy) -> Self {
        Self::Busy(busy)
    }
}

impl From<ErasureError> for Report {
    fn from(error: ErasureError) -> Self {
        match error {
            ErasureError::Missing(what) => Report::new("22004", format!("{what} must be given")).hint(
                "tally.erase_subject(tenant_id, subject, reason): the reason is kept with the certificate",
            ),
            ErasureError::Named => Report::new("22023", "the reason names the subject that is to be erased")
                .hint("reasons are kept: refer to the request, by the number of a ticket for instance"),
            ErasureError::Elsewhere => Report::new("42501", "this session acts for another tenant")
                .hint("erase a subject in its own tenant's scope, or in none"),
            ErasureError::Privacy(failure) => failure.into(),
            ErasureError::Raw(error) => error.into(),
            ErasureError::Rollup(error) => error.into(),
            ErasureError::Scope(error) => error.into(),
            ErasureError::Busy(busy) => busy.into(),
        }
    }
}

raised_by_pgrx!(ErasureError);
