//! Arrays: of float8, and of any type of fixed length.

use super::call;
use pgrx::pg_sys::{self, Datum, Oid};

/// Reads a one-dimensional or empty float8 array.
pub fn read_floats(datum: Datum) -> Vec<Option<f64>> {
    // SAFETY: a datum handed about in this crate is of the type that it was declared with; `deconstruct_array` pallocs its results.
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

/// Bytes of a one-dimensional array before its null bitmap or data, without the varlena header.
const HEADER: usize = 20;

/// Makes a one-dimensional array of values of a fixed length (array.h): number of dimensions, offset of the data if there is
/// a null bitmap, element type, then length and lower bound of the dimension.
pub fn fixed_values<const N: usize>(of: Oid, number: usize, values: impl Iterator<Item = [u8; N]>) -> Datum {
    let mut bytes = Vec::with_capacity(HEADER + number * N);
    let dimensions = u32::from(number > 0);
    for word in [dimensions, 0, of.to_u32(), number as u32, 1].iter().take(if number > 0 { 5 } else { 3 }) {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    values.for_each(|value| bytes.extend_from_slice(&value));
    call::varlena(&bytes)
}

/// Reads a one-dimensional or empty int4 array without nulls from its bytes; `None` of any other.
pub fn read_ints(array: &[u8]) -> Option<Vec<i32>> {
    let word = |at: usize| Some(i32::from_ne_bytes(array.get(at..at + 4)?.try_into().ok()?));
    match (word(0)?, word(4)?) {
        (0, _) => Some(Vec::new()),
        (1, 0) => (0..word(12)? as usize).map(|place| word(HEADER + 4 * place)).collect(),
        _ => None,
    }
}

/// Reads an array of a varlena type with the alignment of int4; dimensions don't matter. The bytes are valid as long as the
/// memory context of the call.
pub fn read_varlenas<'a>(datum: Datum) -> Vec<Option<&'a [u8]>> {
    // SAFETY: a datum handed about in this crate is of the type that it was declared with; `deconstruct_array` pallocs its results, and detoasting pallocs where it must copy.
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
