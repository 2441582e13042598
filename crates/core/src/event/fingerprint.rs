//! The fingerprint: a stable hash of an event's content.

use super::EventRef;
use crate::jsonb::digest::{ArrayDigest, null, string};

/// Hashes account, name, time, user, session and properties; not the tenant, nor the event id.
///
/// Events that say the same have the same fingerprint, whatever the order of keys, white space, escapes or
/// spelling of numbers. Stable across versions, since it is stored; `docs/formats.md` describes it.
pub fn fingerprint(event: &EventRef<'_>) -> i64 {
    let optional = |text: &Option<_>| text.as_deref().map_or(null(), |t: &str| string(t.as_bytes()));
    let mut digest = ArrayDigest::new();
    digest.push(string(event.account_id.as_bytes()));
    digest.push(string(event.name.as_bytes()));
    digest.push(event.occurred_at as u64);
    digest.push(optional(&event.user_id));
    digest.push(optional(&event.session_id));
    digest.push(event.properties.digest());
    digest.finish() as i64
}
