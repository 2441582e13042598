//! The fingerprint: a stable hash of an event's content.

use super::EventRef;

/// Hashes account, name, time, user, session and properties; not the tenant, nor the event id.
pub fn fingerprint(_event: &EventRef<'_>) -> i64 {
    unimplemented!("fingerprint")
}
