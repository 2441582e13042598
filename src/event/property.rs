//! Reading one number out of an event's properties.

use crate::backend::call::{self, Call, Outcome, sql_function};
use crate::backend::json::{self, Number};

fn number(call: &Call, answer: fn(Number) -> Outcome) -> Outcome {
    let (Some(properties), Some(key)) = (call.datum(0), call.bytes(1)) else { return Ok(None) };
    json::number(properties, key, answer).unwrap_or(Ok(None))
}

sql_function! {
    fn tally_property_number / pg_finfo_tally_property_number(call) {
        number(call, |number| Ok(Some(number.copy())))
    }
}

sql_function! {
    fn tally_property_float / pg_finfo_tally_property_float(call) {
        number(call, |number| Ok(Some(number.to_f64()).filter(|value| value.is_finite()).map(call::float)))
    }
}
