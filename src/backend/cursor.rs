//! A cursor over a query of a client's, whose rows are taken a few at a time, each as JSON.

use core::ffi::{CStr, c_char};
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{FromDatum, IntoDatum};
use std::ffi::CString;

/// row_to_json(record), the same since it exists.
const ROW_TO_JSON: u32 = 3155;

/// A cursor of the running transaction, by its name.
pub struct Cursor(CString);

impl Cursor {
    /// Opens one over a query with text parameters, that only reads.
    pub fn open(query: &str, parameters: &[Option<String>]) -> Self {
        let text = CString::new(query).expect("a text of Postgres' has no NUL");
        let mut types = vec![pg_sys::TEXTOID; parameters.len()];
        let mut values: Vec<Datum> = parameters
            .iter()
            .map(|value| value.as_deref().and_then(IntoDatum::into_datum).unwrap_or(Datum::from(0)))
            .collect();
        let nulls: Vec<c_char> =
            parameters.iter().map(|value| if value.is_none() { b'n' } else { b' ' } as c_char).collect();
        // SAFETY: Postgres copies values and plan into the portal, which lives until it is closed or the transaction ends. Where an error
        // is raised, it ends SPI and closes the portal with the (sub)transaction.
        unsafe {
            read_only(|| {
                pg_sys::SPI_connect();
                let plan = pg_sys::SPI_prepare(text.as_ptr(), parameters.len() as i32, types.as_mut_ptr());
                assert!(!plan.is_null(), "the query was analysed before");
                let portal = pg_sys::SPI_cursor_open(
                    core::ptr::null(),
                    plan,
                    values.as_mut_ptr(),
                    nulls.as_ptr(),
                    true,
                );
                let name = CStr::from_ptr((*portal).name).to_owned();
                pg_sys::SPI_finish();
                Self(name)
            })
        }
    }

    /// Hands so many of the next rows to `take`; says how many there were.
    pub fn fetch(&self, rows: i64, mut take: impl FnMut(&str)) -> u64 {
        // SAFETY: rows and their descriptor live until SPI_finish; the same where an error is raised.
        unsafe {
            read_only(|| {
                pg_sys::SPI_connect();
                let portal = pg_sys::SPI_cursor_find(self.0.as_ptr());
                assert!(!portal.is_null(), "the cursor is open as long as its reader");
                pg_sys::SPI_cursor_fetch(portal, true, rows as _);
                let (found, table) = (pg_sys::SPI_processed, pg_sys::SPI_tuptable);
                if found > 0 {
                    let descriptor = pg_sys::BlessTupleDesc((*table).tupdesc);
                    for place in 0..found as usize {
                        let row = pg_sys::heap_copy_tuple_as_datum(*(*table).vals.add(place), descriptor);
                        let json = pg_sys::OidFunctionCall1Coll(Oid::from(ROW_TO_JSON), Oid::INVALID, row);
                        take(<&str>::from_datum(json, false).expect("row_to_json gives no null"));
                    }
                }
                pg_sys::SPI_finish();
                found
            })
        }
    }

    /// Closes it.
    pub fn close(self) {
        // SAFETY: closes what is open.
        unsafe {
            let portal = pg_sys::SPI_cursor_find(self.0.as_ptr());
            if !portal.is_null() {
                pg_sys::SPI_cursor_close(portal);
            }
        }
    }
}

/// Runs `work` as in a read-only transaction.
unsafe fn read_only<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: a flag of the transaction's own. Where an error ends the (sub)transaction, Postgres puts it back.
    unsafe {
        let before = pg_sys::XactReadOnly;
        pg_sys::XactReadOnly = true;
        let result = work();
        pg_sys::XactReadOnly = before;
        result
    }
}
