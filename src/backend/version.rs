//! What differs between the major versions of Postgres: this file alone asks which one it is compiled for.

use core::ffi::c_int;
use pgrx::pg_sys::{self, Oid, config_group as group};
use std::ptr;

/// Number of the first timeout that is free to take: 17 added transaction_timeout before it.
pub const USER_TIMEOUT: c_int = if cfg!(any(feature = "pg15", feature = "pg16")) { 12 } else { 13 };

/// Attribute number of the group in pg_auth_members: since 16 its rows have an oid, which comes first.
pub const MEMBERS_GROUP: i16 = if cfg!(feature = "pg15") { 1 } else { 2 };

/// Attribute number of the expressions in pg_statistic_ext, of whose columns the bindings of 18 name none.
pub const STATISTICS_EXPRESSIONS: i16 = 9;

/// Whether clients are told of search_path when it changes.
pub const REPORTS_SEARCH_PATH: bool = cfg!(feature = "pg18");

/// Groups of settings about parallel work, reading ahead and vacuum.
#[cfg(not(feature = "pg18"))]
pub const RESOURCES: [group::Type; 2] = [group::RESOURCES_ASYNCHRONOUS, group::RESOURCES_VACUUM_DELAY];
/// 18 groups them anew.
#[cfg(feature = "pg18")]
pub const RESOURCES: [group::Type; 3] =
    [group::RESOURCES_IO, group::RESOURCES_WORKER_PROCESSES, group::VACUUM_COST_DELAY];

/// Whether a CHECK constraint is enforced: since 18 one may be declared that isn't.
pub fn is_enforced(check: &pg_sys::ConstrCheck) -> bool {
    #[cfg(not(feature = "pg18"))]
    let is_enforced = {
        let _ = check;
        true
    };
    #[cfg(feature = "pg18")]
    let is_enforced = check.ccenforced;
    is_enforced
}

/// The type as which a node reads a value out of a document: since 17 SQL/JSON has such, which ask for no immutable input function.
pub fn type_read_from_json(node: *mut pg_sys::Node) -> Option<Oid> {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    {
        let _ = node;
        None
    }
    // SAFETY: the tag says which struct a node is.
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    unsafe {
        if (*node).type_ != pg_sys::NodeTag::T_JsonExpr {
            return None;
        }
        let returning = (*node.cast::<pg_sys::JsonExpr>()).returning;
        (!returning.is_null()).then(|| (*returning).typid)
    }
}

/// Number of the running transaction, unlike any other of this backend; 0 where the process has none yet, or none any more.
pub fn transaction_number() -> u32 {
    // SAFETY: a process that can have transactions has a PGPROC.
    unsafe {
        if pg_sys::MyProc.is_null() {
            return 0;
        }
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return (*pg_sys::MyProc).lxid;
        // 17 put it together with the number of the process.
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        return (*pg_sys::MyProc).vxid.lxid;
    }
}

/// Whether this session has a lock in this mode.
pub fn has_lock(tag: &pg_sys::LOCKTAG, mode: pg_sys::LOCKMODE) -> bool {
    // SAFETY: looks into the session's own table of locks.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return pg_sys::LockHeldByMe(tag, mode);
        // 17 also takes a stronger one where it is asked to.
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        return pg_sys::LockHeldByMe(tag, mode, false);
    }
}

/// Bytes of a message without a body: its kind and its length.
#[cfg(not(any(feature = "pg15", feature = "pg16")))]
const SHORTEST_MESSAGE: usize = 5;

unsafe extern "C-unwind" {
    fn pq_is_reading_msg() -> bool;
    fn pq_startmsgread();
    fn pq_peekbyte() -> c_int;
    fn pq_endmsgread();
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    fn pq_buffer_has_data() -> bool;
    /// 17 says how much.
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    fn pq_buffer_remaining_data() -> usize;
}

/// The first byte, which is the kind, of the client's next message, where it has been received; before 17, which doesn't tell how much
/// has been, where some of it has.
pub fn next_message() -> Option<u8> {
    // SAFETY: reads what was received, in a process that has a client; where something was, none of these waits or raises an error.
    unsafe {
        if pg_sys::MyProcPort.is_null() || pq_is_reading_msg() {
            return None;
        }
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let has_data = pq_buffer_has_data();
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        let has_data = pq_buffer_remaining_data() >= SHORTEST_MESSAGE;
        if !has_data {
            return None;
        }
        pq_startmsgread();
        let first = pq_peekbyte();
        pq_endmsgread();
        u8::try_from(first).ok()
    }
}

/// What is known of a session, null where there is none; the places are numbered from 1.
///
/// # Safety
/// A transaction is running; the entry lasts until it ends.
pub unsafe fn session_entry(place: c_int) -> *mut pg_sys::LocalPgBackendStatus {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::pgstat_fetch_stat_local_beentry(place);
        // 16 renamed it: a function of nearly the old name looks for a process instead.
        #[cfg(not(feature = "pg15"))]
        return pg_sys::pgstat_get_local_beentry_by_index(place);
    }
}

/// Every setting of this backend.
pub fn settings() -> &'static [*mut pg_sys::config_generic] {
    // SAFETY: as many pointers as Postgres says; what is made for us lives as long as the statement, and no caller longer.
    unsafe {
        #[cfg(feature = "pg15")]
        let (settings, count) = (pg_sys::get_guc_variables(), pg_sys::GetNumConfigOptions());
        // Since 16 they are kept in a hash table, and the array is made for the caller.
        #[cfg(not(feature = "pg15"))]
        let (settings, count) = {
            let mut count = 0;
            (pg_sys::get_guc_variables(&raw mut count), count)
        };
        core::slice::from_raw_parts(settings, count as usize)
    }
}

/// Whose privileges a table that a statement reads is read with; the invalid oid stands for the running role.
///
/// # Safety
/// The entry is one of the statement's.
pub unsafe fn reader(statement: &pg_sys::PlannedStmt, entry: &pg_sys::RangeTblEntry) -> Oid {
    #[cfg(feature = "pg15")]
    {
        let _ = statement;
        entry.checkAsUser
    }
    // 16 moved permissions from the entries to a list of their own.
    #[cfg(not(feature = "pg15"))]
    {
        if entry.perminfoindex == 0 {
            return Oid::INVALID;
        }
        // SAFETY: the index, from 1, is that of the entry's permissions in the statement's list.
        unsafe {
            let place = entry.perminfoindex as i32 - 1;
            (*pg_sys::list_nth(statement.permInfos, place).cast::<pg_sys::RTEPermissionInfo>()).checkAsUser
        }
    }
}

/// The columns of a table that a statement reads; null where it reads none.
///
/// # Safety
/// The entry is one of the statement's.
pub unsafe fn selected(
    statement: &pg_sys::PlannedStmt,
    entry: &pg_sys::RangeTblEntry,
) -> *mut pg_sys::Bitmapset {
    #[cfg(feature = "pg15")]
    {
        let _ = statement;
        entry.selectedCols
    }
    // As for `reader`.
    #[cfg(not(feature = "pg15"))]
    {
        if entry.perminfoindex == 0 {
            return ptr::null_mut();
        }
        // SAFETY: the index, from 1, is that of the entry's permissions in the statement's list.
        unsafe {
            let place = entry.perminfoindex as i32 - 1;
            (*pg_sys::list_nth(statement.permInfos, place).cast::<pg_sys::RTEPermissionInfo>()).selectedCols
        }
    }
}

/// The expressions of an entry that stands for what a query is grouped by.
///
/// # Safety
/// The entry is one of a range table.
pub unsafe fn group_expressions(entry: *const pg_sys::RangeTblEntry) -> Option<*mut pg_sys::List> {
    #[cfg(not(feature = "pg18"))]
    {
        let _ = entry;
        None
    }
    // 18 has grouped columns refer to such an entry.
    #[cfg(feature = "pg18")]
    {
        // SAFETY: the caller's promise.
        let entry = unsafe { &*entry };
        (entry.rtekind == pg_sys::RTEKind::RTE_GROUP).then_some(entry.groupexprs)
    }
}

/// Rows that this backend has added to a table in transactions that ended, and not yet reported.
pub fn unreported_rows(counts: &pg_sys::PgStat_TableStatus) -> i64 {
    #[cfg(feature = "pg15")]
    return counts.t_counts.t_delta_live_tuples;
    // 16 dropped the prefixes.
    #[cfg(not(feature = "pg15"))]
    return counts.counts.delta_live_tuples;
}

/// A column of a row's descriptor.
///
/// # Safety
/// The place is one of the descriptor's.
pub unsafe fn attribute<'a>(
    descriptor: pg_sys::TupleDesc,
    place: usize,
) -> &'a pg_sys::FormData_pg_attribute {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return &*(*descriptor).attrs.as_ptr().add(place);
        // 18 put a shorter array of what is asked often before that of the columns.
        #[cfg(feature = "pg18")]
        return &*pg_sys::TupleDescAttr(descriptor, place as i32);
    }
}

/// The index of a table's primary key; the invalid oid where there is none.
///
/// # Safety
/// The table is open.
pub unsafe fn primary_key(table: pg_sys::Relation) -> Oid {
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::RelationGetPrimaryKeyIndex(
            table,
            // Whether a key that is checked at the end will do, too; before 18 it did not.
            #[cfg(feature = "pg18")]
            false,
        )
    }
}

/// Begins to read an index.
///
/// # Safety
/// Table and index are open, and the snapshot outlasts the scan.
pub unsafe fn begin_index_scan(
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    keys: usize,
) -> pg_sys::IndexScanDesc {
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::index_beginscan(
            table,
            index,
            snapshot,
            // 18 counts what a scan does for EXPLAIN, which nobody asks here.
            #[cfg(feature = "pg18")]
            ptr::null_mut(),
            keys as i32,
            0,
        )
    }
}

/// How a row was replaced.
pub struct Replaced {
    pub outcome: pg_sys::TM_Result::Type,
    /// Whether the indexes need no new entry, except perhaps those that summarize blocks.
    pub heap_only: bool,
    /// Whether there are such (BRIN), which have to be told.
    pub has_summarizing: bool,
}

/// Replaces the row at `place`, and waits for a transaction that is writing it.
///
/// # Safety
/// The table is open for writing and the tuple is one of its rows.
pub unsafe fn replace(
    table: pg_sys::Relation,
    mut place: pg_sys::ItemPointerData,
    tuple: pg_sys::HeapTuple,
) -> Replaced {
    let mut failure = pg_sys::TM_FailureData::default();
    let mut lock = pg_sys::LockTupleMode::LockTupleExclusive;
    // SAFETY: the caller's promise.
    unsafe {
        // Since 16 an index that summarizes doesn't keep a row from staying in its page, and is told of it all the same.
        #[cfg(not(feature = "pg15"))]
        let mut indexes = pg_sys::TU_UpdateIndexes::TU_None;
        let outcome = pg_sys::heap_update(
            table,
            &raw mut place,
            tuple,
            pg_sys::GetCurrentCommandId(true),
            ptr::null_mut(),
            true,
            &raw mut failure,
            &raw mut lock,
            #[cfg(not(feature = "pg15"))]
            &raw mut indexes,
        );
        let heap_only = u32::from((*(*tuple).t_data).t_infomask2) & pg_sys::HEAP_ONLY_TUPLE != 0;
        #[cfg(feature = "pg15")]
        let has_summarizing = false;
        #[cfg(not(feature = "pg15"))]
        let has_summarizing = heap_only && indexes == pg_sys::TU_UpdateIndexes::TU_Summarizing;
        Replaced { outcome, heap_only, has_summarizing }
    }
}

/// Makes the index entries of a row that was inserted, or written anew by `replace`. With `clash`, a key that may exist already is
/// told there, neither raised nor waited for.
///
/// # Safety
/// The slot holds a row of the target's, which is open in the executor state.
pub unsafe fn insert_index_entries(
    target: *mut pg_sys::ResultRelInfo,
    slot: *mut pg_sys::TupleTableSlot,
    estate: *mut pg_sys::EState,
    clash: Option<&mut bool>,
    only_summarizing: bool,
) {
    #[cfg(feature = "pg15")]
    debug_assert!(!only_summarizing);
    let tells = clash.is_some();
    let clash = clash.map_or(ptr::null_mut(), ptr::from_mut);
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::ExecInsertIndexTuples(
            target,
            slot,
            estate,
            // Not as of an update: that hint would need the range table of a planned statement.
            false,
            tells,
            clash,
            ptr::null_mut(),
            // Since 16: only in indexes that summarize blocks.
            #[cfg(not(feature = "pg15"))]
            only_summarizing,
        );
    }
}

/// Has a function of Postgres' own called on a signal.
pub fn handle_signal(signal: c_int, handler: unsafe extern "C-unwind" fn(c_int)) {
    // SAFETY: the handler is one for the signals of a backend.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::pqsignal(signal, Some(handler));
        // 18 has a name for the server's that isn't also libpq's.
        #[cfg(feature = "pg18")]
        pg_sys::pqsignal_be(signal, Some(handler));
    }
}

/// Runs a plan.
#[cfg(not(feature = "pg18"))]
pub type Run = unsafe extern "C-unwind" fn(*mut pg_sys::QueryDesc, pg_sys::ScanDirection::Type, u64, bool);
/// 18 dropped the argument that says whether a plan runs once.
#[cfg(feature = "pg18")]
pub type Run = unsafe extern "C-unwind" fn(*mut pg_sys::QueryDesc, pg_sys::ScanDirection::Type, u64);

unsafe extern "C-unwind" {
    /// Postgres' own, unguarded, as hook.rs says.
    #[cfg(not(feature = "pg18"))]
    pub fn standard_ExecutorRun(
        query: *mut pg_sys::QueryDesc,
        direction: pg_sys::ScanDirection::Type,
        count: u64,
        once: bool,
    );
    #[cfg(feature = "pg18")]
    pub fn standard_ExecutorRun(
        query: *mut pg_sys::QueryDesc,
        direction: pg_sys::ScanDirection::Type,
        count: u64,
    );
}

/// Defines the hook before and after a plan runs, by way of a function that is handed what runs it.
macro_rules! run_hook {
    ($name:ident by $around:ident) => {
        #[cfg(not(feature = "pg18"))]
        unsafe extern "C-unwind" fn $name(
            query: *mut pg_sys::QueryDesc,
            direction: pg_sys::ScanDirection::Type,
            count: u64,
            once: bool,
        ) {
            // SAFETY: the arguments are passed on as they came.
            unsafe { $around(query, |next| next(query, direction, count, once)) }
        }
        #[cfg(feature = "pg18")]
        unsafe extern "C-unwind" fn $name(
            query: *mut pg_sys::QueryDesc,
            direction: pg_sys::ScanDirection::Type,
            count: u64,
        ) {
            // SAFETY: the arguments are passed on as they came.
            unsafe { $around(query, |next| next(query, direction, count)) }
        }
    };
}
pub(super) use run_hook;
