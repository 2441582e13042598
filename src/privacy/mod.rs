//! Privacy: what is done to personal data before it is stored, and by which keys.
//!
//! `rules` are declared; `master` has the key-encrypting keys, `keys` the tenants' keys that those wrap. Ingest asks a `Guard`, which has
//! what one call needs of both. `stored` does the same to what was stored before, in the steps
//! of `renewal`; `opening` opens again what may be opened, and `reveal` shows it to a custodian.
//! `subject` knows whose events are refused, `personal` where documents seem to have personal data.
//! docs/PRIVACY.md says what is promised, docs/decisions/privacy.md why it is done so.

mod declare;
mod failure;
mod guard;
mod keys;
mod master;
mod opening;
mod personal;
mod renewal;
mod reveal;
mod rules;
mod stored;
pub mod subject;

pub use failure::{KEYS_MISSING, PrivacyFailure};
pub use guard::{Guard, fetch_keys, hidden, quiet};
pub use opening::{Body, open_body};
pub use subject::Stored;
