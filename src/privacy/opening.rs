//! Closing up what goes to quarantine, and opening it.

use super::failure::PrivacyFailure;
use super::keys;
use crate::backend::session;
use tally_core::privacy::{self, BoxPublic, Secret};

/// What stands in the quarantine for an event.
pub enum Body {
    Text(String),
    /// It is closed up, and can't be opened now.
    Closed(PrivacyFailure),
}

/// The text of a quarantined event, opened where it is closed up.
pub fn open_body(tenant: &str, batch_id: i64, position: i32, body: String) -> Body {
    let Some(epoch) = privacy::is_box(&body) else { return Body::Text(body) };
    let opened = in_place(tenant, batch_id, position as u32, |place| keys::open_box(epoch, &body, place));
    match opened {
        Ok(text) => Body::Text(text),
        Err(failure) => Body::Closed(failure),
    }
}

/// A text closed up for its place in the quarantine.
pub fn close_body(closer: &BoxPublic, tenant: &str, batch_id: i64, position: u32, text: &str) -> String {
    in_place(tenant, batch_id, position, |place| {
        closer.close(text, place, Secret::new(session::random_bytes()))
    })
}

/// Hands on what a closed text is bound to.
fn in_place<T>(tenant: &str, batch_id: i64, position: u32, work: impl FnOnce(&[&[u8]]) -> T) -> T {
    let (batch_id, position) = (batch_id.to_string(), position.to_string());
    work(&[tenant.as_bytes(), batch_id.as_bytes(), position.as_bytes()])
}
