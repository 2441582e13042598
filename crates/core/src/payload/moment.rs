//! Times as vendors write them: with an offset from UTC or without one, or as a count since 1970.

use super::json::Value;
use crate::event::parse_timestamp;
use crate::jsonb::excerpt;

/// 1970-01-01 00:00 UTC in microseconds since 2000.
const UNIX: i128 = -946_684_800_000_000;

/// Reads a time as microseconds since 2000-01-01 00:00 UTC: RFC 3339, the same without offset (then in `zone`), or seconds, milli-,
/// micro- or nanoseconds since 1970, told apart by size: below 10^11, 10^14, 10^17. Else the SQLSTATE and what is wrong.
pub(super) fn read(value: &Value, zone: &str) -> Result<i64, (&'static str, String)> {
    let text = value.text()?;
    if let Some(micros) = count(&text) {
        return micros.ok_or_else(|| ("22008", format!("time {} is out of range", excerpt(&text))));
    }
    let with_zone = |text: &str| parse_timestamp(&format!("{text}{zone}"));
    // An offset stands after the time of day: dates have hyphens, too.
    let has_offset = text.get(10..).is_none_or(|rest| rest.contains(['Z', 'z', '+', '-']));
    let read = if has_offset { parse_timestamp(&text) } else { with_zone(&text) };
    // Postgres and some warehouses write " UTC".
    let read = match text.strip_suffix(" UTC") {
        Some(bare) if read.is_err() => parse_timestamp(&format!("{bare}Z")),
        _ => read,
    };
    read.map_err(|error| {
        let wanted = "time is neither as 2026-01-31T12:00:00Z, with or without offset, nor seconds, milli-, micro- or nanoseconds since 1970";
        match error.sqlstate {
            "22007" => ("22007", format!("{wanted}: \"{}\"", excerpt(&text))),
            other => (other, error.reason),
        }
    })
}

/// Reads a count since 1970; the inner `None` is one beyond what a time can be.
fn count(text: &str) -> Option<Option<i64>> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if digits.is_empty()
        || !all_digits(digits)
        || !all_digits(fraction)
        || (fraction.is_empty() && text.contains('.'))
    {
        return None;
    }
    if digits.len() > 20 || fraction.len() > 20 {
        return Some(None);
    }
    let size: i128 = digits.parse().ok()?;
    let (numerator, denominator) = match size {
        0..100_000_000_000 => (1_000_000, 1),
        100_000_000_000..100_000_000_000_000 => (1_000, 1),
        100_000_000_000_000..100_000_000_000_000_000 => (1, 1),
        _ => (1, 1_000),
    };
    // The count in units of 10^-6, so that a fraction of a second keeps its microseconds.
    let six: String = fraction.chars().chain("000000".chars()).take(6).collect();
    let scaled = size * 1_000_000 + six.parse::<i128>().ok()?;
    let micros = scaled * numerator / denominator / 1_000_000;
    let micros = if whole.starts_with('-') { -micros } else { micros };
    Some(i64::try_from(micros + UNIX).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::format_timestamp;
    use proptest::prelude::*;

    fn known(text: &str) -> Result<String, &'static str> {
        read(&Value::of_text(text), "+02:00").map(format_timestamp).map_err(|(sqlstate, _)| sqlstate)
    }

    #[test]
    fn known_times() {
        for (text, wanted) in [
            ("2026-03-02T09:15:00Z", "2026-03-02T09:15:00Z"),
            ("2026-03-02T09:15:00.5+01:00", "2026-03-02T08:15:00.5Z"),
            ("2026-03-02T09:15:00", "2026-03-02T07:15:00Z"),
            ("2026-03-02 09:15:00.123", "2026-03-02T07:15:00.123Z"),
            ("2026-03-02 09:15:00.123 UTC", "2026-03-02T09:15:00.123Z"),
            ("1772442900", "2026-03-02T09:15:00Z"),
            ("1772442900.25", "2026-03-02T09:15:00.25Z"),
            ("1772442900123", "2026-03-02T09:15:00.123Z"),
            ("1772442900123456", "2026-03-02T09:15:00.123456Z"),
            ("1772442900123456789", "2026-03-02T09:15:00.123456Z"),
            ("-86400", "1969-12-31T00:00:00Z"),
        ] {
            assert_eq!(known(text).as_deref(), Ok(wanted), "{text}");
        }
        for (text, sqlstate) in [
            ("", "22007"),
            ("yesterday", "22007"),
            ("2026-03-02", "22007"),
            ("2026-02-30T00:00:00Z", "22008"),
            ("1e9", "22007"),
            ("1.", "22007"),
            ("99999999999999999999999", "22008"),
            ("infinity", "22008"),
        ] {
            assert_eq!(known(text), Err(sqlstate), "{text}");
        }
        assert_eq!(read(&Value::Token("1772442900".into()), "Z"), read(&Value::of_text("1772442900"), "Z"));
        assert_eq!(read(&Value::Array(vec![]), "Z").unwrap_err().0, "22023");
    }

    proptest! {
        #[test]
        fn every_text_has_an_answer(text in "\\PC{0,40}|[-0-9.TZ:+ ]{0,40}") {
            let _ = known(&text);
        }

        #[test]
        fn units_agree(seconds in 100_000_000i64..99_999_999_999) {
            let wanted = known(&seconds.to_string());
            for zeros in ["000", "000000", "000000000"] {
                prop_assert_eq!(&known(&format!("{seconds}{zeros}")), &wanted);
            }
        }
    }
}
