//! Memory contexts for a piece of work.

use core::ffi::CStr;
use pgrx::pg_sys;

#[cfg(target_env = "gnu")]
unsafe extern "C" {
    fn malloc_trim(pad: usize) -> core::ffi::c_int;
}

/// Gives memory that is free back to the operating system. The C library keeps it, and what one large piece of work took
/// would stay with a connection for good.
pub fn give_back() {
    // SAFETY: the allocator's own function; it touches nothing that is in use.
    #[cfg(target_env = "gnu")]
    unsafe {
        malloc_trim(0);
    }
}

/// Bytes that a hash table of a query may take: work_mem, times hash_mem_multiplier.
pub fn of_hash_table() -> usize {
    // SAFETY: reads settings.
    let bytes = unsafe { f64::from(pg_sys::work_mem) * 1024.0 * pg_sys::hash_mem_multiplier };
    bytes as usize
}

/// Runs `work` in a memory context of its own, deleted afterwards; on error it goes with the context that is current now.
pub fn in_temporary<T>(name: &'static CStr, work: impl FnOnce() -> T) -> T {
    // SAFETY: what `work` returns owns nothing in the context; the context that was current is put back first.
    unsafe {
        let context = pg_sys::AllocSetContextCreateInternal(
            pg_sys::CurrentMemoryContext,
            name.as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        let outer = pg_sys::MemoryContextSwitchTo(context);
        let result = work();
        pg_sys::MemoryContextSwitchTo(outer);
        pg_sys::MemoryContextDelete(context);
        result
    }
}
