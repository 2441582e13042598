//! The SQL type `tdigest`: input, output, casts and questions.

use super::damage::{corrupted, damage};
use super::text;
use crate::backend::array;
use crate::backend::call::{self, sql_function};
use crate::backend::report::Report;
use pgrx::pg_sys::Datum;
use tally_core::tdigest::{self, MAX_STORED_BYTES, Summary, TDigest, TDigestError};

/// Bytes that are given from outside and are no digest.
fn refused(error: TDigestError) -> Report {
    Report::new("22P03", error.to_string()).hint("pass a digest as it was written")
}

/// A digest that was stored and isn't one any more was changed by something else than this extension.
impl From<TDigestError> for Report {
    fn from(error: TDigestError) -> Self {
        if matches!(error, TDigestError::Malformed(_) | TDigestError::Checksum | TDigestError::Version(_)) {
            return corrupted(error.to_string());
        }
        let hint = match error {
            TDigestError::CompressionMismatch { .. } => "only digests of the same compression can be merged",
            TDigestError::NotFinite(_) => "leave NaN and the infinities out with FILTER (WHERE …)",
            TDigestError::Fraction(_) => "0.5 is the median; of two fractions, the lower one comes first",
            _ => "",
        };
        Report::new(error.sqlstate(), error.to_string()).hint(hint)
    }
}

sql_function! {
    fn tally_tdigest_in / pg_finfo_tally_tdigest_in(call) {
        let Some(input) = call.cstring(0) else { return Ok(None) };
        let bytes = text::read(input, MAX_STORED_BYTES, "tdigest")?;
        Ok(Some(call::varlena(&tdigest::renew(&bytes).map_err(refused)?)))
    }
}

sql_function! {
    fn tally_tdigest_out / pg_finfo_tally_tdigest_out(call) {
        Ok(call.bytes(0).map(|bytes| call::cstring(&text::write(bytes))))
    }
}

sql_function! {
    fn tally_tdigest_recv / pg_finfo_tally_tdigest_recv(call) {
        let Some(bytes) = call.message(0) else { return Ok(None) };
        Ok(Some(call::varlena(&tdigest::renew(bytes).map_err(refused)?)))
    }
}

sql_function! {
    fn tally_tdigest_send / pg_finfo_tally_tdigest_send(call) {
        Ok(call.bytes(0).map(call::varlena))
    }
}

sql_function! {
    fn tally_tdigest_from_bytea / pg_finfo_tally_tdigest_from_bytea(call) {
        let Some(bytes) = call.bytes(0) else { return Ok(None) };
        Ok(Some(call::varlena(&tdigest::renew(bytes).map_err(refused)?)))
    }
}

sql_function! {
    fn tally_tdigest_merge / pg_finfo_tally_tdigest_merge(call) {
        match (call.bytes(0), call.bytes(1)) {
            (None, None) => Ok(None),
            (Some(only), None) | (None, Some(only)) => Ok(Some(call::varlena(&Summary::parse(only)?.to_bytes()))),
            (Some(left), Some(right)) => {
                let mut digest = TDigest::new(Summary::parse(left)?.compression())?;
                digest.merge(left)?;
                digest.merge(right)?;
                Ok(Some(call::varlena(&digest.into_summary().to_bytes())))
            }
        }
    }
}

sql_function! {
    fn tally_tdigest_approx_percentile / pg_finfo_tally_tdigest_approx_percentile(call) {
        let (Some(fraction), Some(bytes)) = (call.float(0), call.bytes(1)) else { return Ok(None) };
        Ok(Summary::parse(bytes)?.quantile(fraction)?.map(call::float))
    }
}

sql_function! {
    fn tally_tdigest_approx_percentiles / pg_finfo_tally_tdigest_approx_percentiles(call) {
        let (Some(fractions), Some(bytes)) = (call.datum(0), call.bytes(1)) else { return Ok(None) };
        // SAFETY: the argument is declared float8[].
        let fractions = array::read_floats(fractions);
        let summary = Summary::parse(bytes)?;
        let answers = fractions
            .into_iter()
            .map(|fraction| fraction.map_or(Ok(None), |fraction| summary.quantile(fraction)))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Some(array::write_floats(&answers)))
    }
}

sql_function! {
    fn tally_tdigest_approx_percentile_rank / pg_finfo_tally_tdigest_approx_percentile_rank(call) {
        let (Some(value), Some(bytes)) = (call.float(0), call.bytes(1)) else { return Ok(None) };
        Ok(Summary::parse(bytes)?.rank(value)?.map(call::float))
    }
}

sql_function! {
    fn tally_tdigest_num_vals / pg_finfo_tally_tdigest_num_vals(call) {
        let Some(bytes) = call.bytes(0) else { return Ok(None) };
        Ok(Some(Datum::from(Summary::parse(bytes)?.num_vals() as i64)))
    }
}

sql_function! {
    fn tally_tdigest_mean / pg_finfo_tally_tdigest_mean(call) {
        let Some(bytes) = call.bytes(0) else { return Ok(None) };
        Ok(Summary::parse(bytes)?.mean().map(call::float))
    }
}

sql_function! {
    fn tally_tdigest_min_val / pg_finfo_tally_tdigest_min_val(call) {
        let Some(bytes) = call.bytes(0) else { return Ok(None) };
        Ok(Summary::parse(bytes)?.min().map(call::float))
    }
}

sql_function! {
    fn tally_tdigest_max_val / pg_finfo_tally_tdigest_max_val(call) {
        let Some(bytes) = call.bytes(0) else { return Ok(None) };
        Ok(Summary::parse(bytes)?.max().map(call::float))
    }
}

sql_function! {
    fn tally_tdigest_trimmed_mean / pg_finfo_tally_tdigest_trimmed_mean(call) {
        let (Some(bytes), Some(low), Some(high)) = (call.bytes(0), call.float(1), call.float(2)) else {
            return Ok(None);
        };
        Ok(Summary::parse(bytes)?.trimmed_mean(low, high)?.map(call::float))
    }
}

sql_function! {
    /// `damage(digest, compression)`: what is wrong with a digest that a rollup stores with that compression.
    fn tally_tdigest_damage / pg_finfo_tally_tdigest_damage(call) {
        let wanted = call.int(1);
        damage(call, |bytes| match Summary::parse(bytes) {
            Err(error) => Some(error.to_string()),
            Ok(digest) if wanted.is_some_and(|wanted| wanted != i32::from(digest.compression())) => {
                Some(format!("its compression is {}", digest.compression()))
            }
            Ok(_) => None,
        })
    }
}

sql_function! {
    /// Whether two digests can be of the same values.
    fn tally_tdigest_agrees / pg_finfo_tally_tdigest_agrees(call) {
        let (Some(one), Some(other)) = (call.bytes(0), call.bytes(1)) else { return Ok(None) };
        Ok(Some(Datum::from(Summary::parse(one)?.agrees_with(&Summary::parse(other)?))))
    }
}
