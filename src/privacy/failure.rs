//! Why something can't be protected, or not be shown.

use crate::backend::report::{Report, raised_by_pgrx};
use tally_core::privacy::PrivacyError;

/// SQLSTATE where keys that are needed are not at hand.
pub const KEYS_MISSING: &str = "55T80";

#[derive(Clone, Debug)]
pub enum PrivacyFailure {
    /// No key-encrypting key can be had: why.
    NoMaster(String),
    /// The keys that are at hand don't fit what is stored.
    Key(PrivacyError),
    /// What stands in a place can't be opened.
    Closed(PrivacyError),
    /// Nothing sealed stands there.
    NotSealed,
    /// There is no such event, or none in scope.
    NoEvent,
    /// A path that can't be followed.
    Path(String),
    /// A tenant has no keys.
    NoKeys(String),
    /// A key was rotated as often as it can be.
    Epochs(String),
    /// A transaction is making keys of the tenant, or has changed them.
    Concurrent(String),
}

impl From<PrivacyError> for PrivacyFailure {
    fn from(error: PrivacyError) -> Self {
        Self::Key(error)
    }
}

const HAVE_KEYS: &str = "set tally.key_file to a file with a key, which the server's user alone may read, or tally.key_command to a command that prints it; docs/PRIVACY.md says how a key is made";

impl From<PrivacyFailure> for Report {
    fn from(failure: PrivacyFailure) -> Self {
        let missing = "the keys of protected data are not at hand";
        match failure {
            PrivacyFailure::NoMaster(why) => Report::new(KEYS_MISSING, missing).detail(why).hint(HAVE_KEYS),
            PrivacyFailure::Key(error @ PrivacyError::UnknownMaster(_)) => {
                Report::new(KEYS_MISSING, missing).detail(error.to_string()).hint(
                    "add the earlier key to the file, behind the new one, and call tally.rewrap_keys(); then it can go",
                )
            }
            PrivacyFailure::Key(error) => Report::new(KEYS_MISSING, missing)
                .detail(error.to_string())
                .hint("tally.privacy_key was changed, or is of another database: restore it with its key file"),
            PrivacyFailure::Closed(error) => Report::new("22T81", error.to_string())
                .hint("a sealed value opens in the tenant, event and path that it was sealed for, and nowhere else"),
            PrivacyFailure::NotSealed => Report::new("22T82", "there is no sealed value in this place")
                .hint("a token can't be turned back, and what was dropped is gone; protect with the treatment seal what must be read again"),
            PrivacyFailure::NoEvent => Report::new("02000", "there is no such event in scope")
                .hint("enter the tenant's scope; its raw event may be gone, too"),
            PrivacyFailure::Path(problem) => Report::new("22023", problem).hint(
                "a path is the name of a key, or a JSON Pointer that begins with a slash, as /user/email; arrays on the way are passed through",
            ),
            PrivacyFailure::NoKeys(tenant) => {
                Report::new("55T80", format!("tenant \"{tenant}\" has no keys"))
                    .hint("they are made when something of the tenant is first protected")
            }
            PrivacyFailure::Epochs(tenant) => {
                Report::new("54000", format!("the keys of tenant \"{tenant}\" were rotated as often as they can be"))
                    .hint("each token is computed through every epoch; docs/PRIVACY.md says how a tenant begins anew")
            }
            PrivacyFailure::Concurrent(tenant) => {
                Report::new("40001", format!("the keys of tenant \"{tenant}\" were changed meanwhile"))
                    .hint("try again")
            }
        }
    }
}

raised_by_pgrx!(PrivacyFailure);
