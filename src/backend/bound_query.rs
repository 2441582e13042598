//! A query as Postgres understands it: what it returns, and what its answer hangs on.

use core::ffi::CStr;
use pgrx::PgList;
use pgrx::pg_sys::{self, Datum, Oid, SysCacheIdentifier};
use std::collections::HashSet;
use std::ffi::CString;

/// A query that was analysed and rewritten, with the views and policies that it reads through.
pub struct BoundQuery {
    /// All of it, as a text that is the same while it means the same.
    pub tree: String,
    /// Names and types.
    pub columns: Vec<(String, String)>,
    pub relations: Vec<Oid>,
    /// Those that somebody made or an extension brought, not what Postgres has itself.
    pub functions: Vec<Oid>,
}

/// Reads a query whose parameters are texts; `functions` are all that it might call. What it is where it is no query that only reads.
pub fn analyse(query: &str, parameters: usize, functions: &[Oid]) -> Result<BoundQuery, &'static str> {
    let Ok(text) = CString::new(query) else { return Err("a text with NUL") };
    let mut types = vec![pg_sys::TEXTOID; parameters];
    // SAFETY: the plan lives until SPI_finish; where an error is raised, Postgres ends SPI with the (sub)transaction.
    unsafe {
        pg_sys::SPI_connect();
        let plan = pg_sys::SPI_prepare(text.as_ptr(), parameters as i32, types.as_mut_ptr());
        let bound =
            if plan.is_null() { Err("a statement that can't be prepared") } else { read(plan, functions) };
        pg_sys::SPI_finish();
        bound
    }
}

unsafe fn read(plan: pg_sys::SPIPlanPtr, functions: &[Oid]) -> Result<BoundQuery, &'static str> {
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
        let tree = CStr::from_ptr(pg_sys::nodeToString((*source).query_list.cast()));
        // Postgres notes functions by the hash of their number.
        let items = PgList::<pg_sys::PlanInvalItem>::from_pg((*source).invalItems);
        let hashes: HashSet<u32> = items
            .iter_ptr()
            .filter(|item| (**item).cacheId == SysCacheIdentifier::PROCOID as i32)
            .map(|item| (*item).hashValue)
            .collect();
        let nothing = Datum::from(0);
        let is_called = |function: &&Oid| {
            let hash = pg_sys::GetSysCacheHashValue(
                SysCacheIdentifier::PROCOID as i32,
                Datum::from(**function),
                nothing,
                nothing,
                nothing,
            );
            hashes.contains(&hash)
        };
        Ok(BoundQuery {
            tree: tree.to_string_lossy().into_owned(),
            columns: columns.collect(),
            relations: PgList::<Oid>::from_pg((*source).relationOids).iter_oid().collect(),
            functions: functions.iter().filter(is_called).copied().collect(),
        })
    }
}
