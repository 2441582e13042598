//! Reading a query's rows without converting their values.

use pgrx::pg_sys::{self, Datum};
use std::ffi::CString;

/// Rows fetched at a time: memory stays bounded whatever the query returns.
const FETCHED_ROWS: i64 = 10_000;

/// Runs a query and hands `take` chunks of its rows, each as values and nulls. The values are valid during that call.
/// The caller is connected to SPI by this function alone.
pub fn for_each_chunk<E>(
    query: &str,
    mut take: impl FnMut(&mut dyn Iterator<Item = (Vec<Datum>, Vec<bool>)>) -> Result<(), E>,
) -> Result<(), E> {
    let query = CString::new(query).expect("our own SQL contains no NUL");
    // SAFETY: the portal and each tuple table are used between their creation and their release here; on error
    // Postgres releases them with the (sub)transaction.
    unsafe {
        pg_sys::SPI_connect();
        let plan = pg_sys::SPI_prepare(query.as_ptr(), 0, core::ptr::null_mut());
        assert!(!plan.is_null(), "our own SQL can be prepared");
        // Not read-only: that would use the calling statement's snapshot, which may be older than a lock that this
        // statement has waited for.
        let read_only = false;
        let portal = pg_sys::SPI_cursor_open(
            core::ptr::null(),
            plan,
            core::ptr::null_mut(),
            core::ptr::null(),
            read_only,
        );
        loop {
            pg_sys::SPI_cursor_fetch(portal, true, FETCHED_ROWS);
            let fetched = pg_sys::SPI_processed as usize;
            if fetched == 0 {
                break;
            }
            let table = pg_sys::SPI_tuptable;
            let descriptor = (*table).tupdesc;
            let columns = (*descriptor).natts as usize;
            let mut rows = (0..fetched).map(|row| {
                let mut values = vec![Datum::from(0); columns];
                let mut nulls = vec![false; columns];
                let tuple = *(*table).vals.add(row);
                pg_sys::heap_deform_tuple(tuple, descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
                (values, nulls)
            });
            let taken = take(&mut rows);
            pg_sys::SPI_freetuptable(table);
            if let Err(error) = taken {
                pg_sys::SPI_cursor_close(portal);
                pg_sys::SPI_finish();
                return Err(error);
            }
        }
        pg_sys::SPI_cursor_close(portal);
        pg_sys::SPI_finish();
    }
    Ok(())
}
