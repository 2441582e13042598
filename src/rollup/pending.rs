//! What rollups still need raw events for: whoever removes events asks here first.

use super::RollupError;
use super::definition;
use crate::backend::session;
use crate::backend::sql::{self, Moment, quote};
use tally_core::grain::Grain;

/// Why raw events must stay for now. Each has the name of the rollup.
#[derive(Debug)]
pub enum Needed {
    /// They are still to be counted.
    Unfilled(String),
    /// Pending rows still stand for them.
    Pending(String),
}

/// Whether, and why, events from before a moment must stay, those of a tenant or all. Holds the lock that keeps rollups from being
/// declared.
pub fn needs_raw_before(moment: i64, tenant: Option<&str>) -> Result<Option<Needed>, RollupError> {
    let definitions = definition::all()?;
    session::as_owner(|| {
        for definition in definitions.iter() {
            let name = &definition.name;
            if definition.filled_from != i64::MIN {
                return Ok(Some(Needed::Unfilled(name.clone())));
            }
            if has_pending_before(name, definition.pending_grain(), moment, tenant) {
                return Ok(Some(Needed::Pending(name.clone())));
            }
        }
        Ok(None)
    })
}

/// Whether pending rows stand for events from before a moment. Not by way of the definitions: their lock is the weaker one of
/// those that two sessions would then hold and wait for.
pub fn pending_without_lock(moment: i64) -> bool {
    let declared = definition::grains();
    session::as_owner(|| {
        declared
            .iter()
            .any(|(name, grains)| has_pending_before(name, definition::finest(grains), moment, None))
    })
}

/// Whether a rollup has pending rows, of a tenant or of any, of a bucket that ends by a moment. One that goes on after it gets
/// rows for as long as events come in.
fn has_pending_before(rollup: &str, grain: Grain, moment: i64, tenant: Option<&str>) -> bool {
    let of_tenant = if tenant.is_some() { "AND tenant_id = $2" } else { "AND $2 IS NULL" };
    let query = format!(
        "SELECT EXISTS (SELECT FROM tally.{} WHERE bucket < $1 {of_tenant})",
        quote(&format!("{rollup}_pending")),
    );
    sql::one(&query, &[Moment(grain.floor(moment)).into(), tenant.into()]) != Some(false)
}
