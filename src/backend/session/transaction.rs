//! What the running transaction and statement may do and see.

use crate::backend::version;
use core::ffi::CStr;
use pgrx::pg_sys;

/// Whether we are inside a savepoint or an exception block.
pub fn in_subtransaction() -> bool {
    // SAFETY: reads backend state.
    unsafe { pg_sys::GetCurrentTransactionNestLevel() > 1 }
}

/// Whether code runs that Postgres runs for somebody else: of an index in ANALYZE or REINDEX, of a materialized view; or what a guard is around.
pub fn is_restricted() -> bool {
    // SAFETY: reads backend state.
    unsafe { pg_sys::InSecurityRestrictedOperation() }
}

/// Whether this process works for another's statement.
pub fn is_parallel_worker() -> bool {
    // SAFETY: reads backend state.
    unsafe { pg_sys::ParallelWorkerNumber >= 0 }
}

/// Whether the client has begun a transaction that goes on after this statement; also true inside a subtransaction.
pub fn in_transaction_block() -> bool {
    // SAFETY: reads backend state.
    unsafe { pg_sys::IsTransactionBlock() }
}

/// Whether the client may keep the transaction open after the running statement: by the extended protocol, where the end of a statement
/// is no end before the client says so, and hasn't yet.
pub fn goes_on_as_client_says() -> bool {
    // SAFETY: the running portal, where there is one, is valid for as long as its statement runs; its name is a C string.
    let is_simple = unsafe {
        // That of EXECUTE is hidden, too, and has a name.
        pg_sys::ActivePortal
            .as_ref()
            .is_some_and(|portal| !portal.visible && CStr::from_ptr(portal.name).is_empty())
    };
    // The end of a series of messages, which nearly every client sends along with the last one.
    !is_simple && version::next_message() != Some(b'S')
}

/// Whether nothing that tells errors where they come from is around what runs: no function, no trigger, no COPY. So it runs for the
/// client's statement itself.
pub fn is_outermost() -> bool {
    // SAFETY: the list of what is around lives at least as long as what runs; a function that isn't called.
    unsafe {
        pg_sys::error_context_stack.as_ref().is_none_or(|around| {
            // By the extended protocol the server tells which parameters there were.
            around.previous.is_null()
                && around
                    .callback
                    .is_some_and(|callback| callback as *const () == params_error_callback as *const ())
        })
    }
}

unsafe extern "C-unwind" {
    #[link_name = "ParamsErrorCallback"]
    fn params_error_callback(parameters: *mut core::ffi::c_void);
}

/// Whether it may keep the running statement open: a COPY, whose rows come when they come.
pub fn is_copying() -> bool {
    // SAFETY: as above.
    unsafe {
        pg_sys::ActivePortal
            .as_ref()
            .is_some_and(|portal| portal.commandTag == pg_sys::CommandTag::CMDTAG_COPY)
    }
}

/// Takes notice of what transactions that have committed by now say has changed.
pub fn accept_invalidations() {
    // SAFETY: as at the taking of any lock, inside a transaction.
    unsafe { pg_sys::AcceptInvalidationMessages() }
}

/// Raises an error where nothing may be written: a read-only transaction, a standby, a parallel worker.
pub fn require_writable(command: &CStr) {
    // SAFETY: each call either returns or raises an error.
    unsafe {
        pg_sys::PreventCommandDuringRecovery(command.as_ptr());
        pg_sys::PreventCommandIfReadOnly(command.as_ptr());
        pg_sys::PreventCommandIfParallelMode(command.as_ptr());
    }
}

/// Makes what this statement wrote visible to the statements that follow inside it.
pub fn advance_command() {
    // SAFETY: called between two pieces of work, with no scan open.
    unsafe { pg_sys::CommandCounterIncrement() }
}

/// Whether statements of one transaction share a snapshot: repeatable read and serializable.
pub fn has_fixed_snapshot() -> bool {
    // SAFETY: reads backend state.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// Whether CREATE EXTENSION or ALTER EXTENSION UPDATE runs a script.
pub fn is_creating_extension() -> bool {
    // SAFETY: reads backend state.
    unsafe { pg_sys::creating_extension }
}
