//! A query as Postgres understands it: what it returns, and what its answer hangs on.

use core::ffi::CStr;
use pgrx::PgList;
use pgrx::pg_sys::{self, Datum, Oid, SysCacheIdentifier};
use std::cell::RefCell;
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
        .filter_map(|number| number.parse::<u32>().ok())
        .map(Oid::from)
        .collect();
    let mut found = numbers_after(tree, &["type ", "typeid ", "typeId "]);
    found.extend(columns);
    found
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
    found.into_iter().map(Oid::from).collect()
}

/// What is watched: a function, a type, a label, or a cast that may come to be.
#[derive(Clone)]
struct Watched {
    /// The cache of Postgres' own that it is in.
    cache: i32,
    object: Oid,
    /// What changes of it are told with.
    hash: u32,
    /// Which row of the catalogue it was; nothing where there was none.
    row: Option<Row>,
}

const CASTS: i32 = SysCacheIdentifier::CASTSOURCETARGET as i32;

/// Of a cast, what it leads to.
fn target(cache: i32) -> Oid {
    if cache == CASTS { pg_sys::JSONOID } else { Oid::INVALID }
}

/// Who wrote a row, and where it lies.
type Row = (u32, (u16, u16, u16));

/// What a run of a query goes by.
struct Run {
    run: i64,
    transaction: u32,
    watched: Vec<Watched>,
    has_changed: bool,
    /// Whether there were changes that this backend wasn't told one by one.
    has_missed: bool,
}

thread_local! {
    /// Of the runs of this transaction, and perhaps of earlier ones; `None` before anything was watched.
    static RUNS: RefCell<Option<Vec<Run>>> = const { RefCell::new(None) };
}

/// Watches functions, types, labels of enumerations and the types' casts to json for a run, beside what other runs go by: running
/// queries look them up when they use them.
pub fn watch(run: i64, functions: &[Oid], types: &[Oid], labels: &[Oid]) {
    let nothing = Datum::from(0);
    let watched = |cache: i32, object: Oid| {
        let keys = (Datum::from(object), Datum::from(target(cache)));
        // SAFETY: the hash of a key.
        let hash = unsafe { pg_sys::GetSysCacheHashValue(cache, keys.0, keys.1, nothing, nothing) };
        Watched { cache, object, hash, row: row_of(cache, object) }
    };
    let caches = [
        SysCacheIdentifier::PROCOID,
        SysCacheIdentifier::TYPEOID,
        SysCacheIdentifier::ENUMOID,
        SysCacheIdentifier::CASTSOURCETARGET,
    ];
    let objects = [functions, types, labels, types];
    let watched = caches
        .into_iter()
        .zip(objects)
        .flat_map(|(cache, objects)| objects.iter().map(move |object| (cache as i32, *object)))
        .map(|(cache, object)| watched(cache, object))
        .collect();
    let transaction = super::version::transaction_number();
    let new = Run { run, transaction, watched, has_changed: false, has_missed: false };
    let is_first = RUNS.with_borrow_mut(|runs| {
        let is_first = runs.is_none();
        let runs = runs.get_or_insert_default();
        // They end with their transaction at the latest.
        runs.retain(|other| other.transaction == transaction && other.run != run);
        runs.push(new);
        is_first
    });
    if is_first {
        // SAFETY: the callbacks are plain functions that touch thread-local cells only, registered once a backend.
        unsafe {
            for cache in caches {
                pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(changed), nothing);
            }
        }
    }
}

/// Whether what is watched for a run has changed, in this transaction or by one that has committed.
pub fn has_changed(run: i64) -> bool {
    super::session::accept_invalidations();
    let found = |runs: &mut Option<Vec<Run>>| {
        let run = runs.iter_mut().flatten().find(|watched| watched.run == run)?;
        let missed = std::mem::take(&mut run.has_missed).then(|| run.watched.clone());
        Some((run.has_changed, missed))
    };
    match RUNS.with_borrow_mut(found) {
        None => true,
        Some((has_changed, None)) => has_changed,
        // Where it isn't known, one looks: not while they are borrowed, since looking may bring news.
        Some((has_changed, Some(watched))) => {
            let is_another = |one: &Watched| row_of(one.cache, one.object) != one.row;
            let has_changed = has_changed || watched.iter().any(is_another);
            RUNS.with_borrow_mut(|runs| {
                for watched in runs.iter_mut().flatten().filter(|watched| watched.run == run) {
                    watched.has_changed |= has_changed;
                }
            });
            has_changed
        }
    }
}

/// Watches nothing for a run any longer.
pub fn unwatch(run: i64) {
    RUNS.with_borrow_mut(|runs| {
        if let Some(runs) = runs {
            runs.retain(|other| other.run != run);
        }
    });
}

/// The row of what is watched, as of now.
fn row_of(cache: i32, object: Oid) -> Option<Row> {
    // SAFETY: inside a transaction; the row is read before it is given back.
    unsafe {
        let (object, target) = (Datum::from(object), Datum::from(target(cache)));
        let tuple = if cache == CASTS {
            pg_sys::SearchSysCache2(cache, object, target)
        } else {
            pg_sys::SearchSysCache1(cache, object)
        };
        if tuple.is_null() {
            return None;
        }
        let row = row(tuple);
        pg_sys::ReleaseSysCache(tuple);
        Some(row)
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

extern "C-unwind" fn changed(_: Datum, cache: core::ffi::c_int, hash: u32) {
    RUNS.with_borrow_mut(|runs| {
        for run in runs.iter_mut().flatten() {
            // Zero stands for all: a backend that has read no messages for long, as on a busy server, is told nothing more.
            run.has_missed |= hash == 0;
            run.has_changed |= run.watched.iter().any(|each| each.cache == cache && each.hash == hash);
        }
    });
}
