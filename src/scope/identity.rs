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

/// Whether who acts is who those identities are of: of a login that an application's users share, the same subject, where they name one.
fn is_same(others: &[String]) -> bool {
    let own = identities();
    let subjects = |of: &[String]| -> Vec<String> {
        of.iter().filter(|identity| identity.starts_with("subject ")).cloned().collect()
    };
    let meet = |left: &[String], right: &[String]| left.iter().any(|identity| right.contains(identity));
    let theirs = subjects(others);
    let is_shared = matches!(*binding(), Binding::Trusted);
    meet(&own, others) && (!is_shared || theirs.is_empty() || meet(&subjects(&own), &theirs))
}

#[pg_extern(sql = false)]
fn is_requester(identities: Vec<Option<String>>) -> bool {
    is_same(&identities.into_iter().flatten().collect::<Vec<_>>())
}

#[pg_extern(sql = false)]
fn acting_identities() -> Vec<String> {
    identities()
}
