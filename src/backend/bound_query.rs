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
    /// Those that it calls, and those that it sorts, groups and compares rows by.
    pub operators: Vec<Oid>,
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
            operators: operators_in(&tree),
            types: types_in(&tree),
            tree,
            columns: columns.collect(),
            relations: PgList::<Oid>::from_pg((*source).relationOids).iter_oid().collect(),
        })
    }
}

/// The functions that the text of a tree names.
fn functions_in(tree: &str) -> Vec<Oid> {
    numbers_after(
        tree,
        &[":funcid ", ":opfuncid ", ":aggfnoid ", ":winfnoid ", ":startInRangeFunc ", ":endInRangeFunc "],
    )
}

/// The operators that it names, also in the lists of compared rows.
fn operators_in(tree: &str) -> Vec<Oid> {
    let mut found = numbers_after(tree, &[":opno ", ":eqop ", ":sortop ", "_neop "]);
    found.extend(numbers_in_lists(tree, ":opnos (o"));
    found
}

/// The types that it names: of constants, columns, parameters, results and casts, and in the lists of functions' columns.
fn types_in(tree: &str) -> Vec<Oid> {
    let mut found = numbers_after(tree, &["type ", "typeid ", "typeId ", ":typid "]);
    found.extend(numbers_in_lists(tree, "ypes (o"));
    found
}

/// The numbers in the lists that begin so.
fn numbers_in_lists<'a>(tree: &'a str, beginning: &'a str) -> impl Iterator<Item = Oid> + 'a {
    let lists = tree.split(beginning).skip(1).filter_map(|rest| rest.split(')').next());
    lists.flat_map(str::split_whitespace).filter_map(|number| number.parse::<u32>().ok()).map(Oid::from)
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

/// What is watched: a function, a type, a cast that may come to be, or a relation.
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

/// Where a change of what is watched is one for sure.
const CERTAIN: [i32; 3] = [SysCacheIdentifier::PROCOID as i32, SysCacheIdentifier::TYPEOID as i32, CASTS];

/// Where any change may matter, and there are few: what it comes to is looked up anew.
const LOOKED_UP: [i32; 9] = [
    SysCacheIdentifier::AGGFNOID as i32,
    SysCacheIdentifier::AUTHMEMMEMROLE as i32,
    SysCacheIdentifier::AUTHOID as i32,
    SysCacheIdentifier::CLAOID as i32,
    SysCacheIdentifier::ENUMOID as i32,
    SysCacheIdentifier::FOREIGNDATAWRAPPEROID as i32,
    SysCacheIdentifier::FOREIGNSERVEROID as i32,
    SysCacheIdentifier::OPFAMILYOID as i32,
    SysCacheIdentifier::USERMAPPINGOID as i32,
];

/// What vacuuming and new statistics tell of, too: its row is the same after those.
const RELATIONS: i32 = SysCacheIdentifier::RELOID as i32;

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
    /// Whether there were changes that may be of something else, or that this backend wasn't told one by one.
    must_look: bool,
}

thread_local! {
    /// Of the runs of this transaction, and perhaps of earlier ones; `None` before anything was watched.
    static RUNS: RefCell<Option<Vec<Run>>> = const { RefCell::new(None) };
}

/// Watches functions, types, the types' casts to json and relations for a run, beside what other runs go by: running queries look
/// functions and types up when they use them, and what functions read is locked when they first run.
pub fn watch(run: i64, functions: &[Oid], types: &[Oid], relations: &[Oid]) {
    let nothing = Datum::from(0);
    let watched = |cache: i32, object: Oid| {
        let keys = (Datum::from(object), Datum::from(target(cache)));
        // SAFETY: the hash of a key.
        let hash = unsafe { pg_sys::GetSysCacheHashValue(cache, keys.0, keys.1, nothing, nothing) };
        Watched { cache, object, hash, row: row_of(cache, object) }
    };
    let [of_functions, of_types, of_casts] = CERTAIN;
    let objects = [(of_functions, functions), (of_types, types), (of_casts, types), (RELATIONS, relations)];
    let watched = objects
        .into_iter()
        .flat_map(|(cache, objects)| objects.iter().map(move |object| (cache, *object)))
        .map(|(cache, object)| watched(cache, object))
        .collect();
    let transaction = super::version::transaction_number();
    let new = Run { run, transaction, watched, has_changed: false, must_look: false };
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
            for cache in CERTAIN.into_iter().chain(LOOKED_UP) {
                pg_sys::CacheRegisterSyscacheCallback(cache, Some(changed), nothing);
            }
            // Told of relations' columns, rules and policies, too.
            pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), nothing);
        }
    }
}

/// Whether what is watched for a run has changed, in this transaction or by one that has committed. Where that isn't known, `has_other_basis`
/// looks up whether what it goes by is another one.
pub fn has_changed(run: i64, has_other_basis: impl FnOnce() -> bool) -> bool {
    super::session::accept_invalidations();
    let found = |runs: &mut Option<Vec<Run>>| {
        let run = runs.iter_mut().flatten().find(|watched| watched.run == run)?;
        let looked_at = std::mem::take(&mut run.must_look).then(|| run.watched.clone());
        Some((run.has_changed, looked_at))
    };
    match RUNS.with_borrow_mut(found) {
        None => true,
        Some((has_changed, None)) => has_changed,
        // Not while they are borrowed, since looking may bring news.
        Some((has_changed, Some(watched))) => {
            let is_another = |one: &Watched| row_of(one.cache, one.object) != one.row;
            let has_changed = has_changed || watched.iter().any(is_another) || has_other_basis();
            RUNS.with_borrow_mut(|runs| {
                for watched in runs.iter_mut().flatten().filter(|watched| watched.run == run) {
                    watched.has_changed |= has_changed;
                }
            });
            has_changed
        }
    }
}

/// Which rows user mappings are, as of now. What they say are secrets, and isn't read.
pub fn versions_of_mappings(mappings: &[Oid]) -> String {
    let version = |mapping: &Oid| {
        format!("mapping {mapping:?} {:?}\n", row_of(SysCacheIdentifier::USERMAPPINGOID as i32, *mapping))
    };
    mappings.iter().map(version).collect()
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
            run.must_look |= hash == 0 || LOOKED_UP.contains(&cache);
            run.has_changed |= run.watched.iter().any(|each| each.cache == cache && each.hash == hash);
        }
    });
}

extern "C-unwind" fn relation_changed(_: Datum, relation: Oid) {
    RUNS.with_borrow_mut(|runs| {
        for run in runs.iter_mut().flatten() {
            let is_watched = |each: &Watched| each.cache == RELATIONS && each.object == relation;
            run.must_look |= relation == Oid::INVALID || run.watched.iter().any(is_watched);
        }
    });
}
