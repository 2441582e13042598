//! Opening what was sealed or closed up.

use super::failure::PrivacyFailure;
use super::keys;
use tally_core::privacy;

/// What stands in the quarantine for an event.
pub enum Body {
    Text(String),
    /// It is closed up, and can't be opened now.
    Closed(PrivacyFailure),
}

/// The text of a quarantined event, opened where it is closed up.
pub fn open_body(tenant: &str, batch_id: i64, position: i32, body: String) -> Body {
    let Some(epoch) = privacy::is_box(&body) else { return Body::Text(body) };
    let (batch_id, position) = (batch_id.to_string(), position.to_string());
    let place = [tenant.as_bytes(), batch_id.as_bytes(), position.as_bytes()];
    match keys::open_box(epoch, &body, &place) {
        Ok(text) => Body::Text(text),
        Err(failure) => Body::Closed(failure),
    }
}
