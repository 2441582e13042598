//! A backend's own copy of something that a table declares, thrown away when the table says so.

use core::cell::{Cell, RefCell};
use pgrx::pg_sys::{self, Datum, Oid};

/// Caches that a backend may have; each static one takes a place when it is first asked.
const ROOM: usize = 24;

/// A value loaded from a table. What loading pallocs lives in a memory context of its own, as long as the value.
pub struct Cache<T> {
    place: Cell<Option<usize>>,
    loaded: RefCell<Option<(T, pg_sys::MemoryContext)>>,
}

/// The table that a cache depends on, and whether it has changed since the cache was loaded.
struct Watch {
    table: Cell<Oid>,
    stale: Cell<bool>,
}

thread_local! {
    static WATCHES: [Watch; ROOM] =
        const { [const { Watch { table: Cell::new(Oid::INVALID), stale: Cell::new(true) } }; ROOM] };
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

impl<T: Clone> Cache<T> {
    pub const fn new() -> Self {
        Self { place: Cell::new(None), loaded: RefCell::new(None) }
    }

    /// The value, loaded anew where `table` was invalidated since. The caller holds a lock on the table, taken just
    /// before, so that invalidations sent by earlier holders have arrived.
    pub fn get_or_load<E>(&self, table: Oid, load: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let place = self.watch(table);
        let set_stale = |stale| WATCHES.with(|watches| watches[place].stale.set(stale));
        if !WATCHES.with(|watches| watches[place].stale.get())
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
            set_stale(false);
            let outer = pg_sys::MemoryContextSwitchTo(context);
            let loaded = load();
            pg_sys::MemoryContextSwitchTo(outer);
            let value = match loaded {
                Ok(value) => value,
                Err(error) => {
                    set_stale(true);
                    return Err(error);
                }
            };
            pg_sys::MemoryContextSetParent(context, pg_sys::CacheMemoryContext);
            self.loaded.replace(Some((value.clone(), context)));
            Ok(value)
        }
    }

    /// This cache's place among the watches, set to watch the table.
    fn watch(&self, table: Oid) -> usize {
        let place = self.place.get().unwrap_or_else(|| {
            let place = TAKEN.get();
            assert!(place < ROOM, "there is room for {ROOM} caches");
            if place == 0 {
                // SAFETY: the callback is a plain function that touches thread-local cells only; registered once a
                // backend.
                unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(changed), Datum::from(0)) };
            }
            TAKEN.set(place + 1);
            self.place.set(Some(place));
            place
        });
        WATCHES.with(|watches| {
            if watches[place].table.replace(table) != table {
                watches[place].stale.set(true);
            }
        });
        place
    }
}

/// Tells every backend, at commit, that what it loaded from `table` is stale.
pub fn invalidate(table: Oid) {
    // SAFETY: sends an invalidation message for a relation that exists.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(table) }
}

extern "C-unwind" fn changed(_: Datum, relation: Oid) {
    WATCHES.with(|watches| {
        for watch in watches {
            if relation == Oid::INVALID || watch.table.get() == relation {
                watch.stale.set(true);
            }
        }
    });
}
