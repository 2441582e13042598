//! Values of any SQL type, kept and compared by the type's own functions.

use super::arena::Arena;
use super::expression::Expression;
use core::ffi::CStr;
use pgrx::pg_sys::{self, Datum, Oid};
use std::ffi::CString;

/// The bytes of a value, for grouping: equal bytes are equal values of every type.
pub fn append_bytes(value: Datum, of: &Expression, bytes: &mut Vec<u8>) {
    // SAFETY: the datum is a non-null value of the expression's type.
    unsafe { with_bytes(value, of, |image| bytes.extend_from_slice(image)) }
}

/// How many bytes a value takes, without a length that is stored with it.
pub fn bytes_of(value: Datum, of: &Expression) -> usize {
    // SAFETY: the datum is a non-null value of the expression's type.
    unsafe { with_bytes(value, of, <[u8]>::len) }
}

/// Copies a value into the arena.
pub fn keep(value: Datum, of: &Expression, arena: &mut Arena) -> Datum {
    if of.by_value {
        return value;
    }
    // SAFETY: the datum is a non-null value of the expression's type.
    unsafe {
        with_bytes(
            value,
            of,
            |image| {
                if of.length == -1 { arena.long_varlena(image) } else { arena.aligned(image) }
            },
        )
    }
}

/// The bytes of a varlena that is neither compressed nor out of line; `None` of any other. Most are, and a call into the
/// server to find that out costs more than hashing a short text.
///
/// # Safety
/// The datum is a non-null varlena that lives as long as the result is used.
#[inline]
pub unsafe fn varlena_in_place<'a>(datum: Datum) -> Option<&'a [u8]> {
    // SAFETY: the caller's promise. The header's low bits tell its form (postgres.h, little-endian): 01 with other bits
    // set is one byte with the length, 00 four bytes with the length, 01 alone is out of line, 10 compressed.
    unsafe {
        let start = datum.cast_mut_ptr::<u8>().cast_const();
        let first = *start;
        match first & 3 {
            _ if first == 1 => None,
            1 | 3 => Some(core::slice::from_raw_parts(start.add(1), usize::from(first >> 1) - 1)),
            0 => {
                let length = start.cast::<u32>().read_unaligned() >> 2;
                Some(core::slice::from_raw_parts(start.add(4), length as usize - 4))
            }
            _ => None,
        }
    }
}

/// A varlena that isn't null, such that whoever gets it can't change it in place: several may.
///
/// # Safety
/// The datum is a non-null varlena.
#[inline]
pub unsafe fn read_only(datum: Datum) -> Datum {
    // SAFETY: the caller's promise. Only what is out of line can be an object in memory, and its first byte is 1.
    unsafe {
        if *datum.cast_mut_ptr::<u8>() == 1 {
            pg_sys::MakeExpandedObjectReadOnlyInternal(datum)
        } else {
            datum
        }
    }
}

/// Hands the bytes of a varlena that isn't null, detoasted, to `use_bytes`.
#[inline]
pub fn with_varlena<T>(datum: Datum, use_bytes: impl FnOnce(&[u8]) -> T) -> T {
    // SAFETY: a datum of this type, as every one that this crate hands about (`backend`); a detoasted copy is freed after use.
    unsafe {
        if let Some(bytes) = varlena_in_place(datum) {
            return use_bytes(bytes);
        }
        let varlena = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
        let result = use_bytes(pgrx::varlena::varlena_to_byte_slice(varlena));
        pg_sys::pfree(varlena.cast());
        result
    }
}

/// A uuid that isn't null.
pub fn uuid<'a>(datum: Datum) -> &'a [u8; 16] {
    // SAFETY: a datum of this type, as every one that this crate hands about (`backend`), which is 16 bytes by reference.
    unsafe { &*datum.cast_mut_ptr::<[u8; 16]>() }
}

/// A numeric that isn't null as text without trailing zeros: equal numbers give equal text.
pub fn canonical_numeric(datum: Datum) -> String {
    // SAFETY: a datum of this type, as every one that this crate hands about (`backend`); numeric_normalize returns a palloc'd C string.
    unsafe {
        let numeric = pg_sys::pg_detoast_datum(datum.cast_mut_ptr());
        let text = pg_sys::numeric_normalize(numeric.cast());
        let canonical = CStr::from_ptr(text).to_string_lossy().into_owned();
        pg_sys::pfree(text.cast());
        canonical
    }
}

/// A value that isn't null as its type's output function writes it.
pub fn print(value: Datum, of: Oid) -> String {
    let (mut output, mut is_varlena) = (Oid::INVALID, false);
    // SAFETY: a datum of this type; the function returns a palloc'd C string.
    unsafe {
        pg_sys::getTypeOutputInfo(of, &raw mut output, &raw mut is_varlena);
        let text = pg_sys::OidOutputFunctionCall(output, value);
        let printed = CStr::from_ptr(text).to_string_lossy().into_owned();
        pg_sys::pfree(text.cast());
        printed
    }
}

/// Reads a text as a value of a type, and writes that; an error where it is none.
pub fn reprint(text: &str, of: Oid) -> String {
    let text = CString::new(text).expect("ids contain no NUL");
    let (mut input, mut parameter) = (Oid::INVALID, Oid::INVALID);
    // SAFETY: the string outlives the call.
    let value = unsafe {
        pg_sys::getTypeInputInfo(of, &raw mut input, &raw mut parameter);
        pg_sys::OidInputFunctionCall(input, text.as_ptr().cast_mut(), parameter, -1)
    };
    print(value, of)
}

/// Hands the value's bytes to `use_bytes`; of a varlena those after its header, detoasted.
unsafe fn with_bytes<T>(value: Datum, of: &Expression, use_bytes: impl FnOnce(&[u8]) -> T) -> T {
    // SAFETY: the caller's promise; lengths are the type's own.
    unsafe {
        if of.by_value {
            return use_bytes(&value.value().to_le_bytes());
        }
        match of.length {
            -1 => with_varlena(value, use_bytes),
            -2 => use_bytes(CStr::from_ptr(value.cast_mut_ptr()).to_bytes_with_nul()),
            length => use_bytes(core::slice::from_raw_parts(value.cast_mut_ptr::<u8>(), length as usize)),
        }
    }
}

/// Whether a `numeric` that isn't null is finite and of so few digits that no sum of such overflows.
pub fn is_moderate(value: Datum) -> bool {
    with_varlena(value, tally_core::numeric::is_moderate)
}

/// A sum of `numeric` values, exact.
#[derive(Default)]
pub struct NumericSum(Option<Datum>);

impl NumericSum {
    /// Adds a finite number; NaN and the infinities are refused, since nothing could be added to them again.
    pub fn add(&mut self, value: Datum) -> Result<(), ()> {
        // SAFETY: the datum is a non-null numeric; its sum is palloc'd in the current context, which lives
        // as long as the batch.
        unsafe {
            let value = Datum::from(pg_sys::pg_detoast_datum_copy(value.cast_mut_ptr()));
            let numeric = value.cast_mut_ptr();
            if pg_sys::numeric_is_nan(numeric) || pg_sys::numeric_is_inf(numeric) {
                return Err(());
            }
            self.0 = Some(match self.0 {
                None => value,
                Some(sum) => Datum::from(pg_sys::numeric_add_opt_error(
                    sum.cast_mut_ptr(),
                    numeric,
                    core::ptr::null_mut(),
                )),
            });
        }
        Ok(())
    }

    /// The sum; `None` of nothing.
    pub fn finish(self) -> Option<Datum> {
        self.0
    }
}

/// The smallest or the greatest of the values seen.
pub struct Extreme {
    expression: Expression,
    compare: *mut pg_sys::FmgrInfo,
    collation: Oid,
    greatest: bool,
    kept: Option<Datum>,
}

impl Extreme {
    /// Whether the type has an order.
    pub fn is_ordered(of: &Expression) -> bool {
        // SAFETY: a type cache look-up.
        unsafe {
            let entry = pg_sys::lookup_type_cache(of.type_oid, pg_sys::TYPECACHE_CMP_PROC as i32);
            (*entry).cmp_proc != pg_sys::InvalidOid
        }
    }

    /// Of nothing yet: the greatest, or else the smallest, of what is added.
    pub fn new(of: &Expression, greatest: bool) -> Self {
        // SAFETY: type cache entries live as long as the backend.
        let compare = unsafe {
            let entry = pg_sys::lookup_type_cache(of.type_oid, pg_sys::TYPECACHE_CMP_PROC_FINFO as i32);
            &raw mut (*entry).cmp_proc_finfo
        };
        // By which the columns that keep such values are ordered, whatever the expression's own or the database's says.
        let collation = if of.collation == Oid::INVALID { Oid::INVALID } else { pg_sys::C_COLLATION_OID };
        Self { expression: *of, compare, collation, greatest, kept: None }
    }

    /// Takes one more value into account, keeping it in the arena where it is the new extreme.
    pub fn add(&mut self, value: Datum, arena: &mut Arena) {
        if let Some(kept) = self.kept {
            // SAFETY: both datums are non-null values of the type whose comparison this is.
            let order = unsafe {
                pg_sys::FunctionCall2Coll(self.compare, self.collation, value, kept).value() as i32
            };
            if order == 0 || (order > 0) != self.greatest {
                return;
            }
        }
        self.kept = Some(keep(value, &self.expression, arena));
    }

    /// Whether nothing was added yet.
    pub fn is_empty(&self) -> bool {
        self.kept.is_none()
    }

    /// The extreme; `None` of nothing.
    pub fn finish(self) -> Option<Datum> {
        self.kept
    }
}
