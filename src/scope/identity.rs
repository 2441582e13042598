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

/// Whether who acts is who those identities are of: the same login, which has its name and its number still, or the same subject; of a
/// login that an application's users share, the same subject, where they name one.
fn is_same(others: &[String]) -> bool {
    let own = identities();
    let is_subject = |identity: &&String| identity.starts_with("subject ");
    let is_theirs = |identity: &String| others.contains(identity);
    let mut login = own.iter().filter(|identity| !is_subject(identity)).peekable();
    let same_login = login.peek().is_some() && login.all(is_theirs);
    let same_subject = own.iter().filter(is_subject).any(is_theirs);
    let is_shared = matches!(*binding(), Binding::Trusted);
    let names_subject = others.iter().any(|identity| is_subject(&identity));
    if is_shared && names_subject { same_subject } else { same_login || same_subject }
}

#[pg_extern(sql = false)]
fn is_requester(identities: Vec<Option<String>>) -> bool {
    is_same(&identities.into_iter().flatten().collect::<Vec<_>>())
}

#[pg_extern(sql = false)]
fn acting_identities() -> Vec<String> {
    identities()
}
