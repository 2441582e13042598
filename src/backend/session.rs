//! Who is asking, and the scope setting of the running transaction.

use super::binary_upgrade;
use super::heap::TableError;
use super::lock;
use super::report::Report;
pub use super::version::transaction_number;
use core::ffi::{CStr, c_char};
use pgrx::pg_sys::{self, Oid};
use pgrx::{PgLogLevel, PgSqlErrorCode};
use std::ffi::CString;
use tally_core::scope_key;

/// Name of the setting that holds the scope.
const SCOPE_SETTING: &CStr = c"tally.scope";

/// What is asked several times a statement and raises no error: pgrx's guard would cost more than the answer.
mod unguarded {
    use pgrx::pg_sys::Oid;

    unsafe extern "C-unwind" {
        pub fn GetCurrentStatementStartTimestamp() -> i64;
        pub fn GetSessionUserId() -> Oid;
        pub fn IsInParallelMode() -> bool;
        pub fn IsTransactionState() -> bool;
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

/// What the client calls itself; `None` where it doesn't say.
pub fn application_name() -> Option<String> {
    // SAFETY: a C string of the setting's own, or null.
    unsafe {
        let name = pg_sys::GetConfigOption(c"application_name".as_ptr(), true, false);
        let name = (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned());
        name.filter(|name| !name.is_empty())
    }
}

/// Names this cluster and database, as tokens do.
pub fn audience() -> String {
    // SAFETY: reads backend state; the database that we are connected to exists, so its name is a palloc'd C string.
    unsafe {
        let name = CStr::from_ptr(pg_sys::get_database_name(pg_sys::MyDatabaseId));
        format!("{}/{}", pg_sys::GetSystemIdentifier(), name.to_string_lossy())
    }
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

/// Whether we are inside a savepoint or an exception block.
pub fn in_subtransaction() -> bool {
    // SAFETY: reads backend state.
    unsafe { pg_sys::GetCurrentTransactionNestLevel() > 1 }
}

/// Whether this process may change settings: not in parallel mode, not outside a transaction.
pub fn can_set() -> bool {
    // SAFETY: reads backend state.
    unsafe {
        unguarded::IsTransactionState() && !unguarded::IsInParallelMode() && pg_sys::ParallelWorkerNumber < 0
    }
}

/// Whether this process works for another's statement.
pub fn is_parallel_worker() -> bool {
    // SAFETY: reads backend state.
    unsafe { pg_sys::ParallelWorkerNumber >= 0 }
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

/// Sets a setting until the transaction ends, or the function that sets it too.
pub fn set_local(name: &CStr, value: &CStr) {
    write_setting(name, value, pg_sys::GucAction::GUC_ACTION_LOCAL);
}

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

/// Takes such a lock until this process ends, where it is free or its own; says whether it has it.
pub fn lock_until_exit(class: u32, object: u32) -> bool {
    let (tag, mode) = (tag(class, object), pg_sys::ExclusiveLock as pg_sys::LOCKMODE);
    // SAFETY: the tag is copied, and not waited for.
    let taken = unsafe { pg_sys::LockAcquire(&raw const tag, mode, true, true) };
    taken != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
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

/// Whether the client has begun a transaction that goes on after this statement; also true inside a subtransaction.
pub fn in_transaction_block() -> bool {
    // SAFETY: reads backend state.
    unsafe { pg_sys::IsTransactionBlock() }
}

/// Whether this database has the extension, with its bindings. Not while `pg_upgrade` makes them, whose tables have no keys yet.
pub fn is_installed() -> bool {
    if binary_upgrade::is_running() {
        return false;
    }
    // SAFETY: catalogue look-ups of constant names.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"tally".as_ptr(), true);
        schema != Oid::INVALID
            && [c"role_binding", c"tenant_limit"]
                .into_iter()
                .all(|name| pg_sys::get_relname_relid(name.as_ptr(), schema) != Oid::INVALID)
    }
}

/// A setting that prints what a statement does, to the log and so to a client that asks for it; or that asks for the log.
pub fn telling_setting() -> Option<&'static str> {
    // SAFETY: reads backend state.
    unsafe {
        if pg_sys::Debug_print_plan {
            Some("debug_print_plan")
        } else if pg_sys::Debug_print_parse {
            Some("debug_print_parse")
        } else if pg_sys::Debug_print_rewritten {
            Some("debug_print_rewritten")
        } else {
            (pg_sys::client_min_messages <= pg_sys::LOG as i32).then_some("client_min_messages below notice")
        }
    }
}

/// OID of one of our relations, by name; `None` where there is none.
pub fn find_relation(name: &CStr) -> Option<Oid> {
    // SAFETY: catalogue look-ups of constant names.
    let found = unsafe {
        match pg_sys::get_namespace_oid(c"tally".as_ptr(), true) {
            Oid::INVALID => Oid::INVALID,
            schema => pg_sys::get_relname_relid(name.as_ptr(), schema),
        }
    };
    (found != Oid::INVALID).then_some(found)
}

/// OID of one of our relations, by name. An error where there is none: somebody renamed, moved or dropped it.
pub fn relation(name: &CStr) -> Oid {
    find_relation(name)
        .unwrap_or_else(|| Report::from(TableError::Missing(name.to_string_lossy().into_owned())).raise())
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

/// Tells one statement of a client, in one transaction, from every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    began: i64,
    transaction: u32,
}

/// The statement that is running.
pub fn statement() -> Statement {
    // SAFETY: reads backend state.
    unsafe {
        let began = unguarded::GetCurrentStatementStartTimestamp();
        Statement { began, transaction: transaction_number() }
    }
}

/// Start of the running transaction, microseconds since 2000-01-01 UTC.
pub fn transaction_start() -> i64 {
    // SAFETY: reads backend state.
    unsafe { pg_sys::GetCurrentTransactionStartTimestamp() }
}

/// Random bytes fit for a secret.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0_u8; N];
    // SAFETY: the buffer has the length that is passed.
    let filled = unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), N) };
    assert!(filled, "the server has no source of random numbers");
    bytes
}

/// Random bits that need be no secret: those would be asked of the operating system.
pub fn random_bits() -> u32 {
    // SAFETY: the backend's own generator, seeded when it started.
    unsafe { pg_sys::pg_prng_uint32(&raw mut pg_sys::pg_global_prng_state) }
}

/// A random number from 0 to 1, for what is done by chance.
pub fn draw() -> f64 {
    f64::from(random_bits()) / f64::from(u32::MAX)
}

/// Takes a lock on a relation until the transaction ends.
pub fn lock_relation(relation: Oid, mode: u32) {
    // SAFETY: waits or raises an error; the lock manager releases it.
    unsafe { pg_sys::LockRelationOid(relation, mode as pg_sys::LOCKMODE) }
}

/// Now, microseconds since 2000-01-01 UTC.
pub fn clock() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
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

/// Runs `work` as `tally_owner` in the global scope, with a search path nobody can shadow. For our own SQL only: what
/// somebody declared is evaluated by `evaluator`, also where its events are read inside. Afterwards role, scope and path are as they were; where an
/// error ends the (sub)transaction, Postgres puts them back.
pub fn as_owner<T>(work: impl FnOnce() -> T) -> T {
    let global = CString::new(scope_key::GLOBAL).expect("a constant without NUL");
    with_settings(
        &[
            (SCOPE_SETTING, &global),
            (c"search_path", c"pg_catalog, pg_temp"),
            (c"timezone", c"UTC"),
            // pg_restore turns it off, so that a policy raises an error instead of hiding rows.
            (c"row_security", c"on"),
        ],
        || with_owner_rights(work),
    )
}

/// Runs statements that define something, as `as_owner` does, with the settings that could change what they define or keep
/// them from running: whoever's first event of a month makes its partition, that one is like all others.
pub fn as_owner_defining<T>(work: impl FnOnce() -> T) -> T {
    let settings = [
        // Both are the database's own to choose; a session that chose another place would choose it for everybody.
        (c"default_tablespace", c""),
        (c"default_table_access_method", c"heap"),
        // Event triggers would run as the owner of our tables, and what they may not do would fail the caller's statement.
        (c"session_replication_role", c"replica"),
        (c"event_triggers", c"off"),
    ];
    // A setting that this release doesn't have is left out.
    let known: Vec<_> = settings.into_iter().filter(|(name, _)| is_known(name)).collect();
    // What is to be changed is locked before; who holds something else all the same is not waited for with others locked out.
    as_owner(|| with_settings(&known, || lock::waiting_at_most(lock::LONGEST_TRY, work)))
}

/// Whether a setting exists.
fn is_known(setting: &CStr) -> bool {
    // SAFETY: a C string of the setting's own, or null.
    unsafe { !pg_sys::GetConfigOption(setting.as_ptr(), true, false).is_null() }
}

/// Runs `work` with the rights of `tally_owner` and the caller's own scope.
pub fn with_owner_rights<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the role is put back below; on error Postgres does it when it aborts the (sub)transaction.
    unsafe {
        let owner = pg_sys::get_role_oid(c"tally_owner".as_ptr(), false);
        let (mut role, mut security) = (Oid::INVALID, 0);
        pg_sys::GetUserIdAndSecContext(&raw mut role, &raw mut security);
        pg_sys::SetUserIdAndSecContext(owner, security | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32);
        let result = work();
        pg_sys::SetUserIdAndSecContext(role, security);
        result
    }
}

/// Runs `work` with the settings in which declared expressions are read, whoever loads them: where names are looked up, and
/// what a literal means.
pub fn with_fixed_settings<T>(work: impl FnOnce() -> T) -> T {
    let settings = [
        (c"search_path", c"pg_catalog, tally, pg_temp"),
        (c"timezone", c"UTC"),
        (c"timezone_abbreviations", c"Default"),
        (c"datestyle", c"ISO, MDY"),
        (c"intervalstyle", c"postgres"),
        (c"standard_conforming_strings", c"on"),
        (c"transform_null_equals", c"off"),
        (c"array_nulls", c"on"),
        (c"bytea_output", c"hex"),
        (c"extra_float_digits", c"1"),
        (c"xmloption", c"content"),
    ];
    with_settings(&settings, work)
}

/// Runs `work` as a session that has entered the scope of this key; of none where it is empty.
pub fn in_scope<T>(key: &str, work: impl FnOnce() -> T) -> T {
    let key = CString::new(key).expect("ids contain no NUL");
    with_settings(&[(SCOPE_SETTING, &key)], work)
}

/// Changes settings of this process for as long as it lives.
pub fn set_for_session(settings: &[(&CStr, &CStr)]) {
    for (name, value) in settings {
        write_setting(name, value, pg_sys::GucAction::GUC_ACTION_SET);
    }
}

/// Runs `work` with other settings. Afterwards, also where an error ends the (sub)transaction, they are as they were.
pub fn with_settings<T>(settings: &[(&CStr, &CStr)], work: impl FnOnce() -> T) -> T {
    // SAFETY: opens and closes one level of settings; on error Postgres closes it with the (sub)transaction.
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        for (name, value) in settings {
            write_setting(name, value, pg_sys::GucAction::GUC_ACTION_SAVE);
        }
        let result = work();
        pg_sys::AtEOXact_GUC(true, level);
        result
    }
}

/// Sets the scope until the transaction ends.
pub fn set_scope(value: &str) {
    let value = CString::new(value).expect("ids contain no NUL");
    write_setting(SCOPE_SETTING, &value, pg_sys::GucAction::GUC_ACTION_LOCAL);
}

fn write_setting(name: &CStr, value: &CStr, action: pg_sys::GucAction::Type) {
    let (name, value): (*const c_char, *const c_char) = (name.as_ptr(), value.as_ptr());
    // SAFETY: both strings outlive the call, which copies them. The superuser context is ours to claim: the caller's
    // right to the scope was checked before.
    unsafe {
        pg_sys::set_config_option(
            name,
            value,
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            action,
            true,
            0,
            false,
        );
    }
}

/// Writes a line to the server's log alone; or, unless `always`, at DEBUG1, to whoever wants that. `line` is made only if it is
/// written.
pub fn log(always: bool, line: impl FnOnce() -> String) {
    let level = if always { PgLogLevel::LOG_SERVER_ONLY } else { PgLogLevel::DEBUG1 };
    // SAFETY: reads settings.
    if unsafe { pg_sys::message_level_is_interesting(level as i32) } {
        pgrx::ereport!(level, PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, line());
    }
}

/// Sleeps, unless the statement is cancelled meanwhile.
pub fn pause(time: std::time::Duration) {
    // SAFETY: sleeps, and raises an error where one was asked for.
    unsafe {
        pg_sys::pg_usleep(time.as_micros() as core::ffi::c_long);
        pgrx::check_for_interrupts!();
    }
}
