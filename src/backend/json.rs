//! Whole jsonb documents as arguments, and numbers inside jsonb.

use super::call::Call;
use super::report::Report;
use pgrx::callconv::{Arg, ArgAbi};
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{FromDatum, JsonB};
use serde_json::Value;
use std::ffi::CStr;

/// A jsonb value, read whole. Numbers keep all their digits. What jsonb may hold and serde_json doesn't, deep nesting, is an error of
/// the caller's: pgrx's own type panics there.
pub struct Document(pub Value);

impl Document {
    /// An argument that is declared jsonb; `None` where it is null.
    pub fn argument(call: &Call, argument: usize) -> Result<Option<Value>, Report> {
        call.datum(argument).map(read).transpose()
    }
}

/// A jsonb value's text, which a palloc'd C string has in the server's encoding, UTF-8.
fn print<'a>(datum: Datum) -> &'a str {
    // SAFETY: a non-null jsonb. The text lives as long as the memory context of the call.
    unsafe {
        let printed = pgrx::direct_function_call::<&CStr>(pg_sys::jsonb_out, &[Some(datum)]);
        core::str::from_utf8_unchecked(printed.expect("jsonb_out gives no null").to_bytes())
    }
}

/// A jsonb value, read whole.
fn read(datum: Datum) -> Result<Value, Report> {
    serde_json::from_str(print(datum)).map_err(|problem| {
        Report::new("22023", format!("the JSON document can't be used: {problem}"))
            .hint("objects and arrays nest at most 127 deep")
    })
}

impl FromDatum for Document {
    unsafe fn from_polymorphic_datum(datum: Datum, is_null: bool, _: Oid) -> Option<Self> {
        if is_null {
            return None;
        }
        Some(Self(read(datum).unwrap_or_else(|report| report.raise())))
    }
}

// SAFETY: unboxes by `FromDatum`, as pgrx does for its own `JsonB`.
unsafe impl<'fcx> ArgAbi<'fcx> for Document {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the function is strict, so the argument isn't null.
        unsafe { arg.unbox_arg_using_from_datum().expect("a strict function's argument is not null") }
    }
}

// SAFETY: the SQL type is jsonb, as of pgrx's own `JsonB`.
unsafe impl SqlTranslatable for Document {
    const TYPE_IDENT: &'static str = JsonB::TYPE_IDENT;
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("jsonb"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("jsonb")));
}

/// A jsonb value as Postgres prints it, whose numbers have all their digits.
pub struct Printed(pub String);

impl FromDatum for Printed {
    unsafe fn from_polymorphic_datum(datum: Datum, is_null: bool, _: Oid) -> Option<Self> {
        (!is_null).then(|| Self(print(datum).to_owned()))
    }
}

// SAFETY: as for `Document`.
unsafe impl<'fcx> ArgAbi<'fcx> for Printed {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: as for `Document`.
        unsafe { arg.unbox_arg_using_from_datum().expect("a strict function's argument is not null") }
    }
}

// SAFETY: as for `Document`.
unsafe impl SqlTranslatable for Printed {
    const TYPE_IDENT: &'static str = JsonB::TYPE_IDENT;
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("jsonb"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("jsonb")));
}

/// A number inside a jsonb value, valid while that is.
pub struct Number(pg_sys::Numeric);

impl Number {
    /// The number as a numeric of its own.
    pub fn copy(&self) -> Datum {
        // SAFETY: points to a numeric inside a detoasted jsonb.
        unsafe { Datum::from(pg_sys::pg_detoast_datum_copy(self.0.cast())) }
    }

    /// The number as a double; infinite where it is beyond the range of doubles.
    pub fn to_f64(&self) -> f64 {
        // SAFETY: as for `copy`.
        unsafe {
            let stored = pgrx::varlena::varlena_to_byte_slice(self.0.cast());
            tally_core::numeric::to_f64(stored).unwrap_or_else(|| {
                let number = [Some(Datum::from(self.0))];
                let double = pgrx::direct_function_call_as_datum(pg_sys::numeric_float8_no_overflow, &number);
                f64::from_bits(double.expect("a number is not null").value() as u64)
            })
        }
    }
}

/// Hands the number at a key of a jsonb object that isn't null to `take`; `None` where there is none, or something else.
pub fn number<T>(jsonb: Datum, key: &[u8], take: impl FnOnce(Number) -> T) -> Option<T> {
    // SAFETY: a datum of this type, as every one that this crate hands about (`backend`); the value found points into the detoasted jsonb.
    unsafe {
        let detoasted = pg_sys::pg_detoast_datum(jsonb.cast_mut_ptr());
        let root = &raw mut (*detoasted.cast::<pg_sys::Jsonb>()).root;
        if (*root).header & pg_sys::JB_FOBJECT == 0 {
            return None;
        }
        let mut found = pg_sys::JsonbValue::default();
        let value =
            pg_sys::getKeyJsonValueFromContainer(root, key.as_ptr().cast(), key.len() as i32, &raw mut found);
        let is_number = !value.is_null() && (*value).type_ == pg_sys::jbvType::jbvNumeric;
        let answer = is_number.then(|| take(Number((*value).val.numeric)));
        if detoasted.cast() != jsonb.cast_mut_ptr::<core::ffi::c_void>() {
            pg_sys::pfree(detoasted.cast());
        }
        answer
    }
}
