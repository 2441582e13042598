//! What is verified at a time: the buckets of one grain.

use super::super::definition::Definition;
use super::super::frozen::Frozen;
use crate::backend::sql;
use tally_core::grain::Grain;

/// What is verified at a time: the buckets of one grain.
pub struct Part<'a> {
    pub definition: &'a Definition,
    pub grain: Grain,
    /// Buckets of any tenant that begin before this are frozen.
    pub horizon: i64,
    /// Moments before which single tenants' are.
    pub frozen: &'a Frozen,
    /// The one tenant that is asked for.
    pub tenant: Option<&'a str>,
}

impl Part<'_> {
    /// SQL that is true where the bucket that begins at `column` is compared with events.
    pub fn is_thawed(&self, column: &str, thawed: i64) -> String {
        let of_all = sql::within(column, &(thawed..i64::MAX));
        format!("{of_all} AND {}", self.frozen.not_frozen(column))
    }

    /// SQL that is true for rows of the tenant that is asked for.
    pub fn of_tenant(&self) -> String {
        self.tenant.map_or_else(String::new, |tenant| format!(" AND tenant_id = {}", sql::literal(tenant)))
    }
}
