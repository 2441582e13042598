//! Numbers inside jsonb.

use pgrx::pg_sys::{self, Datum};

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

/// Hands the number at a key of a jsonb object to `take`; `None` where there is none, or something else.
///
/// # Safety
/// The datum is a non-null jsonb.
pub unsafe fn number<T>(jsonb: Datum, key: &[u8], take: impl FnOnce(Number) -> T) -> Option<T> {
    // SAFETY: the caller's promise; the value found points into the detoasted jsonb.
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
