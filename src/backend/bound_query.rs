//! A query as Postgres understands it: what it returns, and what its answer hangs on.

use core::ffi::CStr;
use pgrx::PgList;
use pgrx::pg_sys::{self, Datum, Oid, SysCacheIdentifier};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ffi::CString;
use std::ptr;

/// A query that was analysed and rewritten, with the views and policies that it reads through.
pub struct BoundQuery {
    /// All of it, as a text that is the same while it means the same.
    pub tree: String,
    /// Names and types.
    pub columns: Vec<(String, String)>,
    pub relations: Vec<Oid>,
    /// All that it calls, also Postgres' own, by name or as operators and aggregates.
    pub functions: Vec<Oid>,
    pub types: Vec<Oid>,
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
            types: types_in(&tree),
            tree,
            columns: columns.collect(),
            relations: PgList::<Oid>::from_pg((*source).relationOids).iter_oid().collect(),
        })
    }
}

/// The functions that the text of a tree names.
fn functions_in(tree: &str) -> Vec<Oid> {
    numbers_after(tree, &[":funcid ", ":opfuncid ", ":aggfnoid ", ":winfnoid "])
}

/// The types that it names: of constants, columns, parameters, results and casts, and in the lists of functions' columns.
fn types_in(tree: &str) -> Vec<Oid> {
    let of_columns = tree.split("types (o").skip(1).filter_map(|rest| rest.split(')').next());
    let columns: Vec<Oid> = of_columns
        .flat_map(str::split_whitespace)
        .filter_map(|number| number.parse().ok())
        .map(oid)
        .collect();
    let mut found = numbers_after(tree, &["type ", "typeid ", "typeId "]);
    found.extend(columns);
    found
}

fn oid(number: u32) -> Oid {
    Oid::from(number)
}

/// The numbers that follow one of the fields, but for zero.
fn numbers_after(tree: &str, fields: &[&str]) -> Vec<Oid> {
    let mut found = HashSet::new();
    for field in fields {
        let numbers = tree.split(field).skip(1).map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
        found.extend(
            numbers.flatten().filter_map(|number| number.parse::<u32>().ok()).filter(|number| *number > 0),
        );
    }
    found.into_iter().map(oid).collect()
}

/// What is watched: a function or a type.
struct Watched {
    /// The cache of Postgres' own that it is in.
    cache: i32,
    object: Oid,
    /// What changes of it are told with.
    hash: u32,
    /// Which row of the catalogue it was; nothing where there was none.
    row: Option<Row>,
}

/// The number of the table of casts, the same in every release.
const PG_CAST: u32 = 2605;

/// Who wrote a row, and where it lies.
type Row = (u32, (u16, u16, u16));

thread_local! {
    /// `None` before anything was watched.
    static WATCHED: RefCell<Option<Vec<Watched>>> = const { RefCell::new(None) };
    /// All casts, as they were.
    static CASTS: RefCell<Vec<Row>> = const { RefCell::new(Vec::new()) };
    static HAS_CHANGED: Cell<bool> = const { Cell::new(false) };
    /// Whether there were changes that this backend wasn't told one by one.
    static HAS_MISSED: Cell<bool> = const { Cell::new(false) };
}

/// Watches functions and types, in place of those before, and all casts: running queries look them up when they use them.
pub fn watch(functions: &[Oid], types: &[Oid]) {
    let (of_functions, of_types) = (SysCacheIdentifier::PROCOID as i32, SysCacheIdentifier::TYPEOID as i32);
    let nothing = Datum::from(0);
    let watched = |cache: i32, object: Oid| Watched {
        cache,
        object,
        // SAFETY: the hash of a key.
        hash: unsafe { pg_sys::GetSysCacheHashValue(cache, Datum::from(object), nothing, nothing, nothing) },
        row: row_of(cache, object),
    };
    let functions = functions.iter().map(|function| watched(of_functions, *function));
    let all = functions.chain(types.iter().map(|named| watched(of_types, *named))).collect();
    CASTS.set(casts());
    if WATCHED.replace(Some(all)).is_none() {
        // SAFETY: the callbacks are plain functions that touch thread-local cells only, registered once a backend.
        unsafe {
            pg_sys::CacheRegisterSyscacheCallback(of_functions, Some(changed), nothing);
            pg_sys::CacheRegisterSyscacheCallback(of_types, Some(changed), nothing);
            let casts = SysCacheIdentifier::CASTSOURCETARGET as i32;
            pg_sys::CacheRegisterSyscacheCallback(casts, Some(cast_changed), nothing);
        }
    }
    HAS_CHANGED.set(false);
    HAS_MISSED.set(false);
}

/// Whether a watched one has changed, in this transaction or by one that has committed.
pub fn has_changed() -> bool {
    super::session::accept_invalidations();
    // Where it isn't known, one looks.
    if HAS_MISSED.take() {
        let is_another = |watched: &Watched| row_of(watched.cache, watched.object) != watched.row;
        let is_so = WATCHED.with_borrow(|watched| watched.iter().flatten().any(is_another));
        let now = casts();
        if is_so || CASTS.with_borrow(|before| *before != now) {
            HAS_CHANGED.set(true);
        }
    }
    HAS_CHANGED.get()
}

/// The row of what is watched, as of now.
fn row_of(cache: i32, object: Oid) -> Option<Row> {
    // SAFETY: inside a transaction; the row is read before it is given back.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(cache, Datum::from(object));
        if tuple.is_null() {
            return None;
        }
        let row = row(tuple);
        pg_sys::ReleaseSysCache(tuple);
        Some(row)
    }
}

/// The rows of all casts, as of now.
fn casts() -> Vec<Row> {
    // SAFETY: inside a transaction; each row is read while the scan stands on it.
    unsafe {
        let table = pg_sys::table_open(Oid::from(PG_CAST), pg_sys::AccessShareLock as i32);
        let scan =
            pg_sys::systable_beginscan(table, Oid::INVALID, false, ptr::null_mut(), 0, ptr::null_mut());
        let found = std::iter::from_fn(|| {
            let tuple = pg_sys::systable_getnext(scan);
            (!tuple.is_null()).then(|| row(tuple))
        });
        let found = found.collect();
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(table, pg_sys::AccessShareLock as i32);
        found
    }
}

/// # Safety
/// The tuple is a row of a table.
unsafe fn row(tuple: pg_sys::HeapTuple) -> Row {
    // SAFETY: the caller's promise.
    unsafe {
        let place = (*tuple).t_self;
        let writer = u32::from((*(*tuple).t_data).t_choice.t_heap.t_xmin);
        (writer, (place.ip_blkid.bi_hi, place.ip_blkid.bi_lo, place.ip_posid))
    }
}

/// Which types a query has isn't known here.
extern "C-unwind" fn cast_changed(_: Datum, _: core::ffi::c_int, hash: u32) {
    if hash == 0 { HAS_MISSED.set(true) } else { HAS_CHANGED.set(true) }
}

extern "C-unwind" fn changed(_: Datum, cache: core::ffi::c_int, hash: u32) {
    // Zero stands for all: a backend that has read no messages for long, as on a busy server, is told nothing more.
    if hash == 0 {
        HAS_MISSED.set(true);
        return;
    }
    let is_watched = |watched: &Option<Vec<Watched>>| {
        watched.iter().flatten().any(|each| each.cache == cache && each.hash == hash)
    };
    if WATCHED.with_borrow(is_watched) {
        HAS_CHANGED.set(true);
    }
}
