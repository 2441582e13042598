//! Roles: their names, what they are members of, and when either changed.

use super::version::MEMBERS_GROUP;
use core::cell::Cell;
use core::ffi::CStr;
use pgrx::pg_sys::{self, Datum, Oid, SysCacheIdentifier};

thread_local! {
    static CHANGES: Cell<Option<u64>> = const { Cell::new(None) };
}

/// A role's name; `None` where there is no such role.
pub fn name(role: Oid) -> Option<String> {
    // SAFETY: a syscache look-up; the result is null or a palloc'd C string.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

/// Whether a role is a superuser.
pub fn is_superuser(role: Oid) -> bool {
    // SAFETY: a syscache look-up.
    unsafe { pg_sys::superuser_arg(role) }
}

/// The groups that a role has the privileges of without SET ROLE, at any depth, without the role itself.
pub fn groups(role: Oid) -> Vec<Oid> {
    let mut found = vec![role];
    let mut next = 0;
    while let Some(member) = found.get(next).copied() {
        next += 1;
        let above = direct_groups(member).into_iter().filter(|group| !found.contains(group));
        found.extend(above.collect::<Vec<_>>());
    }
    found.remove(0);
    // SAFETY: syscache look-ups.
    found.retain(|group| unsafe { pg_sys::has_privs_of_role(role, *group) });
    found
}

fn direct_groups(member: Oid) -> Vec<Oid> {
    let cache = SysCacheIdentifier::AUTHMEMMEMROLE as i32;
    // SAFETY: a list of the cache's tuples for one key, released again; the attribute is an oid that is not null.
    unsafe {
        let list = pg_sys::SearchSysCacheList(cache, 1, Datum::from(member), Datum::from(0), Datum::from(0));
        let found = &*list;
        let groups = found
            .members
            .as_slice(found.n_members as usize)
            .iter()
            .map(|member| {
                let mut is_null = false;
                let tuple = &raw mut (**member).tuple;
                Oid::from(
                    pg_sys::SysCacheGetAttr(cache, tuple, MEMBERS_GROUP, &raw mut is_null).value() as u32
                )
            })
            .collect();
        pg_sys::ReleaseCatCacheList(list);
        groups
    }
}

/// Counts what this backend has heard of changed roles and memberships: what was derived from them under another number is
/// out of date.
pub fn changes() -> u64 {
    CHANGES.get().unwrap_or_else(|| {
        for cache in [SysCacheIdentifier::AUTHOID, SysCacheIdentifier::AUTHMEMROLEMEM] {
            // SAFETY: the callback is a plain function that touches a thread-local cell only; registered once a backend.
            unsafe {
                pg_sys::CacheRegisterSyscacheCallback(
                    cache as core::ffi::c_int,
                    Some(changed),
                    Datum::from(0),
                )
            };
        }
        CHANGES.set(Some(0));
        0
    })
}

extern "C-unwind" fn changed(_: Datum, _: core::ffi::c_int, _: u32) {
    CHANGES.set(CHANGES.get().map(|changes| changes.wrapping_add(1)));
}
