//! Reading a query's rows: unconverted and in chunks, or as text.

use super::schema::as_installed;
use super::value::varlena_in_place;
use super::version::attribute;
use pgrx::IntoDatum;
use pgrx::pg_sys::{self, Datum};
use std::ffi::{CStr, CString};

/// Rows fetched at a time: memory stays bounded whatever the query returns.
const FETCHED_ROWS: i64 = 10_000;

/// Runs a query and hands `take` chunks of its rows, each as values and nulls. The values are valid during that call. It may name some
/// texts, as `$1`: what is part of a statement's text is shown in errors. The caller is connected to SPI by this function alone.
pub fn for_each_chunk<E>(
    query: &str,
    texts: &[String],
    snapshot: Snapshot,
    mut take: impl FnMut(&mut dyn Iterator<Item = (Vec<Datum>, Vec<bool>)>) -> Result<(), E>,
) -> Result<(), E> {
    let query = CString::new(query).expect("our own SQL contains no NUL");
    // SAFETY: the portal and each tuple table are used between their creation and their release here; on error
    // Postgres releases them with the (sub)transaction.
    unsafe {
        pg_sys::SPI_connect();
        let mut types = [pg_sys::TEXTARRAYOID];
        let mut values = [texts.to_vec().into_datum().expect("an array")];
        let plan = pg_sys::SPI_prepare(query.as_ptr(), 1, types.as_mut_ptr());
        assert!(!plan.is_null(), "our own SQL can be prepared");
        // What is read-only uses the calling statement's snapshot.
        let read_only = snapshot == Snapshot::Calling;
        let portal = pg_sys::SPI_cursor_open(
            core::ptr::null(),
            plan,
            values.as_mut_ptr(),
            core::ptr::null(),
            read_only,
        );
        // What `take` runs may be somebody else's code, and a cursor that isn't pinned can be closed by name.
        pg_sys::PinPortal(portal);
        loop {
            pg_sys::SPI_cursor_fetch(portal, true, FETCHED_ROWS);
            let fetched = pg_sys::SPI_processed as usize;
            if fetched == 0 {
                break;
            }
            let table = pg_sys::SPI_tuptable;
            let descriptor = (*table).tupdesc;
            let columns = (*descriptor).natts as usize;
            let is_text: Vec<bool> =
                (0..columns).map(|place| attribute(descriptor, place).atttypid == pg_sys::TEXTOID).collect();
            let mut rows = (0..fetched).map(|row| {
                let mut values = vec![Datum::from(0); columns];
                let mut nulls = vec![false; columns];
                let tuple = *(*table).vals.add(row);
                pg_sys::heap_deform_tuple(tuple, descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
                // Texts are read in place, whatever a table's storage parameters make of them.
                for (place, value) in values.iter_mut().enumerate() {
                    if is_text[place] && !nulls[place] && varlena_in_place(*value).is_none() {
                        *value = Datum::from(pg_sys::pg_detoast_datum(value.cast_mut_ptr()));
                    }
                }
                (values, nulls)
            });
            let taken = take(&mut rows);
            pg_sys::SPI_freetuptable(table);
            if let Err(error) = taken {
                pg_sys::UnpinPortal(portal);
                pg_sys::SPI_cursor_close(portal);
                pg_sys::SPI_finish();
                return Err(error);
            }
        }
        pg_sys::UnpinPortal(portal);
        pg_sys::SPI_cursor_close(portal);
        pg_sys::SPI_finish();
    }
    Ok(())
}

/// Which committed rows a query sees.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Snapshot {
    /// Those the calling statement sees. The query is planned after that snapshot was taken, so that each partition
    /// whose rows it sees is in the plan; with a fresh one, a partition made while the query is planned is missed.
    Calling,
    /// Those committed by now: for what must be newer than a lock that the calling statement waited for.
    Fresh,
    /// The same whatever the transaction's isolation: for what is kept beyond the transaction.
    Latest,
}

/// Runs a statement; gives the numbers in the first row of a query, or how many rows another one changed.
pub fn numbers(statement: &str) -> Vec<i64> {
    let statement = CString::new(statement).expect("statements contain no NUL");
    // SAFETY: as in `texts_with`.
    unsafe {
        pg_sys::SPI_connect();
        let result = pg_sys::SPI_execute(statement.as_ptr(), false, 0);
        let processed = pg_sys::SPI_processed as i64;
        let numbers = if result == pg_sys::SPI_OK_SELECT as i32 && processed > 0 {
            let table = pg_sys::SPI_tuptable;
            let (tuple, descriptor) = (*(*table).vals, (*table).tupdesc);
            let number = |column| {
                let text = pg_sys::SPI_getvalue(tuple, descriptor, column);
                CStr::from_ptr(text).to_string_lossy().parse().expect("a number")
            };
            (1..=(*descriptor).natts).map(number).collect()
        } else {
            vec![processed]
        };
        pg_sys::SPI_finish();
        numbers
    }
}

/// A query's rows as text. Assigns no transaction id, so it also runs on a standby.
pub fn texts(query: &str, snapshot: Snapshot) -> Vec<Vec<Option<String>>> {
    texts_with(query, snapshot, || {})
}

/// The same, after `prepare` has been run in the connection to SPI that the query uses.
pub fn texts_with(query: &str, snapshot: Snapshot, prepare: impl FnOnce()) -> Vec<Vec<Option<String>>> {
    let query = CString::new(&*as_installed(query)).expect("our own SQL contains no NUL");
    // SAFETY: the tuple table lives until SPI_finish; the texts are copied out of it.
    unsafe {
        pg_sys::SPI_connect();
        prepare();
        // SPI takes the active snapshot where nothing is to be written, else the transaction's own.
        let read_only = snapshot != Snapshot::Fresh;
        if snapshot == Snapshot::Latest {
            pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        }
        let result = pg_sys::SPI_execute(query.as_ptr(), read_only, 0);
        if snapshot == Snapshot::Latest {
            pg_sys::PopActiveSnapshot();
        }
        assert_eq!(result, pg_sys::SPI_OK_SELECT as i32, "our own SQL is a SELECT");
        let table = pg_sys::SPI_tuptable;
        let descriptor = (*table).tupdesc;
        let text = |tuple, column| {
            let text = pg_sys::SPI_getvalue(tuple, descriptor, column);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        };
        let rows = (0..pg_sys::SPI_processed as usize)
            .map(|row| {
                let tuple = *(*table).vals.add(row);
                (1..=(*descriptor).natts).map(|column| text(tuple, column)).collect()
            })
            .collect();
        pg_sys::SPI_finish();
        rows
    }
}
