//! Conditions of one row, as a mask; arrays as results. Arrays are read and written by their bytes (array.h): number of
//! dimensions, offset of the data if there is a null bitmap, element type, then length and lower bound of each dimension.

use crate::backend::array::fixed_values;
use crate::backend::call::Call;
use crate::backend::report::Report;
use pgrx::pg_sys::{self, Datum};

/// Bytes of a one-dimensional array before its null bitmap or data, without the varlena header.
const HEADER: usize = 20;
/// Of the data's offset, which counts the varlena header.
const VARLENA_HEADER: usize = 4;

/// Reads a boolean array as a mask, the first element as bit 0, and says how many there are. A null is not true.
pub fn mask(call: &Call, argument: usize, most: usize) -> Result<Option<(u32, usize)>, Report> {
    let Some(array) = call.bytes(argument) else { return Ok(None) };
    let refused = |message: String| {
        Report::new("22023", message).hint("give the conditions in their order, as many in every row")
    };
    let word = |at: usize| {
        let bytes = array.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, |bytes| i32::from_ne_bytes(bytes) as usize)
    };
    let (dimensions, data, number) = (word(0), word(4), word(12));
    if dimensions != 1 || number == 0 {
        return Err(refused("there must be a list of one or more conditions".into()));
    }
    if number > most {
        return Err(refused(format!("there can be no more than {most} conditions, not {number}")));
    }
    let mut mask = 0;
    if data == 0 {
        for (place, value) in array[HEADER..].iter().take(number).enumerate() {
            mask |= u32::from(*value != 0) << place;
        }
    } else {
        let mut values = array[data - VARLENA_HEADER..].iter();
        for place in 0..number {
            if array[HEADER + place / 8] >> (place % 8) & 1 == 1 {
                mask |= u32::from(values.next().is_some_and(|value| *value != 0)) << place;
            }
        }
    }
    Ok(Some((mask, number)))
}

/// A boolean array.
pub fn booleans(values: impl ExactSizeIterator<Item = bool>) -> Datum {
    fixed_values(pg_sys::BOOLOID, values.len(), values.map(|value| [u8::from(value)]))
}

/// An array of times, in microseconds since 2000.
pub fn times(values: &[i64]) -> Datum {
    fixed_values(pg_sys::TIMESTAMPTZOID, values.len(), values.iter().map(|value| value.to_ne_bytes()))
}
