//! Who acts, in words that can be compared: for acts that need two people.

use super::binding::{Binding, binding};
use super::{step_up, token};
use crate::backend::session;
use pgrx::prelude::*;

/// The login, by name and by number, and the subject that it stepped up with; of a pool role, whose login is many people's, the
/// subject of the transaction's token alone, and nobody where that says none. SET ROLE and elevated functions change nothing of it.
pub fn identities() -> Vec<String> {
    let subject = |subject: Option<String>| subject.map(|subject| format!("subject {subject}"));
    if *binding() == Binding::Pool {
        return subject(token::subject()).into_iter().collect();
    }
    let login = [
        format!("login {}", session::session_role_name()),
        format!("role {}", session::session_role().to_u32()),
    ];
    login.into_iter().chain(subject(step_up::stepped_up_subject())).collect()
}

#[pg_extern(sql = false)]
fn acting_identities() -> Vec<String> {
    identities()
}
