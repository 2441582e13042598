//! Locks that the session takes.

use crate::backend::version;
use pgrx::pg_sys::{self, Oid};

/// Takes a numbered slot until the (sub)transaction ends; says whether it was free, or ours already.
pub fn try_slot(key: i32, slot: i32) -> bool {
    lock(slot as u32, key as u32, false)
}

/// Takes the lock (`class`, `object`) of this database until the (sub)transaction ends; says whether it has it, which it always
/// does where it may wait. Nobody can keep it from us: it is an advisory lock of the third kind, and SQL can take those of the
/// first and second alone.
pub fn lock(class: u32, object: u32, wait: bool) -> bool {
    let (tag, mode) = (tag(class, object), pg_sys::ExclusiveLock as pg_sys::LOCKMODE);
    // SAFETY: the tag is copied; waits or raises an error; the lock manager releases the lock.
    let taken = unsafe { pg_sys::LockAcquire(&raw const tag, mode, false, !wait) };
    taken != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

fn tag(class: u32, object: u32) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        // SAFETY: reads backend state.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: class,
        locktag_field3: object,
        locktag_field4: 3,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    }
}

/// Whether this session has such a lock.
pub fn has_lock(class: u32, object: u32) -> bool {
    version::has_lock(&tag(class, object), pg_sys::ExclusiveLock as pg_sys::LOCKMODE)
}

/// Whether another transaction has such a lock. It is only looked at: nobody who takes it meanwhile fails to. What a process keeps beyond
/// its transactions counts while it is in one.
pub fn is_locked(class: u32, object: u32) -> bool {
    let (tag, mode) = (tag(class, object), pg_sys::ExclusiveLock as pg_sys::LOCKMODE);
    let mut holders = 0;
    // SAFETY: reads the table of locks; the array of holders is made for the caller.
    unsafe {
        let found = pg_sys::GetLockConflicts(&raw const tag, mode, &raw mut holders);
        pg_sys::pfree(found.cast());
    }
    holders > 0
}

/// Takes such a lock until this process ends, where it is free or its own; says whether it has it.
pub fn lock_until_exit(class: u32, object: u32) -> bool {
    let (tag, mode) = (tag(class, object), pg_sys::ExclusiveLock as pg_sys::LOCKMODE);
    // SAFETY: the tag is copied, and not waited for.
    let taken = unsafe { pg_sys::LockAcquire(&raw const tag, mode, true, true) };
    taken != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// Gives back a lock that `lock_until_exit` took.
pub fn unlock_early(class: u32, object: u32) {
    let (tag, mode) = (tag(class, object), pg_sys::ExclusiveLock as pg_sys::LOCKMODE);
    // SAFETY: the tag is copied; the lock is one that this process holds.
    unsafe {
        pg_sys::LockRelease(&raw const tag, mode, true);
    }
}

/// Gives back a lock that `lock` took in this (sub)transaction.
pub fn unlock(class: u32, object: u32) {
    let (tag, mode) = (tag(class, object), pg_sys::ExclusiveLock as pg_sys::LOCKMODE);
    // SAFETY: the tag is copied; the lock is one that this transaction holds.
    unsafe {
        pg_sys::LockRelease(&raw const tag, mode, false);
    }
}

/// Milliseconds that the session waits for a lock, 0 for ever.
pub fn lock_timeout() -> i32 {
    // SAFETY: reads backend state.
    unsafe { pg_sys::LockTimeout }
}

/// Takes a lock on a relation until the transaction ends.
pub fn lock_relation(relation: Oid, mode: u32) {
    // SAFETY: waits or raises an error; the lock manager releases it.
    unsafe { pg_sys::LockRelationOid(relation, mode as pg_sys::LOCKMODE) }
}
