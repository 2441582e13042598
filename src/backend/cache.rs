//! A backend's own copy of something that a table declares, thrown away when the table says so, once nobody holds it any more.

use core::cell::{Cell, RefCell};
use pgrx::pg_sys::{self, Datum, Oid};
use std::rc::Rc;

/// Caches that a backend may have; each static one takes a place when it is first asked.
const ROOM: usize = 24;

/// A value loaded from a table. What loading pallocs lives in a memory context of its own, as long as the value.
pub struct Cache<T> {
    place: Cell<Option<usize>>,
    loaded: RefCell<Option<Loaded<T>>>,
    /// What was replaced while somebody held it.
    replaced: RefCell<Vec<Loaded<T>>>,
}

struct Loaded<T> {
    value: Rc<T>,
    memory: pg_sys::MemoryContext,
}

impl<T> Loaded<T> {
    /// Gives it back with its memory, where nobody holds it.
    fn release(self) -> Result<(), Self> {
        match Rc::try_unwrap(self.value) {
            Ok(value) => {
                // The value goes before the memory that its pointers lead to.
                drop(value);
                // SAFETY: made for this value alone.
                unsafe { pg_sys::MemoryContextDelete(self.memory) };
                Ok(())
            }
            Err(value) => Err(Self { value, memory: self.memory }),
        }
    }
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

impl<T> Cache<T> {
    pub const fn new() -> Self {
        Self { place: Cell::new(None), loaded: RefCell::new(None), replaced: RefCell::new(Vec::new()) }
    }

    /// The value, loaded anew where `table` was invalidated since. The caller holds a lock on the table, taken just
    /// before, so that invalidations sent by earlier holders have arrived. Who holds a value may be called again by what it
    /// evaluates: the value stays as it is, for that one.
    pub fn get_or_load<E>(&self, table: Oid, load: impl FnOnce() -> Result<T, E>) -> Result<Rc<T>, E> {
        let place = self.watch(table);
        let set_stale = |stale| WATCHES.with(|watches| watches[place].stale.set(stale));
        if !self.replaced.borrow().is_empty() {
            let held = self.replaced.take().into_iter().filter_map(|loaded| loaded.release().err()).collect();
            self.replaced.replace(held);
        }
        if !WATCHES.with(|watches| watches[place].stale.get())
            && let Some(loaded) = &*self.loaded.borrow()
        {
            return Ok(loaded.value.clone());
        }
        self.replace(None);
        // SAFETY: the memory is set as the current one while the value is loaded, and is the value's from then on.
        unsafe {
            let memory = pg_sys::AllocSetContextCreateInternal(
                pg_sys::CurrentMemoryContext,
                c"pg_tally declarations".as_ptr(),
                pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
                pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
                pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
            );
            // An invalidation that arrives while loading must not be lost.
            set_stale(false);
            let outer = pg_sys::MemoryContextSwitchTo(memory);
            let loaded = load();
            pg_sys::MemoryContextSwitchTo(outer);
            let value = match loaded {
                Ok(value) => Rc::new(value),
                Err(error) => {
                    set_stale(true);
                    return Err(error);
                }
            };
            pg_sys::MemoryContextSetParent(memory, pg_sys::CacheMemoryContext);
            self.replace(Some(Loaded { value: value.clone(), memory }));
            Ok(value)
        }
    }

    /// Has another value, or none, and gives back the one that was, now or once nobody holds it.
    fn replace(&self, new: Option<Loaded<T>>) {
        if let Some(old) = self.loaded.replace(new)
            && let Err(held) = old.release()
        {
            self.replaced.borrow_mut().push(held);
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
