//! A query as Postgres understands it: what it returns, and what its answer hangs on.

use core::ffi::CStr;
use pgrx::PgList;
use pgrx::pg_sys::{self, Datum, Oid, SysCacheIdentifier};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ffi::CString;

/// A query that was analysed and rewritten, with the views and policies that it reads through.
pub struct BoundQuery {
    /// All of it, as a text that is the same while it means the same.
    pub tree: String,
    /// Names and types.
    pub columns: Vec<(String, String)>,
    pub relations: Vec<Oid>,
    /// All that it calls, also Postgres' own, by name or as operators and aggregates.
    pub functions: Vec<Oid>,
}

/// Reads a query whose parameters are texts. What it is where it is no query that only reads.
pub fn analyse(query: &str, parameters: usize) -> Result<BoundQuery, &'static str> {
    let Ok(text) = CString::new(query) else { return Err("a text with NUL") };
    let mut types = vec![pg_sys::TEXTOID; parameters];
    // SAFETY: the plan lives until SPI_finish; where an error is raised, Postgres ends SPI with the (sub)transaction.
    unsafe {
        pg_sys::SPI_connect();
        let plan = pg_sys::SPI_prepare(text.as_ptr(), parameters as i32, types.as_mut_ptr());
        let bound = if plan.is_null() { Err("a statement that can't be prepared") } else { read(plan) };
        pg_sys::SPI_finish();
        bound
    }
}

unsafe fn read(plan: pg_sys::SPIPlanPtr) -> Result<BoundQuery, &'static str> {
    // SAFETY: the plan was prepared; its parts are lists of the structs that their tags say.
    unsafe {
        let sources = PgList::<pg_sys::CachedPlanSource>::from_pg(pg_sys::SPI_plan_get_plan_sources(plan));
        let (1, Some(source)) = (sources.len(), sources.get_ptr(0)) else {
            return Err("several statements, or none");
        };
        let queries = PgList::<pg_sys::Query>::from_pg((*source).query_list);
        let (1, Some(query)) = (queries.len(), queries.get_ptr(0)) else {
            return Err("a statement that rules rewrite");
        };
        let query = &*query;
        if query.commandType != pg_sys::CmdType::CMD_SELECT
            || !query.utilityStmt.is_null()
            || query.hasModifyingCTE
        {
            return Err("no SELECT, or one that writes");
        }
        if !query.rowMarks.is_null() || query.hasForUpdate {
            return Err("a SELECT that locks rows");
        }
        let descriptor = (*source).resultDesc;
        if descriptor.is_null() || (*descriptor).natts == 0 {
            return Err("a SELECT without columns");
        }
        let columns = (0..(*descriptor).natts as usize).map(|place| {
            let column = super::version::attribute(descriptor, place);
            let name = CStr::from_ptr(column.attname.data.as_ptr()).to_string_lossy().into_owned();
            let of_type = CStr::from_ptr(pg_sys::format_type_with_typemod(column.atttypid, column.atttypmod));
            (name, of_type.to_string_lossy().into_owned())
        });
        let tree =
            CStr::from_ptr(pg_sys::nodeToString((*source).query_list.cast())).to_string_lossy().into_owned();
        Ok(BoundQuery {
            functions: functions_in(&tree),
            tree,
            columns: columns.collect(),
            relations: PgList::<Oid>::from_pg((*source).relationOids).iter_oid().collect(),
        })
    }
}

/// The functions that the text of a tree names.
fn functions_in(tree: &str) -> Vec<Oid> {
    let mut found = HashSet::new();
    for field in [":funcid ", ":opfuncid ", ":aggfnoid ", ":winfnoid "] {
        let numbers = tree.split(field).skip(1).map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
        found.extend(
            numbers.flatten().filter_map(|number| number.parse::<u32>().ok()).filter(|number| *number > 0),
        );
    }
    found.into_iter().map(Oid::from).collect()
}

thread_local! {
    /// The watched functions, by the hashes that changes are told with; `None` before any was.
    static WATCHED: RefCell<Option<HashSet<u32>>> = const { RefCell::new(None) };
    static HAS_CHANGED: Cell<bool> = const { Cell::new(false) };
}

/// Watches functions, in place of those before, and all casts: running queries look them up when they call them.
pub fn watch(functions: &[Oid]) {
    let cache = SysCacheIdentifier::PROCOID as i32;
    let nothing = Datum::from(0);
    // SAFETY: the hash of a key; the callback is a plain function that touches thread-local cells only, registered once a backend.
    unsafe {
        let hash = |function: &Oid| {
            pg_sys::GetSysCacheHashValue(cache, Datum::from(*function), nothing, nothing, nothing)
        };
        let hashes = functions.iter().map(hash).collect();
        if WATCHED.replace(Some(hashes)).is_none() {
            pg_sys::CacheRegisterSyscacheCallback(cache, Some(changed), nothing);
            let casts = SysCacheIdentifier::CASTSOURCETARGET as i32;
            pg_sys::CacheRegisterSyscacheCallback(casts, Some(cast_changed), nothing);
        }
    }
    HAS_CHANGED.set(false);
}

/// Whether a watched one has changed, in this transaction or by one that has committed, or it isn't known whether one has.
pub fn has_changed() -> bool {
    super::session::accept_invalidations();
    HAS_CHANGED.get()
}

/// Which types a query has isn't known here.
extern "C-unwind" fn cast_changed(_: Datum, _: core::ffi::c_int, _: u32) {
    HAS_CHANGED.set(true);
}

extern "C-unwind" fn changed(_: Datum, _: core::ffi::c_int, hash: u32) {
    // Zero stands for all.
    let is_watched =
        |watched: &Option<HashSet<u32>>| watched.as_ref().is_some_and(|watched| watched.contains(&hash));
    if hash == 0 || WATCHED.with_borrow(is_watched) {
        HAS_CHANGED.set(true);
    }
}
