//! Who is asking: the role that logged in, and the one that acts.

use core::ffi::CStr;
use pgrx::pg_sys::{self, Oid};

/// What is asked several times a statement and raises no error: pgrx's guard would cost more than the answer.
mod unguarded {
    use pgrx::pg_sys::Oid;

    unsafe extern "C-unwind" {
        pub fn GetSessionUserId() -> Oid;
    }
}

/// The role that logged in, whatever SET ROLE or an elevated function has made of it since.
pub fn session_role() -> Oid {
    // SAFETY: reads backend state.
    unsafe { unguarded::GetSessionUserId() }
}

/// Name of the role that logged in.
pub fn session_role_name() -> String {
    // SAFETY: the role that logged in exists, or the look-up raises an error; the result is a palloc'd C string.
    unsafe { CStr::from_ptr(pg_sys::GetUserNameFromId(session_role(), false)).to_string_lossy().into_owned() }
}

/// Whether the role that logged in is a superuser.
pub fn session_is_superuser() -> bool {
    // SAFETY: a syscache look-up.
    unsafe { pg_sys::superuser_arg(session_role()) }
}

/// Whether row security hides nothing from the role that statements run as: a superuser's, or one with BYPASSRLS.
pub fn bypasses_row_security() -> bool {
    // SAFETY: syscache look-ups.
    unsafe { pg_sys::has_bypassrls_privilege(pg_sys::GetUserId()) }
}

/// Name of the role that statements run as.
pub fn current_role_name() -> String {
    // SAFETY: the role exists, or the look-up raises an error; the result is a palloc'd C string.
    unsafe {
        CStr::from_ptr(pg_sys::GetUserNameFromId(pg_sys::GetUserId(), false)).to_string_lossy().into_owned()
    }
}

/// Whether row security hides nothing from the role that acts now, or it is one as which our own functions act.
pub fn sees_everything() -> bool {
    // SAFETY: syscache look-ups.
    unsafe {
        let role = pg_sys::GetUserId();
        bypasses_row_security()
            || role == pg_sys::get_role_oid(c"tally_owner".as_ptr(), true)
            || role == pg_sys::get_role_oid(c"tally_security".as_ptr(), true)
            || pg_sys::has_rolreplication(role)
    }
}

/// Whether the role that logged in has the privileges of a group role.
pub fn session_is_member_of(role: &CStr) -> bool {
    // SAFETY: syscache look-ups of a constant name.
    unsafe {
        let group = pg_sys::get_role_oid(role.as_ptr(), true);
        group != Oid::INVALID && pg_sys::has_privs_of_role(session_role(), group)
    }
}

/// Whether the role that logged in has a group role's privileges, or can take them by SET ROLE.
pub fn session_can_act_as(role: &CStr) -> bool {
    // SAFETY: syscache look-ups of a constant name.
    unsafe {
        let group = pg_sys::get_role_oid(role.as_ptr(), true);
        group != Oid::INVALID && pg_sys::is_member_of_role(session_role(), group)
    }
}

/// The role that statements run as.
pub fn acting_role() -> Oid {
    // SAFETY: reads backend state.
    unsafe { pg_sys::GetUserId() }
}

/// Whether a function runs with rights that the session's role can't take by itself, those of a function's owner.
pub fn is_elevated() -> bool {
    // SAFETY: reads backend state and looks memberships up.
    unsafe {
        let acts = pg_sys::GetUserId();
        acts != session_role() && !pg_sys::is_member_of_role(session_role(), acts)
    }
}

/// Whether code runs that Postgres runs for the role that acts, in a session that may see more: of an index in ANALYZE or REINDEX, of a
/// materialized view in REFRESH. Not what is declared, which acts as a role without rights.
pub fn runs_for_another() -> bool {
    if !super::is_restricted() {
        return false;
    }
    // SAFETY: reads backend state and looks names and memberships up.
    unsafe {
        let (acts, session) = (pg_sys::GetUserId(), session_role());
        acts != pg_sys::get_role_oid(c"tally_evaluator".as_ptr(), true)
            && (acts != session && pg_sys::superuser_arg(session)
                || !pg_sys::has_privs_of_role(session, acts))
    }
}

/// Whether the role that acts reads or writes tenants' events, and isn't one that sees all of them: a superuser's, or an analyst's.
pub fn acts_as_reader_or_writer() -> bool {
    // SAFETY: syscache look-ups of constant names.
    unsafe {
        let acts = pg_sys::GetUserId();
        let is_member = |role: &CStr| {
            let group = pg_sys::get_role_oid(role.as_ptr(), true);
            group != Oid::INVALID && pg_sys::is_member_of_role(acts, group)
        };
        !is_member(c"tally_analyst") && (is_member(c"tally_reader") || is_member(c"tally_writer"))
    }
}

/// Whether what runs is the session's own, and not what Postgres runs for a table's owner, nor what a guard is around.
pub fn runs_for_itself() -> bool {
    !super::is_restricted() || acting_role() == session_role()
}
