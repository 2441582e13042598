//! The type `tally_internal.column_place`: a column, which goes by its table's and its own number, as `regclass` does for tables, whatever
//! they are called later, and is written as its name, so that a dump finds it again where numbers are others.

use crate::backend::call::{self, sql_function};
use crate::backend::column_name;

/// What is written for a column that isn't there any more.
const NOWHERE: &str = "-";

/// A name that leads to no column is nowhere, so that one row can't stop a restore.
fn read(text: &str) -> pgrx::pg_sys::Datum {
    column_name::pack(Some(text).filter(|text| *text != NOWHERE).and_then(column_name::find))
}

fn written(value: i64) -> String {
    let (relation, number) = column_name::unpack(value);
    column_name::of(relation, number).unwrap_or_else(|| NOWHERE.to_owned())
}

sql_function! {
    fn tally_column_place_in / pg_finfo_tally_column_place_in(call) {
        Ok(call.cstring(0).map(read))
    }
}

sql_function! {
    fn tally_column_place_out / pg_finfo_tally_column_place_out(call) {
        Ok(call.long(0).map(|value| call::cstring(&written(value))))
    }
}

sql_function! {
    fn tally_column_place_recv / pg_finfo_tally_column_place_recv(call) {
        let text = call.message(0).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        Ok(text.map(|text| read(&text)))
    }
}

sql_function! {
    fn tally_column_place_send / pg_finfo_tally_column_place_send(call) {
        Ok(call.long(0).map(|value| call::varlena(written(value).as_bytes())))
    }
}
