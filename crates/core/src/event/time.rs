//! Times: RFC 3339 text and Postgres microseconds.

use crate::jsonb::JsonbError;

/// 0001-01-01 00:00 UTC.
pub(super) const EARLIEST: i64 = -63_082_281_600_000_000;
/// The last microsecond of 9999-12-31 UTC.
pub(super) const LATEST: i64 = 252_455_615_999_999_999;

/// Parses an RFC 3339 time with offset to microseconds since 2000-01-01 00:00 UTC.
pub fn parse_timestamp(_text: &str) -> Result<i64, JsonbError> {
    unimplemented!("time")
}

/// Prints microseconds since 2000-01-01 00:00 UTC as RFC 3339 in UTC with the shortest fraction.
pub fn format_timestamp(_micros: i64) -> String {
    unimplemented!("time")
}
