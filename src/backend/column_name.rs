//! Columns by their numbers, and by their names as they are written in SQL.

use super::list;
use core::ffi::CStr;
use pgrx::pg_sys::{self, Datum, Oid};

/// Schema, table and column, each quoted where it has to be; `None` where the table or the column isn't there any more.
pub fn of(relation: Oid, number: i16) -> Option<String> {
    // SAFETY: syscache look-ups; each name is a palloc'd C string, or null where there is none.
    unsafe {
        let (table, schema) =
            (pg_sys::get_rel_name(relation), pg_sys::get_namespace_name(pg_sys::get_rel_namespace(relation)));
        let column = pg_sys::get_attname(relation, number, true);
        // A dropped column has a row and a name still, by which none is found.
        if table.is_null()
            || schema.is_null()
            || column.is_null()
            || pg_sys::get_attnum(relation, column) != number
        {
            return None;
        }
        let quoted = [schema, table, column]
            .map(|name| CStr::from_ptr(pg_sys::quote_identifier(name)).to_string_lossy());
        Some(quoted.join("."))
    }
}

/// The column of such a name, whatever the search path is; `None` where there is none. What is no list of names is an error.
pub fn find(name: &str) -> Option<(Oid, i16)> {
    // SAFETY: the text is palloc'd; the list has the names as palloc'd C strings, in nodes of Postgres' own; the rest are look-ups of
    // names that need no lock: a table that is dropped meanwhile isn't there.
    unsafe {
        let text = super::call::varlena(name.as_bytes());
        let names = pg_sys::textToQualifiedNameList(text.cast_mut_ptr());
        let parts: Vec<_> = (0..list::length(names))
            .map(|place| (*pg_sys::list_nth(names, place).cast::<pg_sys::String>()).sval)
            .collect();
        let [schema, table, column] = parts[..] else { return None };
        let schema = pg_sys::get_namespace_oid(schema, true);
        if schema == Oid::INVALID {
            return None;
        }
        let relation = pg_sys::get_relname_relid(table, schema);
        if relation == Oid::INVALID {
            return None;
        }
        let number = pg_sys::get_attnum(relation, column);
        (number > 0).then_some((relation, number))
    }
}

/// A table and a number of a column in one value of eight bytes.
pub fn pack(place: Option<(Oid, i16)>) -> Datum {
    let (relation, number) = place.unwrap_or((Oid::INVALID, 0));
    Datum::from(i64::from(relation.to_u32()) << 16 | i64::from(number))
}

/// The table and the number of such a value.
pub fn unpack(value: i64) -> (Oid, i16) {
    (Oid::from((value >> 16) as u32), value as i16)
}
