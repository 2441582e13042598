//! The SQL type `hll`: input, output, casts and questions.

use super::damage::{corrupted, damage};
use super::text;
use crate::backend::call::{self, sql_function};
use crate::backend::report::Report;
use crate::backend::session;
use pgrx::pg_sys::Datum;
use tally_core::hll::{self, DEFAULT_LGK, Hll, HllError, HllRef, Keying, MAX_STORED_BYTES};

/// The largest first byte of a DataSketches HLL image: its preamble's length in words.
const MAX_PREAMBLE: u8 = 10;

/// Bytes that are given from outside and are no sketch.
fn refused(error: HllError) -> Report {
    Report::new("22P03", error.to_string()).hint("pass a sketch as it was written")
}

/// A sketch that was stored and isn't one any more was changed by something else than this extension.
impl From<HllError> for Report {
    fn from(error: HllError) -> Self {
        if matches!(error, HllError::Malformed(_) | HllError::Checksum | HllError::Version(_)) {
            return corrupted(error.to_string());
        }
        let hint = match error {
            HllError::LgkMismatch { .. } => "only sketches of the same size can be merged",
            HllError::KeyingMismatch | HllError::EpochMismatch { .. } => {
                "sketches of different tenants, or of rollups and of tally.hll(value), can't be merged; group by tenant_id"
            }
            HllError::StdDevs(_) => "two of them cover the true number in 95 of 100 sketches",
            _ => "",
        };
        Report::new(error.sqlstate(), error.to_string()).hint(hint)
    }
}

/// Reads a stored sketch for asking it one question.
pub fn load(bytes: &[u8]) -> Result<Hll, Report> {
    Ok(Hll::try_from(&HllRef::parse(bytes)?)?)
}

/// Refuses to let bytes of a sketch come from a client or go to one where they are keyed: they tell under the tenant's secret
/// what became of each value, and whoever may send events could choose values by them that a count doesn't see. They pass only
/// for who sees every row anyway, as dumps, restores and replication do, damaged ones included.
fn check_passes(bytes: &[u8]) -> Result<(), Report> {
    if session::sees_everything() || HllRef::parse(bytes)?.keying() == Keying::Plain {
        return Ok(());
    }
    Err(Report::new("42501", "the bytes of a keyed sketch are neither shown nor taken")
        .hint("ask tally.distinct_count(), tally.rollup() and tally.merge(); a dump is made by a superuser or a role with BYPASSRLS"))
}

/// A sketch that a client gives, as it is written today.
fn take(bytes: &[u8]) -> Result<Datum, Report> {
    let sketch = hll::renew(bytes).map_err(refused)?;
    check_passes(&sketch)?;
    Ok(call::varlena(&sketch))
}

fn store(sketch: &Hll) -> Datum {
    call::varlena(&sketch.to_bytes())
}

sql_function! {
    fn tally_hll_in / pg_finfo_tally_hll_in(call) {
        let Some(input) = call.cstring(0) else { return Ok(None) };
        let bytes = text::read(input, MAX_STORED_BYTES, "hll")?;
        Ok(Some(take(&bytes)?))
    }
}

sql_function! {
    fn tally_hll_out / pg_finfo_tally_hll_out(call) {
        let Some(bytes) = call.bytes(0) else { return Ok(None) };
        check_passes(bytes)?;
        Ok(Some(call::cstring(&text::write(bytes))))
    }
}

sql_function! {
    fn tally_hll_recv / pg_finfo_tally_hll_recv(call) {
        let Some(bytes) = call.message(0) else { return Ok(None) };
        Ok(Some(take(bytes)?))
    }
}

sql_function! {
    fn tally_hll_send / pg_finfo_tally_hll_send(call) {
        let Some(bytes) = call.bytes(0) else { return Ok(None) };
        check_passes(bytes)?;
        Ok(Some(call::varlena(bytes)))
    }
}

sql_function! {
    /// Takes both forms: the stored one begins with 0xb1 or 0xb2, a DataSketches image with a count of at most 10.
    fn tally_hll_from_bytea / pg_finfo_tally_hll_from_bytea(call) {
        let Some(bytes) = call.bytes(0) else { return Ok(None) };
        if bytes.first().is_some_and(|first| *first <= MAX_PREAMBLE) {
            return Ok(Some(store(&Hll::from_datasketches(bytes).map_err(refused)?)));
        }
        Ok(Some(take(bytes)?))
    }
}

sql_function! {
    /// A plain sketch as DataSketches writes it; a keyed one, which means nothing elsewhere, as it is stored.
    fn tally_hll_to_bytea / pg_finfo_tally_hll_to_bytea(call) {
        let Some(bytes) = call.bytes(0) else { return Ok(None) };
        check_passes(bytes)?;
        let sketch = load(bytes)?;
        Ok(Some(match sketch.keying() {
            Keying::Plain => call::varlena(&sketch.to_datasketches()?),
            Keying::Keyed { .. } => call::varlena(&sketch.to_bytes()),
        }))
    }
}

sql_function! {
    /// `damage(sketch, epoch)`: what is wrong with a sketch that a rollup stores for a tenant whose key has that epoch.
    fn tally_hll_damage / pg_finfo_tally_hll_damage(call) {
        let wanted = call.int(1).map(|epoch| Keying::Keyed { epoch: epoch as u32 });
        damage(call, |bytes| match HllRef::parse(bytes) {
            Err(error) => Some(error.to_string()),
            Ok(sketch) if sketch.lgk() != DEFAULT_LGK => Some(format!("its lgk is {}", sketch.lgk())),
            Ok(sketch) if wanted.is_some_and(|wanted| wanted != sketch.keying()) => {
                Some("it is not hashed under the tenant's key".to_owned())
            }
            Ok(_) => None,
        })
    }
}

sql_function! {
    fn tally_hll_distinct_count / pg_finfo_tally_hll_distinct_count(call) {
        let Some(bytes) = call.bytes(0) else { return Ok(None) };
        let sketch = HllRef::parse(bytes)?;
        let count = match sketch.exact_count() {
            Some(exact) => exact as i64,
            None => Hll::try_from(&sketch)?.estimate().round() as i64,
        };
        Ok(Some(Datum::from(count)))
    }
}

sql_function! {
    fn tally_hll_stderror / pg_finfo_tally_hll_stderror(call) {
        let Some(bytes) = call.bytes(0) else { return Ok(None) };
        Ok(Some(call::float(HllRef::parse(bytes)?.stderror())))
    }
}

sql_function! {
    fn tally_hll_lower_bound / pg_finfo_tally_hll_lower_bound(call) {
        bound(call, |bounds| bounds.lower)
    }
}

sql_function! {
    fn tally_hll_upper_bound / pg_finfo_tally_hll_upper_bound(call) {
        bound(call, |bounds| bounds.upper)
    }
}

sql_function! {
    fn tally_hll_merge / pg_finfo_tally_hll_merge(call) {
        match (call.bytes(0), call.bytes(1)) {
            (None, None) => Ok(None),
            (Some(only), None) | (None, Some(only)) => Ok(Some(store(&load(only)?))),
            (Some(left), Some(right)) => {
                let mut sketch = load(left)?;
                sketch.merge(&HllRef::parse(right)?)?;
                Ok(Some(store(&sketch)))
            }
        }
    }
}

fn bound(call: &call::Call, side: fn(&tally_core::hll::Bounds) -> f64) -> call::Outcome {
    let (Some(bytes), Some(deviations)) = (call.bytes(0), call.int(1)) else { return Ok(None) };
    let deviations = u8::try_from(deviations).unwrap_or(u8::MAX);
    Ok(Some(call::float(side(&load(bytes)?.bounds(deviations)?))))
}
