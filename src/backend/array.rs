//! Arrays of float8.

use pgrx::pg_sys::{self, Datum};

/// Reads a one-dimensional or empty float8 array.
///
/// # Safety
/// The datum is a non-null float8[].
pub unsafe fn read_floats(datum: Datum) -> Vec<Option<f64>> {
    // SAFETY: the caller's promise; `deconstruct_array` pallocs its results.
    unsafe {
        let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let (mut values, mut nulls, mut length) = (core::ptr::null_mut(), core::ptr::null_mut(), 0);
        pg_sys::deconstruct_array(
            array,
            pg_sys::FLOAT8OID,
            8,
            true,
            pg_sys::TYPALIGN_DOUBLE as core::ffi::c_char,
            &raw mut values,
            &raw mut nulls,
            &raw mut length,
        );
        (0..length as usize)
            .map(|place| (!*nulls.add(place)).then(|| f64::from_bits((*values.add(place)).value() as u64)))
            .collect()
    }
}

/// Makes a one-dimensional float8 array.
pub fn write_floats(floats: &[Option<f64>]) -> Datum {
    let mut values: Vec<Datum> =
        floats.iter().map(|float| Datum::from(float.unwrap_or(0.0).to_bits())).collect();
    let mut nulls: Vec<bool> = floats.iter().map(Option::is_none).collect();
    let (mut length, mut lower) = (floats.len() as i32, 1);
    // SAFETY: values and nulls have `length` entries; the array is palloc'd.
    unsafe {
        Datum::from(pg_sys::construct_md_array(
            values.as_mut_ptr(),
            nulls.as_mut_ptr(),
            1,
            &raw mut length,
            &raw mut lower,
            pg_sys::FLOAT8OID,
            8,
            true,
            pg_sys::TYPALIGN_DOUBLE as core::ffi::c_char,
        ))
    }
}

/// Reads an array of a varlena type with the alignment of int4; dimensions don't matter. The bytes are valid as long as the
/// memory context of the call.
///
/// # Safety
/// The datum is a non-null array of such a type.
pub unsafe fn read_varlenas<'a>(datum: Datum) -> Vec<Option<&'a [u8]>> {
    // SAFETY: the caller's promise; `deconstruct_array` pallocs its results, and detoasting pallocs where it must copy.
    unsafe {
        let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let (mut values, mut nulls, mut length) = (core::ptr::null_mut(), core::ptr::null_mut(), 0);
        pg_sys::deconstruct_array(
            array,
            (*array).elemtype,
            -1,
            false,
            pg_sys::TYPALIGN_INT as core::ffi::c_char,
            &raw mut values,
            &raw mut nulls,
            &raw mut length,
        );
        (0..length as usize)
            .map(|place| {
                (!*nulls.add(place)).then(|| {
                    let varlena = pg_sys::pg_detoast_datum_packed((*values.add(place)).cast_mut_ptr());
                    pgrx::varlena::varlena_to_byte_slice(varlena)
                })
            })
            .collect()
    }
}
