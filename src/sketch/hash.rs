//! Which SQL types a distinct count takes, and how their values are hashed.

use crate::backend::value;
use pgrx::pg_sys::{self, Datum, Oid};
use tally_core::hll::{Coupon, ValueHasher};

/// A type whose values can be counted. The same value hashes alike whichever integer type it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hashable {
    Int2,
    Int4,
    /// int8, and timestamptz as its microseconds since 2000.
    Int8,
    /// text and bytea, by their bytes.
    Bytes,
    Uuid,
    /// By its canonical text: no trailing zeros.
    Numeric,
}

impl Hashable {
    /// How a type is hashed; `None` for types that can't be counted.
    pub fn of(type_oid: Oid) -> Option<Self> {
        Some(match type_oid {
            pg_sys::INT2OID => Self::Int2,
            pg_sys::INT4OID => Self::Int4,
            pg_sys::INT8OID | pg_sys::TIMESTAMPTZOID => Self::Int8,
            pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BYTEAOID => Self::Bytes,
            pg_sys::UUIDOID => Self::Uuid,
            pg_sys::NUMERICOID => Self::Numeric,
            _ => return None,
        })
    }

    /// Hashes a value; `None` where the value counts for nothing (the empty string in a plain sketch).
    pub fn coupon(self, hasher: &ValueHasher, datum: Datum) -> Option<Coupon> {
        let raw = datum.value();
        match self {
            Self::Int2 => Some(hasher.int(i64::from(raw as i16))),
            Self::Int4 => Some(hasher.int(i64::from(raw as i32))),
            Self::Int8 => Some(hasher.int(raw as i64)),
            Self::Bytes => value::with_varlena(datum, |bytes| hasher.bytes(bytes)),
            Self::Uuid => hasher.bytes(value::uuid(datum)),
            Self::Numeric => hasher.bytes(value::canonical_numeric(datum).as_bytes()),
        }
    }
}
