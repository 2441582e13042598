//! A backend's own copy of something that a table declares, thrown away when the table says so.

use core::cell::{Cell, RefCell};
use pgrx::pg_sys::{self, Datum, Oid};

/// A value loaded from a table. What loading pallocs lives in a memory context of its own, as long as the value.
pub struct Cache<T> {
    loaded: RefCell<Option<(T, pg_sys::MemoryContext)>>,
}

thread_local! {
    /// The watched table, once watched, and whether it has changed since the cache was loaded.
    static WATCHED: Cell<Option<Oid>> = const { Cell::new(None) };
    static STALE: Cell<bool> = const { Cell::new(true) };
}

impl<T: Clone> Cache<T> {
    pub const fn new() -> Self {
        Self { loaded: RefCell::new(None) }
    }

    /// The value, loaded anew where `table` was invalidated since. The caller holds a lock on the table, taken just
    /// before, so that invalidations sent by earlier holders have arrived.
    pub fn get_or_load<E>(&self, table: Oid, load: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        watch(table);
        if !STALE.get()
            && let Some((value, _)) = &*self.loaded.borrow()
        {
            return Ok(value.clone());
        }
        // SAFETY: the old value is dropped before the context that its pointers lead to. Nobody else holds a clone:
        // clones are made for the length of one statement, and none runs inside another's load.
        unsafe {
            if let Some((value, context)) = self.loaded.take() {
                drop(value);
                pg_sys::MemoryContextDelete(context);
            }
            let context = pg_sys::AllocSetContextCreateInternal(
                pg_sys::CurrentMemoryContext,
                c"pg_tally declarations".as_ptr(),
                pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
                pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
                pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
            );
            // An invalidation that arrives while loading must not be lost.
            STALE.set(false);
            let outer = pg_sys::MemoryContextSwitchTo(context);
            let loaded = load();
            pg_sys::MemoryContextSwitchTo(outer);
            let value = match loaded {
                Ok(value) => value,
                Err(error) => {
                    STALE.set(true);
                    return Err(error);
                }
            };
            pg_sys::MemoryContextSetParent(context, pg_sys::CacheMemoryContext);
            self.loaded.replace(Some((value.clone(), context)));
            Ok(value)
        }
    }
}

/// Tells every backend, at commit, that what it loaded from `table` is stale.
pub fn invalidate(table: Oid) {
    // SAFETY: sends an invalidation message for a relation that exists.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(table) }
}

fn watch(table: Oid) {
    if WATCHED.get().is_none() {
        // SAFETY: the callback is a plain function that touches thread-local cells only; registered once a backend.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(changed), Datum::from(0)) };
    }
    if WATCHED.replace(Some(table)) != Some(table) {
        STALE.set(true);
    }
}

extern "C-unwind" fn changed(_: Datum, relation: Oid) {
    if relation == Oid::INVALID || WATCHED.get() == Some(relation) {
        STALE.set(true);
    }
}
